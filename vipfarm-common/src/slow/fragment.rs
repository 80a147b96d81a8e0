//! Packets in parts (T8): only the first one has the ports. It leaves the bucket for the others, by
//! which they are judged like it. Those that come before it are kept by every node: only the owner
//! gets the first one too, and the others forget theirs without a word (no first fragment, no error:
//! RFC 792, "time exceeded"). Where frames come to one node only, that one copies them to the others.
//!
//! Where a rule goes by address, each part tells its bucket by itself, but not whose connection it is of
//! while that is in a move, and in IPv6 not even its protocol if one more extension header follows.

use super::{Address, Flow, Fragment, Frame, Ip, Place, ip, other};
use crate::{
    hash,
    layout::VIP_NO_ECHO,
    packet::{FragmentKey, Packet, Tables},
    reason::{Outcome, Reason},
    vip::{self, TCP, UDP},
};

/// A fate: this bit and group and bucket, or a reason's code.
const BY_BUCKET: u32 = 1 << 31;
/// Also: a connection that the former owner of the bucket has.
const BACK: u32 = 1 << 30;
/// Also: a flow that is another node's to judge.
const ON: u32 = 1 << 29;

impl<P: Packet, T: Tables> Frame<'_, P, T> {
    /// Judges a fragment.
    #[inline(always)]
    pub(super) fn fragment<A: Address>(
        &self,
        ip: &Ip<A>,
        fragment: Fragment,
    ) -> Result<Outcome, Reason> {
        let vip = ip.found.vip;
        if fragment.is_later
            && let Some(Place { group, bucket, .. }) = self.by_itself(ip)?
        {
            return Ok(self.owner(vip, group, bucket));
        }
        let key = FragmentKey {
            source: ip.client.bytes(),
            id: fragment.id,
            // Of IPv6 the first part alone tells for certain (RFC 8200 section 4.5).
            proto: if A::IS_V6 { 0 } else { u16::from(ip.proto) },
            vip: (vip & 0xff) as u16,
        };
        if fragment.is_later {
            return self.later(vip, &key);
        }
        let flow = self.flow(ip);
        let judged = flow.and_then(|flow| {
            let place = self.bucket(&flow, ip.found)?;
            let lingers = if place.linger_s > 0 { ON } else { 0 };
            let fate = BY_BUCKET | lingers | place.group << 8 | u32::from(place.bucket);
            Ok((fate, self.served(ip, &flow, place)))
        });
        let (fate, outcome) = match judged {
            Ok((on, Err(reason @ (Reason::HandedBack | Reason::Forwarded)))) if on & ON != 0 => {
                (on, Err(reason))
            }
            Ok((by_bucket, Err(back @ (Reason::HandedBack | Reason::CopiedBack)))) => {
                (by_bucket | BACK, Err(back))
            }
            Ok((_, Err(reason))) | Err(reason) => (u32::from(reason as u8), Err(reason)),
            Ok((by_bucket, outcome)) => (by_bucket & !ON, outcome),
        };
        let is_wanted = match ip.proto {
            TCP => true,
            UDP => A::IS_V6 || self.vip_rules(vip).later[1] == 0,
            _ => A::IS_V6,
        };
        if is_wanted {
            self.tables.put_fragment(&key, fate);
        }
        outcome
    }

    /// A fragment that needs the first one's ports.
    #[inline(always)]
    fn later(&self, vip: u32, key: &FragmentKey) -> Result<Outcome, Reason> {
        match self.tables.fragment(key) {
            Some(fate) if fate & BY_BUCKET != 0 => {
                let [bucket, group, ..] = fate.to_le_bytes();
                if fate & ON != 0 {
                    return self
                        .hand_on(vip, Place { group: u32::from(group), bucket, linger_s: 0 });
                }
                let group = u32::from(group);
                if fate & BACK != 0 {
                    let mine = vip::is_mine(self.tables, self.now, group, bucket);
                    if self.hands_back(vip, mine, group, bucket) {
                        return Err(self.hand_back(group, bucket));
                    }
                }
                Ok(self.owner(vip, group, bucket))
            }
            Some(fate) => Err(Reason::from_code(fate as usize).unwrap_or(Reason::Broken)),
            None if !self.tables.may_keep_fragment() => Err(Reason::FragmentFlood),
            None if self.copies_to_all(vip) => Err(Reason::CopiedFragment),
            None => Err(Reason::EarlyFragment),
        }
    }

    /// Where a fragment without ports belongs, if that does not depend on the first one.
    #[inline(always)]
    fn by_itself<A: Address>(&self, ip: &Ip<A>) -> Result<Option<Place>, Reason> {
        let vip = ip.found.vip;
        if ip.proto == TCP || ip.proto == UDP {
            let later = self.vip_rules(vip).later[usize::from(ip.proto == UDP)];
            let (field, group) = (vip::field_of(later, [0; 2], ip.identification), later & 0xff);
            let hash = ip.client.hash(self.tables.hash_start(), field, ip.proto);
            let place = Place { group, bucket: hash::bucket(hash, group), linger_s: 0 };
            let moves =
                ip.proto == TCP && vip::is_moving(self.tables, self.now, group, place.bucket);
            return Ok((later != 0 && !moves).then_some(place));
        }
        if A::IS_V6 && ip::is_extension(ip.proto) {
            return Ok(None);
        }
        let flow = if ip.proto != A::ICMP {
            other(ip)?
        } else if vip & VIP_NO_ECHO != 0 {
            // Errors are never in parts, so this is an echo request.
            return Err(Reason::EchoDenied);
        } else {
            Flow::by_address(ip.client, ip.proto)
        };
        self.bucket(&flow, ip.found).map(Some)
    }
}
