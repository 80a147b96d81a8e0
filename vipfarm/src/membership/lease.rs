//! How long the kernel may accept without hearing from the agent.
//!
//! A peer takes this node's buckets [`Timers::fail`] after the last heartbeat that it has received
//! from here. So the kernel must stop before `fail` has passed since the newest heartbeat that the
//! peer is *known* to have received was sent: what it has acknowledged. A frozen agent, a one-way
//! cut and any run of losses are all covered by that, because only absolute deadlines are written.
//!
//! [`Timers::fail`]: crate::model::Timers::fail

use std::time::Duration;

use super::{
    Membership, Output,
    time::BootTime,
    view::{Agreement, Stamp},
    wire::Flags,
};
use crate::{
    model::{NodeId, NodeSet, Timers},
    status::NodeState,
};

/// The deadline in the kernel.
#[derive(Debug, Clone, Default)]
#[cfg_attr(test, derive(PartialEq, Hash))]
pub(super) struct Lease {
    armed: Option<BootTime>,
    /// Before the last extension.
    before: Option<BootTime>,
}

impl Lease {
    /// Until when the kernel may accept; `None` since it was fenced.
    pub(super) fn armed(&self) -> Option<BootTime> {
        self.armed
    }

    /// Moves the deadline on; says whether `to` is later than it was.
    fn extend(&mut self, to: BootTime) -> bool {
        let later = self.armed < Some(to);
        if later {
            self.before = self.armed.replace(to);
        }
        later
    }

    /// The last extension was not carried out.
    pub(super) fn take_back(&mut self) {
        self.armed = self.before;
    }

    /// The kernel accepts nothing any more.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }

    /// Whether the deadline has passed.
    pub(super) fn has_lapsed(&self, now: BootTime) -> bool {
        self.armed.is_some_and(|deadline| now >= deadline)
    }
}

impl Membership {
    /// Moves the kernel's deadline on as far as is justified.
    pub(super) fn renew_lease(&mut self, now: BootTime) {
        if self.state != NodeState::Up {
            return;
        }
        if let Some(deadline) = self.justified(now)
            && deadline > now
        {
            // From now on it serves, which is news.
            self.announce |= self.lease.armed().is_none();
            if !self.lease.extend(deadline) {
                return;
            }
            self.outputs.push_back(Output::Lease(deadline));
        }
    }

    /// Whether the next acknowledgement is waited for.
    pub(super) fn needs_acks(&self, now: BootTime) -> bool {
        let soon = now + 2 * self.config.timers.period;
        self.state == NodeState::Up && self.lease.armed().is_none_or(|armed| armed < soon)
    }

    fn justified(&self, now: BootTime) -> Option<BootTime> {
        let Timers { lease, suspect, fail, .. } = self.config.timers;
        let longest = now + lease;
        if !self.rules().lease_by_acks {
            return Some(longest);
        }
        let installed = self.installed.as_ref()?;
        let is_first = self.lease.armed().is_none();
        if is_first && !self.may_begin(now, installed) {
            return None;
        }
        let members = installed.content.alive.without(self.config.own);
        let rivals = installed.content.owners().without(self.config.own);
        let asked = if is_first { members } else { rivals };
        if asked.is_empty() {
            // Who cannot speak has no idea whether it is alone.
            return (!self.mute).then_some(longest);
        }
        let acked = |node: NodeId| {
            // A new agent of the node does not speak for the one that is a member.
            let peer = &self.peers[node.index()];
            let life = installed.content.life_of(node);
            if peer.life() == life { peer.acked() } else { None }
        };
        let basis = if is_first && self.rules().first_lease_by_same_view {
            self.heard_within(fail, now, members).iter().map(acked).min().flatten()
        } else {
            let by_heard = self.rules().lease_by_heard;
            let heard = if by_heard { self.heard_within(suspect, now, asked) } else { asked };
            // `None`, the least: who has not acknowledged anything lately.
            let worst = heard.iter().map(acked).min();
            worst.unwrap_or_else(|| asked.iter().filter_map(acked).max())
        };
        Some((basis? + fail.saturating_sub(self.config.timers.margin())).min(longest))
    }

    fn heard_within(&self, span: Duration, now: BootTime, nodes: NodeSet) -> NodeSet {
        nodes.iter().filter(|node| self.peers[node.index()].is_heard(now, span)).collect()
    }

    /// Whether a node that serves nothing may begin by that view, as far as what it hears tells.
    fn may_begin(&self, now: BootTime, installed: &Agreement) -> bool {
        let alive = installed.content.alive;
        let heard = self.heard_within(self.config.timers.fail, now, alive);
        // Who was away may have installed what the others have left behind meanwhile, or are about
        // to.
        let agrees = |node: NodeId| {
            self.peers[node.index()].state().is_some_and(|state| {
                state.installed == installed.stamp && state.promised == installed.stamp
            })
        };
        // Whoever shares clients by another network is asked too.
        let shares = |&node: &NodeId| self.shares_clients_with(now, node);
        let mut asked = alive.without(self.config.own).iter().filter(shares).chain(heard.iter());
        let all_agree = asked.all(agrees) || !self.rules().first_lease_by_same_view;
        // Nobody is left who might serve unheard.
        let knows = heard.with(self.config.own) == self.everybody();
        let has_listened = !self.listening || knows || !self.rules().listen;
        let stand_back =
            self.others_stand_back(installed) || !self.rules().first_lease_by_stand_back;
        all_agree && has_listened && stand_back && self.knows_the_sides(now)
    }

    /// Whether nobody linked with this node serves, or is about to, by another view than this one.
    ///
    /// Two views of one configuration soon become one, and until then the first to serve goes on.
    /// Of two configurations one must give way: its nodes say that they cannot serve, and they must
    /// have said so knowing that this node no longer says the same. Else both might begin.
    fn others_stand_back(&self, installed: &Agreement) -> bool {
        let stands_back = |node: NodeId| {
            let peer = &self.peers[node.index()];
            let Some(state) = peer.state() else { return true };
            if state.digest != self.digest {
                let knows = peer.acked() >= self.unbarred_since;
                return state.flags.has(Flags::UNFIT) && !state.flags.has(Flags::SERVING) && knows;
            }
            let has_none = state.installed == Stamp::default();
            has_none || state.flags.has(Flags::FENCED) || state.flags.has(Flags::UNFIT)
        };
        let is_elsewhere =
            |node| self.is_deaf(node) && !self.shares_clients_with(self.last_turn, node);
        let others = |nodes: NodeSet| nodes.difference(installed.content.alive).iter();
        others(self.linked).all(stands_back)
            && others(self.may_serve_apart().collect()).all(is_elsewhere)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> BootTime {
        BootTime::from_nanos(nanos)
    }

    #[test]
    fn a_lease_only_grows_until_it_ends() {
        let mut lease = Lease::default();
        assert!(!lease.has_lapsed(at(1_000)), "none was given");
        assert!(lease.extend(at(10)) && lease.extend(at(20)));
        assert!(!lease.extend(at(20)) && !lease.extend(at(15)));
        assert_eq!(lease.armed(), Some(at(20)));
        assert!(!lease.has_lapsed(at(19)) && lease.has_lapsed(at(20)));
        lease.take_back();
        assert_eq!(lease.armed(), Some(at(10)));
        lease.end();
        assert_eq!(lease.armed(), None);
    }
}
