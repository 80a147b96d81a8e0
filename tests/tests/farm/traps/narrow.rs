//! T9: a router says that a packet is too long for the way to a client. The error comes from the
//! router, and must reach the node that sent the packet.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use etherparse::{
    Icmpv4Type, Icmpv6Type, SlicedPacket, TransportSlice, icmpv4::DestUnreachableHeader,
};
use vipfarm_lab::{
    Capture, Captured, Direction, Farm, Host, Lab, Namespace, remote, require, skip,
};

use super::{BOTH, VIPS, Wires, lab, listen};
use crate::{all, directed, eventually, packets, packets_of_all, running, vmac};

/// What fits the way to the remote client, and no other link of the lab.
const NARROW: u16 = 1300;

const MEGABYTE: usize = 1 << 20;

/// A connection that has to wait for a time-out takes longer.
const SWIFT: Duration = Duration::from_secs(1);

/// What a datagram may take there and back.
const PATIENCE: Duration = Duration::from_millis(300);

/// Whether a frame says that a packet was too long.
fn too_long(frame: &Captured) -> bool {
    let Ok(SlicedPacket { transport, .. }) = SlicedPacket::from_ethernet(&frame.bytes) else {
        return false;
    };
    match transport {
        Some(TransportSlice::Icmpv4(icmp)) => matches!(
            icmp.icmp_type(),
            Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded { .. })
        ),
        Some(TransportSlice::Icmpv6(icmp)) => {
            matches!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { .. })
        }
        _ => false,
    }
}

/// The errors that reach the nodes' ports, and those that their filters let in.
struct Errors {
    came: Vec<Capture>,
    taken: Vec<Capture>,
}

impl Errors {
    fn watch(lab: &Lab) -> Self {
        let came = |frame: &Captured| frame.direction == Direction::Outgoing && too_long(frame);
        let taken = |frame: &Captured| frame.direction == Direction::Incoming && too_long(frame);
        let on_wire = |node: &Host| node.capture_on_wire_if(came).unwrap();
        let behind_filter = |node: &Host| node.capture_if(taken).unwrap();
        Self {
            came: lab.nodes().iter().map(on_wire).collect(),
            taken: lab.nodes().iter().map(behind_filter).collect(),
        }
    }

    /// By node, when each error that came has been taken by one of them.
    fn taken(&self) -> Vec<usize> {
        let count = |captures: &[Capture]| -> Vec<_> {
            captures.iter().map(|capture| capture.frames().len()).collect()
        };
        eventually("every node's port saw each error, and one node took it", || {
            let (came, taken) = (count(&self.came), count(&self.taken));
            let sum: usize = taken.iter().sum();
            came.iter().all(|&of_node| of_node == sum)
        });
        count(&self.taken)
    }
}

/// Whether a node knows that the way to the remote client is narrow.
fn knows(node: &Host, family: usize) -> bool {
    let route = node.run(&format!("ip route get {}", remote::ADDRESSES[family])).unwrap();
    route.contains(&format!("mtu {NARROW}"))
}

/// Every node sends a megabyte of its number to whoever connects to that port.
pub(super) fn serve_a_megabyte(lab: &Lab, port: u16) {
    listen(lab, port, |number, mut stream| stream.write_all(&vec![number; MEGABYTE]));
}

/// Fetches that megabyte: whose it is, and how long it took.
pub(super) fn fetch(from: &Namespace, at: SocketAddr) -> (usize, Duration) {
    let begin = Instant::now();
    let mut stream = from.in_ns(|| TcpStream::connect_timeout(&at, SWIFT)).unwrap();
    stream.set_read_timeout(Some(3 * SWIFT)).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let took = begin.elapsed();
    assert_eq!(bytes.len(), MEGABYTE);
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "of several nodes");
    (usize::from(bytes[0]), took)
}

#[tokio::test(flavor = "multi_thread")]
async fn t9_a_megabyte_flows_over_a_narrow_way_and_its_sender_alone_learns_of_it() {
    let program = require!(skip::farm());
    let lab = lab("narrow", 3, 1);
    let remote = lab.add_remote(lab.client(1), NARROW).unwrap();
    let _farm = running(&lab, &program, BOTH);
    let _wires = Wires::of(&lab, "t9-tcp");
    serve_a_megabyte(&lab, 8080);
    for (family, vip) in VIPS.into_iter().enumerate() {
        let at = SocketAddr::new(vip, 8080);
        let errors = Errors::watch(&lab);
        let mut served = BTreeSet::new();
        for _ in 0..12 {
            let before = errors.taken();
            let (owner, took) = fetch(&remote, at);
            assert!(took < SWIFT, "node{} needed {took:?}", owner + 1);
            let is_first = served.insert(owner);
            for (node, (before, after)) in before.into_iter().zip(errors.taken()).enumerate() {
                let new = after - before;
                assert!(new == 0 || node == owner, "node{} took an error", node + 1);
                assert!(new > 0 || node != owner || !is_first, "node{} was not told", node + 1);
            }
        }
        let knowing: BTreeSet<_> =
            (0..lab.nodes().len()).filter(|&node| knows(&lab.nodes()[node], family)).collect();
        assert_eq!(knowing, served, "{vip}");
    }
}

/// Answers that are too long for the way, from every node.
fn answer_at_length(lab: &Lab, at: SocketAddr) {
    for (number, node) in (0_u8..).zip(lab.nodes()) {
        let socket = node.in_ns(|| UdpSocket::bind(at)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 16];
            while let Ok((_, client)) = socket.recv_from(&mut buffer).await {
                let _ = socket.send_to(&[number; 1400], client).await;
            }
        });
    }
}

fn accepted(farm: &Farm<'_>) -> Vec<u64> {
    all(farm.lab()).into_iter().map(|node| packets(farm, node, "mine")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn t9_a_datagram_too_long_for_the_way_is_lost_once_and_then_comes_in_parts() {
    let program = require!(skip::farm());
    let lab = lab("parts", 3, 1);
    let router = lab.client(1);
    let remote = lab.add_remote(router, NARROW).unwrap();
    let farm = running(&lab, &program, BOTH);
    let _wires = Wires::of(&lab, "t9-udp");
    for (family, vip) in VIPS.into_iter().enumerate() {
        let at = SocketAddr::new(vip, 7000);
        answer_at_length(&lab, at);
        let own: IpAddr = remote::ADDRESSES[family];
        let socket = remote.in_ns(|| UdpSocket::bind((own, 0))).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // No rule covers that port: only the router is to learn where the VIP is.
        socket.send_to(b"where?", (vip, 9)).unwrap();
        eventually("the router knows the VIP", || router.neighbour(vip).unwrap() == Some(vmac()));

        let before = accepted(&farm);
        let mut answer = [0; 2000];
        socket.send_to(b"first", at).unwrap();
        let lost = socket.recv(&mut answer);
        assert!(lost.is_err(), "the way is not narrow: {lost:?}");
        socket.send_to(b"second", at).unwrap();
        assert_eq!(socket.recv(&mut answer).unwrap(), 1400);
        let owner = usize::from(answer[0]);
        for (node, (before, after)) in before.into_iter().zip(accepted(&farm)).enumerate() {
            let expected = if node == owner { 3 } else { 0 };
            assert_eq!(after - before, expected, "node{}: two requests, one error", node + 1);
            assert_eq!(knows(&lab.nodes()[node], family), node == owner, "node{}", node + 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t9_every_node_learns_of_a_narrow_way_from_one_error_if_any_may_answer() {
    let program = require!(skip::farm());
    let lab = lab("shared", 3, 1);
    let remote = lab.add_remote(lab.client(1), NARROW).unwrap();
    let farm = running(&lab, &program, BOTH);
    let _wires = Wires::of(&lab, "t9-ipid");
    let at = SocketAddr::new(VIPS[0], 7001);
    answer_at_length(&lab, at);
    let socket = remote.in_ns(|| UdpSocket::bind((remote::ADDRESSES[0], 0))).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"first", at).unwrap();
    eventually("every node has the error", || {
        all(&lab).into_iter().all(|node| packets(&farm, node, "icmp_shared") == 1)
    });
    assert!(lab.nodes().iter().all(|node| knows(node, 0)));
    let mut answered = BTreeSet::new();
    for _ in 0..30 {
        let mut answer = [0; 2000];
        socket.send_to(b"next", at).unwrap();
        assert_eq!(socket.recv(&mut answer).unwrap(), 1400);
        answered.insert(answer[0]);
    }
    assert_eq!(answered.len(), 3, "only {answered:?} were asked");
}

/// Where one node gets all that the router sends, it hands on what is one other's, and copies to the
/// others what all are to know.
#[tokio::test(flavor = "multi_thread")]
async fn t9_errors_reach_who_must_know_where_nodes_hand_over() {
    const NAME: &str = "t9_errors_reach_who_must_know_where_nodes_hand_over";
    let (program, object) = require!(NAME, directed::needs());
    let lab = directed::lab("told", 1, 1, &object);
    let remote = lab.add_remote(lab.client(1), NARROW).unwrap();
    let vips =
        BOTH.replace("  - interface: eth0\n", "  - interface: eth0\n    mode: vmac_directed\n");
    let farm = running(&lab, &program, &vips);
    let _wires = Wires::of(&lab, "t9-directed");
    serve_a_megabyte(&lab, 8080);
    for (family, vip) in VIPS.into_iter().enumerate() {
        let mut served = BTreeSet::new();
        for _ in 0..12 {
            let (owner, took) = fetch(&remote, SocketAddr::new(vip, 8080));
            assert!(took < SWIFT, "node{} needed {took:?}", owner + 1);
            served.insert(owner);
        }
        assert!(served.len() > 1, "no error had to be handed on");
        let knowing: BTreeSet<_> =
            (0..lab.nodes().len()).filter(|&node| knows(&lab.nodes()[node], family)).collect();
        assert_eq!(knowing, served, "{vip}");
    }
    for node in lab.nodes() {
        node.run("ip route flush cache").unwrap();
        assert!(!knows(node, 0), "{} has forgotten", node.name());
    }
    let at = SocketAddr::new(VIPS[0], 7001);
    answer_at_length(&lab, at);
    let socket = remote.in_ns(|| UdpSocket::bind((remote::ADDRESSES[0], 0))).unwrap();
    socket.send_to(b"first", at).unwrap();
    eventually("every node has the error", || {
        packets_of_all(&farm, "copied_icmp") == 1 && packets_of_all(&farm, "icmp_shared") == 2
    });
    eventually("every node knows the way", || lab.nodes().iter().all(|node| knows(node, 0)));
}
