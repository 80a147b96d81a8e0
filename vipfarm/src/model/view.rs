//! What the nodes have agreed on.

use std::sync::Arc;

use super::{NodeId, NodeSet, Overrides};

/// What the nodes have agreed on: together with a configuration it determines every table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct View {
    /// Rises with every view this node installs.
    pub epoch: u64,
    /// The node that proposed it.
    pub coordinator: NodeId,
    /// The members.
    pub alive: NodeSet,
    /// The members that own nothing: they leave, are drained in all groups, or are unfit.
    pub idle: NodeSet,
    /// Powers changed at run time.
    pub powers: Arc<Overrides>,
    /// Which configuration is in force.
    pub digest: [u8; 16],
}

impl View {
    /// The view of the file alone, with those nodes alive.
    pub fn of(alive: NodeSet) -> Self {
        Self { alive, ..Self::default() }
    }

    /// The nodes that may own buckets.
    pub fn owners(&self) -> NodeSet {
        self.alive.difference(self.idle)
    }
}
