//! What nodes agree on: a view, and the lives of the nodes in it.

use crate::model::{NodeId, NodeSet, View};

/// Which life of a node: peers agree with *this* life, and what they said to an earlier one is
/// void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    /// Random, drawn when the agent starts.
    pub(super) incarnation: u64,
    /// Rises whenever the node has been fenced.
    pub(super) number: u32,
}

/// What identifies the members of a view and their lives.
pub(super) type ViewHash = [u8; 16];

/// A view this node has promised: it accepts no bucket that is not its own in it. Nodes agree when
/// all of a promise is equal.
///
/// The epochs one node promises only rise. So of two promises that two nodes made in different
/// order, no node can hold the other's outdated one for its present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Promise {
    pub(super) epoch: u64,
    pub(super) alive: NodeSet,
    pub(super) hash: ViewHash,
}

impl Promise {
    pub(super) fn view(self) -> View {
        View { epoch: self.epoch, alive: self.alive }
    }
}

/// The hash over the members, in ascending order, and their lives.
pub(super) fn view_hash(members: impl Iterator<Item = (NodeId, Life)>) -> ViewHash {
    let mut hasher = blake3::Hasher::new_derive_key("vipfarm 1 view");
    for (node, life) in members {
        hasher
            .update(&(node.index() as u64).to_be_bytes())
            .update(&life.incarnation.to_be_bytes())
            .update(&life.number.to_be_bytes());
    }
    let mut hash = ViewHash::default();
    hasher.finalize_xof().fill(&mut hash);
    hash
}
