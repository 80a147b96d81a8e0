//! The map value that agent and kernel share: one ARRAY element, mapped into the agent.
//!
//! [`Control`] is written word by word; of the two [`Generation`]s the active one changes only by
//! word stores into bitmaps (a packet reads one word, so each bucket is old or new, never torn),
//! while structural changes are written into the idle one and switched by [`Control::active`].
//!
//! Addresses are stored as the native integer of the bytes in packet order, so that the kernel
//! compares what it loads.

use core::mem::{align_of, offset_of, size_of};

/// Slots of the VIP table, a power of two well above the 64 addresses allowed, so that a
/// multiplier without collisions is found quickly.
pub const VIP_SLOTS: usize = 256;
/// Virtual addresses at most; identities are `1..=MAX_VIPS`.
pub const MAX_VIPS: usize = 64;
/// Slots of the rule table.
pub const RULE_SLOTS: usize = 4096;
/// Rule entries at most, after expansion.
pub const MAX_RULES: usize = 256;
/// Groups at most, the built-in one included.
pub const MAX_GROUPS: usize = 32;
/// Peers at most: one for each node that a file may have, or, so that tests can replace an agent by one
/// whose memory looks different, twice as many.
pub const MAX_PEERS: usize = if cfg!(feature = "other-layout") { 128 } else { 64 };
/// Slots of a set of MACs.
pub const MAC_SLOTS: usize = 256;
/// In [`Group::owners`]: no node serves the bucket.
pub const NOBODY: u8 = 0xff;
/// More nodes than one, in the place of its index.
pub const SEVERAL: u8 = 0xfe;
/// In [`Generation::vmacs`]: the VIP has no MAC of its own. No frame can carry it.
pub const NO_VMAC: u64 = u64::MAX;

/// The built-in group of all alive nodes: who answers ARP and echo.
pub const RESOLVE_GROUP: u32 = 0;

const VIP_SHIFT: u32 = 64 - VIP_SLOTS.trailing_zeros();
const RULE_SHIFT: u32 = 64 - RULE_SLOTS.trailing_zeros();
const MAC_SHIFT: u32 = 64 - MAC_SLOTS.trailing_zeros();

/// All state of one interface.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct State {
    /// Which generation is active, and the lease.
    pub control: Control,
    /// The active and the idle tables.
    pub generations: [Generation; 2],
}

/// The words that change at run time: one cache line of their own.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Control {
    /// Bit 0: the index of the active generation. The rest: the multiplier of its VIP table (see
    /// [`multiplier`]), here, so that the slot's address needs no load from the generation, and in
    /// one word, so that no packet sees one without the other.
    pub active: u64,
    /// The lease in kernel ticks, rounded down by a safety margin: past it [`crate::filter()`] asks
    /// [`crate::slow()`], which reads the exact clock. 0 = fenced.
    pub deadline_ticks: u64,
    /// The lease in nanoseconds of the boot clock. 0 = fenced.
    ///
    /// Order of stores: extend `deadline_ns` first, fence `deadline_ticks` first; a packet in
    /// between errs to the slow path.
    pub deadline_ns: u64,
}

/// One complete set of tables.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Generation {
    /// Multiplier of both VIP tables, chosen by the agent so that no two addresses share a slot. Odd.
    pub vip_multiplier: u64,
    /// Multiplier of the rule table, likewise.
    pub rule_multiplier: u64,
    /// Multiplier of the set of peers' MACs, likewise.
    pub peer_multiplier: u64,
    /// Multiplier of the set of VMACs, likewise.
    pub vmac_multiplier: u64,
    /// The IPv4 virtual addresses, each in its slot.
    pub vips: [VipSlot; VIP_SLOTS],
    /// The IPv6 virtual addresses, each in its slot.
    pub vips6: [Vip6Slot; VIP_SLOTS],
    /// VMAC by VIP identity: six bytes in packet order, then two zero bytes, as a native integer;
    /// [`NO_VMAC`] where nodes answer with their own.
    pub vmacs: [u64; 2 * MAX_VIPS],
    /// What holds for a VIP whatever the port, by identity.
    pub vip_rules: [VipRules; 2 * MAX_VIPS],
    /// The rules with a port, each in its slot.
    pub rules: [RuleSlot; RULE_SLOTS],
    /// The groups' tables.
    pub groups: [Group; MAX_GROUPS],
    /// MACs of the farm's other nodes by node, in the form of [`Generation::vmacs`]; 0 = none.
    pub peers: [u64; MAX_PEERS],
    /// The same MACs as a set, each in its slot.
    pub peer_slots: [u64; MAC_SLOTS],
    /// The VMACs as a set likewise.
    pub vmac_slots: [u64; MAC_SLOTS],
    /// As whom the node asks where it must not ask as a VIP, by the VIP's identity: its own address on
    /// that network, in packet order (one of IPv4 is the first four bytes). 0 = none.
    pub askers: [[u64; 2]; 2 * MAX_VIPS],
}

/// One IPv4 virtual address.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct VipSlot {
    /// The address and its VLAN: see [`key_v4`].
    pub key: u64,
    /// Its identity (`1..=MAX_VIPS`) and flags ([`VIP_CLOSED`], [`VIP_NO_ECHO`],
    /// [`VIP_DIRECTED`], [`VIP_OTHER`], [`VIP_FAILOVER`]); 0 = empty slot.
    pub vip: u32,
    /// Unused.
    pub padding: u32,
}

/// One IPv6 virtual address.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Vip6Slot {
    /// The address, in two words.
    pub addr: [u64; 2],
    /// Its VLAN: see [`vlans`].
    pub vlans: u32,
    /// As in [`VipSlot`].
    pub vip: u32,
    /// Unused: makes the slot's address a shift, and not a multiplication.
    pub padding: u64,
}

/// The rules of a VIP that no port chooses; 0 = none.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct VipRules {
    /// The rule of any port that has none of its own: TCP, UDP.
    pub any_port: [u32; 2],
    /// The rule of fragments without ports, if it is the same for all ports: TCP, UDP.
    pub later: [u32; 2],
    /// The kernel group whose buckets say who answers address resolution.
    pub resolve: u32,
    /// The kernel group of ICMP and of protocols without ports.
    pub other: u32,
    /// Unused.
    pub padding: [u32; 2],
}

/// Flag of [`VipSlot::vip`]: traffic is not accepted here now.
pub const VIP_CLOSED: u32 = 1 << 8;
/// Flag of [`VipSlot::vip`]: nobody answers echo requests.
pub const VIP_NO_ECHO: u32 = 1 << 9;
/// Flag of [`VipSlot::vip`]: nodes answer with their own MACs, and hand frames to the owner's.
pub const VIP_DIRECTED: u32 = 1 << 10;
/// Flag of [`VipSlot::vip`]: protocols other than TCP, UDP and ICMP go by the client's address.
pub const VIP_OTHER: u32 = 1 << 11;

/// Flag of [`VipSlot::vip`]: one node has the address and all that is for it. Other nodes may be its
/// clients.
pub const VIP_FAILOVER: u32 = 1 << 12;

/// One rule with a port.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct RuleSlot {
    /// [`rule_key`]; 0 = empty slot.
    pub key: u32,
    /// [`rule`].
    pub rule: u32,
}

/// A group's tables.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Group {
    /// Its literal power bitmap, the buckets this node accepts: bucket `b` is bit `b & 63` of word
    /// `b >> 6`.
    pub mine: [u64; 4],
    /// The buckets in a move: given away, with connections that are still served here, or, of those
    /// that are this node's, or are about to be where frames are handed over, taken over with connections
    /// that another node still serves.
    pub moving: [u64; 4],
    /// The node that serves each bucket, or [`NOBODY`]: read where frames are handed over.
    pub owners: [u8; 256],
    /// The node that served each bucket before this one does, or [`NOBODY`]: read likewise, where a
    /// bucket was taken over, or is about to be.
    pub former: [u8; 256],
    /// The node that judges the bucket's flows before this one does, by rules that have flows linger:
    /// [`NOBODY`] = none, [`SEVERAL`] = it is not known which.
    pub first: [u8; 256],
    /// Of a bucket that is this node's, the last one that judges its flows before. Of another's, the node
    /// that gets the flows which this one does not know, by such rules: [`NOBODY`] = it judges none,
    /// [`SEVERAL`] = none gets them now.
    pub next: [u8; 256],
    /// Which time it is that this node judges the bucket's flows, by such rules. What it remembers of an
    /// earlier one is nothing: another node may have served the flow since. 0 = it judges none.
    pub tenure: [u16; 256],
}

impl Group {
    /// Nobody serves anything.
    pub const NONE: Self = Self {
        mine: [0; 4],
        moving: [0; 4],
        owners: [NOBODY; 256],
        former: [NOBODY; 256],
        first: [NOBODY; 256],
        next: [NOBODY; 256],
        tenure: [0; 256],
    };
}

/// Flag of a rule: hash the source port too.
pub const RULE_ON_PORT: u32 = 1 << 8;
/// Flag of a rule: hash the IPv4 identification too.
pub const RULE_ON_IPID: u32 = 1 << 9;
/// Flag of every rule: the entry is in use.
pub const RULE_VALID: u32 = 1 << 15;

/// Where a rule has how long its flows linger, in seconds; 0 = not at all.
const RULE_LINGER_SHIFT: u32 = 16;
/// The longest that a rule can say, in seconds.
pub const MAX_LINGER_S: u16 = u16::MAX;

/// The bits of a rule whose flows linger for so many seconds.
#[inline(always)]
pub const fn rule_linger(seconds: u16) -> u32 {
    (seconds as u32) << RULE_LINGER_SHIFT
}

/// For how many seconds the rule's flows linger, which are then for [`crate::slow()`]; 0 = not at all.
#[inline(always)]
pub const fn linger_s(rule: u32) -> u32 {
    rule >> RULE_LINGER_SHIFT
}

/// A rule entry: its group and flags.
#[inline(always)]
pub const fn rule(group: u32, flags: u32) -> u32 {
    group | flags | RULE_VALID
}

/// The key of a rule: VIP identity, protocol, and port as the native integer of its bytes in
/// packet order. Never 0.
#[inline(always)]
pub const fn rule_key(vip: u32, udp: bool, port: u16) -> u32 {
    (vip & 0x7f) << 17 | (udp as u32) << 16 | port as u32
}

/// The word of [`Control::active`] for a generation at that index (0 or 1).
pub const fn active_word(index: usize, generation: &Generation) -> u64 {
    generation.vip_multiplier & !1 | index as u64 & 1
}

/// The VIP table's multiplier in [`Control::active`].
#[inline(always)]
pub const fn multiplier(active: u64) -> u64 {
    active | 1
}

/// The VLANs of a frame as one word: the tag nearest to the packet in the low twelve bits, an outer
/// one above them; 0 = untagged. A tag with VID 0 is none (IEEE 802.1Q-2018 section 9.6, table 9-2).
#[inline(always)]
pub const fn vlans(outer: u16, inner: u16) -> u32 {
    let (outer, inner) = (outer as u32 & 0xfff, inner as u32 & 0xfff);
    if inner == 0 { outer } else { outer << 12 | inner }
}

/// The key of an IPv4 address, the native integer of its bytes in packet order, in a VLAN.
#[inline(always)]
pub const fn key_v4(addr: u32, vlans: u32) -> u64 {
    (vlans as u64) << 32 | addr as u64
}

/// A [`key_v4`] spread over 64 bits: both its VIP's slot and its rules' start from it, so that the
/// two probes run in parallel.
#[inline(always)]
pub const fn mix(key: u64, multiplier: u64) -> u64 {
    key.wrapping_mul(multiplier)
}

/// The same of an IPv6 address, given as the native integers of its halves in packet order.
#[inline(always)]
pub const fn mix_v6(addr: [u64; 2], vlans: u32, multiplier: u64) -> u64 {
    let [high, low] = addr;
    mix(mix(high, multiplier) ^ low ^ vlans as u64, multiplier)
}

/// The slot of a VIP whose address was mixed.
#[inline(always)]
pub const fn vip_index(mixed: u64) -> usize {
    (mixed >> VIP_SHIFT) as usize
}

/// The slot of a rule on `port` of a VIP whose address was mixed, with
/// [`Generation::rule_multiplier`].
#[inline(always)]
pub const fn rule_index(mixed: u64, multiplier: u64, udp: bool, port: u16) -> usize {
    let service = (udp as u64) << 16 | port as u64;
    ((mixed ^ service.wrapping_mul(multiplier)) >> RULE_SHIFT) as usize
}

/// The slot of a MAC, given as a word, in a set.
#[inline(always)]
pub const fn mac_index(mac: u64, multiplier: u64) -> usize {
    (mac.wrapping_mul(multiplier) >> MAC_SHIFT) as usize
}

/// A MAC in the form of [`Generation::vmacs`].
#[inline(always)]
pub const fn mac_word(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])
}

/// Who claimed a virtual address or MAC without being of this farm: one word, so that it is never
/// read half. The last one of each address is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The claimant's MAC, as its ARP packet says.
    pub mac: [u8; 6],
    /// Identity of the virtual address; 0 = none, only its VMAC.
    pub vip: u8,
    /// As what.
    pub kind: ClaimKind,
}

/// Slots of the kernel's array of claims: one for each identity, and one for 0.
pub const CLAIMS: u32 = 65;

/// What a [`Claim`] says of who made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ClaimKind {
    /// A machine that speaks as the virtual address.
    Holds = 1,
    /// A machine that wants to know whether the address is free, and is told that it is not.
    Asks = 2,
    /// Another farm's node, by how it asks.
    Farm = 3,
}

impl Claim {
    /// The claim as the kernel leaves it. Never 0.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        let [a, b, c, d, e, f] = self.mac;
        u64::from_ne_bytes([a, b, c, d, e, f, self.vip, self.kind as u8])
    }

    /// The claim in a word; `None` for 0, which means that there was none.
    pub const fn of_word(word: u64) -> Option<Self> {
        let [a, b, c, d, e, f, vip, kind] = word.to_ne_bytes();
        let kind = match kind {
            0 => return None,
            2 => ClaimKind::Asks,
            3 => ClaimKind::Farm,
            _ => ClaimKind::Holds,
        };
        Some(Self { mac: [a, b, c, d, e, f], vip, kind })
    }
}

/// Slots of the egress guard's counter array; see [`crate::Guarded`].
pub const GUARD_COUNTERS: usize = 8;

// The agent and the kernel program are compiled for different targets: nothing may depend on them.
const _: () = {
    assert!(size_of::<Control>() == 64);
    assert!(CLAIMS as usize == MAX_VIPS + 1);
    assert!(size_of::<VipSlot>() == 16 && size_of::<Vip6Slot>() == 32);
    assert!(size_of::<RuleSlot>() == 8 && size_of::<VipRules>() == 32);
    assert!(size_of::<Group>() == 64 + 1536);
    assert!(align_of::<Generation>() == 64);
    assert!(offset_of!(Generation, vips) == 32);
    assert!(offset_of!(Generation, vips6) == offset_of!(Generation, vips) + 16 * VIP_SLOTS);
    assert!(offset_of!(Generation, vmacs) == offset_of!(Generation, vips6) + 32 * VIP_SLOTS);
    assert!(offset_of!(Generation, vip_rules) == offset_of!(Generation, vmacs) + 8 * 2 * MAX_VIPS);
    assert!(offset_of!(Generation, rules) == offset_of!(Generation, vip_rules) + 32 * 2 * MAX_VIPS);
    assert!(offset_of!(Generation, groups) == offset_of!(Generation, rules) + 8 * RULE_SLOTS);
    assert!(offset_of!(Generation, peers) == offset_of!(Generation, groups) + 1600 * MAX_GROUPS);
    assert!(offset_of!(Generation, peer_slots) == offset_of!(Generation, peers) + 8 * MAX_PEERS);
    assert!(
        offset_of!(Generation, vmac_slots) == offset_of!(Generation, peer_slots) + 8 * MAC_SLOTS
    );
    assert!(offset_of!(Generation, askers) == offset_of!(Generation, vmac_slots) + 8 * MAC_SLOTS);
    assert!(MAX_VIPS < 0x7f && MAX_GROUPS <= 0xff);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_read_as_it_was_written() {
        for claim in [
            Claim { mac: [0; 6], vip: 0, kind: ClaimKind::Holds },
            Claim { mac: [2, 0, 0, 0, 3, 0xff], vip: 64, kind: ClaimKind::Asks },
            Claim { mac: [0xff; 6], vip: 64, kind: ClaimKind::Farm },
        ] {
            assert_eq!(Claim::of_word(claim.word()), Some(claim));
        }
        assert_eq!(Claim::of_word(0), None);
    }
}
