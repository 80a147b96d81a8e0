//! One interface's share of the farm: which buckets this node accepts, and how that follows from a
//! view.

use std::sync::Arc;

use crate::{
    assign::Assigner,
    model::{Bitmap, Farm, Mac, NodeId, NodeSet, Table},
    plan::{Plan, PlanError, Services},
};

/// Name of the built-in group of all nodes, whose buckets say who answers ARP and echo. No group of
/// a file can have it.
pub const RESOLVE_GROUP: &str = "(resolve)";

/// The groups of one interface and the buckets that this node accepts of each.
#[derive(Debug, Clone)]
pub struct Port {
    services: Arc<Services>,
    /// By kernel group; the first is the built-in group's.
    assigners: Vec<Assigner>,
    accept: Vec<Bitmap>,
    /// By node.
    peers: Vec<Option<Mac>>,
}

impl Port {
    /// The port of the interface that the blocks `here` are on, by their index in the file. It
    /// accepts nothing.
    pub fn new(farm: &Farm, here: impl Fn(usize) -> bool) -> Result<Self, PlanError> {
        let services = Services::new(&farm.vips, here)?;
        let names = || farm.nodes.iter().map(|node| node.name.as_str());
        let everybody: Vec<_> = names().map(|name| (name, 1)).collect();
        let mut assigners = vec![Assigner::new(RESOLVE_GROUP, &everybody)];
        for group in farm.vips.iter().flat_map(|block| &block.groups) {
            let members: Vec<_> =
                names().zip(farm.node_ids()).map(|(name, id)| (name, group.power(id))).collect();
            assigners.push(Assigner::new(&group.name, &members));
        }
        let accept = vec![Bitmap::default(); assigners.len()];
        let peers = vec![None; farm.nodes.len()];
        Ok(Self { services: Arc::new(services), assigners, accept, peers })
    }

    /// The owners of a kernel group's buckets when `alive` are.
    pub fn table(&self, group: usize, alive: NodeSet) -> Table {
        self.assigners[group].table(alive)
    }

    /// Stops accepting what is not the node's when `alive` are. Accepts nothing new.
    pub fn release(&mut self, own: NodeId, alive: NodeSet) {
        for (accept, assigner) in self.accept.iter_mut().zip(&self.assigners) {
            *accept = accept.and(assigner.table(alive).bitmap(own));
        }
    }

    /// Accepts exactly what is the node's when `alive` are.
    pub fn acquire(&mut self, own: NodeId, alive: NodeSet) {
        for (accept, assigner) in self.accept.iter_mut().zip(&self.assigners) {
            *accept = assigner.table(alive).bitmap(own);
        }
    }

    /// Accepts nothing.
    pub fn clear(&mut self) {
        self.accept.fill(Bitmap::default());
    }

    /// Notes a peer's MAC.
    pub fn learn(&mut self, node: NodeId, mac: Mac) {
        self.peers[node.index()] = Some(mac);
    }

    /// The bitmaps accepted, by kernel group.
    pub fn accept(&self) -> &[Bitmap] {
        &self.accept
    }

    /// What the kernel tables are to say.
    pub fn plan(&self) -> Plan {
        Plan {
            services: Arc::clone(&self.services),
            bitmaps: self.accept.clone(),
            peers: self.peers.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::fixture;

    const GROUPS: &str = "[{ name: g, powers: { node1: 1, node2: 3 }, rules: [{ port: 80, proto: tcp, filter: on_port }] }]";

    fn port() -> Port {
        Port::new(&fixture::farm(GROUPS), |_| true).expect("it fits")
    }

    fn node(index: usize) -> NodeId {
        NodeId::new(index).expect("in range")
    }

    fn alive(indices: &[usize]) -> NodeSet {
        indices.iter().map(|&index| node(index)).collect()
    }

    #[test]
    fn a_new_port_accepts_nothing() {
        assert!(port().accept().iter().all(|bitmap| bitmap.is_empty()));
    }

    #[test]
    fn acquiring_takes_the_share_of_the_powers_in_the_file_and_of_all_nodes_in_the_built_in_group()
    {
        let mut port = port();
        port.acquire(node(1), alive(&[0, 1, 2]));
        assert_eq!(port.accept()[1].len(), 192, "three of four");
        assert!((85..=86).contains(&port.accept()[0].len()), "one of three");
        port.acquire(node(2), alive(&[0, 1, 2]));
        assert!(port.accept()[1].is_empty(), "not in the group");
    }

    #[test]
    fn releasing_never_adds_a_bucket() {
        let mut port = port();
        port.acquire(node(0), alive(&[0, 1, 2]));
        let before = port.accept().to_vec();
        // node2 is gone, so node1 owns everything; but it may not yet.
        port.release(node(0), alive(&[0, 2]));
        assert_eq!(port.accept()[1], before[1]);
        port.acquire(node(0), alive(&[0, 2]));
        assert_eq!(port.accept()[1].len(), 256);
        // node2 comes back: what is its again is given up at once.
        port.release(node(0), alive(&[0, 1, 2]));
        assert_eq!(port.accept()[1], before[1]);
    }

    #[test]
    fn the_nodes_of_a_view_share_every_bucket_and_none_twice() {
        for members in [&[0, 1, 2][..], &[0, 1], &[1, 2], &[0]] {
            let mut owned = [0; 4];
            for &member in members {
                let mut port = port();
                port.acquire(node(member), alive(members));
                for (owned, word) in owned.iter_mut().zip(port.accept()[0].0) {
                    assert_eq!(*owned & word, 0, "no bucket twice, {members:?}");
                    *owned |= word;
                }
            }
            assert_eq!(owned, [u64::MAX; 4], "every bucket, {members:?}");
        }
    }
}
