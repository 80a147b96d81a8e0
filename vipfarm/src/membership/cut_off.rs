//! A node that has lost clients and knows it by another network.

use std::{cmp::Ordering, time::Duration};

use super::{
    Event, Membership, listening,
    time::BootTime,
    wire::{Flags, State},
};
use crate::{
    model::{NodeId, NodeSet, Timers},
    status::NodeState,
};

/// For how long, in periods, a further network must be there again before the node serves.
const STEADY: u32 = 10;

/// Nodes that share clients with this one but not the first network; nodes linked with it; and one on
/// a larger side.
pub(super) type Sides = (NodeSet, NodeSet, Option<NodeId>);

impl Membership {
    /// Whether the farm has VIPs on that link's network.
    pub(super) fn has_vips(&self, link: usize) -> bool {
        link == 0 || self.config.links.get(link).is_some_and(|own| own.has_vips)
    }

    /// Whether this node can serve, as far as its driver and its further networks tell.
    pub(super) fn is_fit(&self) -> bool {
        self.fit && self.cut_off_until.is_none()
    }

    /// On which links anybody is heard, as a bitmap of the first 16.
    pub(super) fn hears_on(&self, now: BootTime) -> u16 {
        let fail = self.config.timers.fail;
        let links = (0..self.config.links.len()).take(16);
        let links = links.filter(|&link| self.hears_anybody_on(link, now, fail));
        links.fold(0, |set, link| set | 1 << link)
    }

    fn hears_anybody_on(&self, link: usize, now: BootTime, span: Duration) -> bool {
        self.peers.iter().any(|peer| peer.is_heard_on(link, now, span))
    }

    /// Of clients on a further network a node that is cut off from it would have its share and serve
    /// none of them. If nodes that are linked with it hear each other there, they take over; all that
    /// hear nobody go on, as each of them would otherwise wait for the other.
    pub(super) fn stand_back_where_cut_off(&mut self, now: BootTime) {
        let Timers { period, fail, .. } = self.config.timers;
        // By then those who hear nobody there either have said so.
        let long = fail + 2 * period;
        let lost = (1..self.config.links.len())
            .filter(|&link| self.has_vips(link) && !self.hears_anybody_on(link, now, long))
            .find_map(|link| Some((link, self.linked.iter().find(|&it| self.has(it, link, now))?)));
        if let Some((link, from)) = lost {
            let until = now + STEADY * period;
            if self.cut_off_until.replace(until).is_none() {
                let from = self.name(from);
                self.event(Event::CutOff { from, link });
                self.stop_serving(now);
            }
        } else if self.cut_off_until.is_some_and(|until| now >= until) {
            self.cut_off_until = None;
            self.event(Event::Fit);
            self.announce = true;
        }
    }

    /// Whether a node has that network and can take over. What a node that has just come has heard so
    /// far says nothing yet.
    fn has(&self, node: NodeId, link: usize, now: BootTime) -> bool {
        let peer = &self.peers[node.index()];
        let is_steady = |since| now >= since + self.config.timers.fail;
        let hears = |state: &State| link < 16 && state.hears_on >> link & 1 == 1;
        let can_serve = !peer.has(Flags::UNFIT) && !peer.has(Flags::LEAVING);
        peer.linked_since.is_some_and(is_steady) && peer.state().is_some_and(hears) && can_serve
    }

    /// Of two sides of the VIP's network that still hear each other by another one, the smaller
    /// serves nothing: its share has been taken over, and it would answer a second time at the
    /// instant the network is whole again. Two of one size go on, as without another network:
    /// nobody can tell which one has the clients. But where the other network has VIPs too, both
    /// would serve its clients: so the side with the first node goes on.
    pub(super) fn yield_to_the_larger_side(&mut self, now: BootTime) {
        let nodes = || self.everybody().without(self.config.own).iter();
        let larger = nodes().find(|&node| self.is_on_a_larger_side(now, node));
        let apart: NodeSet = nodes().filter(|&node| self.shares_clients_with(now, node)).collect();
        let sides = (apart, self.linked, larger);
        if self.sides.0 != sides {
            self.sides = (sides, now);
        }
        let before = std::mem::replace(&mut self.cut_off_from, larger);
        let Some(larger) = larger else {
            if before.is_some() {
                self.listen_until = now + listening(&self.config.timers);
            }
            return;
        };
        if before.is_none() {
            let from = self.name(larger);
            self.event(Event::CutOff { from, link: 0 });
        }
        if self.state == NodeState::Up {
            self.stop_serving(now);
        }
    }

    /// Whether a node that serves nothing may begin, as far as other networks with VIPs matter: not
    /// before all have heard how large the sides of the first one are.
    pub(super) fn knows_the_sides(&self, now: BootTime) -> bool {
        let shares_clients = self.config.links.iter().skip(1).any(|link| link.has_vips);
        !shares_clients || now >= self.sides.1 + self.config.timers.suspect
    }

    /// A node that hears this one waits for it, so this one must not wait for that. Nor do nodes that
    /// are linked with the same ones make two sides.
    fn is_on_a_larger_side(&self, now: BootTime, node: NodeId) -> bool {
        let fail = self.config.timers.fail;
        let peer = &self.peers[node.index()];
        let is_elsewhere = !peer.is_heard(now, fail) && peer.is_heard_anyhow(now, fail);
        let can_serve = !peer.has(Flags::UNFIT) && !peer.has(Flags::LEAVING);
        let linked = peer.state().map_or(NodeSet::EMPTY, |state| state.linked);
        let hears_us = peer.state().is_some_and(|state| state.hears.contains(self.config.own));
        let (own, theirs) = (self.linked.with(self.config.own), linked.with(node));
        let is_larger = match theirs.len().cmp(&own.len()) {
            Ordering::Equal => {
                theirs.iter().next() < own.iter().next() && self.shares_clients_with(now, node)
            }
            order => order.is_gt(),
        };
        is_elsewhere && can_serve && !hears_us && is_larger && theirs.intersection(own).is_empty()
    }

    /// Whether a node that is not heard on the first network is heard on another one with VIPs.
    pub(super) fn shares_clients_with(&self, now: BootTime, node: NodeId) -> bool {
        let (peer, fail) = (&self.peers[node.index()], self.config.timers.fail);
        let mut links = 1..self.config.links.len();
        !peer.is_heard(now, fail)
            && links.any(|link| self.has_vips(link) && peer.is_heard_on(link, now, fail))
    }
}
