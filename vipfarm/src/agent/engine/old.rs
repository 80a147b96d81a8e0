//! Old connections: what other nodes are told of them and say, and the lease that serves nothing else.

use std::{sync::Arc, time::Duration};

use super::{Engine, Port, Wired, realtime};
use crate::{
    agent::handover::LONGEST_HOLD,
    membership::{BootTime, PeerStatus},
    model::{NodeSet, View},
    status::NodeState,
};

/// How long peers that do not acknowledge it are told that this node holds, and those that a former agent
/// knew are waited for.
const UNHEARD: Duration = Duration::from_millis(500);

impl Engine {
    /// Leaves the farm, and has the kernel serve old connections for so long from then on.
    pub(super) fn begin_hold(&mut self, hold: Duration) {
        self.hold = Some(hold);
        for wired in &mut self.wired {
            wired.port.hold(hold);
        }
        self.tell_of_handovers();
        self.membership.leave(realtime::now());
    }

    /// Goes on where a former agent ended, if the kernel serves its connections. Others may have been
    /// replaced at the same time, and said so to that one.
    pub(super) fn take_over(&mut self) {
        let lease = self.wired.iter().map(|wired| wired.datapath.lease()).max().unwrap_or(0);
        self.unowned = lease > 0;
        if self.unowned {
            let until = realtime::now() + LONGEST_HOLD;
            self.wired.iter_mut().for_each(|wired| wired.port.doubt(until));
        }
    }

    /// Whether there is nothing left to do here. Who holds goes on until all peers know of it.
    pub(super) fn has_ended(&mut self) -> bool {
        if !self.membership.has_left() {
            return false;
        }
        let now = realtime::now();
        let left_at = *self.left_at.get_or_insert(now);
        let knows = |peer: PeerStatus| peer.acked >= Some(left_at) || peer.leaving;
        self.hold.is_none()
            || now >= left_at + UNHEARD
            || self.membership.peers(now).filter(|peer| peer.hears_us).all(knows)
    }

    pub(super) fn extend_lease(&mut self, until: BootTime) {
        let extend = |wired: &mut Wired| wired.datapath.extend_lease(until.as_nanos()).err();
        let errors = self.wired.iter_mut().filter_map(extend).collect();
        self.report_kernel(errors);
    }

    /// Accepts nothing from now on; but old connections go on if this agent takes over from one that
    /// held, or holds itself.
    pub(super) fn fence(&mut self) {
        self.barrier.fence();
        if let Some(hold) = self.hold {
            self.unowned = true;
            self.change(Port::keep_old_connections);
            self.tell_of_handovers();
            self.extend_lease(realtime::now() + hold);
        } else if !self.unowned || self.is_serving() {
            self.unowned = false;
            for wired in &mut self.wired {
                wired.datapath.fence();
            }
            self.change(Port::clear);
            self.tell_of_handovers();
        }
    }

    /// Follows what the other nodes say of old connections, as long as there are any.
    pub(super) fn hear_of_handovers(&mut self) {
        if self.wired.iter().all(|wired| wired.port.share().is_settled()) {
            return;
        }
        let (membership, now, unowned) = (&self.membership, realtime::now(), self.unowned);
        let hear = |wired: &mut Wired| {
            wired.port.hear(membership, now);
            wired.apply(unowned)
        };
        let errors = self.wired.iter_mut().filter_map(hear).collect();
        self.report_kernel(errors);
    }

    /// Has frames go to the nodes that serve them, as far as can be told by one that is in no view: whose
    /// clients still send to this node what is another's. A wrong guess costs a frame, for what a node
    /// hands on is final.
    pub(super) fn follow_others(&mut self) {
        if !self.unowned || self.membership.view().is_some() {
            self.followed = None;
            return;
        }
        let serves = |peer: &PeerStatus| {
            peer.state == NodeState::Up
                && !peer.unfit
                && !peer.leaving
                && peer.digest == Some(self.digest)
        };
        let now = realtime::now();
        let serving = self.membership.peers(now).filter(serves).map(|peer| peer.node);
        let serving: NodeSet = serving.collect();
        // A former agent knew better, as long as not all are heard to whom its frames went.
        let is_heard = |wired: &Wired| wired.port.next_hops().is_subset(serving);
        if now < self.began + UNHEARD && !self.wired.iter().all(is_heard) {
            return;
        }
        let powers = Arc::clone(self.membership.overrides());
        let view = View { powers, ..View::of(serving) };
        if self.followed.as_ref() != Some(&view) {
            self.change(|port| port.follow_others(&view));
            self.followed = Some(view);
        }
    }

    /// Has the next heartbeat say what lingers here.
    pub(super) fn tell_of_handovers(&mut self) {
        // All ports have the groups of the whole farm.
        let told = self.wired.first().map(|wired| wired.port.share().told());
        self.membership.publish_lingering(realtime::now(), told.unwrap_or_default());
    }
}
