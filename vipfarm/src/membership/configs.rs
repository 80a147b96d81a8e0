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
            let digest = self.in_force(*node).unwrap_or_default();
            (self.precedence(everybody, digest), Reverse(*node))
        };
        // One of each configuration: the others would only be weighed again.
        let is_first = |&node: &NodeId| {
            let digest = self.in_force(node);
            everybody.iter().find(|&other| self.in_force(other) == digest) == Some(node)
        };
        let first = everybody.iter().filter(is_first).max_by_key(wins).unwrap_or(self.config.own);
        let winner = self.in_force(first).unwrap_or_default();
        self.follows = self.digest != winner;
        let rival = if self.follows {
            (!self.runs(self.config.own, winner)).then_some(first)
        } else {
            // The winner begins when the losers have stopped.
            let serves = |&node: &NodeId| self.serves(node) && !self.runs(node, winner);
            self.linked.iter().filter(|_| self.state != NodeState::Up).find(serves)
        };
        let was_held_back = std::mem::replace(&mut self.held_back_by, rival).is_some();
        if was_held_back && rival.is_none() {
            self.unbarred_since = Some(now);
            self.announce = true;
        }
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
        let group: NodeSet = everybody.iter().filter(|&node| self.runs(node, digest)).collect();
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

    /// The configuration that the node has in force, or will have as soon as it hears that this node
    /// has installed the view which both have promised.
    pub(super) fn in_force(&self, node: NodeId) -> Option<Digest> {
        if node == self.config.own {
            return Some(self.digest);
        }
        let state = self.peers.get(node.index())?.state()?;
        let same = self.installed.as_ref().filter(|installed| installed.stamp == state.promised);
        Some(same.map_or(state.digest, |installed| installed.content.digest))
    }

    /// The configuration of the view that the node has promised last: until it promises another, it
    /// can go over to that one, whatever it has staged since.
    pub(super) fn promised_digest(&self, node: NodeId) -> Option<Digest> {
        let own = Some(&*self.promised).filter(|promised| !promised.content.alive.is_empty());
        if node == self.config.own {
            return Some(own?.content.digest);
        }
        let newest = self.peers.get(node.index())?.newest()?;
        let known = own.into_iter().chain(newest.proposal.as_deref());
        let mut promised = known.filter(|view| view.stamp == newest.state.promised);
        promised.next().map(|view| view.content.digest)
    }

    /// The configuration that the node's operator wants next.
    pub(super) fn staged_at(&self, node: NodeId) -> Option<Digest> {
        if node == self.config.own {
            return self.staged;
        }
        self.peers.get(node.index())?.state()?.staged
    }

    /// The configuration of the next view without force: the one that all have staged; else the one
    /// that all can go over to, because they have begun to; else the one in force.
    pub(super) fn digest_due(&self, alive: NodeSet) -> Digest {
        let all_run =
            |nodes: NodeSet, digest| nodes.iter().all(|node| self.could_run(node, digest));
        let pending = self.promised_digest(self.config.own).unwrap_or(self.digest);
        let begun = self.component(self.digest).union(self.component(pending));
        match self.staged {
            Some(next) if all_run(alive, next) => next,
            _ if all_run(alive.intersection(begun), pending) => pending,
            _ => self.digest,
        }
    }

    /// The configuration that an operator wants in force whoever has staged it.
    pub(super) fn forced_digest(&self) -> Option<Digest> {
        let own = self.staged.filter(|_| self.forced);
        let theirs = self.linked.iter().filter(|&node| self.says(node, Flags::FORCED));
        let theirs = theirs.filter_map(|node| self.peers[node.index()].state()?.staged);
        own.into_iter().chain(theirs).min()
    }
}
