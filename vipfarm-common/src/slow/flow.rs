//! UDP flows that linger: those that a node serves stay there when their bucket moves (T12).
//!
//! Nothing in a datagram tells whether its flow is new, but its node remembers when it last accepted
//! one of it. So the former owner judges first, in both modes: what it remembers it accepts, and the rest
//! it hands on, to the next former owner and in the end to the owner, which takes what comes from them and
//! nothing else. One node at a time has the datagram, so that no two accept it, whatever they believe.
//!
//! Former owners hand on in the order of the nodes, and to the owner of an installed view only: all who
//! are in it have let the bucket go by then, so that no frame comes back to who has handed it on. Who
//! has a client's frames, where they come to one node, sends them to the first of them.

use super::{Address, Flow, Frame, Ip, Place, connection::tuple};
use crate::{
    layout::{MAX_GROUPS, MAX_PEERS, NOBODY, VIP_DIRECTED, mac_word},
    packet::{Head, Packet, Tables},
    reason::{Outcome, Reason},
    vip::{self, UDP},
};

const NS_PER_S: u64 = 1_000_000_000;

impl<P: Packet, T: Tables> Frame<'_, P, T> {
    /// Judges a datagram by a rule whose flows linger, or a packet that quotes one.
    #[inline(always)]
    pub(super) fn lingers<A: Address>(
        &self,
        ip: &Ip<A>,
        flow: &Flow<A>,
        place: Place,
    ) -> Result<Outcome, Reason> {
        let Place { group, bucket, linger_s } = place;
        if let Some(reason) = self.judged_elsewhere(ip.found.vip, place) {
            self.tables.observe(group, bucket);
            return Err(reason);
        }
        let mine = vip::is_mine(self.tables, self.now, group, bucket);
        if !mine && self.next(place) == NOBODY {
            return Ok(self.owner(ip.found.vip, group, bucket));
        }
        let (now, key) = (self.tables.boot_ns(), tuple(ip, flow, None));
        if !mine {
            let (seen, longest) = (self.tables.flow_seen(&key), u64::from(linger_s) * NS_PER_S);
            if seen == 0 || now.saturating_sub(seen) > longest {
                self.tables.observe(group, bucket);
                return Err(self.pass_to(self.next(place), Reason::Forwarded));
            }
        }
        // An error about the flow is no sign of life.
        if ip.proto == UDP {
            self.tables.note_flow(&key, now);
        }
        if mine {
            return Ok(self.owner(ip.found.vip, group, bucket));
        }
        self.tables.observe(group, bucket);
        // It may have come to all stations.
        self.ethernet.head.set::<0, 6>(self.tables.own_mac());
        Err(Reason::Lingering)
    }

    /// The same of a fragment without ports whose packet was handed on.
    #[inline(always)]
    pub(super) fn hand_on(&self, vip: u32, place: Place) -> Reason {
        self.tables.observe(place.group, place.bucket);
        self.judged_elsewhere(vip, place)
            .unwrap_or_else(|| self.pass_to(self.next(place), Reason::Forwarded))
    }

    /// Why it is not this node's turn to judge, if it is not; the frame then goes where it is, unless it
    /// gets there by itself.
    #[inline(always)]
    fn judged_elsewhere(&self, vip: u32, place: Place) -> Option<Reason> {
        let group = &self.now.groups[place.group as usize & (MAX_GROUPS - 1)];
        let first = self.tables.volatile(&group.first[usize::from(place.bucket)]);
        let [target] = self.ethernet.head.get::<0, 1>();
        let comes_to_one = vip & VIP_DIRECTED != 0 && target & 1 == 0;
        let mine = vip::is_mine(self.tables, self.now, place.group, place.bucket);
        match (first != NOBODY, self.is_from_peer()) {
            (true, false) if comes_to_one => Some(self.pass_to(first, Reason::HandedBack)),
            (true, false) if !mine => Some(Reason::NotMine),
            (true, false) => Some(Reason::Inherited),
            // Sent by who does not know that others judge first, or not yet.
            (true, true) if mine && !self.is_from(first) && !self.is_from(self.next(place)) => {
                Some(Reason::Inherited)
            }
            (false, true) if !comes_to_one => Some(Reason::HandedOver),
            _ => None,
        }
    }

    /// Whether that node sent the frame.
    #[inline(always)]
    fn is_from(&self, node: u8) -> bool {
        let mac = self.tables.volatile(&self.now.peers[usize::from(node) & (MAX_PEERS - 1)]);
        usize::from(node) < MAX_PEERS && mac == mac_word(self.ethernet.head.get::<6, 6>())
    }

    /// Whom this node hands on what it does not remember; of its own bucket, who judged last.
    #[inline(always)]
    fn next(&self, place: Place) -> u8 {
        let group = &self.now.groups[place.group as usize & (MAX_GROUPS - 1)];
        self.tables.volatile(&group.next[usize::from(place.bucket)])
    }

    #[inline(always)]
    fn pass_to(&self, node: u8, reason: Reason) -> Reason {
        let is_known = vip::address_to(&self.ethernet.head, self.tables, self.now, node);
        if is_known { reason } else { Reason::NoNextHop }
    }
}
