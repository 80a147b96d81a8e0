//! The hot path: plain IPv4 with TCP or UDP, untagged or priority-tagged, and everything that is
//! not the farm's. No call but the tail call to [`crate::slow()`] may appear in its translated code
//! (a test reads it).
//!
//! What makes it fast is a short dependency chain: the VIP's and the rule's slot are both computed
//! from packet bytes, the hash needs the rule only through a predicted branch, and the verdict is
//! arithmetic on one bit.

use crate::{
    hash,
    layout::{VIP_CLOSED, VIP_SLOTS, mix, multiplier, vip_index},
    packet::{Head, Packet, Tables},
    reason::{Outcome, Reason},
    vip::{
        self, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_QINQ, ETHERTYPE_VLAN, FRAGMENT, TCP, UDP,
    },
};

/// What the hot path says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The frame's fate.
    Done(Outcome),
    /// Ask [`crate::slow()`].
    Slow,
}

/// Decides the common frames and hands the others to [`crate::slow()`].
#[inline(always)]
pub fn filter<P: Packet, T: Tables>(packet: &P, tables: &T) -> Step {
    let ethernet = match vip::ethernet(packet) {
        Ok(ethernet) => ethernet,
        Err(reason) => return done(reason),
    };
    match ethernet.ethertype {
        ETHERTYPE_IPV4 => ipv4(packet, tables, &ethernet.head, ethernet.network),
        ETHERTYPE_ARP | ETHERTYPE_VLAN | ETHERTYPE_QINQ => Step::Slow,
        _ => done(Reason::NotIp),
    }
}

#[inline(always)]
fn ipv4<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    ethernet: &P::Head<14>,
    network: usize,
) -> Step {
    // The IPv4 header and both ports. A shorter frame may still be an ICMP one for a VIP.
    let Some(ip) = packet.head::<24>(network) else { return Step::Slow };
    let Some(state) = tables.state() else { return done(Reason::Broken) };
    let (now, active) = vip::active(tables, state);

    let addr = u32::from_ne_bytes(ip.get::<16, 4>());
    let mixed = mix(addr, multiplier(active));
    let slot = &now.vips[vip_index(mixed) & (VIP_SLOTS - 1)];
    if slot.addr != addr || slot.vip == 0 {
        return done(Reason::NotVip);
    }
    let [proto] = ip.get::<9, 1>();
    let plain = ip.get::<0, 1>() == [0x45]
        && u16::from_be_bytes(ip.get::<6, 2>()) & FRAGMENT == 0
        && (proto == TCP || proto == UDP);
    if !plain || tables.ticks() > tables.volatile(&state.control.deadline_ticks) {
        return Step::Slow;
    }
    if !vip::claim(ethernet, tables, now, slot.vip) {
        return done(Reason::OtherMac);
    }
    if slot.vip & VIP_CLOSED != 0 {
        return done(Reason::Closed);
    }
    let port = u16::from_ne_bytes(ip.get::<22, 2>());
    let rule = vip::rule_of(now, mixed, slot.vip, proto == UDP, port);
    if rule == 0 {
        return done(Reason::NoRule);
    }
    let field = vip::field_of(rule, ip.get::<20, 2>(), ip.get::<4, 2>());
    let hash = hash::hash_v4(tables.hash_key(), ip.get::<12, 4>(), field, proto);
    Step::Done(vip::owner_of(tables, now, rule & 0xff, hash))
}

#[inline(always)]
fn done(reason: Reason) -> Step {
    Step::Done(reason.into())
}
