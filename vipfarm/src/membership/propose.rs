//! Who proposes which view, and when.
//!
//! The coordinator is the first by index of the nodes that are connected with each other and
//! serve; of all that are connected while none serves. It proposes when the view promised last is
//! not what it should be. Two nodes that both hold themselves for the coordinator do no harm: the
//! higher view wins.

use std::sync::Arc;

use super::{
    Membership,
    time::BootTime,
    view::{Agreement, Content, Digest, ViewId},
    wire::Flags,
};
use crate::{
    model::{Abstention, NodeId, NodeSet},
    status::NodeState,
};

/// Least time between two proposals of one node, in periods: a storm of changes makes few views.
const PACE: u32 = 2;

impl Membership {
    /// Proposes a view if it is this node's part and the one promised last will not do.
    pub(super) fn propose_what_is_due(&mut self, now: BootTime) {
        let yields = self.follows || self.held_back_by.is_some() || self.cut_off_from.is_some();
        if self.mute || yields || now < self.next_proposal {
            return;
        }
        let forced = self.forced_digest();
        // Those who have what is next already are part of it from then on.
        let digests =
            [Some(self.digest), self.promised_digest(self.config.own), self.staged, forced];
        let components = digests.into_iter().flatten().map(|digest| self.component(digest));
        let connected = components.fold(NodeSet::EMPTY, NodeSet::union);
        if self.coordinator(connected, forced) != self.config.own {
            return;
        }
        let anybody_serves = connected.iter().any(|node| self.serves(node));
        let content = self.content_due(now, connected, forced, anybody_serves);
        if !anybody_serves && !self.may_start(now, content.alive) {
            if now >= self.listen_until {
                self.tell_of_strangers(now);
            }
            return;
        }
        if content != self.promised.content || self.is_outdated(content.alive) {
            self.propose(now, content);
        }
    }

    /// Of a node that serves nothing and hears nobody who serves: whether it may begin.
    ///
    /// One that hears nobody but nodes with another key, or nodes that do not know it, is most
    /// likely the one with the wrong key or file: the others serve already, and it would serve their
    /// clients a second time.
    fn may_start(&self, now: BootTime, alive: NodeSet) -> bool {
        let fail = self.config.timers.fail;
        let stranger = self.nuisances.stranger.is_some_and(|heard| now < heard + fail);
        if stranger && alive.len() == 1 {
            return false;
        }
        // With everybody in the view there is nobody left who might serve unheard.
        now >= self.listen_until || alive == self.everybody() || !self.rules().listen
    }

    fn coordinator(&self, connected: NodeSet, forced: Option<Digest>) -> NodeId {
        let rank = |&node: &NodeId| {
            let behind = forced.is_some_and(|digest| !self.runs(node, digest));
            let follows = self.in_force(node) != Some(self.digest);
            let away = self.says(node, Flags::LEAVING) || self.says(node, Flags::UNFIT);
            (follows, behind, away, !self.serves(node), node)
        };
        connected.iter().min_by_key(rank).unwrap_or(self.config.own)
    }

    /// The view as it should be, but for its id.
    fn content_due(
        &self,
        now: BootTime,
        connected: NodeSet,
        forced: Option<Digest>,
        anybody_serves: bool,
    ) -> Content {
        let mut alive: NodeSet = connected
            .iter()
            .filter(|&node| !anybody_serves || self.is_admitted(now, node))
            .filter(|&node| !self.has_gone(node))
            .collect();
        let mut idle: NodeSet = NodeSet::EMPTY;
        let mut digest = self.digest;
        if let Some(next) = forced.filter(|&next| self.runs(self.config.own, next)) {
            // First those who stay behind stop, then the others go on.
            let behind: NodeSet =
                alive.iter().filter(|&node| !self.could_run(node, next)).collect();
            if self.promised.content.digest == next || self.owns_nothing(behind) {
                digest = next;
            } else {
                idle = behind;
            }
        } else {
            digest = self.digest_due(alive);
        }
        alive = alive.iter().filter(|&node| self.could_run(node, digest)).collect();
        let (own, powers) = (self.config.own, self.overrides());
        let powers = if digest == self.promised.content.digest || self.installed.is_none() {
            Arc::clone(powers)
        } else {
            Arc::new(powers.for_another_file(own))
        };
        let present = |node| self.life_of(node).filter(|_| alive.contains(node));
        let powers = powers.without_former(own, present).map_or(powers, Arc::new);
        let abstentions = self.abstentions_due(alive, digest);
        let is_whole = alive == self.everybody();
        let is_idle = |&node: &NodeId| {
            let listens = self.says(node, Flags::LISTENING) && !is_whole;
            let abstains = abstentions.of(node) == Abstention::ALL;
            let given_up = self.wants_nothing(node) || powers.is_drained(node) || abstains;
            given_up || idle.contains(node) || listens
        };
        idle = alive.iter().filter(is_idle).collect();
        let lives = alive.iter().filter_map(|node| self.life_of(node)).collect();
        Content { alive, idle, digest, lives, powers, abstentions }
    }

    /// Whether the view promised last has come to nothing although it is as it should be: somebody
    /// has promised a higher one, or is fenced and needs another.
    fn is_outdated(&self, alive: NodeSet) -> bool {
        let promised = self.promised.stamp;
        let is_installed = self.installed.as_ref().is_some_and(|it| it.stamp == promised);
        if is_installed && self.state == NodeState::Fenced && self.is_fit() {
            return true;
        }
        alive.iter().filter_map(|node| self.peers[node.index()].state()).any(|state| {
            let is_fenced = state.flags.has(Flags::FENCED) && !state.flags.has(Flags::UNFIT);
            state.promised.id > promised.id
                || (is_installed && is_fenced && state.installed == promised)
        })
    }

    fn propose(&mut self, now: BootTime, content: Content) {
        let id = ViewId {
            epoch: self.max_epoch.max(self.promised.id().epoch).saturating_add(1),
            coordinator: self.config.own,
            incarnation: self.incarnation,
        };
        let proposal = Agreement::new(id, content);
        if self.may_promise(&proposal) {
            self.next_proposal = now + PACE * self.config.timers.period;
            self.promise(Arc::new(proposal));
        }
    }

    /// Whether the node is a member, serves, or has been heard for long enough to become one.
    fn is_admitted(&self, now: BootTime, node: NodeId) -> bool {
        if node == self.config.own || self.serves(node) {
            return true;
        }
        let Some(peer) = self.peers.get(node.index()) else { return false };
        let is_member = self.life_of(node) == self.promised.content.life_of(node);
        let periods = self.rules().damping;
        let damping = peer.damping(periods, self.config.timers.period);
        is_member || peer.linked_since.is_some_and(|since| now >= since + damping)
    }

    /// Whether the node has left: all that was its own has been taken by others, and it serves nothing any
    /// more. Until it says so, what lingers with it is its own, and a view without it would give that away.
    fn has_gone(&self, node: NodeId) -> bool {
        node != self.config.own
            && self.says(node, Flags::LEAVING)
            && !self.says(node, Flags::SERVING)
            && self.owns_nothing(NodeSet::EMPTY.with(node))
    }

    fn owns_nothing(&self, nodes: NodeSet) -> bool {
        let installed = self.installed.as_ref();
        let is_settled = installed.is_some_and(|it| it.stamp == self.promised.stamp);
        is_settled && nodes.intersection(self.promised.content.owners()).is_empty()
    }

    fn wants_nothing(&self, node: NodeId) -> bool {
        if node != self.config.own && !self.hears.contains(node) {
            return self.promised.content.idle.contains(node);
        }
        self.says(node, Flags::LEAVING) || self.says(node, Flags::UNFIT)
    }

    /// Whether the node can serve that configuration; one that is two links away is not asked.
    pub(super) fn could_run(&self, node: NodeId, digest: Digest) -> bool {
        if node == self.config.own || self.hears.contains(node) {
            self.runs(node, digest)
        } else {
            self.promised.content.digest == digest
        }
    }
}
