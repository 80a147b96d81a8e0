//! How members come to one view: who is one, what to promise, and when to install it.

use std::time::Duration;

use super::{
    Config, Event, Membership, Output,
    peer::precedence,
    time::BootTime,
    view::{Promise, view_hash},
    wire::Activity,
};
use crate::{
    model::{NodeId, NodeSet},
    status::NodeState,
};

impl Membership {
    /// Brings the members up to date and tells who came and went.
    pub(super) fn assess_peers(&mut self, now: BootTime) {
        let Config { own, digest, timers, .. } = self.config;
        self.members = NodeSet::EMPTY.with(own);
        for index in 0..self.peers.len() {
            let Some(node) = NodeId::new(index) else { break };
            let peer = &mut self.peers[index];
            let (before, after) = (peer.member, peer.eligible(now, timers.fail, digest));
            peer.member = after;
            let silence = peer.heard_at().map_or(Duration::ZERO, |at| now.saturating_since(at));
            let (left, silent) = (peer.has_said_goodbye(), silence >= timers.fail);
            let node_name = || self.config.nodes[index].name.clone();
            if after.is_some() {
                self.members = self.members.with(node);
            }
            match (before, after) {
                (None, Some(_)) => self.event(Event::NodeJoined { node: node_name() }),
                (Some(old), Some(new)) if old.incarnation != new.incarnation => {
                    self.event(Event::NodeRestarted { node: node_name() });
                }
                (Some(_), None) if left => self.event(Event::NodeLeft { node: node_name() }),
                (Some(_), None) if silent => {
                    self.event(Event::NodeLost { node: node_name(), silence });
                }
                _ => {}
            }
        }
    }

    /// Makes room for the members as they are now; the heartbeat of this turn says so.
    pub(super) fn promise_what_is_heard(&mut self) {
        let promise = self.promise_due();
        if promise != self.promise {
            self.promise = promise;
            self.announce = true;
            self.outputs.push_back(Output::Release(promise.view()));
        }
    }

    /// The promise that fits the members: the present one if they have not changed, unless others
    /// use a higher number for the same view.
    fn promise_due(&self) -> Promise {
        let life = |node: NodeId| {
            if node == self.config.own { Some(self.life) } else { self.peers[node.index()].member }
        };
        let hash =
            view_hash(self.members.iter().filter_map(|node| life(node).map(|life| (node, life))));
        let heard = || self.member_peers().filter_map(|(_, peer)| peer.promise());
        let agreed = heard().filter(|promise| promise.hash == hash).map(|promise| promise.epoch);
        let epoch = match agreed.max() {
            Some(agreed) if agreed > self.promise.epoch => agreed,
            _ if hash == self.promise.hash => self.promise.epoch,
            _ => heard()
                .fold(self.promise.epoch, |epoch, promise| epoch.max(promise.epoch))
                .saturating_add(1),
        };
        Promise { epoch, alive: self.members, hash }
    }

    /// Two configurations are two tables, so only one may be served.
    pub(super) fn yield_to_other_configuration(&mut self, now: BootTime) {
        let Config { own, digest, timers, .. } = self.config;
        let served =
            self.state == NodeState::Up || self.member_peers().any(|(_, peer)| peer.is_serving());
        let ours = precedence(served, own);
        let goes_first = |node: &NodeId| {
            let peer = &self.peers[node.index()];
            let differs = peer.present(now, timers.fail).is_some_and(|heartbeat| {
                heartbeat.digest != digest && heartbeat.activity != Activity::Leaving
            });
            differs && precedence(peer.is_serving(), *node) > ours
        };
        let rival = (0..self.peers.len()).filter_map(NodeId::new).find(goes_first);
        if let (Some(node), None) = (rival, self.held_back_by) {
            let by = self.name(node);
            self.event(Event::HeldBack { by });
        }
        self.held_back_by = rival;
        if rival.is_some() && self.state == NodeState::Up {
            self.begin_new_life(now);
            self.promise_what_is_heard();
        }
    }

    /// Takes this node's buckets once every member has promised the same, and somebody among them
    /// knows that no other node serves.
    /// A joiner that hears nobody but nodes with another key does not serve alone: it is most likely
    /// the one that was given the wrong key, and the others serve already.
    pub(super) fn install_what_is_agreed(&mut self, now: BootTime) {
        if self.installed == Some(self.promise) || self.held_back_by.is_some() {
            return;
        }
        let agreed = self.member_peers().all(|(_, peer)| peer.promise() == Some(self.promise));
        let fail = self.config.timers.fail;
        let stranger = self.stranger_heard.is_some_and(|heard| now < heard + fail);
        if stranger && self.state != NodeState::Up && self.members.len() == 1 {
            return;
        }
        let nobody_else_serves = self.state == NodeState::Up
            || now >= self.listen_until
            || self.member_peers().any(|(_, peer)| peer.is_serving());
        if !agreed || !nobody_else_serves {
            return;
        }
        let former = self.installed.replace(self.promise);
        self.outputs.push_back(Output::Acquire(self.promise.view()));
        if self.state != NodeState::Up {
            self.state = NodeState::Up;
            self.announce = true;
        }
        // A higher number for the same view is no news to anybody.
        if former.is_none_or(|former| former.hash != self.promise.hash) {
            let members = self.members.iter().map(|node| self.name(node)).collect();
            self.event(Event::ViewInstalled { epoch: self.promise.epoch, members });
        }
    }
}
