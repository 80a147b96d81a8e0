//! The buckets that a node accepts, and old connections of those in a move: each step of the
//! membership machine changes both, and what heartbeats are to say of them.
//!
//! Pure, so that the simulator takes the steps of the agent.

use std::sync::Arc;

use super::handover::{Handover, Said};
use crate::{
    model::{Bitmap, NodeId, View},
    plan::Owners,
};

/// What a node has of the farm's buckets, by kernel group.
#[derive(Debug, Clone)]
pub struct Share {
    accept: Vec<Bitmap>,
    handover: Handover,
    /// Number of the view for which this node has let go of what others are to have.
    let_go: u64,
}

impl Share {
    /// Nothing, of so many kernel groups.
    pub fn of(groups: usize) -> Self {
        Self {
            accept: vec![Bitmap::default(); groups],
            handover: Handover::of(groups),
            let_go: 0,
        }
    }

    /// Stops accepting what is not the node's in that view, which is `table` of each group. Accepts
    /// nothing new.
    pub fn release(&mut self, view: &View, table: impl Fn(usize) -> Bitmap) {
        for (group, accept) in self.accept.iter_mut().enumerate() {
            let before = *accept;
            *accept = before.and(table(group));
            self.handover.give_away(group, before.without(*accept));
        }
        self.let_go = view.epoch;
    }

    /// Accepts exactly what is the node's in that view, which is `table` of each group.
    pub fn acquire(&mut self, own: NodeId, view: &View, table: impl Fn(usize) -> Bitmap) {
        let alone = view.alive.without(own).is_empty();
        for (group, accept) in self.accept.iter_mut().enumerate() {
            let before = std::mem::replace(accept, table(group));
            if !alone {
                self.handover.take_over(group, accept.without(before));
            }
        }
        self.let_go = view.epoch;
    }

    /// Accepts nothing: the node serves nothing any more.
    pub fn clear(&mut self) {
        self.accept.fill(Bitmap::default());
        self.handover.forget();
    }

    /// Takes what the other nodes of the view in force say.
    pub fn hear(&mut self, others: &[Said]) {
        self.handover.hear(others);
    }

    /// Only those buckets still have connections here, as was counted when this node had let go for
    /// the view of that number.
    pub fn keep(&mut self, let_go: u64, buckets: &[Bitmap]) {
        if let_go == self.let_go {
            self.handover.keep(buckets);
        }
    }

    /// The same with other kernel groups: `former` tells which one each of the `groups` was before.
    #[must_use]
    pub fn renumbered(&self, former: impl Fn(usize) -> Option<usize>, groups: usize) -> Self {
        let accept = |group| former(group).map_or(Bitmap::default(), |group| self.accept[group]);
        Self {
            accept: (0..groups).map(accept).collect(),
            handover: self.handover.renumbered(&former, groups),
            let_go: self.let_go,
        }
    }

    /// What heartbeats are to say from now on.
    pub fn told(&self) -> Arc<[u8]> {
        self.handover.encode(self.let_go).into()
    }

    /// The bitmaps accepted.
    pub fn accept(&self) -> &[Bitmap] {
        &self.accept
    }

    /// The buckets in a move: of each the kernel asks for the connection.
    pub fn moving(&self) -> Vec<Bitmap> {
        self.handover.moving(&self.accept)
    }

    /// Who has connections of each bucket.
    pub fn former(&self) -> Vec<Owners> {
        self.handover.former()
    }

    /// The buckets given away whose old connections this node still serves.
    pub fn lingering(&self) -> &[Bitmap] {
        self.handover.lingering()
    }

    /// Number of the view for which this node has let go of what others are to have.
    pub fn let_go(&self) -> u64 {
        self.let_go
    }

    /// Whether nothing is in a move.
    pub fn is_settled(&self) -> bool {
        self.handover.is_over()
    }
}
