//! T8: datagrams in parts, of which only the first has the ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use etherparse::{SlicedPacket, TransportSlice};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use vipfarm::model::Mac;
use vipfarm_lab::{Captured, Frame, Lab, lab::VIP, lab::VIP_V6, require, skip};

use super::{Wires, filler, lab};
use crate::{all, directed, packets, packets_of_all, running, vmac, wire::SILENCE};

/// One filter for each VIP: all three for IPv4, and those that IPv6 has.
const FILTERS: &str = "vips:
  - interface: eth0
    addresses: [10.77.0.100/16, 10.77.0.101/16, 10.77.0.102/16, 'fd00:77::a4d:64/64', 'fd00:77::a4d:65/64']
    groups:
      - name: all
        rules:
          - { virtual_addr: 10.77.0.100, port: 7000, proto: udp, filter: on_addr }
          - { virtual_addr: 10.77.0.101, port: 7000, proto: udp, filter: on_port }
          - { virtual_addr: 10.77.0.102, port: 7000, proto: udp, filter: on_ipid }
          - { virtual_addr: 'fd00:77::a4d:64', port: 7000, proto: udp, filter: on_addr }
          - { virtual_addr: 'fd00:77::a4d:65', port: 7000, proto: udp, filter: on_port }
";

const VIPS: [IpAddr; 5] = [
    IpAddr::V4(VIP),
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, 101)),
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, 102)),
    IpAddr::V6(VIP_V6),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0xa4d, 0x65)),
];

const PORT: u16 = 7000;

/// Of the clients.
const ADDRESSES: u8 = 8;

/// How long a kernel waits for missing parts, in seconds; usually 30.
const REASSEMBLY: u64 = 1;

/// A lab whose nodes give incomplete datagrams up soon.
fn impatient(lab: Lab) -> Lab {
    for node in lab.nodes() {
        for sysctl in ["net/ipv4/ipfrag_time", "net/ipv6/ip6frag_time"] {
            node.set_sysctl(sysctl, &REASSEMBLY.to_string()).unwrap();
        }
    }
    lab
}

/// Every node answers on every VIP with a datagram's number and length, and its own number.
fn answer(lab: &Lab) {
    for (number, node) in (0_u8..).zip(lab.nodes()) {
        for vip in VIPS {
            let socket = node.in_ns(|| UdpSocket::bind((vip, PORT))).unwrap();
            setsockopt(&socket, RcvBufForce, &(8 << 20)).unwrap();
            socket.set_nonblocking(true).unwrap();
            let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
            tokio::spawn(async move {
                let mut buffer = vec![0; 65_536];
                while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                    let length = u32::try_from(length).unwrap().to_be_bytes();
                    let answer = [&buffer[..4], &length, &[number]].concat();
                    let _ = socket.send_to(&answer, client).await;
                }
            });
        }
    }
}

/// Sockets of one client's addresses, and what was asked through them: length by number.
struct Client {
    sockets: Vec<(SocketAddr, UdpSocket)>,
    asked: BTreeMap<u32, usize>,
}

impl Client {
    fn new(lab: &Lab) -> Self {
        let client = lab.client(1);
        let families = [VIPS[0], VIPS[3]].map(|vip| client.addresses_like(vip));
        let bind = |address: IpAddr| {
            let socket = client.in_ns(|| UdpSocket::bind((address, 0))).unwrap();
            socket.set_nonblocking(true).unwrap();
            (socket.local_addr().unwrap(), socket)
        };
        let sockets = families.concat().into_iter().map(bind).collect();
        Self { sockets, asked: BTreeMap::new() }
    }

    /// A datagram with a number of its own.
    fn next(&mut self, length: usize) -> (u32, Vec<u8>) {
        let number = u32::try_from(self.asked.len()).unwrap();
        self.asked.insert(number, length);
        (number, number.to_be_bytes().into_iter().chain(filler(length - 4)).collect())
    }

    /// That each was answered once, whole, and by more than one node in all.
    fn assert_answered(&self, wires: &Wires) {
        thread::sleep(SILENCE);
        let mut answers: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        let mut buffer = [0; 16];
        for (_, socket) in &self.sockets {
            while let Ok(length) = socket.recv(&mut buffer) {
                assert_eq!(length, 9);
                let word = |at: usize| u32::from_be_bytes(buffer[at..at + 4].try_into().unwrap());
                answers.entry(word(0)).or_default().push((word(4) as usize, buffer[8]));
            }
        }
        for (number, length) in &self.asked {
            let got = answers.get(number).map_or(&[][..], Vec::as_slice);
            assert!(matches!(got, [(whole, _)] if whole == length), "{number}: {got:?}");
        }
        let nodes: BTreeSet<_> = answers.values().flatten().map(|(_, node)| node).collect();
        assert!(nodes.len() > 1, "only {nodes:?} answered");

        // When the others give their parts up, they say nothing (RFC 792, time exceeded).
        thread::sleep(Duration::from_millis(1000 * REASSEMBLY + 500));
        let errors: Vec<_> = wires.sent().filter(is_error).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
}

/// Whether a frame is an error of ICMP or `ICMPv6`.
fn is_error(frame: &Captured) -> bool {
    match SlicedPacket::from_ethernet(&frame.bytes).ok().and_then(|packet| packet.transport) {
        Some(TransportSlice::Icmpv4(_)) => true,
        Some(TransportSlice::Icmpv6(icmp)) => icmp.slice()[0] < 128,
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t8_long_datagrams_arrive_whole_at_one_node_whatever_the_filter() {
    let program = require!(skip::farm());
    let lab = impatient(lab("long", 3, ADDRESSES));
    let farm = running(&lab, &program, FILTERS);
    answer(&lab);
    let wires = Wires::of(&lab, "t8-long");
    let mut client = Client::new(&lab);
    for _ in 0..3 {
        for socket in 0..client.sockets.len() {
            for vip in VIPS {
                if client.sockets[socket].0.is_ipv4() == vip.is_ipv4() {
                    let (_, datagram) = client.next(60_000);
                    client.sockets[socket].1.send_to(&datagram, (vip, PORT)).unwrap();
                    thread::sleep(Duration::from_millis(4));
                }
            }
        }
    }
    client.assert_answered(&wires);
    assert_eq!(packets_of_all(&farm, "fragment_flood"), 0);
}

/// The orders in which parts are sent.
fn orders(parts: &[Vec<u8>]) -> [Vec<Vec<u8>>; 4] {
    let count = parts.len();
    assert!(count % 2 == 1, "steps of 4 do not reach all of {count} parts");
    let reversed = parts.iter().rev().cloned().collect();
    let shuffled =
        |from: usize| (0..count).map(|at| parts[(4 * at + from) % count].clone()).collect();
    let doubled = parts.iter().flat_map(|part| [part.clone(), part.clone()]).collect();
    [reversed, shuffled(3), shuffled(count - 2), doubled]
}

/// Sends datagrams in parts, in all orders, to the MAC that the client's host has for each VIP.
fn send_in_parts(lab: &Lab, client: &mut Client, mac_of: impl Fn(IpAddr) -> Mac) {
    const LENGTH: usize = 60_000;
    // A multiple of 8 for both families.
    const PART: usize = 1400;
    let host = lab.client(1);
    for socket in 0..client.sockets.len() {
        let from = client.sockets[socket].0;
        for vip in VIPS.into_iter().filter(|vip| vip.is_ipv4() == from.is_ipv4()) {
            for order in 0..4 {
                let (number, datagram) = client.next(LENGTH);
                let whole = Frame::udp(from, SocketAddr::new(vip, PORT), &datagram);
                let whole = whole.identification(u16::try_from(number).unwrap());
                let parts = whole.macs(host.mac(), mac_of(vip)).fragments(PART);
                host.inject_all(&orders(&parts)[order]).unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t8_parts_in_any_order_and_twice_make_one_datagram_at_one_node() {
    let program = require!(skip::farm());
    let lab = impatient(lab("order", 3, ADDRESSES));
    let farm = running(&lab, &program, FILTERS);
    answer(&lab);
    let wires = Wires::of(&lab, "t8-order");
    let mut client = Client::new(&lab);
    send_in_parts(&lab, &mut client, |_| vmac());
    client.assert_answered(&wires);
    for node in all(&lab) {
        assert!(packets(&farm, node, "early_fragment") > 0, "node{node} kept none");
    }
    assert_eq!(packets_of_all(&farm, "fragment_flood"), 0);
}

/// Where one node gets all of a client's frames and hands them on, it copies to the others those that
/// come before their ports.
#[tokio::test(flavor = "multi_thread")]
async fn t8_parts_in_any_order_are_handed_to_their_owner() {
    const NAME: &str = "t8_parts_in_any_order_are_handed_to_their_owner";
    let (program, object) = require!(NAME, directed::needs());
    let lab = impatient(directed::lab("handed", 1, ADDRESSES, &object));
    let vips =
        FILTERS.replace("  - interface: eth0\n", "  - interface: eth0\n    mode: vmac_directed\n");
    let farm = running(&lab, &program, &vips);
    answer(&lab);
    let wires = Wires::of(&lab, "t8-handed");
    let mut client = Client::new(&lab);
    // Whole ones first: the host learns whom to send to.
    for vip in VIPS {
        let (_, datagram) = client.next(60_000);
        let mut sockets = client.sockets.iter();
        let socket = sockets.find(|(from, _)| from.is_ipv4() == vip.is_ipv4()).unwrap();
        socket.1.send_to(&datagram, (vip, PORT)).unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    let host = lab.client(1);
    send_in_parts(&lab, &mut client, |vip| host.neighbour(vip).unwrap().unwrap());
    client.assert_answered(&wires);
    for reason in ["copied_fragment", "early_fragment", "forwarded"] {
        assert!(packets_of_all(&farm, reason) > 0, "no frame was {reason}");
    }
    assert_eq!(packets_of_all(&farm, "fragment_flood"), 0);
}
