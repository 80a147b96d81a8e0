//! Steps that the hot and the slow path share: Ethernet, VIP, rule, bucket.

use crate::{
    layout::{
        Generation, MAC_SLOTS, MAX_GROUPS, MAX_PEERS, MAX_VIPS, RULE_ON_IPID, RULE_ON_PORT,
        RULE_SLOTS, State, VIP_DIRECTED, VIP_SLOTS, key_v4, mac_index, mac_word, mix, mix_v6,
        multiplier, rule_index, rule_key, vip_index, vlans,
    },
    packet::{Head, Packet, Tables},
    reason::{Outcome, Reason},
};

// As the native integers of their bytes in packet order.
pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806_u16.to_be();
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
/// IEEE 802.1Q and 802.1ad tags.
pub(crate) const ETHERTYPE_VLAN: u16 = 0x8100_u16.to_be();
pub(crate) const ETHERTYPE_QINQ: u16 = 0x88a8_u16.to_be();

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

/// MF and the fragment offset (RFC 791 section 3.1): any of them makes the packet a fragment.
pub(crate) const FRAGMENT: u16 = 0x3fff;

/// What the Ethernet header and its tags say.
pub(crate) struct Ethernet<H> {
    pub(crate) head: H,
    /// As the `ETHERTYPE` constants.
    pub(crate) ethertype: u16,
    /// Offset of the network header: 14, 18 or 22.
    pub(crate) network: usize,
    /// See [`vlans`].
    pub(crate) vlans: u32,
}

impl<H> Ethernet<H> {
    /// Whether there is one more tag behind what was read.
    #[inline(always)]
    pub(crate) fn is_tagged(&self) -> bool {
        self.ethertype == ETHERTYPE_VLAN || self.ethertype == ETHERTYPE_QINQ
    }
}

/// Reads the Ethernet header and at most one tag beside [`Packet::tag_beside`]. `Err` is the frame's final reason.
#[inline(always)]
pub(crate) fn ethernet<P: Packet>(packet: &P) -> Result<Ethernet<P::Head<14>>, Reason> {
    let Some(head) = packet.head::<14>(0) else { return Err(Reason::NotIp) };
    let ethertype = u16::from_ne_bytes(head.get::<12, 2>());
    let beside = packet.tag_beside();
    let plain = Ethernet { head, ethertype, network: 14, vlans: vlans(0, beside) };
    if !plain.is_tagged() {
        return Ok(plain);
    }
    let Some(tag) = packet.head::<4>(14) else { return Err(Reason::NotIp) };
    let vid = u16::from_be_bytes(tag.get::<0, 2>());
    let ethertype = u16::from_ne_bytes(tag.get::<2, 2>());
    Ok(Ethernet { ethertype, network: 18, vlans: vlans(beside, vid), ..plain })
}

/// The same with two tags. More are nobody's that is served here.
#[inline(always)]
pub(crate) fn ethernet_tagged_twice<P: Packet>(
    packet: &P,
) -> Result<Ethernet<P::Head<14>>, Reason> {
    let outer = ethernet(packet)?;
    if !outer.is_tagged() {
        return Ok(outer);
    }
    let Some(tag) = packet.head::<4>(18) else { return Err(Reason::NotIp) };
    let ethertype = u16::from_ne_bytes(tag.get::<2, 2>());
    let vid = u16::from_be_bytes(tag.get::<0, 2>());
    let [a, b, ..] = outer.vlans.to_le_bytes();
    Ok(Ethernet { ethertype, network: 22, vlans: vlans(u16::from_le_bytes([a, b]), vid), ..outer })
}

/// The generation in force, and the word that says which.
#[inline(always)]
pub(crate) fn active<'s, T: Tables>(tables: &T, state: &'s State) -> (&'s Generation, u64) {
    let word = tables.volatile(&state.control.active);
    (&state.generations[(word & 1) as usize], word)
}

/// The identity and flags of an IPv4 address that was mixed, 0 if it is no VIP.
#[inline(always)]
pub(crate) fn find_v4(now: &Generation, mixed: u64, key: u64) -> u32 {
    let slot = &now.vips[vip_index(mixed) & (VIP_SLOTS - 1)];
    if slot.key == key { slot.vip } else { 0 }
}

/// The same of an IPv6 address.
#[inline(always)]
pub(crate) fn find_v6(now: &Generation, mixed: u64, addr: [u64; 2], vlans: u32) -> u32 {
    let slot = &now.vips6[vip_index(mixed) & (VIP_SLOTS - 1)];
    let same = slot.addr[1] == addr[1] && slot.addr[0] == addr[0] && slot.vlans == vlans;
    if same { slot.vip } else { 0 }
}

/// An address of a frame: a possible VIP and what follows from it.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    /// Identity and flags, 0 = no VIP.
    pub(crate) vip: u32,
    /// For its rules' slots.
    pub(crate) mixed: u64,
}

/// Looks up an IPv4 address in packet order. `active` as from [`active`].
#[inline(always)]
pub(crate) fn look_up_v4(now: &Generation, active: u64, addr: [u8; 4], vlans: u32) -> Found {
    let key = key_v4(u32::from_ne_bytes(addr), vlans);
    let mixed = mix(key, multiplier(active));
    Found { vip: find_v4(now, mixed, key), mixed }
}

/// Looks up an IPv6 address, likewise.
#[inline(always)]
pub(crate) fn look_up_v6(now: &Generation, active: u64, addr: [u8; 16], vlans: u32) -> Found {
    let addr = halves(addr);
    let mixed = mix_v6(addr, vlans, multiplier(active));
    Found { vip: find_v6(now, mixed, addr, vlans), mixed }
}

/// An IPv6 address as the tables hold it: the native integers of its halves in packet order.
#[inline(always)]
pub(crate) const fn halves(addr: [u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = addr;
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes(rest)]
}

/// The rule for a service of a VIP, 0 if there is none. `port` in packet order.
#[inline(always)]
pub(crate) fn rule_of(now: &Generation, mixed: u64, vip: u32, udp: bool, port: u16) -> u32 {
    let slot = &now.rules[rule_index(mixed, now.rule_multiplier, udp, port) & (RULE_SLOTS - 1)];
    if slot.key == rule_key(vip, udp, port) {
        slot.rule
    } else {
        now.vip_rules[vip as usize & (2 * MAX_VIPS - 1)].any_port[usize::from(udp)]
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

/// Who serves the group's bucket: this node, or another one, which gets the frame where
/// nodes hand over. Arithmetic to the end where they do not: a branch on a client's bucket is
/// mispredicted half of the time.
#[inline(always)]
pub(crate) fn owner_of<H: Head, T: Tables>(
    ethernet: &H,
    tables: &T,
    now: &Generation,
    vip: u32,
    group: u32,
    bucket: u8,
) -> Outcome {
    tables.observe(group, bucket);
    let group = &now.groups[group as usize & (MAX_GROUPS - 1)];
    let mine = bit(tables, &group.mine, bucket);
    if vip & VIP_DIRECTED != 0 && mine == 0 {
        let owner = tables.volatile(&group.owners[usize::from(bucket)]);
        return hand_over(ethernet, tables, now, owner).into();
    }
    Outcome::by_bit(mine)
}

/// Whether the bucket is in a move, so that old connections may be another node's than new ones.
#[inline(always)]
pub(crate) fn is_moving<T: Tables>(tables: &T, now: &Generation, group: u32, bucket: u8) -> bool {
    bit(tables, &now.groups[group as usize & (MAX_GROUPS - 1)].moving, bucket) == 1
}

/// Whether this node serves the bucket.
#[inline(always)]
pub(crate) fn is_mine<T: Tables>(tables: &T, now: &Generation, group: u32, bucket: u8) -> bool {
    bit(tables, &now.groups[group as usize & (MAX_GROUPS - 1)].mine, bucket) == 1
}

/// The bucket's bit in a bitmap of a group, as it is at this moment.
#[inline(always)]
fn bit<T: Tables>(tables: &T, bitmap: &[u64; 4], bucket: u8) -> u64 {
    tables.volatile(&bitmap[usize::from(bucket >> 6) & 3]) >> (bucket & 63) & 1
}

/// Addresses a claimed frame to the node that is to have it (T17, T18). A frame from a farm node is
/// final, and one to a group reaches the owner by itself.
#[inline(always)]
pub(crate) fn hand_over<H: Head, T: Tables>(
    ethernet: &H,
    tables: &T,
    now: &Generation,
    owner: u8,
) -> Reason {
    let [first] = ethernet.get::<0, 1>();
    if first & 1 == 1 {
        return Reason::NotMine;
    }
    if is_peer(now, source(ethernet)) {
        return Reason::HandedOver;
    }
    if address_to(ethernet, tables, now, owner) { Reason::Forwarded } else { Reason::NoNextHop }
}

/// Addresses a frame that came to this node to another one, if its MAC is known.
#[inline(always)]
pub(crate) fn address_to<H: Head, T: Tables>(
    ethernet: &H,
    tables: &T,
    now: &Generation,
    owner: u8,
) -> bool {
    let next = tables.volatile(&now.peers[usize::from(owner) & (MAX_PEERS - 1)]);
    if next == 0 || usize::from(owner) >= MAX_PEERS {
        return false;
    }
    let [a, b, c, d, e, f, ..] = next.to_ne_bytes();
    ethernet.set::<0, 6>([a, b, c, d, e, f]);
    // The client's would teach the switch that it lives at this port.
    ethernet.set::<6, 6>(tables.own_mac());
    true
}

/// Whether a MAC, as a word, is a farm node's.
#[inline(always)]
pub(crate) fn is_peer(now: &Generation, mac: u64) -> bool {
    now.peer_slots[mac_index(mac, now.peer_multiplier) & (MAC_SLOTS - 1)] == mac && mac != 0
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
    let target = target(ethernet);
    let own = tables.own_mac();
    if target == vmac {
        ethernet.set::<0, 6>(own);
        return true;
    }
    target == mac_word(own) || target & mac_word([1, 0, 0, 0, 0, 0]) != 0
}

/// Where the frame goes, as a word: read as one, with two bytes too many.
#[inline(always)]
fn target<H: Head>(ethernet: &H) -> u64 {
    let [a, b, c, d, e, f, ..] = ethernet.get::<0, 8>();
    mac_word([a, b, c, d, e, f])
}

/// Where it comes from, likewise.
#[inline(always)]
fn source<H: Head>(ethernet: &H) -> u64 {
    let [a, b, c, d, e, f, ..] = ethernet.get::<6, 8>();
    mac_word([a, b, c, d, e, f])
}

/// Whether a MAC, as a word, is a VIP's.
#[inline(always)]
pub(crate) fn is_vmac(now: &Generation, mac: u64) -> bool {
    now.vmac_slots[mac_index(mac, now.vmac_multiplier) & (MAC_SLOTS - 1)] == mac && mac != 0
}
