//! What the nodes have agreed on.

use std::sync::Arc;

use super::{Abstentions, NodeId, NodeSet, Overrides};

/// What the nodes have agreed on: together with a configuration it determines every table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct View {
    /// Rises with every view this node installs.
    pub epoch: u64,
    /// The node that proposed it.
    pub coordinator: NodeId,
    /// The members.
    pub alive: NodeSet,
    /// The members that own nothing: they leave, are drained in all groups, abstain from all, or are
    /// unfit.
    pub idle: NodeSet,
    /// Powers changed at run time.
    pub powers: Arc<Overrides>,
    /// What members do not serve for now by their own word.
    pub abstentions: Arc<Abstentions>,
    /// Which configuration is in force.
    pub digest: [u8; 16],
}

impl View {
    /// The view of the file alone, with those nodes alive.
    pub fn of(alive: NodeSet) -> Self {
        Self { alive, ..Self::default() }
    }

    /// Whether the node serves nothing of that kernel group for now, by its own word.
    pub fn abstains(&self, node: NodeId, kernel_group: usize) -> bool {
        self.abstentions.of(node).is_from(kernel_group)
    }

    /// The same if that node was not there.
    #[must_use]
    pub fn without(self, node: NodeId) -> Self {
        Self { alive: self.alive.without(node), ..self }
    }

    /// The nodes that may own buckets.
    pub fn owners(&self) -> NodeSet {
        self.alive.difference(self.idle)
    }
}
