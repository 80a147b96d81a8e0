//! A node that has lost its clients and knows it by another network.

use super::{Event, Membership, listening, time::BootTime, wire::Flags};
use crate::{
    model::{NodeId, NodeSet},
    status::NodeState,
};

impl Membership {
    /// Of two sides of the VIP's network that still hear each other by another one, the smaller
    /// serves nothing: its share has been taken over, and it would answer a second time at the
    /// instant the network is whole again. Two of one size go on, as without another network:
    /// nobody can tell which one has the clients.
    pub(super) fn yield_to_the_larger_side(&mut self, now: BootTime) {
        let larger = self.everybody().iter().find(|&node| self.is_on_a_larger_side(now, node));
        let before = std::mem::replace(&mut self.cut_off_from, larger);
        let Some(larger) = larger else {
            if before.is_some() {
                self.listen_until = now + listening(&self.config.timers);
            }
            return;
        };
        if before.is_none() {
            let from = self.name(larger);
            self.event(Event::CutOff { from });
        }
        if self.state == NodeState::Up {
            self.stop_serving(now);
        }
    }

    /// A node that hears this one waits for it, so this one must not wait for that.
    fn is_on_a_larger_side(&self, now: BootTime, node: NodeId) -> bool {
        let fail = self.config.timers.fail;
        let Some(peer) = self.peers.get(node.index()) else { return false };
        let is_elsewhere = !peer.is_heard(now, fail) && peer.is_heard_anyhow(now, fail);
        let can_serve = !peer.has(Flags::UNFIT) && !peer.has(Flags::LEAVING);
        let linked = peer.state().map_or(NodeSet::EMPTY, |state| state.linked);
        let hears_us = peer.state().is_some_and(|state| state.hears.contains(self.config.own));
        is_elsewhere && can_serve && !hears_us && linked.len() > self.linked.len()
    }
}
