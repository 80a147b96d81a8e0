//! The frame that a question is about, as it would arrive; checksums, which nobody reads, are zero.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    model::{Mac, VlanTags},
    status::{ExplainProto, ExplainQuery},
};

/// A client's. The group bit, which no station has, keeps it apart from the farm's nodes.
const CLIENT: Mac = Mac([0x03, 0xff, 0, 0, 0, 1]);
const BROADCAST: Mac = Mac([0xff; 6]);

/// Payload behind the network header: a TCP header's length.
const PAYLOAD: usize = 20;
/// Hop limit of neighbour discovery (RFC 4861 section 7.1).
const NEAR: u8 = 255;

/// Which part of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// The first fragment, with the ports.
    First,
    /// Another fragment.
    Later,
}

impl Part {
    /// The fragment offset in units of eight bytes, and whether more fragments follow.
    fn offset(self) -> Option<(u16, bool)> {
        match self {
            Self::Whole => None,
            Self::First => Some((0, true)),
            // Behind 1480 bytes, as on an Ethernet.
            Self::Later => Some((185, false)),
        }
    }
}

/// The longest packet that the router of an ICMP error lets pass: the least of IPv6 (RFC 8200 section 5).
const NARROW: u16 = 1280;

/// The frame, to that MAC unless its protocol has a group as its destination.
pub(super) fn frame(query: &ExplainQuery, part: Part, target: Mac, vlan: VlanTags) -> Vec<u8> {
    let arp = query.proto == ExplainProto::Arp;
    let (target, ethertype, packet) = match (query.client, query.vip) {
        (IpAddr::V4(client), IpAddr::V4(vip)) if arp => {
            (BROADCAST, [0x08, 0x06], arp_request(client, vip))
        }
        (IpAddr::V6(client), IpAddr::V6(vip)) if arp => {
            let [.., a, b, c, d] = solicited_node(vip).octets();
            (Mac([0x33, 0x33, a, b, c, d]), [0x86, 0xdd], solicitation(client, vip))
        }
        (IpAddr::V4(client), IpAddr::V4(vip)) if query.icmp_error => {
            (target, [0x08, 0x00], ipv4_error(query, client, vip))
        }
        (IpAddr::V6(client), IpAddr::V6(vip)) if query.icmp_error => {
            (target, [0x86, 0xdd], ipv6_error(query, client, vip))
        }
        (IpAddr::V4(client), IpAddr::V4(vip)) => {
            (target, [0x08, 0x00], ipv4(query, part, client, vip))
        }
        (IpAddr::V6(client), IpAddr::V6(vip)) => {
            (target, [0x86, 0xdd], ipv6(query, part, client, vip))
        }
        // Such a question was refused.
        _ => (target, [0; 2], Vec::new()),
    };
    let mut frame = [&target.0[..], &CLIENT.0].concat();
    for (tag, id) in [([0x88, 0xa8], vlan.outer), ([0x81, 0x00], vlan.inner)] {
        if id != 0 {
            frame.extend(tag);
            frame.extend(id.to_be_bytes());
        }
    }
    frame.extend(ethertype);
    frame.extend(packet);
    frame
}

/// RFC 826.
fn arp_request(client: Ipv4Addr, vip: Ipv4Addr) -> Vec<u8> {
    let ethernet_ipv4_request = [0, 1, 8, 0, 6, 4, 0, 1];
    [&ethernet_ipv4_request[..], &CLIENT.0, &client.octets(), &[0; 6], &vip.octets()].concat()
}

/// RFC 4861 section 4.3.
fn solicitation(client: Ipv6Addr, vip: Ipv6Addr) -> Vec<u8> {
    let message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &vip.octets(), &[1, 1], &CLIENT.0].concat();
    let header = ipv6_header(58, NEAR, message.len(), client, solicited_node(vip));
    [header, message].concat()
}

/// RFC 4291 section 2.7.1.
fn solicited_node(addr: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = addr.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | high & 0xff, low)
}

fn ipv4(query: &ExplainQuery, part: Part, client: Ipv4Addr, vip: Ipv4Addr) -> Vec<u8> {
    const DO_NOT_FRAGMENT: u16 = 0x4000;
    const MORE_FRAGMENTS: u16 = 0x2000;
    let flags = part
        .offset()
        .map_or(DO_NOT_FRAGMENT, |(offset, more)| offset | if more { MORE_FRAGMENTS } else { 0 });
    let header = ipv4_header(query.ip_id.unwrap_or(0), flags, number(query), PAYLOAD, client, vip);
    [header, payload(query, part)].concat()
}

fn ipv4_header(
    id: u16,
    flags: u16,
    proto: u8,
    length: usize,
    source: Ipv4Addr,
    target: Ipv4Addr,
) -> Vec<u8> {
    let length = u16::try_from(20 + length).unwrap_or(u16::MAX).to_be_bytes();
    let mut header = vec![0x45, 0, length[0], length[1]];
    header.extend(id.to_be_bytes());
    header.extend(flags.to_be_bytes());
    header.extend([64, proto, 0, 0]);
    header.extend(source.octets());
    header.extend(target.octets());
    header
}

/// Fragmentation needed, by a router (RFC 1191 section 4, RFC 5737), about what the VIP has sent.
fn ipv4_error(query: &ExplainQuery, client: Ipv4Addr, vip: Ipv4Addr) -> Vec<u8> {
    const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    let quoted = ipv4_header(0, 0x4000, number(query), PAYLOAD, vip, client);
    let [high, low] = NARROW.to_be_bytes();
    let message = [&[3, 4, 0, 0, 0, 0, high, low][..], &quoted, &answer(query)].concat();
    [ipv4_header(0, 0, 1, message.len(), ROUTER, vip), message].concat()
}

/// Packet too big, by a router (RFC 4443 section 3.2, RFC 3849), about what the VIP has sent.
fn ipv6_error(query: &ExplainQuery, client: Ipv6Addr, vip: Ipv6Addr) -> Vec<u8> {
    const ROUTER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let quoted = ipv6_header(number(query), 64, PAYLOAD, vip, client);
    let [high, low] = NARROW.to_be_bytes();
    let message = [&[2, 0, 0, 0, 0, 0, high, low][..], &quoted, &answer(query)].concat();
    [ipv6_header(58, 64, message.len(), ROUTER, vip), message].concat()
}

fn ipv6(query: &ExplainQuery, part: Part, client: Ipv6Addr, vip: Ipv6Addr) -> Vec<u8> {
    const FRAGMENT: u8 = 44;
    let Some((offset, more)) = part.offset() else {
        let header = ipv6_header(number(query), 64, PAYLOAD, client, vip);
        return [header, payload(query, part)].concat();
    };
    // RFC 8200 section 4.5.
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    let fragment = vec![number(query), 0, high, low, 0, 0, 0, 1];
    let header = ipv6_header(FRAGMENT, 64, fragment.len() + PAYLOAD, client, vip);
    [header, fragment, payload(query, part)].concat()
}

fn ipv6_header(next: u8, hops: u8, length: usize, client: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let length = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    let first = [0x60, 0, 0, 0, length[0], length[1], next, hops];
    [&first[..], &client.octets(), &target.octets()].concat()
}

fn number(query: &ExplainQuery) -> u8 {
    match query.proto {
        ExplainProto::Tcp => 6,
        ExplainProto::Udp => 17,
        ExplainProto::Icmp | ExplainProto::Arp if query.vip.is_ipv6() => 58,
        ExplainProto::Icmp | ExplainProto::Arp => 1,
        ExplainProto::Other(number) => number,
    }
}

/// The transport header and data of what answers such a packet.
fn answer(query: &ExplainQuery) -> Vec<u8> {
    let (client_port, vip_port) = (query.vip_port, query.client_port);
    let mut answer = payload(&ExplainQuery { client_port, vip_port, ..*query }, Part::Whole);
    if query.proto == ExplainProto::Icmp {
        // An echo reply.
        answer[0] = if query.vip.is_ipv6() { 129 } else { 0 };
    }
    answer
}

/// The transport header and data; a later fragment has data only.
fn payload(query: &ExplainQuery, part: Part) -> Vec<u8> {
    let mut payload = Vec::new();
    if part != Part::Later {
        match query.proto {
            ExplainProto::Tcp | ExplainProto::Udp => {
                payload.extend(query.client_port.unwrap_or(0).to_be_bytes());
                payload.extend(query.vip_port.unwrap_or(0).to_be_bytes());
            }
            // An echo request.
            ExplainProto::Icmp => payload.push(if query.vip.is_ipv6() { 128 } else { 8 }),
            ExplainProto::Arp | ExplainProto::Other(_) => {}
        }
    }
    payload.resize(PAYLOAD, 0);
    payload
}
