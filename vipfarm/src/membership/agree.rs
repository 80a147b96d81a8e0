//! The two phases: promise a view, which releases; install it when all have, which acquires.

use std::sync::Arc;

use super::{
    Event, Membership, Output,
    time::BootTime,
    view::{Agreement, life},
    wire::Flags,
};
use crate::{
    model::{NodeId, NodeSet},
    status::NodeState,
};

impl Membership {
    /// Promises the highest view that a peer has proposed or passed on, if it may be promised.
    pub(super) fn promise_what_is_proposed(&mut self, now: BootTime) {
        let fail = self.config.timers.fail;
        let present = self.peers.iter().filter(|peer| peer.is_heard_anyhow(now, fail));
        let proposals = present.filter_map(|peer| peer.newest()?.proposal.as_ref());
        let best = proposals
            .filter(|proposal| proposal.id() > self.promised.id() && self.may_promise(proposal))
            .max_by_key(|proposal| proposal.id());
        if let Some(best) = best.map(Arc::clone)
            && Agreement::new(best.id(), best.content.clone()) == *best
        {
            self.promise(best);
        }
    }

    /// Whether this very agent is a member, can run its configuration, and vouches for nobody who
    /// is left out.
    pub(super) fn may_promise(&self, proposal: &Agreement) -> bool {
        let content = &proposal.content;
        content.life_of(self.config.own) == Some(life(self.incarnation))
            && self.runs(self.config.own, content.digest)
            && (self.vouched_for().is_subset(content.alive) || !self.rules().vouch)
    }

    /// The members that this node hears: they may be serving, and then nobody may take their
    /// buckets. Not those that own nothing anyway, and not those that have left this node behind:
    /// they have gone on to a view without it.
    fn vouched_for(&self) -> NodeSet {
        let promised = &self.promised.content;
        let installed = self.installed.as_ref().map(|installed| &installed.content);
        let owns = |node: NodeId| {
            let in_promised = promised.owners().contains(node);
            in_promised || installed.is_some_and(|content| content.owners().contains(node))
        };
        let is_member = |node: NodeId| {
            let life = self.peers[node.index()].life();
            let of_installed = installed.and_then(|content| content.life_of(node));
            life == promised.life_of(node) || life == of_installed
        };
        self.hears
            .iter()
            .filter(|&node| owns(node) && is_member(node) && !self.has_gone_on(node))
            .collect()
    }

    /// Whether the peer does not hear this node and has installed a later view, which is without
    /// it then; and fewer nodes are linked with it than with this one. So it is the peer that is
    /// deaf and not this node that is mute, and waiting for the peer would stop everybody.
    fn has_gone_on(&self, node: NodeId) -> bool {
        self.peers[node.index()].state().is_some_and(|state| {
            state.installed.id > self.promised.id()
                && !state.hears.contains(self.config.own)
                && state.linked.len() < self.linked.len()
        })
    }

    /// First phase. The release is carried out before the heartbeat that tells of it.
    pub(super) fn promise(&mut self, agreement: Arc<Agreement>) {
        self.outputs.push_back(Output::Release(agreement.view()));
        self.max_epoch = self.max_epoch.max(agreement.id().epoch);
        if agreement.content.powers.version() > self.overrides.version() {
            self.overrides = Arc::clone(&agreement.content.powers);
        }
        self.promised = agreement;
        self.ready = NodeSet::EMPTY.with(self.config.own);
        self.announce = true;
    }

    /// Second phase: takes this node's buckets once every member has promised the same.
    pub(super) fn install_what_is_agreed(&mut self, now: BootTime) {
        if self.installed.as_ref().is_some_and(|it| it.stamp == self.promised.stamp) {
            return;
        }
        if self.promised.content.alive.is_empty() {
            return;
        }
        self.gather_readiness(now);
        let members = self.promised.content.alive;
        if members.is_subset(self.ready) || !self.rules().barrier {
            self.install(now);
        }
    }

    fn gather_readiness(&mut self, now: BootTime) {
        let fail = self.config.timers.fail;
        let before = self.ready;
        let stamp = self.promised.stamp;
        let members = self.promised.content.alive;
        let mut all_see_all = true;
        for node in members.without(self.config.own).iter() {
            let peer = &self.peers[node.index()];
            let Some(state) = peer.state().filter(|_| peer.is_heard_anyhow(now, fail)) else {
                continue;
            };
            if state.installed == stamp {
                self.ready = members;
            } else if state.promised == stamp {
                self.ready = self.ready.union(state.ready).with(node);
            }
            all_see_all &= members.without(node).is_subset(state.hears);
        }
        // Who does not hear everybody learns it from this node, in time.
        self.announce |= self.ready != before && !all_see_all;
    }

    fn install(&mut self, now: BootTime) {
        let former = self.installed.replace(Arc::clone(&self.promised));
        let content = &self.promised.content;
        let view = self.promised.view();
        let switched = self.digest != content.digest;
        self.digest = content.digest;
        if self.staged == Some(self.digest) {
            self.staged = None;
        }
        for node in content.alive.iter() {
            let since = &mut self.peers[node.index()].member_since;
            *since = since.or(Some(now));
        }
        self.announce = true;
        let members: Vec<_> = content.owners().iter().map(|node| self.name(node)).collect();
        let left = self.newly_left(former.as_deref());
        if self.fit && self.held_back_by.is_none() {
            self.state = NodeState::Up;
            let epoch = view.epoch;
            self.outputs.push_back(Output::Acquire(view));
            self.event(Event::ViewInstalled { epoch, members });
        }
        for node in left {
            self.event(Event::NodeLeft { node });
        }
        if switched {
            self.event(Event::ConfigActivated);
        }
    }

    fn newly_left(&self, former: Option<&Agreement>) -> Vec<String> {
        let leavers = self.promised.content.idle.without(self.config.own).iter();
        leavers
            .filter(|&node| self.says(node, Flags::LEAVING))
            .filter(|&node| former.is_some_and(|former| former.content.owners().contains(node)))
            .map(|node| self.name(node))
            .collect()
    }
}
