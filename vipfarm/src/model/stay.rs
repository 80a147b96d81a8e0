//! Nodes that are to hold a failover VIP whatever its priorities say.

use super::{Life, NodeId};

/// Which failover VIP block: a hash of its group's name. Unlike the group's index it is the same in
/// every file that has the block, so that a reload moves no VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipId(pub u64);

impl VipId {
    /// Of the block whose group has that name.
    pub fn of(group: &str) -> Self {
        let [a, b, c, d, e, f, g, h, ..] =
            blake3::derive_key("vipfarm 1 failover VIP", group.as_bytes());
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// Why a node is to hold a failover VIP whatever its priorities say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StayKind {
    /// It holds it already: a better one is not to take over, or not yet.
    Incumbent,
    /// An operator has moved it there.
    Pinned,
}

/// A node that is to hold a failover VIP for as long as it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stay {
    /// Which.
    pub vip: VipId,
    /// Why: a VIP has one of each kind at most.
    pub kind: StayKind,
    /// The node.
    pub node: NodeId,
    /// The agent of the node that it ends with; `None` = it holds until it is taken back.
    pub life: Option<Life>,
}
