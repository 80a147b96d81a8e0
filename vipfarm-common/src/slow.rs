//! Everything variable or rare: IPv4 options and IPv6 extension headers, fragments, ICMP, address
//! resolution, frames with two tags, and the lease near its end.
//!
//! A superset of [`crate::filter()`]: forced through here, every frame gets the same verdict.

mod connection;
mod flow;
mod fragment;
mod icmp;
mod ip;
mod resolve;

use crate::{
    Step,
    hash::{self, Start},
    layout::{Generation, MAX_VIPS, State, VIP_CLOSED, VIP_OTHER, linger_s, mac_word},
    packet::{Head, Packet, Tables},
    reason::{Outcome, Reason},
    vip::{
        self, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Found, ICMP, ICMPV6, TCP,
        UDP,
    },
};

/// The same decision as [`crate::decide`] for every frame, without the hot path's short cuts.
#[inline(always)]
pub fn slow<P: Packet, T: Tables>(packet: &P, tables: &T) -> Outcome {
    match slow_v4(packet, tables) {
        Step::Done(outcome) => outcome,
        Step::Slow => slow_v6(packet, tables),
    }
}

/// The part of [`slow()`] for all but IPv6, which it leaves to [`slow_v6()`]: together they need more
/// stack than the kernel gives a program.
#[inline(always)]
pub fn slow_v4<P: Packet, T: Tables>(packet: &P, tables: &T) -> Step {
    let frame = match Frame::of(packet, tables) {
        Ok(frame) => frame,
        Err(reason) => return Step::Done(reason.into()),
    };
    Step::Done(outcome(match frame.ethernet.ethertype {
        ETHERTYPE_IPV4 => frame.ipv4(),
        ETHERTYPE_IPV6 => return Step::Slow,
        ETHERTYPE_ARP => frame.arp(),
        _ if frame.ethernet.is_tagged() => Err(Reason::NotVip),
        _ => Err(Reason::NotIp),
    }))
}

/// The part of [`slow()`] for IPv6.
#[inline(always)]
pub fn slow_v6<P: Packet, T: Tables>(packet: &P, tables: &T) -> Outcome {
    outcome(Frame::of(packet, tables).and_then(|frame| match frame.ethernet.ethertype {
        ETHERTYPE_IPV6 => frame.ipv6(),
        _ => Err(Reason::NotIp),
    }))
}

/// `Ok` is an owner's verdict, `Err` a reason why it does not come to one.
#[inline(always)]
fn outcome(judged: Result<Outcome, Reason>) -> Outcome {
    match judged {
        Ok(outcome) => outcome,
        Err(reason) => reason.into(),
    }
}

/// A frame and what it is judged by.
struct Frame<'a, P: Packet, T: Tables> {
    packet: &'a P,
    tables: &'a T,
    state: &'a State,
    /// The generation in force, and the word that says which.
    now: &'a Generation,
    active: u64,
    ethernet: Ethernet<P::Head<14>>,
}

/// A client's address, in packet order. The families are types, so that each has code of its own:
/// where the compiler merges them, the verifier cannot tell which one it looks at.
trait Address: Copy {
    /// The protocol number of the family's ICMP.
    const ICMP: u8;

    /// The flow that a message of the family's ICMP is about.
    fn icmp<P: Packet, T: Tables>(
        frame: &Frame<'_, P, T>,
        ip: &Ip<Self>,
    ) -> Result<Flow<Self>, Reason>;

    /// Whether it is of IPv6.
    const IS_V6: bool;

    fn hash(self, start: Start, field: [u8; 2], proto: u8) -> u64;

    /// An IPv4 address is the first four bytes.
    fn bytes(self) -> [u8; 16];
}

#[derive(Clone, Copy)]
struct V4([u8; 4]);

#[derive(Clone, Copy)]
struct V6([u8; 16]);

impl Address for V4 {
    const ICMP: u8 = ICMP;
    const IS_V6: bool = false;

    #[inline(always)]
    fn icmp<P: Packet, T: Tables>(
        frame: &Frame<'_, P, T>,
        ip: &Ip<Self>,
    ) -> Result<Flow<Self>, Reason> {
        frame.icmp_v4(ip)
    }

    #[inline(always)]
    fn hash(self, start: Start, field: [u8; 2], proto: u8) -> u64 {
        hash::hash_v4(start, self.0, field, proto)
    }

    #[inline(always)]
    fn bytes(self) -> [u8; 16] {
        let [a, b, c, d] = self.0;
        [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    }
}

impl Address for V6 {
    const ICMP: u8 = ICMPV6;
    const IS_V6: bool = true;

    #[inline(always)]
    fn icmp<P: Packet, T: Tables>(
        frame: &Frame<'_, P, T>,
        ip: &Ip<Self>,
    ) -> Result<Flow<Self>, Reason> {
        frame.icmp_v6(ip)
    }

    #[inline(always)]
    fn hash(self, start: Start, field: [u8; 2], proto: u8) -> u64 {
        hash::hash_v6(start, self.0, field, proto)
    }

    #[inline(always)]
    fn bytes(self) -> [u8; 16] {
        self.0
    }
}

/// An IP packet for a VIP: what its own header says, and where the next one begins.
struct Ip<A> {
    client: A,
    vip: A,
    found: Found,
    /// The protocol behind all extension headers.
    proto: u8,
    /// Offset of its header.
    transport: usize,
    /// The IPv4 identification, 0 for IPv6.
    identification: [u8; 2],
    fragment: Option<Fragment>,
}

/// One of several parts of a packet.
#[derive(Clone, Copy)]
struct Fragment {
    /// Identification, in packet order.
    id: u32,
    /// Not the first, so without the transport header.
    is_later: bool,
}

/// What the bucket of a packet is taken from: its own header, or the one an ICMP error quotes with
/// the roles swapped.
struct Flow<A> {
    client: A,
    client_port: [u8; 2],
    vip_port: [u8; 2],
    ip_id: [u8; 2],
    proto: u8,
}

/// Where a flow belongs.
#[derive(Clone, Copy)]
struct Place {
    /// The kernel group.
    group: u32,
    bucket: u8,
    /// For how long it stays where it is when the bucket moves, in seconds; 0 = not at all.
    linger_s: u32,
}

impl<A> Flow<A> {
    /// A packet that goes by the client's address alone.
    #[inline(always)]
    fn by_address(client: A, proto: u8) -> Self {
        Self { client, client_port: [0; 2], vip_port: [0; 2], ip_id: [0; 2], proto }
    }
}

impl<'a, P: Packet, T: Tables> Frame<'a, P, T> {
    #[inline(always)]
    fn of(packet: &'a P, tables: &'a T) -> Result<Self, Reason> {
        let ethernet = vip::ethernet_tagged_twice(packet)?;
        let state = tables.state();
        let (now, active) = vip::active(tables, state);
        Ok(Self { packet, tables, state, now, active, ethernet })
    }

    /// Whether the VIP serves at all at this moment.
    #[inline(always)]
    fn serves(&self, vip: u32) -> Result<(), Reason> {
        if self.tables.boot_ns() >= self.tables.volatile(&self.state.control.deadline_ns) {
            Err(Reason::Fenced)
        } else if vip & VIP_CLOSED != 0 {
            Err(Reason::Closed)
        } else {
            Ok(())
        }
    }

    /// Whether a frame for that VIP is this node's to judge: see [`vip::claim`].
    #[inline(always)]
    fn claim(&self, vip: u32) -> Result<(), Reason> {
        let is_ours = vip::claim(&self.ethernet.head, self.tables, self.now, vip);
        if is_ours { Ok(()) } else { Err(Reason::OtherMac) }
    }

    #[inline(always)]
    fn is_from_peer(&self) -> bool {
        vip::is_peer(self.now, mac_word(self.ethernet.head.get::<6, 6>()))
    }

    /// Judges an IP packet of either family.
    #[inline(always)]
    fn ip<A: Address>(&self, ip: &Ip<A>) -> Result<Outcome, Reason> {
        if let Some(fragment) = ip.fragment {
            return self.fragment(ip, fragment);
        }
        let flow = self.flow(ip)?;
        let place = self.bucket(&flow, ip.found)?;
        self.served(ip, &flow, place)
    }

    /// The flow of a packet with a transport header.
    #[inline(always)]
    fn flow<A: Address>(&self, ip: &Ip<A>) -> Result<Flow<A>, Reason> {
        match ip.proto {
            TCP | UDP => {
                let ports = self.packet.at::<4>(ip.transport).ok_or(Reason::Malformed)?;
                let [a, b, c, d] = ports;
                Ok(Flow {
                    client: ip.client,
                    client_port: [a, b],
                    vip_port: [c, d],
                    ip_id: ip.identification,
                    proto: ip.proto,
                })
            }
            proto if proto == A::ICMP => A::icmp(self, ip),
            _ => other(ip),
        }
    }

    /// Where a flow to that VIP belongs.
    #[inline(always)]
    fn bucket<A: Address>(&self, flow: &Flow<A>, found: Found) -> Result<Place, Reason> {
        let Found { vip, mixed } = found;
        let (group, field, linger_s) = if flow.proto == TCP || flow.proto == UDP {
            let port = u16::from_ne_bytes(flow.vip_port);
            let rule = vip::rule_of(self.now, mixed, vip, flow.proto == UDP, port);
            if rule == 0 {
                return Err(Reason::NoRule);
            }
            (rule & 0xff, vip::field_of(rule, flow.client_port, flow.ip_id), linger_s(rule))
        } else {
            (self.vip_rules(vip).other, [0; 2], 0)
        };
        let hash = flow.client.hash(self.tables.hash_start(), field, flow.proto);
        Ok(Place { group, bucket: hash::bucket(hash, group), linger_s })
    }

    #[inline(always)]
    fn owner(&self, vip: u32, group: u32, bucket: u8) -> Outcome {
        vip::owner_of(&self.ethernet.head, self.tables, self.now, vip, group, bucket)
    }

    /// The rules of a VIP that no port chooses.
    #[inline(always)]
    fn vip_rules(&self, vip: u32) -> &crate::layout::VipRules {
        &self.now.vip_rules[vip as usize & (2 * MAX_VIPS - 1)]
    }
}

/// A packet of a protocol without ports.
#[inline(always)]
fn other<A: Address>(ip: &Ip<A>) -> Result<Flow<A>, Reason> {
    if ip.found.vip & VIP_OTHER == 0 {
        return Err(Reason::OtherProto);
    }
    Ok(Flow::by_address(ip.client, ip.proto))
}
