//! Which configuration is served, when nodes have different ones.

use std::cmp::Reverse;

use super::{Event, Membership, time::BootTime, view::Digest, wire::Flags};
use crate::{
    model::{NodeId, NodeSet},
    status::NodeState,
};

impl Membership {
    /// Two configurations are two tables, so only one may be served: the forced one, else that of
    /// the most nodes that hear each other and have it; of two, the one that is served, else the one
    /// of the lowest index. So one stale node cannot take the farm, wherever it stands in the file.
    ///
    /// A node with another configuration in force follows if it has staged that one: it goes on
    /// until those who have it in force propose a view. Otherwise it is held back.
    pub(super) fn yield_to_other_configuration(&mut self, now: BootTime) {
        let everybody = self.linked.with(self.config.own);
        let wins = |node: &NodeId| {
            let digest = self.digest_of(*node).unwrap_or_default();
            (self.precedence(everybody, digest), Reverse(*node))
        };
        let first = everybody.iter().max_by_key(wins).unwrap_or(self.config.own);
        let winner = self.digest_of(first).unwrap_or_default();
        self.follows = self.own_digest() != winner;
        let rival = if self.follows {
            (!self.runs(self.config.own, winner)).then_some(first)
        } else {
            // The winner begins when the losers have stopped.
            let serves = |&node: &NodeId| self.serves(node) && !self.runs(node, winner);
            self.linked.iter().filter(|_| self.state != NodeState::Up).find(serves)
        };
        let was_held_back = std::mem::replace(&mut self.held_back_by, rival).is_some();
        let Some(rival) = rival else { return };
        if !was_held_back {
            let by = self.name(rival);
            self.event(Event::HeldBack { by });
        }
        if self.state == NodeState::Up {
            self.stop_serving(now);
        }
    }

    fn precedence(&self, everybody: NodeSet, digest: Digest) -> impl Ord + use<> {
        let has = |&node: &NodeId| {
            self.digest_of(node) == Some(digest) || self.staged_at(node) == Some(digest)
        };
        let group: NodeSet = everybody.iter().filter(has).collect();
        let forced = group
            .iter()
            .any(|node| self.says(node, Flags::FORCED) && self.staged_at(node).is_none());
        // Nodes that are linked with theirs and unheard here are theirs as well.
        let reach = group.iter().filter_map(|node| self.peers[node.index()].state());
        let reach = reach.fold(NodeSet::EMPTY, |reach, state| reach.union(state.linked));
        let size = group.union(reach.difference(everybody)).len();
        let served = group.iter().any(|node| self.serves(node));
        (forced, size, served, Reverse(group.iter().next()))
    }

    /// The configuration that the node has in force, or is about to have: with a view that this
    /// node has promised too, all its members go over together.
    pub(super) fn digest_of(&self, node: NodeId) -> Option<Digest> {
        let promised = &self.promised;
        if node == self.config.own {
            return Some(self.own_digest());
        }
        let state = self.peers.get(node.index())?.state()?;
        let is_same = state.promised == promised.stamp && !promised.content.alive.is_empty();
        Some(if is_same { promised.content.digest } else { state.digest })
    }

    /// The same of this node.
    pub(super) fn own_digest(&self) -> Digest {
        let promised = &self.promised.content;
        if promised.alive.is_empty() { self.digest } else { promised.digest }
    }

    fn staged_at(&self, node: NodeId) -> Option<Digest> {
        if node == self.config.own {
            return self.staged;
        }
        self.peers.get(node.index())?.state()?.staged
    }

    /// The configuration that an operator wants in force whoever has staged it.
    pub(super) fn forced_digest(&self) -> Option<Digest> {
        let own = self.staged.filter(|_| self.forced);
        let theirs = self.linked.iter().filter(|&node| self.says(node, Flags::FORCED));
        let theirs = theirs.filter_map(|node| self.peers[node.index()].state()?.staged);
        own.into_iter().chain(theirs).min()
    }
}
