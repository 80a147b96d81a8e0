//! One interface's share of the farm: which buckets this node accepts, and how that follows from a
//! view.

use std::collections::BTreeMap;

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
    services: Services,
    /// By kernel group; the first is the built-in group's.
    assigners: Vec<Assigner>,
    accept: Vec<Bitmap>,
    peers: BTreeMap<NodeId, Mac>,
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
        Ok(Self { services, assigners, accept, peers: BTreeMap::new() })
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
        self.peers.insert(node, mac);
    }

    /// The bitmaps accepted, by kernel group.
    pub fn accept(&self) -> &[Bitmap] {
        &self.accept
    }

    /// What the kernel tables are to say.
    pub fn plan(&self) -> Plan {
        Plan {
            services: self.services.clone(),
            bitmaps: self.accept.clone(),
            peers: self.peers.values().copied().collect(),
        }
    }
}
