//! An example capture of frames made by hand, and what `replay` says of it.

use vipfarm::{
    commands::{
        Ink,
        replay::{Form, Replay},
    },
    config,
    model::{Farm, Mac, NodeId},
};
use vipfarm_lab::{
    Frame,
    frame::{ACK, SYN},
};

const FARM: &str = "
farm: example
key_file: k
nodes:
  - { name: node1, addresses: [192.168.1.11] }
  - { name: node2, addresses: [192.168.1.12] }
  - { name: node3, addresses: [192.168.1.13] }
vips:
  - addresses: [192.168.1.222/24, \"2001:db8::222/64\"]
    groups:
      - name: http
        rules:
          - { port: 80, proto: tcp, filter: on_port }
          - { port: 443, proto: tcp, filter: on_addr }
      - name: dns
        powers: { node2: 1, node3: 1 }
        rules: [{ port: 53, proto: udp, filter: on_port }]
  - addresses: [192.168.1.223/24]
    vlan: 10
    mode: vmac_directed
    groups: [{ name: mail, rules: [{ port: 25, proto: tcp, filter: on_addr }] }]
";

const CLIENT: Mac = Mac([2, 0, 0, 0, 1, 1]);
const NODE1: Mac = Mac([2, 0, 0, 0, 0, 0x11]);

#[test]
fn an_example_capture_is_judged_for_the_farm_as_a_whole() {
    insta::assert_snapshot!(table(&farm(), None));
}

#[test]
fn an_example_capture_is_judged_for_one_node() {
    let farm = farm();
    insta::assert_snapshot!(table(&farm, farm.node_named("node1")));
}

fn farm() -> Farm {
    config::parse("example.yaml", FARM).unwrap_or_else(|error| panic!("{error}"))
}

fn table(farm: &Farm, node: Option<NodeId>) -> String {
    let replay = Replay {
        farm,
        hash_key: *b"0123456789abcdef",
        alive: farm.node_ids().collect(),
        node,
        macs: &[],
    };
    let mut text = Vec::new();
    let capture = capture(&frames());
    replay.write(&capture[..], Form::Table(Ink::Plain), &mut text).expect("a whole capture");
    String::from_utf8(text).expect("UTF-8")
}

fn frames() -> Vec<Vec<u8>> {
    let vmac = Mac::of_vip([192, 168, 1, 222].into());
    let client = "203.0.113.7".parse().expect("an address");
    let v6 = "2001:db8::7".parse().expect("an address");
    let vip = "192.168.1.222".parse().expect("an address");
    let vip6 = "2001:db8::222".parse().expect("an address");
    let to_vip = |frame: Frame| frame.macs(CLIENT, vmac).bytes();
    let mut frames = vec![
        Frame::arp_request(CLIENT, [192, 168, 1, 1].into(), [192, 168, 1, 222].into()).bytes(),
        to_vip(Frame::tcp("203.0.113.7:51000", "192.168.1.222:80", SYN)),
        to_vip(Frame::tcp("203.0.113.7:51000", "192.168.1.222:80", ACK).payload(b"GET /")),
        to_vip(Frame::tcp("203.0.113.7:51001", "192.168.1.222:80", SYN)),
        to_vip(Frame::tcp("203.0.113.7:51002", "192.168.1.222:8080", SYN)),
        to_vip(Frame::tcp("[2001:db8::7]:51000", "[2001:db8::222]:443", SYN)),
        to_vip(Frame::icmp_echo(client, vip, 1, 1)),
        to_vip(Frame::icmp_echo(v6, vip6, 1, 1)),
        to_vip(Frame::ip(client, vip, 47, b"GRE")),
        // What a client hears, and what is another network's.
        Frame::tcp("192.168.1.222:80", "203.0.113.7:51000", SYN | ACK).macs(NODE1, CLIENT).bytes(),
        Frame::tcp("203.0.113.7:51000", "192.168.1.223:25", SYN).macs(CLIENT, NODE1).bytes(),
        Frame::tcp("203.0.113.7:51000", "192.168.1.223:25", SYN)
            .macs(CLIENT, NODE1)
            .vlan(10)
            .bytes(),
        [&[1, 0x80, 0xc2, 0, 0, 0x0e][..], &CLIENT.0, &[0x88, 0xcc], &[0; 46]].concat(),
    ];
    let datagram = Frame::udp("203.0.113.8:4000", "192.168.1.222:53", &[0; 40]);
    let [first, second, third] = &datagram.macs(CLIENT, vmac).fragments(16)[..] else {
        panic!("48 bytes are three times 16")
    };
    frames.extend([second, first, third].map(Clone::clone));
    frames
}

/// A capture with a packet each 1.5 ms.
fn capture(frames: &[Vec<u8>]) -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut bytes: Vec<u8> = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1]);
    for (index, frame) in (0..).zip(frames) {
        let length = u32::try_from(frame.len()).expect("a small frame");
        bytes.extend::<Vec<u8>>(words(&[1_700_000_000, 1500 * index, length, length]));
        bytes.extend(frame);
    }
    bytes
}
