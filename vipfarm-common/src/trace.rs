//! `vipfarm trace`: whose frames are told of, and what is told of each.
//!
//! The decision knows nothing of it: while a trace runs, the agent sends what is for a VIP through
//! [`crate::slow()`], behind which a program of its own looks at the frame and its reason.

use crate::{
    packet::Packet,
    vip::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, FRAGMENT, TCP, UDP},
};

/// Whose frames are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Wanted {
    /// Source address in packet order; an IPv4 one is the first four bytes.
    pub client: [u8; 16],
    /// Source port of TCP and UDP in packet order; 0 = whatever it is, and other protocols too.
    pub port: [u8; 2],
    /// 4 or 6; 0 = nobody's.
    pub family: u8,
    /// Unused.
    pub padding: u8,
}

/// Bytes of a frame that are told.
pub const HEAD: usize = 128;

/// One frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Traced {
    /// When, in nanoseconds of the boot clock.
    pub boot_ns: u64,
    /// The [`crate::Reason`]'s code.
    pub code: u64,
    /// Bytes of the frame in its first buffer.
    pub length: u64,
    /// Its first bytes as they are after the verdict, which may have rewritten MACs; then zeros.
    pub head: [u8; HEAD],
}

impl Traced {
    /// The value in the kernel's buffer; `None` if that has another length.
    pub fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let (boot_ns, rest) = bytes.split_first_chunk()?;
        let (code, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        Some(Self {
            boot_ns: u64::from_ne_bytes(*boot_ns),
            code: u64::from_ne_bytes(*code),
            length: u64::from_ne_bytes(*length),
            head: rest.try_into().ok()?,
        })
    }

    /// The bytes that are known of the frame.
    pub fn frame(&self) -> &[u8] {
        let length = usize::try_from(self.length).unwrap_or(HEAD);
        &self.head[..HEAD.min(length)]
    }
}

/// Whether the frame is one of those.
#[inline(always)]
pub fn is_wanted<P: Packet>(packet: &P, wanted: &Wanted) -> bool {
    let Ok(ethernet) = vip::ethernet_tagged_twice(packet) else { return false };
    let network = P::forget(ethernet.network);
    let [a, b, c, d, ..] = wanted.client;
    let any_port = wanted.port == [0; 2];
    match (ethernet.ethertype, wanted.family) {
        (ETHERTYPE_ARP, 4) => any_port && packet.at::<4>(network + 14) == Some([a, b, c, d]),
        (ETHERTYPE_IPV4, 4) => {
            if packet.at::<4>(network + 12) != Some([a, b, c, d]) {
                return false;
            }
            any_port || ipv4_port(packet, network) == Some(wanted.port)
        }
        (ETHERTYPE_IPV6, 6) => {
            let Some(source) = packet.at::<16>(network + 8) else { return false };
            let is_client = vip::halves(source) == vip::halves(wanted.client);
            is_client && (any_port || ipv6_port(packet, network) == Some(wanted.port))
        }
        _ => false,
    }
}

#[inline(always)]
fn ipv4_port<P: Packet>(packet: &P, network: usize) -> Option<[u8; 2]> {
    let [first, ..] = packet.at::<2>(network)?;
    let is_later = u16::from_be_bytes(packet.at::<2>(network + 6)?) & FRAGMENT & 0x1fff != 0;
    let [_, proto] = packet.at::<2>(network + 8)?;
    if is_later || proto != TCP && proto != UDP {
        return None;
    }
    packet.at::<2>(P::forget(network + usize::from(first & 15) * 4))
}

/// Without extension headers: behind them there is no port to go by.
#[inline(always)]
fn ipv6_port<P: Packet>(packet: &P, network: usize) -> Option<[u8; 2]> {
    let [next, _] = packet.at::<2>(network + 6)?;
    if next != TCP && next != UDP {
        return None;
    }
    packet.at::<2>(network + 40)
}
