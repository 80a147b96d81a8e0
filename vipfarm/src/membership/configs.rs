//! Which configuration is served, when nodes have different ones.

use std::cmp::Reverse;

use super::{Event, Membership, time::BootTime, view::Digest, wire::Flags};
use crate::{
    model::{NodeId, NodeSet},
    status::NodeState,
};

impl Membership {
    /// Two configurations are two tables, so only one may be served: the forced one, else that of
    /// the most nodes that hear each other; of two, the one that is served, else the one of the
    /// lowest index. So one stale node cannot take the farm, wherever it stands in the file.
    pub(super) fn yield_to_other_configuration(&mut self, now: BootTime) {
        let everybody = self.linked.with(self.config.own);
        let others = self.linked.iter().filter(|&node| self.is_rival(node));
        let ours = self.precedence(everybody, self.digest);
        let rival = others
            .filter(|&node| {
                let wins = self
                    .digest_of(node)
                    .is_some_and(|theirs| self.precedence(everybody, theirs) > ours);
                // The winner begins when the loser has stopped.
                wins || (self.state != NodeState::Up && self.serves(node))
            })
            .min();
        let was_held_back = self.held_back_by.is_some();
        self.held_back_by = rival;
        let Some(rival) = rival else { return };
        if !was_held_back {
            let by = self.name(rival);
            self.event(Event::HeldBack { by });
        }
        if self.state == NodeState::Up {
            self.stop_serving(now);
        }
    }

    /// Whether the peer runs what this node cannot.
    fn is_rival(&self, node: NodeId) -> bool {
        let theirs = self.digest_of(node);
        theirs.is_some_and(|theirs| theirs != self.digest && self.staged != Some(theirs))
            && !self.runs(node, self.digest)
            && !self.says(node, Flags::LEAVING)
    }

    fn precedence(&self, everybody: NodeSet, digest: Digest) -> impl Ord + use<> {
        let group: NodeSet =
            everybody.iter().filter(|&node| self.digest_of(node) == Some(digest)).collect();
        let forced =
            group.iter().any(|node| self.says(node, Flags::FORCED) && !self.has_staged_any(node));
        let served = group.iter().any(|node| self.serves(node));
        (forced, group.len(), served, Reverse(group.iter().next()))
    }

    fn digest_of(&self, node: NodeId) -> Option<Digest> {
        if node == self.config.own {
            return Some(self.digest);
        }
        self.peers.get(node.index())?.state().map(|state| state.digest)
    }

    fn has_staged_any(&self, node: NodeId) -> bool {
        if node == self.config.own {
            return self.staged.is_some();
        }
        self.peers[node.index()].state().is_some_and(|state| state.staged.is_some())
    }

    /// The configuration that an operator wants in force whoever has staged it.
    pub(super) fn forced_digest(&self) -> Option<Digest> {
        let own = self.staged.filter(|_| self.forced);
        let theirs = self.linked.iter().filter(|&node| self.says(node, Flags::FORCED));
        let theirs = theirs.filter_map(|node| self.peers[node.index()].state()?.staged);
        own.into_iter().chain(theirs).min()
    }
}
