//! The seams of the decision: the frame's bytes, and everything else it may look at.
//!
//! A header is bounds-checked once, as a whole, and then read freely: that is what the verifier
//! can follow, and the granularity of the check is part of the semantics (a frame that ends inside
//! a header is judged alike by host and kernel).

use core::cell::Cell;

use crate::{
    hash::Start,
    layout::{Claim, State},
};

/// A frame, from its Ethernet header on.
pub trait Packet {
    /// A checked header of `L` bytes.
    type Head<const L: usize>: Head;

    /// The `L` bytes at `offset`, if the frame has them all.
    ///
    /// `offset` must be a small number of constants at each call site (14 or 18): use
    /// [`Packet::at`] for one that depends on the packet.
    fn head<const L: usize>(&self, offset: usize) -> Option<Self::Head<L>>;

    /// A copy of the `N` bytes at `offset`, which may be computed from the packet but not exceed
    /// [`MAX_OFFSET`]; `None` beyond it or beyond the frame.
    fn at<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// The outermost VLAN tag (IEEE 802.1Q, tag control information) if the kernel keeps it beside the
    /// bytes; 0 = it does not. It is so with frames that a VLAN device sends, never in XDP.
    #[inline(always)]
    fn tag_beside(&self) -> u16 {
        0
    }

    /// The same offset, which is at most [`MAX_OFFSET`], with nothing known of how it came about: the
    /// verifier then walks what follows once, and not once for each way that led there.
    #[inline(always)]
    fn forget(offset: usize) -> usize {
        offset
    }
}

/// The largest offset that [`Packet::at`] reads at: headers lie within it, and the verifier needs
/// a bound.
pub const MAX_OFFSET: usize = 255;

/// A header whose bytes are known to be there.
pub trait Head {
    /// The `N` bytes at `O`; a compile-time error if they do not lie within the header.
    fn get<const O: usize, const N: usize>(&self) -> [u8; N];

    /// Overwrites the `N` bytes at `O`.
    fn set<const O: usize, const N: usize>(&self, bytes: [u8; N]);
}

/// What the decision reads beside the frame.
pub trait Tables {
    /// What programs and agent share.
    fn state(&self) -> &State;

    /// Reads a word that the agent may change at any moment.
    fn volatile<T: Copy>(&self, word: &T) -> T;

    /// The kernel's tick counter (`jiffies64`). May stall for a few ticks on a busy guest, never
    /// runs ahead.
    fn ticks(&self) -> u64;

    /// The boot clock (`CLOCK_BOOTTIME`) in nanoseconds. Costs a helper call: [`crate::slow()`] only.
    fn boot_ns(&self) -> u64;

    /// What the hash of a client begins with, by the farm's key.
    fn hash_start(&self) -> Start;

    /// The interface's own MAC.
    fn own_mac(&self) -> [u8; 6];

    /// Whether this node's stack has a TCP connection, or the right to one: asked for buckets in a move
    /// only.
    fn connection(&self, tuple: &Tuple) -> Connection;

    /// When this node last accepted a datagram of that flow, as [`seen`] has it; 0 = it remembers none.
    fn flow_seen(&self, flow: &Tuple) -> u64;

    /// Remembers when it did; the flows that were idle for longest are forgotten.
    fn note_flow(&self, flow: &Tuple, seen: u64);

    /// What the first fragment of that packet came to, as [`Tables::put_fragment`] was told it.
    fn fragment(&self, key: &FragmentKey) -> Option<u32>;

    /// Remembers what the first fragment of a packet came to; old ones are forgotten.
    fn put_fragment(&self, key: &FragmentKey, fate: u32);

    /// Whether one more fragment may be kept that came before its packet's ports: bounded, because
    /// every node keeps it.
    fn may_keep_fragment(&self) -> bool;

    /// Told the kernel group and the bucket that decide: for `explain`. Nothing in the kernel.
    #[inline(always)]
    fn observe(&self, _group: u32, _bucket: u8) {}

    /// Told who claims what is this farm's, for the agent to name. Nothing on a host.
    #[inline(always)]
    fn note_claim(&self, _claim: Claim) {}

    /// Told who asks for a VIP whose nodes answer with their own MACs, so that the agent can tell
    /// them of a change. Nothing on a host.
    #[inline(always)]
    fn note_requester(&self, _requester: &Requester, _mac: [u8; 6]) {}
}

/// Which packet a fragment is of (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct FragmentKey {
    /// Source address; an IPv4 one is the first four bytes.
    pub source: [u8; 16],
    /// Identification, in packet order.
    pub id: u32,
    /// Protocol.
    pub proto: u16,
    /// Identity of the virtual address, which tells its family too.
    pub vip: u16,
}

/// How many packets in parts a node remembers on an interface.
pub const MAX_FRAGMENTS: u32 = 16_384;

/// A TCP connection or a UDP flow to a VIP, all in packet order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuple {
    /// The client's address; an IPv4 one is the first four bytes.
    pub client: [u8; 16],
    /// The virtual address, likewise.
    pub vip: [u8; 16],
    /// The client's port.
    pub client_port: [u8; 2],
    /// The VIP's port.
    pub vip_port: [u8; 2],
    /// Whether the addresses are of IPv6.
    pub is_v6: bool,
    /// The VLANs of its packets: see [`crate::layout::vlans`].
    pub vlans: u32,
    /// Where the headers begin, if it is a packet of the connection itself, so that its SYN cookie can
    /// be looked at.
    pub headers: Option<(usize, usize)>,
}

/// A UDP flow to a VIP, as it is remembered: all in packet order, IPv4 addresses in the first four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct FlowKey {
    /// The client's address.
    pub client: [u8; 16],
    /// The virtual address.
    pub vip: [u8; 16],
    /// The client's port.
    pub client_port: [u8; 2],
    /// The VIP's port.
    pub vip_port: [u8; 2],
    /// The VLANs of its packets (see [`crate::layout::vlans`]), and [`FLOW_V6`] with addresses of IPv6.
    pub place: u32,
}

/// Flag of [`FlowKey::place`].
pub const FLOW_V6: u32 = 1 << 31;

/// How many flows a node remembers on an interface.
pub const MAX_FLOWS: u32 = 65_536;

impl From<&Tuple> for FlowKey {
    #[inline(always)]
    fn from(flow: &Tuple) -> Self {
        let &Tuple { client, vip, client_port, vip_port, is_v6, vlans, .. } = flow;
        Self { client, vip, client_port, vip_port, place: vlans | u32::from(is_v6) << 31 }
    }
}

/// Where a word that says when a flow was seen has the tenure: times are exact to 66 µs.
const TENURE: u64 = 0xffff;

/// When a flow was seen, in nanoseconds of the boot clock, and in which tenure of its bucket (see
/// [`crate::layout::Group::tenure`]), as one word, so that neither is read without the other.
#[inline(always)]
pub const fn seen(at_ns: u64, tenure: u16) -> u64 {
    at_ns & !TENURE | tenure as u64
}

/// The time in such a word.
#[inline(always)]
pub const fn seen_ns(seen: u64) -> u64 {
    seen & !TENURE
}

/// The tenure in such a word; 0 = the flow was not seen.
#[inline(always)]
pub const fn seen_in(seen: u64) -> u16 {
    let [a, b, ..] = seen.to_le_bytes();
    u16::from_le_bytes([a, b])
}

/// What this node's stack has of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Nothing, or a listening socket only.
    None,
    /// The memory of one that has ended (`TIME_WAIT`); the client may have another meanwhile, elsewhere.
    Ended,
    /// A request for one, or a valid SYN cookie: its handshake has not ended.
    Begun,
    /// A socket of its own.
    Own,
}

/// Who asked for a VIP by ARP or neighbour solicitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct Requester {
    /// Its address; an IPv4 one is the first four bytes.
    pub addr: [u8; 16],
    /// Identity of the virtual address, which tells its family too.
    pub vip: u32,
}

/// A frame in a host's buffer. Cells, because the decision may rewrite MACs.
#[derive(Debug, Clone, Copy)]
pub struct HostPacket<'a>(pub &'a [Cell<u8>]);

impl<'a> HostPacket<'a> {
    /// Wraps a buffer.
    pub fn new(frame: &'a mut [u8]) -> Self {
        Self(Cell::from_mut(frame).as_slice_of_cells())
    }
}

/// A checked header in a host's buffer.
#[derive(Debug, Clone, Copy)]
pub struct HostHead<'a, const L: usize>(&'a [Cell<u8>; L]);

impl<'a> Packet for HostPacket<'a> {
    type Head<const L: usize> = HostHead<'a, L>;

    #[inline(always)]
    fn head<const L: usize>(&self, offset: usize) -> Option<HostHead<'a, L>> {
        Some(HostHead(self.0.get(offset..)?.first_chunk()?))
    }

    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset > MAX_OFFSET {
            return None;
        }
        Some(self.0.get(offset..)?.first_chunk::<N>()?.each_ref().map(Cell::get))
    }
}

impl<const L: usize> Head for HostHead<'_, L> {
    #[inline(always)]
    fn get<const O: usize, const N: usize>(&self) -> [u8; N] {
        const { assert!(O + N <= L, "a read beyond the checked header") };
        core::array::from_fn(|i| self.0[O + i].get())
    }

    #[inline(always)]
    fn set<const O: usize, const N: usize>(&self, bytes: [u8; N]) {
        const { assert!(O + N <= L, "a write beyond the checked header") };
        for (cell, byte) in self.0[O..O + N].iter().zip(bytes) {
            cell.set(byte);
        }
    }
}
