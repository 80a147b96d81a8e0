//! Generated frames: the kernel's verdict, reason and output bytes are the host's, for every frame
//! and also when all of them are forced through the slow path.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use vipfarm::{
    datapath::manual::{Entry, Manual},
    host::HostTables,
    model::Mac,
};
use vipfarm_common::Reason;
use vipfarm_lab::{
    Frame, require, skip,
    world::{
        CLIENT, OWN, PEER, VIP, VIP_BY_ADDR, VIP_CLOSED, VIP_OF_NODE2, VMAC, VMAC_CLOSED,
        VMAC_OF_NODE2, World,
    },
};

const FRAMES: u64 = 50_000;

#[test]
fn kernel_and_host_agree_on_generated_frames() {
    require!(skip::bpf());
    let world = World::new();
    let mut kernel = world.kernel();
    kernel.lease(Duration::from_mins(10)).expect("a lease");
    let fast = compare(&mut kernel, &world.host(), Entry::Filter);
    // Every outcome that a frame can have must have been had, or the test proves less than it says.
    for &reason in Reason::ALL {
        let possible = !matches!(reason, Reason::Broken | Reason::Fenced);
        assert_eq!(fast.contains_key(&reason), possible, "{reason:?} of {fast:?}");
    }
    kernel.force_slow();
    let slow = compare(&mut kernel, &world.host().forced_slow(), Entry::Filter);
    assert_eq!(slow, fast, "the slow path is a superset of the hot one");
    let direct = compare(&mut kernel, &world.host().forced_slow(), Entry::Slow);
    assert_eq!(direct, fast, "also when it is entered directly");
}

#[test]
fn the_slow_path_loads_and_decides_alike_when_it_logs() {
    require!(skip::bpf());
    let world = World::new();
    let mut kernel = world.kernel_with(true);
    kernel.lease(Duration::from_mins(10)).expect("a lease");
    let mut random = Random(7);
    for _ in 0..500 {
        let frame = generate(&mut random);
        let run = kernel.run(Entry::Filter, &frame).expect("it runs");
        assert_eq!(run.reasons, [world.host().decide(&mut frame.clone())]);
    }
}

#[test]
fn a_bitmap_stored_in_place_is_what_the_next_packet_meets() {
    require!(skip::bpf());
    let world = World::new();
    let mut kernel = world.kernel();
    kernel.lease(Duration::from_mins(10)).expect("a lease");
    for alive in [0b001, 0b110, 0b101, 0b111] {
        let world = World::new().with_alive(vipfarm::model::NodeSet::from_bits(alive));
        kernel.apply(world.plan()).expect("it is stored");
        let host = world.host();
        let mut random = Random(alive);
        for _ in 0..2_000 {
            let frame = generate(&mut random);
            let run = kernel.run(Entry::Filter, &frame).expect("it runs");
            assert_eq!(run.reasons, [host.decide(&mut frame.clone())], "alive {alive:b}");
        }
    }
}

/// Runs the frames on both sides; returns how often each reason was met.
fn compare(kernel: &mut Manual, host: &HostTables, entry: Entry) -> BTreeMap<Reason, u64> {
    let mut random = Random(0x5eed);
    let mut met = BTreeMap::new();
    for number in 0..FRAMES {
        let frame = generate(&mut random);
        let mut expected = frame.clone();
        let reason = host.decide(&mut expected);
        let run = kernel.run(entry, &frame).expect("it runs");
        let here = || format!("frame {number}: {frame:02x?}");
        assert_eq!(run.reasons, [reason], "{}", here());
        assert_eq!(run.action, reason.action(), "{}", here());
        assert_eq!(run.frame, expected, "{}", here());
        *met.entry(reason).or_insert(0) += 1;
    }
    met
}

/// A frame that is likely to get far into the decision, then often damaged.
fn generate(random: &mut Random) -> Vec<u8> {
    let vip = random.pick(&[
        VIP,
        VIP,
        VIP,
        VIP_BY_ADDR,
        VIP_OF_NODE2,
        VIP_CLOSED,
        Ipv4Addr::new(10, 9, 0, 99),
    ]);
    let client = Ipv4Addr::from(0x0a01_0000 | u32::from(random.next16()));
    let from = SocketAddr::from((client, random.next16()));
    let port = random.pick(&[80, 53, 514, 22, 443, 9999]);
    let to = SocketAddr::from((vip, port));
    let frame = match random.below(10) {
        0..=2 => Frame::tcp(from, to, random.next8()),
        3..=4 => Frame::udp(from, to, b"generated").identification(random.next16()),
        5 => Frame::icmp_echo(client.into(), vip.into(), random.next16(), 1),
        6 => Frame::ip(client.into(), vip.into(), 1, &icmp_error(random, client)),
        7 => Frame::ip(client.into(), vip.into(), random.next8(), &[0; 24]),
        _ => {
            let arp = arp(random, client, vip).bytes();
            return damage(random, arp);
        }
    };
    let vmac = match vip {
        VIP_OF_NODE2 => VMAC_OF_NODE2,
        VIP_CLOSED => VMAC_CLOSED,
        _ => VMAC,
    };
    let target = random.pick(&[vmac, vmac, vmac, VMAC_OF_NODE2, OWN, PEER, Mac([0xff; 6])]);
    let mut frame = frame.macs(random.pick(&[CLIENT, PEER]), target);
    if random.below(8) == 0 {
        let options = 4 * random.below(11);
        frame = frame.ip_options(&vec![1; options]);
    }
    for _ in 0..random.below(12) / 10 {
        frame = frame.vlan(random.pick(&[0, 0, 7]));
    }
    let bytes = if random.below(12) == 0 {
        let fragments = frame.payload(&[0; 64]).fragments(24);
        fragments[random.below(fragments.len())].clone()
    } else {
        frame.bytes()
    };
    damage(random, bytes)
}

fn icmp_error(random: &mut Random, client: Ipv4Addr) -> Vec<u8> {
    let source = random.pick(&[VIP, VIP, VIP_BY_ADDR, Ipv4Addr::new(10, 7, 7, 7)]);
    let quoted = Frame::tcp(
        SocketAddr::from((source, random.pick(&[80, 443]))),
        SocketAddr::from((client, random.next16())),
        0,
    );
    let quoted = quoted.ip_options(&vec![1; 4 * random.below(3)]).bytes();
    let kind = random.pick(&[3, 11, 12, 5]);
    [&[kind, 4, 0, 0, 0, 0, 5, 0], &quoted[14..]].concat()
}

fn arp(random: &mut Random, client: Ipv4Addr, vip: Ipv4Addr) -> Frame {
    let sender = random.pick(&[client, client, Ipv4Addr::UNSPECIFIED, vip]);
    let mac = random.pick(&[CLIENT, CLIENT, PEER, VMAC]);
    match random.below(3) {
        0 => Frame::arp_reply((mac, sender), (VMAC, vip)),
        _ => Frame::arp_request(mac, sender, vip),
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
struct Random(u64);

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
