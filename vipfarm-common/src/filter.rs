//! The hot path: plain IPv4 and IPv6 with TCP or UDP, with one VLAN tag at most, and everything that
//! is not the farm's. No call but the tail call to [`crate::slow()`] may appear in its translated code
//! (a test reads it).
//!
//! What makes it fast is a short dependency chain: the VIP's and the rule's slot are both computed
//! from packet bytes, the hash needs the rule only through a predicted branch, and the verdict is
//! arithmetic on one bit.

use crate::{
    hash,
    layout::{Generation, State, VIP_CLOSED, key_v4, linger_s, mix, mix_v6, multiplier},
    packet::{Head, Packet, Tables},
    reason::{Outcome, Reason},
    vip::{
        self, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, FRAGMENT, Found, ICMPV6,
        TCP, UDP,
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
        ETHERTYPE_IPV4 => ipv4(packet, tables, &ethernet),
        ETHERTYPE_IPV6 => ipv6(packet, tables, &ethernet),
        ETHERTYPE_ARP => Step::Slow,
        _ if ethernet.is_tagged() => Step::Slow,
        _ => done(Reason::NotIp),
    }
}

#[inline(always)]
fn ipv4<P: Packet, T: Tables>(packet: &P, tables: &T, ethernet: &Ethernet<P::Head<14>>) -> Step {
    // The IPv4 header and both ports. A shorter frame may still be an ICMP one for a VIP.
    let Some(ip) = packet.head::<24>(ethernet.network) else { return Step::Slow };
    let state = tables.state();
    let (now, active) = vip::active(tables, state);
    let key = key_v4(u32::from_ne_bytes(ip.get::<16, 4>()), ethernet.vlans);
    let mixed = mix(key, multiplier(active));
    let vip = vip::find_v4(now, mixed, key);
    if vip == 0 {
        return done(Reason::NotVip);
    }
    let [proto] = ip.get::<9, 1>();
    let plain = ip.get::<0, 1>() == [0x45]
        && u16::from_be_bytes(ip.get::<6, 2>()) & FRAGMENT == 0
        && (proto == TCP || proto == UDP);
    if !plain {
        return Step::Slow;
    }
    let service = Service { found: Found { vip, mixed }, proto, port: ip.get::<22, 2>() };
    let rule = match service.rule(tables, state, now, &ethernet.head) {
        Ok(rule) => rule,
        Err(step) => return step,
    };
    let field = vip::field_of(rule, ip.get::<20, 2>(), ip.get::<4, 2>());
    let hash = hash::hash_v4(tables.hash_start(), ip.get::<12, 4>(), field, proto);
    let group = rule & 0xff;
    let bucket = hash::bucket(hash, group);
    if proto == TCP && vip::is_moving(tables, now, group, bucket) {
        return Step::Slow;
    }
    Step::Done(vip::owner_of(&ethernet.head, tables, now, vip, group, bucket))
}

#[inline(always)]
fn ipv6<P: Packet, T: Tables>(packet: &P, tables: &T, ethernet: &Ethernet<P::Head<14>>) -> Step {
    // The IPv6 header and both ports.
    let Some(ip) = packet.head::<44>(ethernet.network) else { return Step::Slow };
    let state = tables.state();
    let (now, active) = vip::active(tables, state);
    let addr = [u64::from_ne_bytes(ip.get::<24, 8>()), u64::from_ne_bytes(ip.get::<32, 8>())];
    let mixed = mix_v6(addr, ethernet.vlans, multiplier(active));
    let vip = vip::find_v6(now, mixed, addr, ethernet.vlans);
    if vip == 0 {
        // A neighbour solicitation goes to a group of addresses.
        let [first, ..] = addr[0].to_ne_bytes();
        let resolves = first == 0xff && ip.get::<6, 1>() == [ICMPV6];
        return if resolves { Step::Slow } else { done(Reason::NotVip) };
    }
    let [proto] = ip.get::<6, 1>();
    if ip.get::<0, 1>()[0] >> 4 != 6 || proto != TCP && proto != UDP {
        return Step::Slow;
    }
    let service = Service { found: Found { vip, mixed }, proto, port: ip.get::<42, 2>() };
    let rule = match service.rule(tables, state, now, &ethernet.head) {
        Ok(rule) => rule,
        Err(step) => return step,
    };
    let field = vip::field_of(rule, ip.get::<40, 2>(), [0; 2]);
    let hash = hash::hash_v6(tables.hash_start(), ip.get::<8, 16>(), field, proto);
    let group = rule & 0xff;
    let bucket = hash::bucket(hash, group);
    if proto == TCP && vip::is_moving(tables, now, group, bucket) {
        return Step::Slow;
    }
    Step::Done(vip::owner_of(&ethernet.head, tables, now, vip, group, bucket))
}

/// What a plain packet is for.
struct Service {
    found: Found,
    proto: u8,
    /// Destination port in packet order.
    port: [u8; 2],
}

impl Service {
    /// The rule to judge by, unless it does not come to that.
    #[inline(always)]
    fn rule<H: Head, T: Tables>(
        &self,
        tables: &T,
        state: &State,
        now: &Generation,
        ethernet: &H,
    ) -> Result<u32, Step> {
        let Found { vip, mixed } = self.found;
        if tables.ticks() > tables.volatile(&state.control.deadline_ticks) {
            return Err(Step::Slow);
        }
        if !vip::claim(ethernet, tables, now, vip) {
            return Err(done(Reason::OtherMac));
        }
        if vip & VIP_CLOSED != 0 {
            return Err(done(Reason::Closed));
        }
        // TCP or UDP, told by a bit: a comparison would be branches.
        const { assert!(TCP & 1 == 0 && UDP & 1 == 1) }
        let udp = self.proto & 1 != 0;
        let rule = vip::rule_of(now, mixed, vip, udp, u16::from_ne_bytes(self.port));
        if rule == 0 {
            return Err(done(Reason::NoRule));
        }
        if linger_s(rule) > 0 { Err(Step::Slow) } else { Ok(rule) }
    }
}

#[inline(always)]
fn done(reason: Reason) -> Step {
    Step::Done(reason.into())
}
