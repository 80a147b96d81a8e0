//! Buckets in a move: new connections are the new owner's, old ones stay where their sockets are
//! (T12, T13, T26).
//!
//! The former owner goes on accepting what matches a socket of its own, but no SYN that anybody else may
//! get, and of what has ended only the client's last word. The new one takes
//! SYNs and what matches a socket of its own; the rest it drops without a word, or hands back where
//! nodes hand over: its stack would answer by a reset. When the former owner dies, the bucket is in a
//! move no more, and the reset is right.
//!
//! Nodes install a view one after the other. Where they hand over, who has installed it sends to the new
//! owner already, which hands back from the moment on at which it has promised the view.

use super::{Address, Flow, Frame, Ip, Place};
use crate::{
    layout::{MAX_GROUPS, NOBODY, SEVERAL, VIP_DIRECTED},
    packet::{Connection, Head, Packet, Tables, Tuple},
    reason::{Outcome, Reason},
    vip::{self, TCP},
};

/// Offset of the flags in a TCP header, and those that matter (RFC 9293 section 3.1).
const FLAGS: usize = 13;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;

impl<P: Packet, T: Tables> Frame<'_, P, T> {
    /// Judges a packet whose bucket is known, or one that quotes such a packet.
    #[inline(always)]
    pub(super) fn served<A: Address>(
        &self,
        ip: &Ip<A>,
        flow: &Flow<A>,
        place: Place,
    ) -> Result<Outcome, Reason> {
        let (vip, Place { group, bucket, linger_s }) = (ip.found.vip, place);
        if linger_s > 0 {
            return self.lingers(ip, flow, place);
        }
        if flow.proto != TCP || !vip::is_moving(self.tables, self.now, group, bucket) {
            return Ok(self.owner(vip, group, bucket));
        }
        let quoted = ip.proto != TCP;
        let flags = if quoted { None } else { self.packet.at::<1>(ip.transport + FLAGS) };
        let has = |flag| flags.is_some_and(|[flags]| flags & flag != 0);
        let mine = vip::is_mine(self.tables, self.now, group, bucket);
        // A client that forgot its connection and uses the port again: who has that one answers, the client
        // resets it (RFC 9293 section 3.5.1), and asks again.
        let begins = has(SYN);
        if begins && (mine || vip & VIP_DIRECTED == 0 || !self.came_here_alone()) {
            return Ok(self.owner(vip, group, bucket));
        }
        let headers = (!quoted).then_some((self.ethernet.network, ip.transport));
        let own = match self.tables.connection(&self.tuple(ip, flow, headers)) {
            Connection::None => false,
            // A port is soon used again (RFC 6191), and then it is another's.
            Connection::Ended => has(FIN) && !begins,
            Connection::Begun => !begins,
            Connection::Own => true,
        };
        match (mine, own) {
            (false, true) => {
                self.tables.observe(group, bucket);
                // It may have come as a copy to all stations.
                self.ethernet.head.set::<0, 6>(self.tables.own_mac());
                Err(Reason::Lingering)
            }
            (_, false) if !begins && self.hands_back(vip, mine, group, bucket) => {
                Err(self.hand_back(group, bucket))
            }
            (true, false) => {
                self.tables.observe(group, bucket);
                Err(Reason::Inherited)
            }
            (true, true) | (false, false) => Ok(self.owner(vip, group, bucket)),
        }
    }

    /// Whether what is of no connection here goes to who served its bucket before: the bucket is this node's,
    /// or is about to be. In the latter case not what that one has sent: he may be its owner still, and hand
    /// back to this node.
    #[inline(always)]
    pub(super) fn hands_back(&self, vip: u32, mine: bool, group: u32, bucket: u8) -> bool {
        let former = self.former(group, bucket);
        let [target] = self.ethernet.head.get::<0, 1>();
        let is_awaited = former != NOBODY && target & 1 == 0 && !self.is_from(former);
        vip & VIP_DIRECTED != 0 && (mine || is_awaited)
    }

    /// Who served a bucket before.
    #[inline(always)]
    fn former(&self, group: u32, bucket: u8) -> u8 {
        let group = &self.now.groups[group as usize & (MAX_GROUPS - 1)];
        self.tables.volatile(&group.former[usize::from(bucket)])
    }

    /// Hands a frame to who served its bucket before. Only the owner does, or who is to be, so that it is the
    /// last hop; where it cannot tell who it was, all nodes get the frame, which none of them hands on.
    #[inline(always)]
    pub(super) fn hand_back(&self, group: u32, bucket: u8) -> Reason {
        let ethernet = &self.ethernet.head;
        self.tables.observe(group, bucket);
        let former = self.former(group, bucket);
        let came_here = ethernet.get::<0, 6>() == self.tables.own_mac();
        if came_here && former == SEVERAL {
            ethernet.set::<0, 6>([0xff; 6]);
            self.mark_for_copies();
            Reason::CopiedBack
        } else if came_here && vip::address_to(ethernet, self.tables, self.now, former) {
            Reason::HandedBack
        } else {
            Reason::Inherited
        }
    }

    /// Whether no other node gets the frame, or has had it.
    #[inline(always)]
    fn came_here_alone(&self) -> bool {
        self.ethernet.head.get::<0, 6>() == self.tables.own_mac() && !self.is_from_peer()
    }

    /// Has a frame that is for all nodes copied to the others, where it has come to this one only;
    /// whether it has.
    #[inline(always)]
    pub(super) fn copies_to_all(&self, vip: u32) -> bool {
        let copies = vip & VIP_DIRECTED != 0 && self.came_here_alone();
        if copies {
            self.mark_for_copies();
        }
        copies
    }

    /// Has TC ingress copy the frame to all stations: XDP cannot make two frames of one. It knows
    /// it by a source that no frame on a wire has, this node's with the bit of groups.
    #[inline(always)]
    fn mark_for_copies(&self) {
        let mut own = self.tables.own_mac();
        own[0] |= 1;
        self.ethernet.head.set::<6, 6>(own);
    }

    /// The ends of a flow, and where the headers of the packet are, if it is one of the flow itself.
    #[inline(always)]
    pub(super) fn tuple<A: Address>(
        &self,
        ip: &Ip<A>,
        flow: &Flow<A>,
        headers: Option<(usize, usize)>,
    ) -> Tuple {
        Tuple {
            client: flow.client.bytes(),
            vip: ip.vip.bytes(),
            client_port: flow.client_port,
            vip_port: flow.vip_port,
            is_v6: A::IS_V6,
            vlans: self.ethernet.vlans,
            headers,
        }
    }
}
