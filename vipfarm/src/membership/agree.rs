//! The two phases: promise a view, which releases; install it when all have, which acquires.

use std::sync::Arc;

use super::{
    Event, Membership, Output,
    time::BootTime,
    view::{Agreement, Content, Stamp, ViewId, life},
    wire::Flags,
};
use crate::{
    model::{Abstention, NodeId, NodeSet, Timers},
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

    /// Whether this very agent is a member, knows all the others, can run its configuration, and vouches for nobody who
    /// is left out.
    pub(super) fn may_promise(&self, proposal: &Agreement) -> bool {
        let content = &proposal.content;
        content.life_of(self.config.own) == Some(life(self.incarnation))
            && content.alive.is_subset(self.everybody())
            && self.runs(self.config.own, content.digest)
            && (self.vouched_for().is_subset(content.alive) || !self.rules().vouch)
            && !(self
                .may_serve_apart()
                .any(|node| !self.hears.contains(node) && !content.alive.contains(node))
                && self.rules().listen)
    }

    /// The peers whose kernels may still serve, by a lease that does not depend on this node: it
    /// ends at the latest `lease` after the peer was last heard, unless others still hear the peer.
    pub(super) fn may_serve_apart(&self) -> impl Iterator<Item = NodeId> {
        let Timers { fail, lease, .. } = self.config.timers;
        self.everybody().without(self.config.own).iter().filter(move |&node| {
            let at = self.peers[node.index()].served_apart;
            at.is_some_and(|at| self.last_turn < at + fail + lease)
        })
    }

    /// Whether the peer's view, as it was heard, has this node as an owner.
    pub(super) fn is_rival_of(&self, node: NodeId) -> bool {
        let own = self.config.own;
        let theirs = self.peers[node.index()].state().map(|state| state.installed);
        let ours = self.installed.iter().chain([&self.promised]);
        ours.into_iter()
            .any(|view| Some(view.stamp) == theirs && view.content.owners().contains(own))
    }

    /// The nodes heard here that may be serving, so that nobody may take their buckets: members of
    /// this node's views and, while it serves nothing itself, whoever says that it serves. Not those
    /// that own nothing anyway or cannot serve; nor those that have gone on to a view without this
    /// node.
    fn vouched_for(&self) -> NodeSet {
        self.hears
            .iter()
            .filter(|&node| {
                let is_stranger = !self.is_member(node) && self.state != NodeState::Up;
                (is_stranger && self.serves(node))
                    || self.is_about_to_serve(node)
                    || self.owns_by_installed(node)
                    || self.may_own_by_promised(node)
            })
            .filter(|&node| !self.has_gone_on(node))
            .collect()
    }

    /// Whether the peer, this very agent of it, is in one of this node's views.
    fn is_member(&self, node: NodeId) -> bool {
        let life = self.peers[node.index()].life();
        let installed = self.installed.as_ref();
        life == self.promised.content.life_of(node)
            || installed.is_some_and(|installed| installed.content.life_of(node) == life)
    }

    /// Whether the peer has installed a later view than this node knows of: if it does not serve by
    /// that yet, it may any moment.
    fn is_about_to_serve(&self, node: NodeId) -> bool {
        let state = self.peers[node.index()].state();
        state.is_some_and(|state| {
            let cannot = state.flags.has(Flags::FENCED) || state.flags.has(Flags::UNFIT);
            state.installed.id > self.promised.id() && !cannot && !self.overrides().is_drained(node)
        })
    }

    fn owns_by_installed(&self, node: NodeId) -> bool {
        self.installed.as_ref().is_some_and(|installed| {
            let is_over = self.has_passed(node, installed.stamp) && !self.serves(node);
            let is_barred = self.is_barred(node, installed.id());
            self.is_owner(node, &installed.content) && !is_over && !is_barred
        })
    }

    fn may_own_by_promised(&self, node: NodeId) -> bool {
        let Agreement { stamp, content } = &*self.promised;
        let is_over = self.has_passed(node, *stamp) || self.is_barred(node, stamp.id);
        self.is_owner(node, content) && !is_over
    }

    /// Whether the node has promised a higher view and not installed that one: so it never will.
    fn has_passed(&self, node: NodeId, view: Stamp) -> bool {
        let state = self.peers[node.index()].state();
        state.is_some_and(|state| state.promised.id > view.id && state.installed != view)
    }

    fn is_owner(&self, node: NodeId, content: &Content) -> bool {
        let life = self.peers[node.index()].life();
        content.owners().contains(node) && content.life_of(node) == life
    }

    /// Whether the peer is deaf and has installed a later view, which is without this node then:
    /// waiting for it would stop everybody.
    fn has_gone_on(&self, node: NodeId) -> bool {
        let state = self.peers[node.index()].state();
        state.is_some_and(|state| state.installed.id > self.promised.id()) && self.is_deaf(node)
    }

    /// Whether the peer does not hear this node, which has spoken all the while, and fewer nodes are
    /// linked with it than with this one. So it is the peer that is deaf and not this node that was
    /// away or is mute.
    pub(super) fn is_deaf(&self, node: NodeId) -> bool {
        let was_away = self.last_turn < self.listen_until;
        self.peers[node.index()].state().is_some_and(|state| {
            !state.hears.contains(self.config.own)
                && state.linked.len() < self.linked.len()
                && !was_away
        })
    }

    /// Whether the peer has said that it cannot serve by that view: not now, and not by what it
    /// has promised so far.
    fn is_barred(&self, node: NodeId, view: ViewId) -> bool {
        let state = self.peers[node.index()].state();
        state.is_some_and(|state| {
            let cannot = state.flags.has(Flags::UNFIT) && !state.flags.has(Flags::SERVING);
            cannot && state.promised.id >= view
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
        // The driver has not released yet.
        if self.rules().said_anew {
            self.lingering = Arc::default();
        }
        self.ready = NodeSet::EMPTY.with(self.config.own);
        self.announce = true;
    }

    /// Second phase: takes this node's buckets once every member has promised the same.
    pub(super) fn install_what_is_agreed(&mut self, now: BootTime) {
        if !self.is_fit() || self.held_back_by.is_some() {
            self.barred = self.promised.id();
        }
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
        if self.promised.id() <= self.barred {
            self.state = NodeState::Fenced;
        } else {
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

    /// Who has left by this view. A node that had nothing already, because it is drained or abstains, has
    /// when it is in the view no more.
    fn newly_left(&self, former: Option<&Agreement>) -> Vec<String> {
        let Some(former) = former.map(|former| &former.content) else { return Vec::new() };
        let is_out = |content: &Content, node| {
            let has_nothing =
                content.powers.is_drained(node) || content.abstentions.of(node) == Abstention::ALL;
            !content.alive.contains(node) || (content.idle.contains(node) && !has_nothing)
        };
        let leavers = former.alive.without(self.config.own).iter();
        leavers
            .filter(|&node| self.says(node, Flags::LEAVING))
            .filter(|&node| is_out(&self.promised.content, node) && !is_out(former, node))
            .map(|node| self.name(node))
            .collect()
    }
}
