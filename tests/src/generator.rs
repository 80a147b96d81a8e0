//! Generated frames: likely to get far into the decision, then often damaged. The same ones for the
//! same seed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use vipfarm::model::Mac;

use crate::{
    Frame,
    world::{
        CLIENT, OWN, PEER, VIP, VIP_BY_ADDR, VIP_CLOSED, VIP_DIRECTED, VIP_FLOATED, VIP_FLOATING,
        VIP_OF_NODE2, VIP_TAGGED, VIP_TAGGED_TWICE, VIP6, VIP6_BY_ADDR, VIP6_DIRECTED,
        VIP6_FLOATING, VIP6_TAGGED, VMAC, VMAC_CLOSED, VMAC_OF_NODE2, VMAC_TAGGED,
        VMAC_TAGGED_TWICE, VMAC6,
    },
};

/// A VIP, where it lives, and how frames reach it.
#[derive(Clone, Copy)]
struct Target {
    addr: IpAddr,
    mac: Mac,
    /// Service tag and tag; 0 = none.
    tags: (u16, u16),
}

const fn v4(addr: Ipv4Addr, mac: Mac) -> Target {
    Target { addr: IpAddr::V4(addr), mac, tags: (0, 0) }
}

const fn v6(addr: Ipv6Addr, mac: Mac) -> Target {
    Target { addr: IpAddr::V6(addr), mac, tags: (0, 0) }
}

const TARGETS: [Target; 19] = [
    v4(VIP, VMAC),
    v4(VIP, VMAC),
    v4(VIP, VMAC),
    v4(VIP_BY_ADDR, VMAC),
    v4(VIP_OF_NODE2, VMAC_OF_NODE2),
    v4(VIP_CLOSED, VMAC_CLOSED),
    v4(Ipv4Addr::new(10, 9, 0, 99), VMAC),
    v4(VIP_DIRECTED, OWN),
    v4(VIP_FLOATING, OWN),
    v4(VIP_FLOATED, OWN),
    v6(VIP6_FLOATING, OWN),
    v6(VIP6, VMAC6),
    v6(VIP6, VMAC6),
    v6(VIP6_BY_ADDR, VMAC6),
    v6(VIP6_DIRECTED, OWN),
    v6(Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 0x99), VMAC6),
    Target { tags: (0, 10), ..v4(VIP_TAGGED, VMAC_TAGGED) },
    Target { tags: (0, 10), ..v6(VIP6_TAGGED, VMAC_TAGGED) },
    Target { tags: (20, 10), ..v4(VIP_TAGGED_TWICE, VMAC_TAGGED_TWICE) },
];

/// A frame that is likely to get far into the decision, then often damaged.
pub fn generate(random: &mut Random) -> Vec<u8> {
    let target = random.pick(&TARGETS);
    let Target { addr: vip, mac, tags } = target;
    let number = random.next16();
    let client: IpAddr = match vip {
        IpAddr::V4(_) => Ipv4Addr::from(0x0a01_0000 | u32::from(number)).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, number).into(),
    };
    let from = SocketAddr::from((client, random.next16()));
    let port = random.pick(&[80, 53, 514, 22, 443, 9999]);
    let to = SocketAddr::from((vip, port));
    // Few identifications, so that fragments meet those of other packets.
    let id = u16::from(random.next8());
    let (frame, resolves) = match random.below(10) {
        0..=2 => (Frame::tcp(from, to, random.next8()), false),
        3..=4 => (Frame::udp(from, to, b"generated").identification(id), false),
        5 => (Frame::icmp_echo(client, vip, random.next16(), 1), false),
        6 => (icmp_error(random, client, vip), false),
        7 => (Frame::ip(client, vip, random.next8(), &[0; 24]), false),
        _ => (resolution(random, client, vip), true),
    };
    let frame = if resolves && random.below(4) > 0 {
        frame
    } else {
        let target = random.pick(&[mac, mac, mac, VMAC_OF_NODE2, OWN, PEER, Mac([0xff; 6])]);
        frame.macs(random.pick(&[CLIENT, CLIENT, PEER]), target)
    };
    let frame = if resolves { frame } else { dress(random, frame, vip) };
    let frame = tag(random, frame, tags);
    let bytes = if !resolves && random.below(8) == 0 {
        let frame = match vip {
            IpAddr::V6(_) if random.below(3) == 0 => {
                frame.extension(44, &[]).extension(60, &[0; 6])
            }
            _ => frame,
        };
        let fragments = frame.payload(&[0; 64]).fragments(24);
        fragments[random.below(fragments.len())].clone()
    } else {
        frame.bytes()
    };
    damage(random, bytes)
}

/// A frame that a node may send and that speaks for a VIP, as a rule, then often damaged.
pub fn spoken(random: &mut Random) -> Vec<u8> {
    let Target { addr: vip, mac, tags } = random.pick(&TARGETS);
    let named = random.pick(&[OWN, OWN, PEER, CLIENT, mac]);
    let other = random.pick(&TARGETS).addr;
    let frame = match (vip, other) {
        (IpAddr::V4(vip), _) if random.below(2) == 0 => {
            Frame::arp_reply((named, vip), (CLIENT, Ipv4Addr::new(10, 1, 0, random.next8())))
        }
        (IpAddr::V4(vip), IpAddr::V4(other)) => {
            Frame::arp_request(named, vip, random.pick(&[vip, other]))
        }
        (IpAddr::V4(vip), IpAddr::V6(_)) => Frame::arp_request(named, vip, vip),
        (IpAddr::V6(vip), _) if random.below(2) == 0 => {
            Frame::advertisement(named, vip, vip, random.pick(&[0x20, 0x60]))
        }
        (IpAddr::V6(vip), _) => Frame::solicitation(named, vip, vip),
    };
    let frame = frame.macs(random.pick(&[OWN, OWN, mac]), random.pick(&[CLIENT, Mac([0xff; 6])]));
    let bytes = tag(random, frame, tags).bytes();
    damage(random, bytes)
}

/// Now and then, options or extension headers.
fn dress(random: &mut Random, mut frame: Frame, vip: IpAddr) -> Frame {
    if random.below(8) > 0 {
        return frame;
    }
    if vip.is_ipv4() {
        return frame.ip_options(&vec![1; 4 * random.below(11)]);
    }
    for _ in 0..=random.below(10) {
        let units = random.below(3);
        frame = frame.extension(random.pick(&[0, 43, 60, 60, 51]), &vec![0; 6 + 8 * units]);
    }
    frame
}

/// The tags of the VIP's VLAN, as a rule.
fn tag(random: &mut Random, mut frame: Frame, (outer, inner): (u16, u16)) -> Frame {
    if random.below(10) == 0 {
        for _ in 0..random.below(4) {
            frame = frame.vlan(random.pick(&[0, 0, 7, 10]));
        }
        return frame;
    }
    if outer > 0 {
        frame = frame.service_vlan(outer);
    }
    if inner > 0 { frame.vlan(inner) } else { frame }
}

fn icmp_error(random: &mut Random, client: IpAddr, vip: IpAddr) -> Frame {
    let stranger: IpAddr = match vip {
        IpAddr::V4(_) => Ipv4Addr::new(10, 7, 7, 7).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 7).into(),
    };
    let source = random.pick(&[vip, vip, vip, stranger]);
    let port = random.pick(&[80, 443, 53]);
    let (from, to) =
        (SocketAddr::from((source, port)), SocketAddr::from((client, random.next16())));
    let quoted = if port == 53 { Frame::udp(from, to, b"!") } else { Frame::tcp(from, to, 0) };
    if let (IpAddr::V6(client), IpAddr::V6(vip)) = (client, vip) {
        let many = random.below(4);
        let quoted = (0..many).fold(quoted, |quoted, _| quoted.extension(60, &[0; 6])).bytes();
        let kind = random.pick(&[1, 2, 3, 4, 5, 129]);
        return Frame::icmpv6(client, vip, [kind, 0, 0, 0, 5, 0], &quoted[14..]);
    }
    let quoted = quoted.ip_options(&vec![1; 4 * random.below(3)]).bytes();
    let kind = random.pick(&[3, 11, 12, 5]);
    let body = [&[kind, 4, 0, 0, 0, 0, 5, 0], &quoted[14..]].concat();
    Frame::ip(client, vip, 1, &body)
}

/// ARP or neighbour discovery.
fn resolution(random: &mut Random, client: IpAddr, vip: IpAddr) -> Frame {
    let mac = random.pick(&[CLIENT, CLIENT, PEER, VMAC]);
    match (client, vip) {
        (IpAddr::V4(client), IpAddr::V4(vip)) => {
            let sender = random.pick(&[client, client, Ipv4Addr::UNSPECIFIED, vip]);
            match random.below(3) {
                0 => Frame::arp_reply((mac, sender), (VMAC, vip)),
                _ => Frame::arp_request(mac, sender, vip),
            }
        }
        (IpAddr::V6(client), IpAddr::V6(vip)) => {
            let sender = random.pick(&[client, client, Ipv6Addr::UNSPECIFIED, vip]);
            match random.below(4) {
                0 => Frame::advertisement(mac, sender, vip, 0x60).macs(CLIENT, VMAC6),
                1 => Frame::advertisement(mac, vip, client, 0x20),
                _ => Frame::solicitation(mac, sender, vip),
            }
        }
        _ => unreachable!("a client is of the VIP's family"),
    }
}

/// Cuts the frame or flips bytes in it, one time in three.
fn damage(random: &mut Random, mut frame: Vec<u8>) -> Vec<u8> {
    match random.below(6) {
        0 => frame.truncate(14 + random.below(frame.len() - 13)),
        1 => {
            for _ in 0..=random.below(3) {
                let at = random.below(frame.len());
                frame[at] = random.next8();
            }
        }
        _ => {}
    }
    frame
}

/// `SplitMix64`: the same frames on every run.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn next16(&mut self) -> u16 {
        let [a, b, ..] = self.next().to_ne_bytes();
        u16::from_ne_bytes([a, b])
    }

    fn next8(&mut self) -> u8 {
        self.next().to_ne_bytes()[0]
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("it is below a usize")
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}
