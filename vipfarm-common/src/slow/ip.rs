//! The network headers: where the transport header begins, and whether the packet is in parts.

use super::{Fragment, Frame, Ip, V4, V6};
use crate::{
    packet::{Head, MAX_OFFSET, Packet, Tables},
    reason::{Outcome, Reason},
    vip::{self, FRAGMENT, ICMPV6},
};

/// Extension headers of IPv6 that may come before the transport header (RFC 8200 section 4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT_HEADER: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// Extension headers at most: nobody sends more than one of each kind, and the verifier needs a bound.
pub(super) const MAX_EXTENSIONS: usize = 8;

impl<P: Packet, T: Tables> Frame<'_, P, T> {
    #[inline(always)]
    pub(super) fn ipv4(&self) -> Result<Outcome, Reason> {
        let &Self { packet, now, active, ref ethernet, .. } = self;
        // Too short for an IPv4 header: no address to go by, and the stack refuses it.
        let ip = packet.head::<20>(ethernet.network).ok_or(Reason::NotVip)?;
        let found = vip::look_up_v4(now, active, ip.get::<16, 4>(), ethernet.vlans);
        if found.vip == 0 {
            return Err(Reason::NotVip);
        }
        self.claim(found.vip)?;
        self.serves(found.vip)?;
        let [version_ihl] = ip.get::<0, 1>();
        if version_ihl >> 4 != 4 || version_ihl & 15 < 5 {
            return Err(Reason::Malformed);
        }
        let ip_id = ip.get::<4, 2>();
        let offset = u16::from_be_bytes(ip.get::<6, 2>()) & FRAGMENT;
        let fragment =
            Fragment { id: u32::from(u16::from_ne_bytes(ip_id)), is_later: offset & 0x1fff != 0 };
        let [proto] = ip.get::<9, 1>();
        self.ip(&Ip {
            client: V4(ip.get::<12, 4>()),
            vip: V4(ip.get::<16, 4>()),
            found,
            proto,
            transport: ethernet.network + usize::from(version_ihl & 15) * 4,
            identification: ip_id,
            fragment: (offset != 0).then_some(fragment),
        })
    }

    #[inline(always)]
    pub(super) fn ipv6(&self) -> Result<Outcome, Reason> {
        let &Self { packet, now, active, ref ethernet, .. } = self;
        let ip = packet.head::<40>(ethernet.network).ok_or(Reason::NotVip)?;
        let target = ip.get::<24, 16>();
        let [next] = ip.get::<6, 1>();
        let source = ip.get::<8, 16>();
        let found = vip::look_up_v6(now, active, target, ethernet.vlans);
        if found.vip == 0 {
            return if target[0] == 0xff && next == ICMPV6 {
                self.neighbour(ethernet.network + 40, source, ip.get::<7, 1>(), 0)
            } else {
                Err(Reason::NotVip)
            };
        }
        self.claim(found.vip)?;
        if next == ICMPV6
            && let Some([135 | 136]) = packet.at::<1>(ethernet.network + 40)
        {
            return self.neighbour(ethernet.network + 40, source, ip.get::<7, 1>(), found.vip);
        }
        self.serves(found.vip)?;
        if ip.get::<0, 1>()[0] >> 4 != 6 {
            return Err(Reason::Malformed);
        }
        let headers = extensions::<P, MAX_EXTENSIONS>(packet, next, ethernet.network + 40)?;
        self.ip(&Ip {
            client: V6(source),
            vip: V6(target),
            found,
            proto: headers.proto,
            transport: headers.transport,
            identification: [0; 2],
            fragment: headers.fragment,
        })
    }
}

/// What lies between an IPv6 header and the transport header.
pub(super) struct Extensions {
    pub(super) proto: u8,
    pub(super) transport: usize,
    fragment: Option<Fragment>,
}

impl Extensions {
    /// Whether the packet is a fragment without the transport header.
    #[inline(always)]
    pub(super) fn is_later(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.is_later)
    }
}

/// Walks the extension headers behind an IPv6 header at `offset`. Encrypted and authenticated
/// payload is a protocol of its own.
#[inline(always)]
pub(super) fn extensions<P: Packet, const MOST: usize>(
    packet: &P,
    next: u8,
    offset: usize,
) -> Result<Extensions, Reason> {
    let (mut next, mut offset, mut fragment, mut is_later) = (next, offset, None, false);
    let mut count = 0;
    while count < MOST && is_extension(next) && !is_later {
        let [after, units, high, low, a, b, c, d] =
            packet.at::<8>(offset).ok_or(Reason::Malformed)?;
        let is_fragment = next == FRAGMENT_HEADER;
        next = after;
        offset += 8 + if is_fragment { 0 } else { usize::from(units) * 8 };
        is_later = is_fragment && u16::from_be_bytes([high, low]) & 0xfff8 != 0;
        // One that is the whole packet is no fragment (RFC 6946).
        if is_later || is_fragment && low & 1 != 0 {
            fragment = Some(Fragment { id: u32::from_ne_bytes([a, b, c, d]), is_later });
        }
        count += 1;
    }
    if offset > MAX_OFFSET || is_extension(next) && !is_later {
        return Err(Reason::Malformed);
    }
    Ok(Extensions { proto: next, transport: P::forget(offset), fragment })
}

#[inline(always)]
pub(super) const fn is_extension(header: u8) -> bool {
    matches!(header, HOP_BY_HOP | ROUTING | FRAGMENT_HEADER | DESTINATION_OPTIONS)
}
