//! What clients get: one answer, from one node; and what is not for the VIP is left alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use vipfarm::model::Mac;
use vipfarm_lab::{
    Captured, Direction, Farm, Frame, Host, Lab, frame::SYN, lab::VIP, require, skip,
    traffic::HttpLoad, traffic::HttpServer,
};

use crate::{
    HTTP, ONE_VIP, all, lab, packets, running, vmac,
    wire::{self, What, answers, node_of},
};

/// Every TCP and UDP port up to a point: TCP by address on any, UDP on one.
const WILDCARD: &str = "vips:
  - interface: eth0
    addresses: [10.77.0.100/16]
    groups:
      - name: all
        rules:
          - { port: '*', proto: tcp, filter: on_addr }
          - { port: 7000, proto: udp, filter: on_addr }
";

/// Asks that MAC for an echo from each address of the first client, three times: who answered it.
pub(crate) fn echoed(lab: &Lab, vip: IpAddr, mac: Mac) -> BTreeMap<IpAddr, Vec<&str>> {
    let client = lab.client(1);
    let addresses = client.addresses_like(vip);
    let ask = |(seq, &address): (u16, &IpAddr)| {
        let frame = Frame::icmp_echo(address, vip, 7, seq);
        frame.macs(client.mac(), mac).bytes()
    };
    // They go by the address alone, not by their numbers.
    let requests = (0..3_u16).flat_map(|round| {
        let numbered = (1000 * round..).zip(&addresses);
        numbered.map(ask).collect::<Vec<_>>()
    });
    let replies = answers(client, &requests.collect::<Vec<_>>(), vip);

    let mut answered: BTreeMap<IpAddr, Vec<_>> = BTreeMap::new();
    let mut numbers = BTreeSet::new();
    for reply in replies {
        let What::EchoReply { seq } = reply.what else { panic!("{reply:?}") };
        assert!(numbers.insert((reply.target, seq)), "answered twice: {reply:?}");
        answered.entry(reply.target).or_default().push(node_of(lab, reply.mac));
    }
    assert_eq!(numbers.len(), 3 * addresses.len());
    for (client, by) in &answered {
        assert_eq!(BTreeSet::from_iter(by).len(), 1, "{client} was answered by {by:?}");
    }
    answered
}

#[test]
fn t10_an_echo_request_is_answered_exactly_once() {
    let program = require!(skip::farm());
    let lab = lab("echo", 3, 150);
    let farm = running(&lab, &program, ONE_VIP);
    let answered = echoed(&lab, VIP.into(), vmac());
    for client in answered.keys().step_by(10) {
        let (from, to) = (client.to_string(), VIP.to_string());
        let explained = farm.explain_offline(&[&from, &to, "--proto", "icmp"]).unwrap();
        assert_eq!(explained.owner.as_deref(), Some(answered[client][0]), "{client}");
    }
}

#[test]
fn t11_a_closed_port_refuses_once_and_a_port_without_rule_is_silent() {
    let program = require!(skip::farm());
    let lab = lab("closed", 3, 100);
    let farm = running(&lab, &program, WILDCARD);
    let client = lab.client(1);
    let addresses = client.addresses();
    let to_vip = |frame: Frame| frame.macs(client.mac(), vmac()).bytes();
    let asked: BTreeSet<_> = client.addresses_like(VIP.into()).into_iter().collect();

    let syn = |&address: &Ipv4Addr| to_vip(Frame::tcp((address, 4000), (VIP, 8443), SYN));
    let resets = answers(client, &addresses.iter().map(syn).collect::<Vec<_>>(), VIP);
    let reset = |answer: &wire::Packet| answer.what == What::Reset { target: 4000 };
    assert!(resets.iter().all(reset), "{resets:?}");
    assert_eq!(resets.len(), addresses.len(), "exactly one reset each");
    assert_eq!(resets.iter().map(|reset| reset.target).collect::<BTreeSet<_>>(), asked);

    let datagram = |port| {
        move |&address: &Ipv4Addr| Frame::udp((address, 4000), (VIP, port), b"anybody there?")
    };
    let frames: Vec<_> = addresses.iter().map(datagram(7000)).map(to_vip).collect();
    // Some at a time: a kernel sends 50 errors at once (`icmp_msgs_burst`), and counts up to 2 for each.
    let refused: Vec<_> = frames.chunks(25).flat_map(|some| answers(client, some, VIP)).collect();
    assert!(refused.iter().all(|answer| answer.what == What::Unreachable), "{refused:?}");
    assert_eq!(refused.len(), addresses.len(), "exactly one error each");
    assert_eq!(refused.iter().map(|answer| answer.target).collect::<BTreeSet<_>>(), asked);

    let before: Vec<_> = all(&lab).iter().map(|&node| packets(&farm, node, "no_rule")).collect();
    let frames: Vec<_> = addresses.iter().map(datagram(7001)).map(to_vip).collect();
    assert_eq!(answers(client, &frames, VIP), [], "no rule covers UDP port 7001");
    for (node, before) in all(&lab).into_iter().zip(before) {
        let count = packets(&farm, node, "no_rule") - before;
        assert_eq!(count, addresses.len() as u64, "node{node}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t20_t21_the_stack_serves_what_the_filter_accepts_native_and_generic() {
    let program = require!(skip::farm());
    let lab = lab("modes", 3, 60);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let _servers: Vec<_> =
        lab.nodes().iter().map(|node| HttpServer::start(node, 80).unwrap()).collect();
    for (mode, arguments) in [("native", &[][..]), ("generic", &["--generic"])] {
        for node in all(&lab) {
            farm.start_node(node, arguments).unwrap();
        }
        farm.wait_converged(&all(&lab)).unwrap();
        for node in all(&lab) {
            assert_eq!(farm.status(node).unwrap().vips[0].xdp, mode);
            let link = lab.node(node).run("ip link show eth0").unwrap();
            assert!(!link.contains("PROMISC"), "the unicast filter receives the VMAC: {link}");
            let footprint = farm.footprint(node).unwrap();
            assert!(footprint.macs.contains(&vmac().to_string()), "{footprint:?}");
        }
        let load = HttpLoad::start(lab.clients(), HTTP, 400, Duration::from_millis(900)).unwrap();
        let requests = load.stop_after(250).await.unwrap();
        let failed: Vec<_> = requests.iter().filter(|request| request.outcome.is_err()).collect();
        assert!(failed.is_empty(), "{mode}: {failed:?}");
        for request in requests.iter().step_by(20) {
            let owner = farm.owner(request.client, HTTP);
            assert_eq!(request.outcome.as_ref(), Ok(&owner.unwrap()), "{mode}: {request:?}");
        }
        // T2: no connection has taught the switch where the VMAC is.
        assert!(lab.fdb().unwrap().iter().all(|entry| entry.mac != vmac()));
        farm.stop().unwrap();
    }
}

#[test]
fn t30_what_is_not_for_the_vip_passes_untouched_also_while_the_node_is_fenced() {
    let program = require!(skip::farm());
    let lab = lab("untouched", 2, 4);
    let mut farm = running(&lab, &program, ONE_VIP);
    passes_untouched(lab.client(1), lab.node(2));

    farm.freeze(2, true).unwrap();
    farm.wait_converged(&[1]).unwrap();
    let syn = Frame::tcp((lab.client(1).address(), 4000), (VIP, 80), SYN);
    lab.client(1).inject(&syn.macs(lab.client(1).mac(), vmac()).bytes()).unwrap();
    passes_untouched(lab.client(1), lab.node(2));
    farm.freeze(2, false).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    assert_eq!(packets(&farm, 2, "fenced"), 1, "the node was fenced meanwhile");
}

/// The node's own address serves, and frames of every other kind arrive as they were sent.
fn passes_untouched(client: &Host, node: &Host) {
    let own = IpAddr::V4(node.address());
    let listener = node.in_ns(|| TcpListener::bind((own, 0))).unwrap();
    let server = listener.local_addr().unwrap();
    let connected = client.in_ns(|| TcpStream::connect_timeout(&server, Duration::from_secs(1)));
    assert!(connected.is_ok(), "TCP to the node's own address: {connected:?}");
    let receiver = node.in_ns(|| UdpSocket::bind((own, 0))).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let sender = client.in_ns(|| UdpSocket::bind((client.address(), 0))).unwrap();
    sender.send_to(b"hello", receiver.local_addr().unwrap()).unwrap();
    assert_eq!(receiver.recv(&mut [0; 16]).unwrap(), 5);
    let echo = Frame::icmp_echo(IpAddr::V4(client.address()), own, 1, 1);
    let replies = answers(client, &[echo.macs(client.mac(), node.mac()).bytes()], node.address());
    assert!(replies.iter().any(|reply| reply.what == What::EchoReply { seq: 1 }), "{replies:?}");

    let from = (client.address(), 9);
    let multicast = Ipv4Addr::new(224, 0, 0, 18);
    let elsewhere = Ipv4Addr::new(10, 77, 200, 1);
    let vrrp = Frame::ip(client.address().into(), multicast.into(), 112, b"vrrp");
    let frames: Vec<_> = [
        Frame::udp(from, (Ipv4Addr::BROADCAST, 67), b"dhcp").macs(client.mac(), Mac([0xff; 6])),
        vrrp.macs(client.mac(), Mac([1, 0, 0x5e, 0, 0, 18])),
        // Flooded by the switch, like all it has never heard from.
        Frame::udp(from, (elsewhere, 9), b"other").macs(client.mac(), Mac([2, 0, 0, 0, 8, 8])),
        Frame::udp(from, (elsewhere, 9), b"vmac").macs(client.mac(), vmac()),
        Frame::udp(from, (VIP, 9), b"tagged").vlan(7).vlan(8).vlan(9).macs(client.mac(), vmac()),
    ]
    .iter()
    .map(Frame::bytes)
    .collect();
    let incoming = |frame: &Captured| frame.direction == Direction::Incoming;
    let seen = node.capture_if(incoming).unwrap();
    client.inject_all(&frames).unwrap();
    for frame in &frames {
        let arrived = seen.wait_for(Duration::from_secs(1), |seen| seen.bytes == *frame);
        assert!(arrived.is_some(), "did not arrive as it was sent: {frame:02x?}");
    }
}

#[test]
fn t15_a_nodes_own_connections_to_the_vip_end_at_itself() {
    let program = require!(skip::farm());
    let lab = lab("itself", 2, 1);
    let _farm = running(&lab, &program, ONE_VIP);
    for node in lab.nodes() {
        let listener = node.in_ns(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80))).unwrap();
        // Whoever's buckets they would be.
        for _ in 0..8 {
            let stream = node.in_ns(|| TcpStream::connect((VIP, 80))).unwrap();
            let (_, peer) = listener.accept().unwrap();
            assert_eq!(peer, stream.local_addr().unwrap());
        }
    }
}
