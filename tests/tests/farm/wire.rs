//! Reading what was recorded on the wire.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use etherparse::{ArpOperation, Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};
use vipfarm::model::Mac;
use vipfarm_lab::{Captured, Direction, Host, Lab};

/// After the last frame was sent, how long to wait for answers that must not come.
pub(crate) const SILENCE: Duration = Duration::from_millis(150);

/// An IP packet that a client received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packet {
    /// Ethernet source.
    pub(crate) mac: Mac,
    pub(crate) source: IpAddr,
    pub(crate) target: IpAddr,
    pub(crate) what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// With the port it was sent to.
    Syn {
        target: u16,
    },
    /// SYN and ACK.
    Accepted {
        target: u16,
    },
    Reset {
        target: u16,
    },
    Datagram {
        target: u16,
    },
    EchoReply {
        seq: u16,
    },
    /// Port unreachable.
    Unreachable,
    Other,
}

/// An ARP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arp {
    /// Ethernet source.
    pub(crate) mac: Mac,
    pub(crate) request: bool,
    pub(crate) sender: (Mac, Ipv4Addr),
    pub(crate) target: (Mac, Ipv4Addr),
}

/// The Ethernet source.
pub(crate) fn source(frame: &Captured) -> Mac {
    mac(&frame.bytes[6..12])
}

/// The IP packet in a frame.
pub(crate) fn packet(frame: &Captured) -> Option<Packet> {
    let sliced = SlicedPacket::from_ethernet(&frame.bytes).ok()?;
    let (source, target) = match sliced.net? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            (header.source_addr().into(), header.destination_addr().into())
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            (header.source_addr().into(), header.destination_addr().into())
        }
        NetSlice::Arp(_) => return None,
    };
    let what = match sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let target = tcp.destination_port();
            match (tcp.syn(), tcp.ack(), tcp.rst()) {
                (_, _, true) => What::Reset { target },
                (true, true, _) => What::Accepted { target },
                (true, ..) => What::Syn { target },
                _ => What::Other,
            }
        }
        Some(TransportSlice::Udp(udp)) => What::Datagram { target: udp.destination_port() },
        Some(TransportSlice::Icmpv4(icmp)) => match icmp.icmp_type() {
            Icmpv4Type::EchoReply(echo) => What::EchoReply { seq: echo.seq },
            Icmpv4Type::DestinationUnreachable(_) => What::Unreachable,
            _ => What::Other,
        },
        Some(TransportSlice::Icmpv6(icmp)) => match icmp.icmp_type() {
            Icmpv6Type::EchoReply(echo) => What::EchoReply { seq: echo.seq },
            Icmpv6Type::DestinationUnreachable(_) => What::Unreachable,
            _ => What::Other,
        },
        _ => What::Other,
    };
    Some(Packet { mac: self::source(frame), source, target, what })
}

/// The ARP packet in a frame.
pub(crate) fn arp(frame: &Captured) -> Option<Arp> {
    let sliced = SlicedPacket::from_ethernet(&frame.bytes).ok()?;
    let NetSlice::Arp(arp) = sliced.net? else { return None };
    let address = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from);
    Some(Arp {
        mac: source(frame),
        request: arp.operation() == ArpOperation::REQUEST,
        sender: (mac(arp.sender_hw_addr()), address(arp.sender_protocol_addr())?),
        target: (mac(arp.target_hw_addr()), address(arp.target_protocol_addr())?),
    })
}

/// Sends frames from a host and records the IP packets that come back from `from`; what it asks a
/// group of addresses, to find the host, is no answer.
pub(crate) fn answers(host: &Host, frames: &[Vec<u8>], from: impl Into<IpAddr>) -> Vec<Packet> {
    let from = from.into();
    let is_answer = move |frame: &Captured| {
        frame.direction == Direction::Incoming
            && packet(frame).is_some_and(|it| it.source == from && !it.target.is_multicast())
    };
    let capture = host.capture_if(is_answer).unwrap();
    host.inject_all(frames).unwrap();
    std::thread::sleep(SILENCE);
    capture.stop().iter().filter_map(packet).collect()
}

/// A neighbour solicitation or advertisement (RFC 4861 sections 4.3 and 4.4) without a nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Neighbour {
    /// Ethernet source.
    pub(crate) mac: Mac,
    pub(crate) solicits: bool,
    /// The IP addresses of the sender and of whom it is sent to.
    pub(crate) source: Ipv6Addr,
    pub(crate) to: Ipv6Addr,
    /// The address that it is about.
    pub(crate) target: Ipv6Addr,
    /// The flags solicited and override; of an advertisement alone.
    pub(crate) flags: [bool; 2],
    /// The link-layer address that it names.
    pub(crate) named: Option<Mac>,
}

/// The neighbour discovery message in a frame, if its hop limit and checksum are right.
pub(crate) fn neighbour(frame: &Captured) -> Option<Neighbour> {
    let sliced = SlicedPacket::from_ethernet(&frame.bytes).ok()?;
    let NetSlice::Ipv6(ip) = sliced.net? else { return None };
    let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else { return None };
    let header = ip.header();
    let kind = icmp.slice()[0];
    let right =
        header.hop_limit() == 255 && icmp.is_checksum_valid(header.source(), header.destination());
    if !right || !matches!(kind, 135 | 136) {
        return None;
    }
    let (target, options) = icmp.slice()[8..].split_first_chunk::<16>()?;
    Some(Neighbour {
        mac: source(frame),
        solicits: kind == 135,
        source: header.source_addr(),
        to: header.destination_addr(),
        target: Ipv6Addr::from(*target),
        flags: [0x40, 0x20].map(|bit| icmp.slice()[4] & bit != 0),
        named: options.get(2..8).map(mac),
    })
}

/// Sends frames from a host and records the ARP replies it gets.
pub(crate) fn arp_replies(host: &Host, frames: &[Vec<u8>]) -> Vec<Arp> {
    let is_reply = |frame: &Captured| {
        frame.direction == Direction::Incoming && arp(frame).is_some_and(|arp| !arp.request)
    };
    let capture = host.capture_if(is_reply).unwrap();
    host.inject_all(frames).unwrap();
    std::thread::sleep(SILENCE);
    capture.stop().iter().filter_map(arp).collect()
}

/// One node answered each of those who asked, and each node its third of them.
pub(crate) fn assert_answered_in_turn(
    lab: &Lab,
    asking: &[Ipv4Addr],
    answered: &BTreeMap<Ipv4Addr, Vec<&str>>,
    replies: &[Arp],
) {
    for client in asking {
        let by = answered.get(client).map_or(&[][..], Vec::as_slice);
        assert_eq!(by.len(), 1, "{client} was answered by {by:?}");
    }
    let equal = [("node1", 85), ("node2", 85), ("node3", 86)].map(|(n, b)| (n.to_owned(), b));
    let shares = shares(lab, replies.iter().map(|reply| reply.mac));
    assert_plausible(&shares, &BTreeMap::from(equal), asking.len());
}

/// The node with that MAC.
pub(crate) fn node_of(lab: &Lab, mac: Mac) -> &str {
    let node = lab.nodes().iter().find(|node| node.mac() == mac);
    node.unwrap_or_else(|| panic!("{mac} is no node's")).name()
}

/// How often each node is in a list of MACs; a node that is not is 0.
pub(crate) fn shares(lab: &Lab, macs: impl Iterator<Item = Mac>) -> BTreeMap<&str, usize> {
    let mut shares: BTreeMap<_, _> = lab.nodes().iter().map(|node| (node.name(), 0)).collect();
    for mac in macs {
        *shares.entry(node_of(lab, mac)).or_default() += 1;
    }
    shares
}

/// That `count` answers fell on the nodes as `buckets` (of 256) say, give or take five standard
/// deviations: once in two million runs chance alone would go further.
#[expect(clippy::cast_precision_loss, reason = "a few hundred answers")]
pub(crate) fn assert_plausible(
    shares: &BTreeMap<&str, usize>,
    buckets: &BTreeMap<String, usize>,
    count: usize,
) {
    for (&node, &got) in shares {
        let share = buckets[node] as f64 / 256.0;
        let expected = share * count as f64;
        let bound = 5.0 * (expected * (1.0 - share)).sqrt();
        let off = (got as f64 - expected).abs();
        assert!(off <= bound, "{node} answered {got} of {count}, expected {expected} ± {bound}");
    }
}

fn mac(bytes: &[u8]) -> Mac {
    Mac(bytes.try_into().expect("an Ethernet address has six bytes"))
}
