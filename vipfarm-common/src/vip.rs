//! Steps that the hot and the slow path share: Ethernet, VIP, rule, bucket.

use crate::{
    hash,
    layout::{
        Generation, MAX_GROUPS, MAX_VIPS, RULE_ON_IPID, RULE_ON_PORT, RULE_SLOTS, State, VIP_SLOTS,
        mac_word, mix, multiplier, rule_index, rule_key, vip_index,
    },
    packet::{Head, Packet, Tables},
    reason::{Outcome, Reason},
};

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
/// IEEE 802.1Q and 802.1ad tags.
pub(crate) const ETHERTYPE_VLAN: u16 = 0x8100;
pub(crate) const ETHERTYPE_QINQ: u16 = 0x88a8;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;

/// MF and the fragment offset (RFC 791 section 3.1): any of them makes the packet a fragment.
pub(crate) const FRAGMENT: u16 = 0x3fff;

/// What the Ethernet header and an outer tag say.
pub(crate) struct Ethernet<H> {
    pub(crate) head: H,
    pub(crate) ethertype: u16,
    /// Offset of the network header: 14 or 18.
    pub(crate) network: usize,
}

/// Reads the Ethernet header and at most one tag. `Err` is the frame's final reason.
#[inline(always)]
pub(crate) fn ethernet<P: Packet>(packet: &P) -> Result<Ethernet<P::Head<14>>, Reason> {
    let Some(head) = packet.head::<14>(0) else { return Err(Reason::NotIp) };
    let ethertype = u16::from_be_bytes(head.get::<12, 2>());
    if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
        return Ok(Ethernet { head, ethertype, network: 14 });
    }
    let Some(tag) = packet.head::<4>(14) else { return Err(Reason::NotIp) };
    // A priority tag (VID 0) is no VLAN: IEEE 802.1Q-2018 section 9.6, table 9-2.
    if u16::from_be_bytes(tag.get::<0, 2>()) & 0x0fff != 0 {
        return Err(Reason::NotVip);
    }
    Ok(Ethernet { head, ethertype: u16::from_be_bytes(tag.get::<2, 2>()), network: 18 })
}

/// The generation in force, and the word that says which.
#[inline(always)]
pub(crate) fn active<'s, T: Tables>(tables: &T, state: &'s State) -> (&'s Generation, u64) {
    let word = tables.volatile(&state.control.active);
    (&state.generations[(word & 1) as usize], word)
}

/// The identity and flags of a virtual address, 0 for any other. `active` as from [`active`].
#[inline(always)]
pub(crate) fn find(now: &Generation, active: u64, addr: u32) -> u32 {
    let mixed = mix(addr, multiplier(active));
    let slot = &now.vips[vip_index(mixed) & (VIP_SLOTS - 1)];
    if slot.addr == addr { slot.vip } else { 0 }
}

/// The rule for a service of a VIP, 0 if there is none. `port` in packet order.
#[inline(always)]
pub(crate) fn rule_of(now: &Generation, mixed: u64, vip: u32, udp: bool, port: u16) -> u32 {
    let slot = &now.rules[rule_index(mixed, now.rule_multiplier, udp, port) & (RULE_SLOTS - 1)];
    if slot.key == rule_key(vip, udp, port) {
        slot.rule
    } else {
        now.any_port[vip as usize & (2 * MAX_VIPS - 1)][usize::from(udp)]
    }
}

/// The bytes of the client that the rule hashes beside the address.
#[inline(always)]
pub(crate) fn field_of(rule: u32, port: [u8; 2], ip_id: [u8; 2]) -> [u8; 2] {
    // Branches are predicted per service, so that the hash need not wait for the rule; the compiler
    // keeps the first one.
    if rule & RULE_ON_PORT != 0 {
        port
    } else if rule & RULE_ON_IPID != 0 {
        ip_id
    } else {
        [0; 2]
    }
}

/// Whether the group's bucket of this hash is accepted here. Arithmetic to the end: a branch on a
/// client's bucket is mispredicted half of the time.
#[inline(always)]
pub(crate) fn owner_of<T: Tables>(tables: &T, now: &Generation, group: u32, hash: u64) -> Outcome {
    let bucket = hash::bucket(hash, group);
    tables.observe(group, bucket);
    let bucket = u32::from(bucket);
    let words = &now.groups[group as usize & (MAX_GROUPS - 1)].mine;
    let word = tables.volatile(&words[(bucket >> 6) as usize & 3]);
    Outcome::by_bit(word >> (bucket & 63))
}

/// Whether a frame for a VIP is for this node to judge: addressed to the VMAC, to the node itself or
/// to a group. Another station's passes untouched (T30): this node may be its bridge.
///
/// One that came to the VMAC is addressed to this node on the way, so that its stack takes it (T20).
/// The verdict is not known yet, but a dropped frame's bytes do not matter.
#[inline(always)]
pub(crate) fn claim<H: Head, T: Tables>(
    ethernet: &H,
    tables: &T,
    now: &Generation,
    vip: u32,
) -> bool {
    let vmac = now.vmacs[vip as usize & (2 * MAX_VIPS - 1)];
    let target = ethernet.get::<0, 6>();
    if mac_word(target) == vmac {
        ethernet.set::<0, 6>(tables.own_mac());
        return true;
    }
    target == tables.own_mac() || target[0] & 1 == 1
}
