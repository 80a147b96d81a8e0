//! Hand-made Ethernet frames with correct lengths and checksums.
//!
//! ```
//! use vipfarm_lab::{Frame, frame::SYN};
//!
//! let frame = Frame::tcp("10.0.0.1:4000", "10.0.0.100:80", SYN).vlan(10).bytes();
//! assert_eq!(frame.len(), 14 + 4 + 20 + 20);
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

use etherparse::{
    ArpEthIpv4Packet, ArpOperation, EtherType, Ethernet2Header, IcmpEchoHeader, Icmpv4Header,
    Icmpv4Type, Icmpv6Header, Icmpv6Type, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options,
    Ipv6Header, SingleVlanHeader, TcpHeader, UdpHeader, VlanId,
};
use vipfarm::model::Mac;

/// TCP flag.
pub const FIN: u8 = 0x01;
/// TCP flag.
pub const SYN: u8 = 0x02;
/// TCP flag.
pub const RST: u8 = 0x04;
/// TCP flag.
pub const ACK: u8 = 0x10;

const TTL: u8 = 64;
const WINDOW: u16 = 64_240;
const BROADCAST: Mac = Mac([0xff; 6]);

/// A frame in the making; [`Frame::bytes`] makes it.
#[derive(Debug, Clone)]
pub struct Frame {
    source: Mac,
    target: Mac,
    /// Outermost first.
    tags: Vec<(EtherType, VlanId)>,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    Arp(ArpEthIpv4Packet),
    Ip(IpPacket),
}

#[derive(Debug, Clone)]
struct IpPacket {
    source: IpAddr,
    target: IpAddr,
    transport: Transport,
    payload: Vec<u8>,
    options: Vec<u8>,
    /// Extension headers of IPv6: each one's number, and its bytes from the third on.
    extensions: Vec<(u8, Vec<u8>)>,
    identification: u16,
    hops: u8,
}

#[derive(Debug, Clone, Copy)]
enum Transport {
    Udp {
        source: u16,
        target: u16,
    },
    Tcp {
        source: u16,
        target: u16,
        flags: u8,
        /// Sequence and acknowledgement.
        numbers: [u32; 2],
    },
    Echo(IcmpEchoHeader),
    /// Of `ICMPv6`: type, code, and the four bytes after the checksum.
    Icmpv6([u8; 6]),
    Other(IpNumber),
}

impl Frame {
    /// A UDP datagram; the addresses may be given as text and must be of one family.
    pub fn udp(source: impl Endpoint, target: impl Endpoint, payload: &[u8]) -> Self {
        let (source, target) = (source.endpoint(), target.endpoint());
        let transport = Transport::Udp { source: source.port(), target: target.port() };
        Self::of_ip(source.ip(), target.ip(), transport, payload)
    }

    /// A TCP segment without data; `flags` is a sum of [`SYN`], [`ACK`], [`FIN`], [`RST`].
    pub fn tcp(source: impl Endpoint, target: impl Endpoint, flags: u8) -> Self {
        let (source, target) = (source.endpoint(), target.endpoint());
        let (source_port, target_port) = (source.port(), target.port());
        let transport =
            Transport::Tcp { source: source_port, target: target_port, flags, numbers: [1, 0] };
        Self::of_ip(source.ip(), target.ip(), transport, &[])
    }

    /// The same segment with a sequence and an acknowledgement number.
    #[must_use]
    pub fn numbered(mut self, sequence: u32, acknowledgement: u32) -> Self {
        if let Body::Ip(IpPacket { transport: Transport::Tcp { numbers, .. }, .. }) = &mut self.body
        {
            *numbers = [sequence, acknowledgement];
        }
        self
    }

    /// An echo request of ICMP or, between IPv6 addresses, of its IPv6 sibling.
    pub fn icmp_echo(source: IpAddr, target: IpAddr, id: u16, seq: u16) -> Self {
        let transport = Transport::Echo(IcmpEchoHeader { id, seq });
        Self::of_ip(source, target, transport, b"vipfarm")
    }

    /// An `ICMPv6` message: type, code, the four bytes after the checksum, and what follows.
    pub fn icmpv6(source: Ipv6Addr, target: Ipv6Addr, head: [u8; 6], body: &[u8]) -> Self {
        Self::of_ip(source.into(), target.into(), Transport::Icmpv6(head), body)
    }

    /// A neighbour solicitation for `target` (RFC 4861 section 4.3), to its solicited-node group.
    /// One from the unspecified address is a probe for duplicates and names no MAC.
    pub fn solicitation(mac: Mac, source: Ipv6Addr, target: Ipv6Addr) -> Self {
        let [.., a, b, c] = target.octets();
        let group = Ipv6Addr::from(0xff02_0000_0000_0000_0000_0001_ff00_0000)
            | Ipv6Addr::from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c]);
        let option = [&[1, 1], &mac.0[..]].concat();
        let option = if source.is_unspecified() { &[][..] } else { &option };
        let body = [&target.octets()[..], option].concat();
        let frame = Self::icmpv6(source, group, [135, 0, 0, 0, 0, 0], &body);
        frame.hops(255).macs(mac, Mac([0x33, 0x33, 0xff, a, b, c]))
    }

    /// A neighbour advertisement (section 4.4): `target` is at that MAC, said to `to`; `flags` is a
    /// sum of 0x80 (from a router), 0x40 (solicited) and 0x20 (override).
    pub fn advertisement(mac: Mac, target: Ipv6Addr, to: Ipv6Addr, flags: u8) -> Self {
        let body = [&target.octets()[..], &[2, 1], &mac.0].concat();
        let frame = Self::icmpv6(target, to, [136, 0, flags, 0, 0, 0], &body);
        frame.hops(255).macs(mac, Mac([0x33, 0x33, 0, 0, 0, 1]))
    }

    /// An IP packet of any protocol, `payload` as it is.
    pub fn ip(source: IpAddr, target: IpAddr, protocol: u8, payload: &[u8]) -> Self {
        Self::of_ip(source, target, Transport::Other(IpNumber(protocol)), payload)
    }

    /// A broadcast ARP request: who has `target`, tell `sender`.
    pub fn arp_request(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self::arp(ArpOperation::REQUEST, (mac, sender), (Mac([0; 6]), target)).macs(mac, BROADCAST)
    }

    /// An ARP reply: `sender` is at the first MAC, said to the second.
    pub fn arp_reply(sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Self {
        Self::arp(ArpOperation::REPLY, sender, target).macs(sender.0, target.0)
    }

    /// Sets the Ethernet source and destination.
    #[must_use]
    pub fn macs(mut self, source: Mac, target: Mac) -> Self {
        (self.source, self.target) = (source, target);
        self
    }

    /// Adds an 802.1Q tag inside the tags already there.
    ///
    /// # Panics
    /// If `id` is above 4095.
    #[must_use]
    pub fn vlan(self, id: u16) -> Self {
        self.tag(EtherType::VLAN_TAGGED_FRAME, id)
    }

    /// Adds an 802.1ad (service) tag inside the tags already there.
    ///
    /// # Panics
    /// If `id` is above 4095.
    #[must_use]
    pub fn service_vlan(self, id: u16) -> Self {
        self.tag(EtherType::PROVIDER_BRIDGING, id)
    }

    /// Sets the data of a UDP, TCP, echo or other IP packet.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.ip_mut().payload = payload.to_vec();
        self
    }

    /// Sets the IPv4 options: at most 40 bytes, a multiple of 4.
    #[must_use]
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        self.ip_mut().options = options.to_vec();
        self
    }

    /// Adds an IPv6 extension header behind those already there (RFC 8200 section 4): its number, and
    /// its bytes from the third on; with the two before them a multiple of 8. Those behind a fragment
    /// header without bytes are in the fragments' own part: see [`Frame::fragments`].
    #[must_use]
    pub fn extension(mut self, number: u8, bytes: &[u8]) -> Self {
        self.ip_mut().extensions.push((number, bytes.to_vec()));
        self
    }

    /// Sets the hop limit, or time to live.
    #[must_use]
    pub fn hops(mut self, hops: u8) -> Self {
        self.ip_mut().hops = hops;
        self
    }

    /// Sets the IPv4 identification, and that of an IPv6 packet's fragments.
    #[must_use]
    pub fn identification(mut self, identification: u16) -> Self {
        self.ip_mut().identification = identification;
        self
    }

    /// The frame, without FCS and without padding to 60 bytes.
    ///
    /// # Panics
    /// If what was asked for cannot be written: mixed families, more than 65,535 bytes, IPv4
    /// options of a wrong length.
    pub fn bytes(&self) -> Vec<u8> {
        match &self.body {
            Body::Arp(packet) => self.with_link(EtherType::ARP, &packet.to_bytes()),
            Body::Ip(packet) => {
                let transport = packet.transport_bytes();
                match (packet.source, packet.target) {
                    (IpAddr::V4(_), _) => {
                        let header = packet.v4_header(transport.len());
                        self.with_link(EtherType::IPV4, &v4_bytes(header, &transport))
                    }
                    (IpAddr::V6(_), _) => {
                        let next = packet.transport.protocol(true);
                        let packet = packet.v6_bytes(&packet.extensions, next, &transport);
                        self.with_link(EtherType::IPV6, &packet)
                    }
                }
            }
        }
    }

    /// The packet cut into fragments of `size` payload bytes, first fragment first.
    ///
    /// # Panics
    /// As [`Frame::bytes`]; and if `size` is not a positive multiple of 8 (RFC 791, 3.2), or the
    /// packet is not IP.
    pub fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        assert!(size > 0 && size.is_multiple_of(8), "fragments are cut at multiples of 8 bytes");
        let Body::Ip(packet) = &self.body else { panic!("only IP packets are cut into fragments") };
        let is_cut_at = |(number, bytes): &(u8, Vec<u8>)| *number == 44 && bytes.is_empty();
        let cut_at = packet.extensions.iter().position(is_cut_at);
        let (ahead, behind) = packet.extensions.split_at(cut_at.unwrap_or(packet.extensions.len()));
        let behind = behind.get(1..).unwrap_or_default();
        let first = packet.transport.protocol(packet.source.is_ipv6());
        let (next, whole) = chained(behind, first, &packet.transport_bytes());
        let last = whole.len().div_ceil(size) - 1;
        let cut = |(index, part): (usize, &[u8])| {
            if packet.source.is_ipv6() {
                let more = u16::from(index < last);
                let offset = u16::try_from(index * size).expect("a packet has 65,535 bytes") | more;
                let id = u32::from(packet.identification);
                let header = [&offset.to_be_bytes()[..], &id.to_be_bytes()].concat();
                let extensions = [ahead, &[(44, header)]].concat();
                return self.with_link(EtherType::IPV6, &packet.v6_bytes(&extensions, next, part));
            }
            let mut header = packet.v4_header(part.len());
            let offset = u16::try_from(index * size / 8).expect("a packet has at most 8191 blocks");
            header.fragment_offset = IpFragOffset::try_new(offset).expect("as above");
            header.more_fragments = index < last;
            header.dont_fragment = false;
            self.with_link(EtherType::IPV4, &v4_bytes(header, part))
        };
        whole.chunks(size).enumerate().map(cut).collect()
    }

    fn of_ip(source: IpAddr, target: IpAddr, transport: Transport, payload: &[u8]) -> Self {
        let payload = payload.to_vec();
        let packet = IpPacket {
            source,
            target,
            transport,
            payload,
            options: vec![],
            extensions: vec![],
            identification: 1,
            hops: TTL,
        };
        let (source, target) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        Self { source, target, tags: vec![], body: Body::Ip(packet) }
    }

    fn arp(operation: ArpOperation, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Self {
        let body = Body::Arp(ArpEthIpv4Packet {
            operation,
            sender_mac: sender.0.0,
            sender_ipv4: sender.1.octets(),
            target_mac: target.0.0,
            target_ipv4: target.1.octets(),
        });
        Self { source: sender.0, target: target.0, tags: vec![], body }
    }

    fn tag(mut self, protocol: EtherType, id: u16) -> Self {
        self.tags.push((protocol, VlanId::try_new(id).expect("a VLAN id has 12 bits")));
        self
    }

    fn ip_mut(&mut self) -> &mut IpPacket {
        match &mut self.body {
            Body::Ip(packet) => packet,
            Body::Arp(_) => panic!("an ARP packet has no IP header"),
        }
    }

    fn with_link(&self, inner: EtherType, packet: &[u8]) -> Vec<u8> {
        let mut types = self.tags.iter().map(|&(protocol, _)| protocol).chain([inner]);
        let ethernet = Ethernet2Header {
            source: self.source.0,
            destination: self.target.0,
            ether_type: types.next().unwrap_or(inner),
        };
        let mut frame = ethernet.to_bytes().to_vec();
        for (&(_, vlan_id), ether_type) in self.tags.iter().zip(types) {
            let tag = SingleVlanHeader { vlan_id, ether_type, ..SingleVlanHeader::default() };
            frame.extend(tag.to_bytes());
        }
        frame.extend(packet);
        frame
    }
}

/// Extension headers and what is behind them, of protocol `next`; with the number of the first header.
fn chained(
    extensions: &[(u8, Vec<u8>)],
    mut next: IpNumber,
    payload: &[u8],
) -> (IpNumber, Vec<u8>) {
    let mut rest = payload.to_vec();
    for (number, bytes) in extensions.iter().rev() {
        let length = bytes.len() + 2;
        assert!(length.is_multiple_of(8), "an extension header is whole units of 8 bytes");
        let units = u8::try_from(length / 8 - 1).expect("at most 256 units");
        // The second byte of a fragment header is reserved, and 0 like its length would be.
        rest = [&[next.0, units][..], bytes, &rest].concat();
        next = IpNumber(*number);
    }
    (next, rest)
}

impl IpPacket {
    fn v4_header(&self, length: usize) -> Ipv4Header {
        let (IpAddr::V4(source), IpAddr::V4(target)) = (self.source, self.target) else {
            panic!("{} and {} are of different families", self.source, self.target)
        };
        let protocol = self.transport.protocol(false);
        let mut header = Ipv4Header::new(0, self.hops, protocol, source.octets(), target.octets())
            .expect("length 0");
        let options = Ipv4Options::try_from(&self.options[..]);
        header.options = options.expect("IPv4 options are 0, 4, .. 40 bytes");
        header.set_payload_len(length).expect(FITS);
        header.identification = self.identification;
        header
    }

    fn v6_header(&self, length: usize) -> Ipv6Header {
        let (IpAddr::V6(source), IpAddr::V6(target)) = (self.source, self.target) else {
            panic!("{} and {} are of different families", self.source, self.target)
        };
        let mut header = Ipv6Header {
            next_header: self.transport.protocol(true),
            hop_limit: self.hops,
            source: source.octets(),
            destination: target.octets(),
            ..Ipv6Header::default()
        };
        header.set_payload_length(length).expect(FITS);
        header
    }

    /// The packet with those extension headers before what is of protocol `next`.
    fn v6_bytes(&self, extensions: &[(u8, Vec<u8>)], next: IpNumber, payload: &[u8]) -> Vec<u8> {
        let (next, rest) = chained(extensions, next, payload);
        let mut header = self.v6_header(rest.len());
        header.next_header = next;
        [&header.to_bytes()[..], &rest].concat()
    }

    fn transport_bytes(&self) -> Vec<u8> {
        let header = if self.source.is_ipv4() {
            self.transport.v4_bytes(&self.v4_header(0), &self.payload)
        } else {
            self.transport.v6_bytes(&self.v6_header(0), &self.payload)
        };
        [header, self.payload.clone()].concat()
    }
}

const FITS: &str = "an IP packet has at most 65,535 bytes";

impl Transport {
    fn protocol(self, v6: bool) -> IpNumber {
        match self {
            Self::Udp { .. } => IpNumber::UDP,
            Self::Tcp { .. } => IpNumber::TCP,
            Self::Echo(_) if v6 => IpNumber::IPV6_ICMP,
            Self::Echo(_) => IpNumber::ICMP,
            Self::Icmpv6(_) => IpNumber::IPV6_ICMP,
            Self::Other(protocol) => protocol,
        }
    }

    fn v4_bytes(self, ip: &Ipv4Header, payload: &[u8]) -> Vec<u8> {
        match self {
            Self::Udp { source, target } => {
                let header = UdpHeader::with_ipv4_checksum(source, target, ip, payload);
                header.expect(FITS).to_bytes().to_vec()
            }
            Self::Tcp { source, target, flags, numbers } => {
                let mut header = tcp_header(source, target, flags, numbers);
                header.checksum = header.calc_checksum_ipv4(ip, payload).expect(FITS);
                header.to_bytes().to_vec()
            }
            Self::Echo(echo) => {
                let kind = Icmpv4Type::EchoRequest(echo);
                Icmpv4Header::with_checksum(kind, payload).to_bytes().to_vec()
            }
            Self::Icmpv6(_) | Self::Other(_) => vec![],
        }
    }

    fn v6_bytes(self, ip: &Ipv6Header, payload: &[u8]) -> Vec<u8> {
        match self {
            Self::Udp { source, target } => {
                let header = UdpHeader::with_ipv6_checksum(source, target, ip, payload);
                header.expect(FITS).to_bytes().to_vec()
            }
            Self::Tcp { source, target, flags, numbers } => {
                let mut header = tcp_header(source, target, flags, numbers);
                header.checksum = header.calc_checksum_ipv6(ip, payload).expect(FITS);
                header.to_bytes().to_vec()
            }
            Self::Echo(echo) => {
                let kind = Icmpv6Type::EchoRequest(echo);
                let header = Icmpv6Header::with_checksum(kind, ip.source, ip.destination, payload);
                header.expect(FITS).to_bytes().to_vec()
            }
            Self::Icmpv6([type_u8, code_u8, bytes5to8 @ ..]) => {
                let kind = Icmpv6Type::Unknown { type_u8, code_u8, bytes5to8 };
                let header = Icmpv6Header::with_checksum(kind, ip.source, ip.destination, payload);
                header.expect(FITS).to_bytes().to_vec()
            }
            Self::Other(_) => vec![],
        }
    }
}

fn tcp_header(source: u16, target: u16, flags: u8, numbers: [u32; 2]) -> TcpHeader {
    let mut header = TcpHeader::new(source, target, numbers[0], WINDOW);
    header.acknowledgment_number = numbers[1];
    header.fin = flags & FIN != 0;
    header.syn = flags & SYN != 0;
    header.rst = flags & RST != 0;
    header.ack = flags & ACK != 0;
    header
}

fn v4_bytes(mut header: Ipv4Header, payload: &[u8]) -> Vec<u8> {
    header.header_checksum = header.calc_header_checksum();
    [&header.to_bytes()[..], payload].concat()
}

/// An address and a port, also as text such as `10.0.0.1:80` or `[fd00::1]:80`.
pub trait Endpoint {
    /// The socket address.
    ///
    /// # Panics
    /// If text is not an address and a port.
    fn endpoint(self) -> SocketAddr;
}

impl Endpoint for SocketAddr {
    fn endpoint(self) -> SocketAddr {
        self
    }
}

impl Endpoint for SocketAddrV4 {
    fn endpoint(self) -> SocketAddr {
        self.into()
    }
}

impl Endpoint for &str {
    fn endpoint(self) -> SocketAddr {
        self.parse().unwrap_or_else(|_| panic!("`{self}` is not ADDRESS:PORT"))
    }
}

impl<A: Into<IpAddr>> Endpoint for (A, u16) {
    fn endpoint(self) -> SocketAddr {
        SocketAddr::from((self.0.into(), self.1))
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    #[test]
    fn a_tagged_datagram_reads_back_with_its_options_and_a_right_checksum() {
        let frame = Frame::udp("10.0.0.1:4000", "10.0.0.100:53", b"hello")
            .service_vlan(7)
            .vlan(10)
            .ip_options(&[1, 1, 1, 0])
            .identification(77)
            .bytes();
        assert_eq!(frame[12..20], [0x88, 0xa8, 0, 7, 0x81, 0, 0, 10]);
        let packet = SlicedPacket::from_ethernet(&frame).expect("a readable frame");
        let Some(NetSlice::Ipv4(ip)) = packet.net else { panic!("not IPv4") };
        let header = ip.header().to_header();
        assert_eq!((header.identification, &header.options[..]), (77, &[1, 1, 1, 0][..]));
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("not UDP") };
        assert_eq!(udp.payload(), b"hello");
        let expected = udp.to_header().calc_checksum_ipv4(&header, udp.payload());
        assert_eq!(Ok(udp.checksum()), expected);
    }

    #[test]
    fn a_segment_over_ipv6_has_a_right_checksum() {
        let frame = Frame::tcp("[fd00::1]:4000", "[fd00::100]:80", SYN | ACK).bytes();
        let packet = SlicedPacket::from_ethernet(&frame).expect("a readable frame");
        let Some(NetSlice::Ipv6(ip)) = packet.net else { panic!("not IPv6") };
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("not TCP") };
        assert!(tcp.syn() && tcp.ack() && !tcp.rst() && !tcp.fin());
        let expected = tcp.to_header().calc_checksum_ipv6(&ip.header().to_header(), &[]);
        assert_eq!(Ok(tcp.checksum()), expected);
    }

    #[test]
    fn fragments_put_together_are_the_packet() {
        let whole = Frame::udp("10.0.0.1:4000", "10.0.0.100:53", &[7; 100]);
        let parts = whole.fragments(48);
        assert_eq!(parts.len(), 3, "108 bytes with the UDP header");
        let field = |frame: &[u8]| u16::from_be_bytes([frame[20], frame[21]]);
        assert_eq!(parts.iter().map(|part| field(part)).collect::<Vec<_>>(), [0x2000, 0x2006, 12]);
        let joined: Vec<u8> = parts.iter().flat_map(|part| part[34..].to_vec()).collect();
        assert_eq!(joined, whole.bytes()[34..]);
    }

    #[test]
    fn an_arp_request_is_a_broadcast_from_the_asking_station() {
        let mac = Mac([2, 0, 0, 0, 0, 9]);
        let asker = Ipv4Addr::new(10, 0, 0, 1);
        let frame = Frame::arp_request(mac, asker, Ipv4Addr::new(10, 0, 0, 100)).bytes();
        assert_eq!(frame[..12], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9]);
        assert_eq!(frame[12..22], [8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(frame[28..32], asker.octets());
        assert_eq!(frame.len(), 42);
    }

    #[test]
    fn an_echo_request_is_one_in_both_families() {
        let echo = |source: &str, target: &str| {
            let (source, target) = (source.parse().expect("valid"), target.parse().expect("valid"));
            Frame::icmp_echo(source, target, 3, 4).bytes()
        };
        assert_eq!(echo("10.0.0.1", "10.0.0.100")[34..36], [8, 0]);
        assert_eq!(echo("fd00::1", "fd00::100")[54..56], [128, 0]);
    }
}
