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

use super::{Address, Flow, Frame, Ip, Place};
use crate::{
    layout::{Group, MAX_GROUPS, MAX_PEERS, NOBODY, VIP_DIRECTED, mac_word},
    packet::{self, Head, Packet, Tables},
    reason::{Outcome, Reason},
    vip::{self, UDP},
};

const NS_PER_S: u64 = 1_000_000_000;

/// A node's turn to judge.
struct Turn {
    /// The bucket is its own.
    mine: bool,
    /// Nobody judges before.
    is_first: bool,
}

impl<P: Packet, T: Tables> Frame<'_, P, T> {
    /// Judges a datagram by a rule whose flows linger, or a packet that quotes one.
    #[inline(always)]
    pub(super) fn lingers<A: Address>(
        &self,
        ip: &Ip<A>,
        flow: &Flow<A>,
        place: Place,
    ) -> Result<Outcome, Reason> {
        let vip = ip.found.vip;
        // Before whatever says that the node judges, which ends first: so nothing is noted for a later one.
        let tenure = self.tables.volatile(&self.group(place).tenure[usize::from(place.bucket)]);
        let Turn { mine, is_first } = self.turn(vip, place)?;
        let next = self.next(place);
        if !mine && next == NOBODY {
            return Ok(self.others(vip, place).into());
        }
        let (now, key) = (self.tables.boot_ns(), self.tuple(ip, flow, None));
        if !mine {
            let (seen, longest) =
                (self.tables.flow_seen(&key), u64::from(place.linger_s) * NS_PER_S);
            let is_idle = now.saturating_sub(packet::seen_ns(seen)) > longest;
            if packet::seen_in(seen) != tenure || is_idle {
                return Err(self.pass_on(next, is_first));
            }
        }
        // An error about the flow is no sign of life.
        if ip.proto == UDP {
            self.tables.note_flow(&key, packet::seen(now, tenure));
        }
        if mine {
            return Ok(self.owner(vip, place.group, place.bucket));
        }
        // It may have come to all stations.
        self.ethernet.head.set::<0, 6>(self.tables.own_mac());
        Err(Reason::Lingering)
    }

    /// The same of a fragment without ports whose packet was handed on: also if that would be accepted by
    /// now.
    #[inline(always)]
    pub(super) fn hand_on(&self, vip: u32, place: Place) -> Result<Outcome, Reason> {
        let Turn { mine, is_first } = self.turn(vip, place)?;
        match self.next(place) {
            _ if mine => Ok(self.owner(vip, place.group, place.bucket)),
            NOBODY => Ok(self.others(vip, place).into()),
            next => Err(self.pass_on(next, is_first)),
        }
    }

    /// This node's turn to judge. Else why it is not its turn; the frame then goes where it is, unless it
    /// gets there by itself.
    #[inline(always)]
    fn turn(&self, vip: u32, place: Place) -> Result<Turn, Reason> {
        self.tables.observe(place.group, place.bucket);
        let is_mine = || vip::is_mine(self.tables, self.now, place.group, place.bucket);
        // The agent stores who is first before it adds a bucket, and after it has taken one away: only with
        // the bucket read on both sides does nobody own it who still, or already, takes himself for the first.
        let before = is_mine();
        let first = self.tables.volatile(&self.group(place).first[usize::from(place.bucket)]);
        let mine = before && is_mine();
        let [target] = self.ethernet.head.get::<0, 1>();
        let comes_to_one = vip & VIP_DIRECTED != 0 && target & 1 == 0;
        match (first != NOBODY, self.is_from_peer()) {
            (true, false) if comes_to_one => Err(self.pass_to(first, Reason::HandedBack)),
            (true, false) if !mine => Err(Reason::NotMine),
            (true, false) => Err(Reason::Inherited),
            // Sent by who does not know that others judge first, or not yet.
            (true, true) if mine && !self.is_from(first) && !self.is_from(self.next(place)) => {
                Err(Reason::Inherited)
            }
            (false, true) if !comes_to_one => Err(Reason::HandedOver),
            _ => Ok(Turn { mine, is_first: first == NOBODY }),
        }
    }

    /// What becomes of a frame of another's bucket, also if the bucket is this node's by now: its turn
    /// was read before.
    #[inline(always)]
    fn others(&self, vip: u32, place: Place) -> Reason {
        if vip & VIP_DIRECTED == 0 {
            return Reason::NotMine;
        }
        let owner = self.tables.volatile(&self.group(place).owners[usize::from(place.bucket)]);
        vip::hand_over(&self.ethernet.head, self.tables, self.now, owner)
    }

    /// Whether that node sent the frame.
    #[inline(always)]
    pub(super) fn is_from(&self, node: u8) -> bool {
        let mac = self.tables.volatile(&self.now.peers[usize::from(node) & (MAX_PEERS - 1)]);
        usize::from(node) < MAX_PEERS && mac == mac_word(self.ethernet.head.get::<6, 6>())
    }

    /// Whom this node hands on what it does not remember; of its own bucket, who judged last.
    #[inline(always)]
    fn next(&self, place: Place) -> u8 {
        self.tables.volatile(&self.group(place).next[usize::from(place.bucket)])
    }

    #[inline(always)]
    fn group(&self, place: Place) -> &Group {
        &self.now.groups[place.group as usize & (MAX_GROUPS - 1)]
    }

    /// Hands on what this node does not remember. The owner may have handed it to the first one, which gives
    /// it back; from any other it has come the whole way, and is lost while not all stores of a change have
    /// been made.
    #[inline(always)]
    fn pass_on(&self, next: u8, is_first: bool) -> Reason {
        if !is_first && self.is_from(next) {
            return Reason::Inherited;
        }
        self.pass_to(next, Reason::Forwarded)
    }

    #[inline(always)]
    fn pass_to(&self, node: u8, reason: Reason) -> Reason {
        let is_known = vip::address_to(&self.ethernet.head, self.tables, self.now, node);
        if is_known { reason } else { Reason::NoNextHop }
    }
}
