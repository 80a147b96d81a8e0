//! Gives up failover VIPs that another node has now: their connections, where the file has that done, then
//! their addresses. It may take a while, and a VIP may come back meanwhile: right before each step it is
//! asked anew whose the VIP is.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use tokio::task;

use super::{Key, holder_of, plain};
use crate::{
    agent::{
        configurations::Configurations,
        engine::{Latest, Snapshot},
        history::{History, Level},
        site,
    },
    model::NodeId,
    net::{Interface, Network, sockets},
    plan::HeldVip,
    status::NodeState,
};

/// Gives up what it is told.
pub(super) struct Giver {
    pub(super) own: NodeId,
    pub(super) latest: Latest,
    pub(super) configurations: Configurations,
    pub(super) network: Network,
    pub(super) history: Arc<History>,
}

/// A VIP that is to go.
pub(super) struct Going {
    pub(super) key: Key,
    pub(super) vip: HeldVip,
    pub(super) interface: Interface,
    /// Whether its connections are to be reset.
    pub(super) reset: bool,
    /// Whether this node is known to have had it.
    pub(super) had: bool,
}

/// What became of one.
pub(super) struct Gone {
    pub(super) key: Key,
    /// Whether it was removed; if not, it has come back.
    pub(super) removed: anyhow::Result<bool>,
    /// Why connections are left that were to be reset.
    pub(super) left: Option<String>,
}

impl Giver {
    /// Does so.
    pub(super) async fn give_up(self: Arc<Self>, going: Vec<Going>) -> Vec<Gone> {
        let reset: Vec<_> = going.iter().filter(|it| it.reset).map(|it| it.vip).collect();
        let giver = Arc::clone(&self);
        // One look at the sockets for all of them.
        let left = task::spawn_blocking(move || giver.reset(&reset)).await;
        let mut left = left.unwrap_or_default();
        let mut gone = Vec::new();
        for Going { key, vip, interface, had, .. } in going {
            let removed = if self.is_own(&vip) {
                Ok(false)
            } else {
                self.remove(&interface, vip).await.map(|()| true)
            };
            if had && matches!(removed, Ok(true)) {
                self.inform("vip_given_up", self.successor(&vip));
            }
            gone.push(Gone { key, removed, left: left.remove(&vip.addr) });
        }
        gone
    }

    fn is_own(&self, vip: &HeldVip) -> bool {
        is_own(self.own, &self.configurations, &self.latest.get(), vip)
    }

    /// Resets the connections to those addresses: their clients learn of it at once, and connect anew
    /// where they are now. Gives what kept some from it, by address.
    fn reset(&self, vips: &[HeldVip]) -> BTreeMap<IpAddr, String> {
        if vips.is_empty() {
            return BTreeMap::new();
        }
        let open = sockets::connections(|addr| vips.iter().any(|vip| vip.addr == addr));
        let open = match open {
            Ok(open) => open,
            Err(error) => return vips.iter().map(|vip| (vip.addr, error.to_string())).collect(),
        };
        let mut left = BTreeMap::new();
        for vip in vips {
            let lost = open.iter().filter(|it| it.is_open && it.local.ip() == vip.addr);
            // Asked for each: the clients of one that has come back are this node's.
            let (reset, error) = sockets::reset_each(lost.filter(|_| !self.is_own(vip)));
            let vip = vip.addr;
            if reset > 0 {
                self.inform("vip_reset", format!("{reset} TCP connections of {vip} were reset"));
            }
            left.extend(error.map(|error| (vip, error.to_string())));
        }
        left
    }

    async fn remove(&self, interface: &Interface, vip: HeldVip) -> anyhow::Result<()> {
        if let Some(holder) = plain(interface, vip) {
            return Ok(self.network.remove_vip(holder, vip.addr).await?);
        }
        let present = Network::interfaces().await?;
        match site::holder(interface, vip.tags, &present) {
            Some(holder) => Ok(self.network.remove_vip(holder, vip.addr).await?),
            // A VLAN device that is gone took its addresses along.
            None => Ok(()),
        }
    }

    /// Who has it instead, in words.
    fn successor(&self, vip: &HeldVip) -> String {
        let snapshot = self.latest.get();
        let config = self.configurations.get(snapshot.digest);
        let node = holder_of(&config, &snapshot, vip).filter(|&node| node != self.own);
        match node.and_then(|node| config.farm.node(node)) {
            Some(node) => format!("{} has {} now", node.name, vip.addr),
            None if snapshot.state != NodeState::Up => {
                format!("{} was given up: this node is out of the farm", vip.addr)
            }
            None => format!("{} was given up: it is for no node to have it", vip.addr),
        }
    }

    fn inform(&self, kind: &str, message: String) {
        self.history.push(Level::Info, kind, message);
    }
}

/// Whether that view gives the VIP to this node, although it may not serve it yet.
fn is_own(
    own: NodeId,
    configurations: &Configurations,
    snapshot: &Snapshot,
    vip: &HeldVip,
) -> bool {
    let config = configurations.get(snapshot.digest);
    snapshot.state == NodeState::Up && holder_of(&config, snapshot, vip) == Some(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::configurations::{Configuration, vips_of},
        config,
        model::{NodeSet, View},
        net::fixture,
    };

    #[test]
    fn a_vip_that_has_come_back_is_this_nodes_again_by_the_newest_view() {
        let text = "farm: web\nkey_file: k\nnodes:\n \
            - { name: node1, addresses: [10.0.0.11] }\n \
            - { name: node2, addresses: [10.0.0.12] }\nvips:\n \
            - { mode: failover, addresses: [10.0.0.100/24], priorities: { node1: 2, node2: 1 } }\n \
            - { mode: failover, addresses: [10.0.0.101/24], priorities: { node1: 1, node2: 2 } }\n";
        let farm = config::parse("farm.yaml", text).unwrap_or_else(|error| panic!("{error}"));
        let eth0 = fixture::interface(1, &["10.0.0.11/24"]);
        let vips: Vec<_> = farm.vips.iter().flat_map(vips_of).collect();
        let interfaces = [eth0];
        let config = Configuration::new([0; 16], farm, vec![0, 0], &interfaces, &interfaces);
        let configurations = Configurations::new(config.expect("it fits"));
        let nodes = [0, 1].map(|index| NodeId::new(index).expect("in range"));
        let mut snapshot = Latest::new(&[], [0; 16]).get().as_ref().clone();
        let mut has = |state: NodeState, alive: &[NodeId]| {
            snapshot.state = state;
            snapshot.view = View::of(alive.iter().copied().collect::<NodeSet>());
            let own = |vip| is_own(nodes[0], &configurations, &snapshot, vip);
            [own(&vips[0]), own(&vips[1])]
        };
        assert_eq!(has(NodeState::Up, &nodes), [true, false]);
        assert_eq!(has(NodeState::Up, &nodes[..1]), [true, true], "the other node is gone");
        assert_eq!(has(NodeState::Up, &nodes[1..]), [false, false]);
        assert_eq!(has(NodeState::Fenced, &nodes), [false, false]);
    }
}
