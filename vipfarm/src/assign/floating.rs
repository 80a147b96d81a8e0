//! Who holds each failover VIP: a pure function of the nodes that may, and of those that are to stay.
//!
//! By priority, the alive node with the highest one; between equals a hash of names decides. Spread,
//! the VIPs are shared out evenly: a node that has one keeps it if that leaves the others their
//! share, so that the loss of a node moves its VIPs only, and its return no more than it must.

use std::{array, cmp::Reverse};

use serde::{Deserialize, Serialize};

use super::key;
use crate::model::{Balance, Failover, MAX_NODES, NodeId, NodeSet, Overrides, StayKind, VipId};

/// A failover VIP block.
#[derive(Debug, Clone)]
pub struct Floating {
    id: VipId,
    failover: Failover,
    /// What decides between equals, by node index.
    keys: Vec<u64>,
}

/// Who has a failover VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The node.
    pub node: NodeId,
    /// What made it the holder.
    pub why: Why,
}

/// Why a node holds a failover VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Of the nodes alive it has the highest priority, or is the one chosen among equals.
    Priority,
    /// The VIPs are spread over the nodes alive.
    Spread,
    /// It holds it already, and no better node is to take over, or not yet.
    Incumbent,
    /// An operator has moved it there.
    Pinned,
}

impl Why {
    /// The word used everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Priority => "priority",
            Self::Spread => "spread",
            Self::Incumbent => "incumbent",
            Self::Pinned => "pinned",
        }
    }
}

/// What holds of a node that has a VIP when a better one comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staying {
    /// As the file says.
    AsConfigured,
    /// It goes: this tells who would take over at last.
    Never,
}

impl Floating {
    /// The block whose group has that name, on those nodes.
    pub fn new<'n>(group: &str, failover: Failover, nodes: impl Iterator<Item = &'n str>) -> Self {
        Self { id: VipId::of(group), failover, keys: nodes.map(|node| key(group, node)).collect() }
    }

    /// Which block it is.
    pub fn id(&self) -> VipId {
        self.id
    }

    /// How its holder is chosen.
    pub fn failover(&self) -> Failover {
        self.failover
    }

    fn key(&self, node: NodeId) -> u64 {
        self.keys.get(node.index()).copied().unwrap_or_default()
    }

    /// Whether it matters who has the VIP when another node could.
    pub fn remembers(&self) -> bool {
        self.failover.stays() || self.failover.balance == Balance::Spread
    }
}

/// The holders of all failover VIPs; `None` where no node can. `priority` is that of a node for a VIP
/// by its place, of the nodes that may hold it; 0 = it may not.
pub fn holders(
    vips: &[Floating],
    overrides: &Overrides,
    staying: Staying,
    priority: impl Fn(usize, NodeId) -> u16,
) -> Vec<Option<Holder>> {
    let may = |vip| nodes().filter(|&node| priority(vip, node) > 0).collect::<NodeSet>();
    let may: Vec<NodeSet> = (0..vips.len()).map(may).collect();
    let stays = |vip: usize, kind| {
        let stay = overrides.stay(vips[vip].id, kind)?;
        may[vip].contains(stay.node).then_some(stay.node)
    };
    let certain = |vip: usize| {
        let Floating { failover, .. } = &vips[vip];
        let pinned = stays(vip, StayKind::Pinned).map(|node| Holder { node, why: Why::Pinned });
        let stays = || stays(vip, StayKind::Incumbent);
        let stays = || stays().filter(|_| failover.stays() && staying == Staying::AsConfigured);
        let incumbent = || stays().map(|node| Holder { node, why: Why::Incumbent });
        let best = || {
            let rank = |&node: &NodeId| (priority(vip, node), vips[vip].key(node));
            may[vip].iter().max_by_key(rank).map(|node| Holder { node, why: Why::Priority })
        };
        let best = || best().filter(|_| failover.balance == Balance::Priority);
        pinned.or_else(incumbent).or_else(best)
    };
    let mut holders: Vec<_> = (0..vips.len()).map(certain).collect();
    let is_spread = |vip: usize| vips[vip].failover.balance == Balance::Spread;
    let taken = (0..vips.len()).filter(|&vip| is_spread(vip));
    let mut load = [0usize; MAX_NODES];
    taken.filter_map(|vip| holders[vip]).for_each(|holder| load[holder.node.index()] += 1);
    let open: Vec<usize> =
        (0..vips.len()).filter(|&vip| is_spread(vip) && holders[vip].is_none()).collect();
    let had = |vip: usize| stays(vip, StayKind::Incumbent);
    for (vip, node) in spread(vips, &open, &may, had, &load) {
        holders[vip] = Some(Holder { node, why: Why::Spread });
    }
    holders
}

/// Gives each of the VIPs `open` to one of the nodes that may have it, so that loads differ by as
/// little as can be; a node that has had one keeps it as far as that goes.
fn spread(
    vips: &[Floating],
    open: &[usize],
    may: &[NodeSet],
    had: impl Fn(usize) -> Option<NodeId>,
    load: &[usize; MAX_NODES],
) -> Vec<(usize, NodeId)> {
    let room = room(open, may, &had, load);
    let mut left: [usize; MAX_NODES] = array::from_fn(|node| room[node] - load[node]);
    let mut given = Vec::new();
    let mut pairs: Vec<_> =
        open.iter().flat_map(|&vip| may[vip].iter().map(move |node| (vip, node))).collect();
    pairs.sort_by_key(|&(vip, node)| Reverse((had(vip) == Some(node), vips[vip].key(node))));
    for (vip, node) in pairs {
        let is_given = given.iter().any(|&(given, _)| given == vip);
        if !is_given && left[node.index()] > 0 {
            left[node.index()] -= 1;
            given.push((vip, node));
        }
    }
    // Not all nodes may have all VIPs: then room may be where it is of no use.
    for &vip in open {
        if given.iter().all(|&(given, _)| given != vip) {
            let load = |node: NodeId| {
                load[node.index()] + given.iter().filter(|&&(_, it)| it == node).count()
            };
            let rank = |&node: &NodeId| (load(node), Reverse(vips[vip].key(node)));
            given.extend(may[vip].iter().min_by_key(rank).map(|node| (vip, node)));
        }
    }
    given
}

/// How many VIPs each node is to have at most, so that all have a place: one after the other goes to
/// the node with fewest, of several to the one that has had most.
fn room(
    open: &[usize],
    may: &[NodeSet],
    had: impl Fn(usize) -> Option<NodeId>,
    load: &[usize; MAX_NODES],
) -> [usize; MAX_NODES] {
    let mut room = *load;
    let nodes: NodeSet = open.iter().fold(NodeSet::EMPTY, |all, &vip| all.union(may[vip]));
    let wanted = |node: NodeId| {
        load[node.index()] + open.iter().filter(|&&vip| had(vip) == Some(node)).count()
    };
    for vip in open {
        let able = if may[*vip].is_empty() { NodeSet::EMPTY } else { nodes };
        let rank = |&node: &NodeId| (room[node.index()], Reverse(wanted(node)), node);
        if let Some(node) = able.iter().min_by_key(rank) {
            room[node.index()] += 1;
        }
    }
    room
}

fn nodes() -> impl Iterator<Item = NodeId> {
    (0..MAX_NODES).filter_map(NodeId::new)
}

#[cfg(test)]
mod tests;
