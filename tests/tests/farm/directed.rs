//! `mode: vmac_directed`: nodes answer with their own MACs, and hand frames to the owner.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, UdpSocket},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    net::if_::if_nametoindex,
    time::{ClockId, clock_gettime},
};
use vipfarm::{
    agent::ports::Port,
    config,
    datapath::{Buffers, Datapath, Options},
    model::{Mac, Mode, NodeId, View},
    plan::OwnAddresses,
    status::Verdict,
};
use vipfarm_common::Reason;
use vipfarm_lab::{
    Capture, Captured, Direction, Farm, Frame, Host, Lab, Topology,
    frame::SYN,
    lab::{VIP, VIP_V6, beside},
    require, skip,
    traffic::{HttpLoad, HttpServer},
};

use crate::{
    HTTP, ONE_VIP, all, eventually,
    ipv6::{advertised, read},
    packets, packets_of_all,
    probed::Probed,
    running,
    serving::echoed,
    vmac,
    wire::{self, What, answers, arp, arp_replies, node_of},
};

pub(crate) const ECHO_V6: SocketAddr = SocketAddr::new(IpAddr::V6(VIP_V6), 7000);

/// [`ONE_VIP`] of both families, with nodes that answer themselves.
pub(crate) fn directed() -> String {
    ONE_VIP
        .replace("  - interface: eth0\n", "  - interface: eth0\n    mode: vmac_directed\n")
        .replace("10.77.0.100/16", "10.77.0.100/16, 'fd00:77::a4d:64/64'")
}

/// The program, and what makes veth pairs carry frames that nodes hand on.
pub(crate) fn needs() -> Result<(PathBuf, PathBuf), String> {
    Ok((skip::farm()?, skip::lab_object()?))
}

/// A lab whose wires carry frames that nodes hand on.
pub(crate) fn lab(name: &str, clients: u8, client_addresses: u8, object: &Path) -> Lab {
    let topology = Topology { client_addresses, ipv6: true, ..Topology::new(3, clients) };
    let lab = Lab::new(name, &topology).unwrap();
    lab.carry_handed_on_frames(object).unwrap();
    lab
}

/// The nodes whose MACs the clients have for a VIP.
pub(crate) fn cached(lab: &Lab, vip: impl Into<IpAddr>) -> Vec<Option<&str>> {
    let vip = vip.into();
    let of_client = |client: &Host| client.neighbour(vip).unwrap().map(|mac| node_of(lab, mac));
    lab.clients().iter().map(of_client).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn t17_t18_whoever_has_a_clients_frames_the_owner_answers_once() {
    const NAME: &str = "t17_t18_whoever_has_a_clients_frames_the_owner_answers_once";
    let (program, object) = require!(NAME, needs());
    let lab = lab("directed", 6, 40, &object);
    let vips = directed()
        .replace("name: all", "name: all\n        powers: { node1: 2, node2: 1, node3: 1 }");
    let farm = running(&lab, &program, &vips);
    let _servers: Vec<_> =
        lab.nodes().iter().map(|node| HttpServer::start(node, 80).unwrap()).collect();
    let traffic = [Probed::start(&lab).await, Probed::start_to(&lab, ECHO_V6).await];
    let status = farm.status(1).unwrap();
    for target in [HTTP.into(), SocketAddr::from((VIP_V6, 80))] {
        assert_shares(&served(&lab, target).await, &status.groups[0].load);
    }
    for traffic in traffic {
        traffic.stop().await;
    }
    for node in all(&lab) {
        assert!(packets(&farm, node, "mine") > 0, "node{node} serves");
        assert_eq!(packets(&farm, node, "handed_over"), 0, "node{node} was sent another's");
        assert_eq!(packets(&farm, node, "no_next_hop"), 0, "node{node} knows its peers");
    }
    assert!(packets_of_all(&farm, "forwarded") > 400);
    assert_eq!((status.vips[0].mode, &status.vips[0].vmac), (Mode::VmacDirected, &None));
    assert_eq!(status.proof.verdict, Verdict::OwnedOnce, "{:?}", status.proof);

    // T18: the switch has every station at its own port, and the virtual MAC at none.
    let hosts = || lab.nodes().iter().chain(lab.clients());
    for entry in lab.fdb().unwrap() {
        let host = hosts().find(|host| host.mac() == entry.mac);
        assert_eq!(host.map(Host::name), Some(&*entry.port), "{entry:?}");
    }
    for vip in [IpAddr::from(VIP), VIP_V6.into()] {
        assert!(cached(&lab, vip).iter().all(Option::is_some), "each client has a node's MAC");
    }
}

/// Has clients ask for a while, and returns who answered each request: none failed.
async fn served(lab: &Lab, target: SocketAddr) -> Vec<String> {
    let load = HttpLoad::start(lab.clients(), target, 300, Duration::from_millis(900)).unwrap();
    let requests = load.stop_after(250).await.unwrap();
    let failed: Vec<_> = requests.iter().filter(|request| request.outcome.is_err()).collect();
    assert!(failed.is_empty(), "{target}: {failed:?}");
    requests.into_iter().filter_map(|request| request.outcome.ok()).collect()
}

fn assert_shares(answered: &[String], buckets: &BTreeMap<String, usize>) {
    let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
    for node in answered {
        *shares.entry(node).or_default() += 1;
    }
    wire::assert_plausible(&shares, buckets, answered.len());
}

#[test]
fn t4_t7_requesters_are_shared_out_and_one_node_answers_each_with_its_own_mac() {
    const NAME: &str = "t4_t7_requesters_are_shared_out_and_one_node_answers_each_with_its_own_mac";
    let (program, object) = require!(NAME, needs());
    let lab = lab("asked", 1, 1, &object);
    let _farm = running(&lab, &program, &directed());
    let client = lab.client(1);
    let asking: Vec<_> = (0..200).map(|i| Ipv4Addr::new(10, 77, 9, i)).collect();
    let request = |&sender: &Ipv4Addr| Frame::arp_request(client.mac(), sender, VIP).bytes();
    let replies = arp_replies(client, &asking.iter().map(request).collect::<Vec<_>>());

    let mut answered: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for reply in &replies {
        assert_eq!(reply.sender, (reply.mac, VIP), "its own MAC");
        answered.entry(reply.target.1).or_default().push(node_of(&lab, reply.mac));
    }
    wire::assert_answered_in_turn(&lab, &asking, &answered, &replies);

    // Asked by name, to see whether it lives, a node answers whoever asks.
    for node in lab.nodes() {
        let frames: Vec<_> = asking
            .iter()
            .step_by(10)
            .map(|&sender| {
                Frame::arp_request(client.mac(), sender, VIP).macs(client.mac(), node.mac()).bytes()
            })
            .collect();
        let by: BTreeSet<_> = arp_replies(client, &frames).iter().map(|reply| reply.mac).collect();
        assert_eq!(by, BTreeSet::from([node.mac()]));
    }
}

#[test]
fn t7_solicitations_are_shared_out_and_one_node_answers_each_with_its_own_mac() {
    const NAME: &str = "t7_solicitations_are_shared_out_and_one_node_answers_each_with_its_own_mac";
    let (program, object) = require!(NAME, needs());
    let lab = lab("solicit", 1, 100, &object);
    let _farm = running(&lab, &program, &directed());
    let client = lab.client(1);
    let asking: Vec<_> = client.addresses().iter().map(|&address| beside(address)).collect();
    let ask = |&source: &Ipv6Addr| Frame::solicitation(client.mac(), source, VIP_V6);
    let answers = |frames: &[Vec<u8>]| {
        let told = advertised(client);
        client.inject_all(frames).unwrap();
        thread::sleep(wire::SILENCE);
        let told = read(told);
        for answer in &told {
            assert_eq!((answer.source, answer.named), (VIP_V6, Some(answer.mac)), "{answer:?}");
            assert_eq!(answer.flags, [true, true], "{answer:?}");
        }
        told
    };
    let told = answers(&asking.iter().map(|own| ask(own).bytes()).collect::<Vec<_>>());
    let mut answered: Vec<_> = told.iter().map(|answer| answer.to).collect();
    answered.sort_unstable();
    assert_eq!(answered, asking, "exactly one answer each");
    let shares = wire::shares(&lab, told.iter().map(|it| it.mac));
    assert!(shares.values().all(|share| *share > 0), "{shares:?}");

    // Asked by name, to see whether it lives, a node answers whoever asks.
    for node in lab.nodes() {
        let to_node = |own| ask(own).macs(client.mac(), node.mac()).bytes();
        let told = answers(&asking.iter().step_by(10).map(to_node).collect::<Vec<_>>());
        assert_eq!(told.len(), asking.len().div_ceil(10));
        assert!(told.iter().all(|answer| answer.mac == node.mac()), "{told:?}");
    }
}

#[test]
fn t10_t11_a_ping_and_a_closed_port_are_answered_once_whichever_node_they_come_to() {
    const NAME: &str =
        "t10_t11_a_ping_and_a_closed_port_are_answered_once_whichever_node_they_come_to";
    let (program, object) = require!(NAME, needs());
    let lab = lab("anyone", 1, 60, &object);
    let _farm = running(&lab, &program, &directed());
    let client = lab.client(1);
    for vip in [IpAddr::V4(VIP), IpAddr::V6(VIP_V6)] {
        let own = client.addresses_like(vip);
        let owners: Vec<_> = lab.nodes().iter().map(|node| echoed(&lab, vip, node.mac())).collect();
        assert!(owners.iter().all(|it| *it == owners[0] && it.len() == own.len()), "{owners:?}");
        for node in lab.nodes() {
            let syn = |&own: &IpAddr| {
                let frame = Frame::tcp(SocketAddr::new(own, 4000), SocketAddr::new(vip, 80), SYN);
                frame.macs(client.mac(), node.mac()).bytes()
            };
            let refused = answers(client, &own.iter().map(syn).collect::<Vec<_>>(), vip);
            let reset = What::Reset { target: 4000 };
            assert!(refused.iter().all(|answer| answer.what == reset), "{refused:?}");
            let asked: BTreeSet<_> = refused.iter().map(|answer| answer.target).collect();
            assert_eq!((refused.len(), asked), (own.len(), own.iter().copied().collect()));
            assert!(wire::shares(&lab, refused.iter().map(|it| it.mac)).values().all(|it| *it > 0));
        }
    }
}

#[test]
fn t1_a_node_that_uses_the_vip_asks_as_itself_and_moves_no_client() {
    const NAME: &str = "t1_a_node_that_uses_the_vip_asks_as_itself_and_moves_no_client";
    let (program, object) = require!(NAME, needs());
    let lab = lab("askself", 1, 1, &object);
    let farm = running(&lab, &program, &directed());
    let client = lab.client(1);
    let socket = client.in_ns(|| UdpSocket::bind((client.address(), 0))).unwrap();
    socket.send_to(b"who has the VIP?", (VIP, 9)).unwrap();
    eventually("the client has an entry", || cached(&lab, VIP)[0].is_some());
    let before = cached(&lab, VIP);
    for node in lab.nodes() {
        let seen =
            |frame: &Captured| frame.direction == Direction::Incoming && arp(frame).is_some();
        let wire = node.capture_on_wire_if(seen).unwrap();
        // What `arping -s VIP` and a socket bound to the VIP have sent.
        node.inject(&Frame::arp_request(node.mac(), VIP, client.address()).bytes()).unwrap();
        let bound = node.in_ns(|| UdpSocket::bind((VIP, 0))).unwrap();
        bound.send_to(b"from the VIP", (client.address(), 9)).unwrap();
        thread::sleep(wire::SILENCE);
        for asked in wire.stop().iter().filter_map(arp).filter(|arp| arp.request) {
            assert_eq!(asked.sender, (node.mac(), node.address()), "it asks as itself");
        }
        assert_eq!(cached(&lab, VIP), before, "{} taught the client its MAC", node.name());
    }
    assert!(farm.status(1).unwrap().guard["arp_corrected"] > 0);
}

/// Two blocks on one interface, of both modes.
const BOTH_MODES: &str = "vips:
  - interface: eth0
    mode: vmac_directed
    addresses: [10.77.0.101/16]
    groups:
      - { name: one, rules: [{ port: 80, proto: tcp, filter: on_port }] }
  - interface: eth0
    addresses: [10.77.0.100/16]
    groups:
      - { name: two, rules: [{ port: 80, proto: tcp, filter: on_port }, { port: 7000, proto: udp, filter: on_port }] }
";

#[tokio::test(flavor = "multi_thread")]
async fn vips_of_both_modes_are_served_on_one_interface() {
    const NAME: &str = "vips_of_both_modes_are_served_on_one_interface";
    let (program, object) = require!(NAME, needs());
    let lab = lab("modes", 3, 40, &object);
    let farm = running(&lab, &program, BOTH_MODES);
    let _servers: Vec<_> =
        lab.nodes().iter().map(|node| HttpServer::start(node, 80).unwrap()).collect();
    let status = farm.status(1).unwrap();
    let second = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 101), 80);
    for (target, group) in [(second, 0), (HTTP, 1)] {
        assert_shares(&served(&lab, target.into()).await, &status.groups[group].load);
    }
    for client in lab.clients() {
        let has = |vip: [u8; 4]| client.neighbour(IpAddr::from(vip)).unwrap();
        assert_eq!(has([10, 77, 0, 100]), Some(vmac()));
        let mac: Mac = has([10, 77, 0, 101]).unwrap();
        assert!(node_of(&lab, mac).starts_with("node"));
    }
}

/// A node's filter whose tables give every bucket to `owner`, whoever that is.
pub(crate) fn filter(
    lab: &Lab,
    farm: &Farm<'_>,
    (node, owner): (usize, usize),
    clsact: bool,
) -> Datapath {
    let farm = config::parse("farm.yaml", &farm.text().unwrap()).unwrap();
    let id = |number: usize| NodeId::new(number - 1).unwrap();
    let mut port = Port::new(&farm, |_| true, OwnAddresses::default()).unwrap();
    port.settle(id(node), &View::of([id(owner)].into_iter().collect()));
    for (number, peer) in (1..).zip(lab.nodes()).filter(|&(number, _)| number != node) {
        port.learn(id(number), peer.mac());
    }
    let host = lab.node(node);
    let attach = || {
        let options = Options {
            interface: "eth0".into(),
            index: if_nametoindex("eth0").unwrap(),
            mac: host.mac(),
            hash_key: [7; 16],
            bpf_dir: lab.bpf_directory().join(host.name()),
            generic: false,
            clsact,
            trace: false,
            buffers: Buffers::Several,
        };
        Datapath::load(&options).unwrap().attach(port.plan()).unwrap()
    };
    let mut datapath = host.in_ns(attach);
    let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap());
    let lease = now + Duration::from_mins(1);
    datapath.extend_lease(u64::try_from(lease.as_nanos()).unwrap()).unwrap();
    datapath
}

#[test]
fn t17_two_nodes_that_name_each_other_hand_a_frame_over_once() {
    const NAME: &str = "t17_two_nodes_that_name_each_other_hand_a_frame_over_once";
    let (program, object) = require!(NAME, needs());
    let lab = lab("opposite", 1, 1, &object);
    let farm = Farm::new(&lab, &program, "test", &directed()).unwrap();
    let mut filters = [(1, 2), (2, 1)].map(|nodes| filter(&lab, &farm, nodes, false));
    let counters = filters.each_mut().map(|filter| filter.take_counters().unwrap());
    let (client, first) = (lab.client(1), lab.node(1));
    let sent = |frame: &Captured| {
        frame.direction == Direction::Incoming && frame.bytes.ends_with(b"for the VIP")
    };
    let wires = [1, 2].map(|node| lab.node(node).capture_on_wire_if(sent).unwrap());
    let ports = |addr: IpAddr| SocketAddr::new(addr, 4000);
    for vip in [IpAddr::from(VIP), VIP_V6.into()] {
        let source = ports(client.addresses_like(vip)[0]);
        let frame = Frame::udp(source, SocketAddr::new(vip, 7000), b"for the VIP");
        client.inject(&frame.macs(client.mac(), first.mac()).bytes()).unwrap();
    }
    thread::sleep(wire::SILENCE);
    let [by_first, by_second] = wires.map(Capture::stop);
    assert_eq!(by_second, [], "a frame that a node handed over is final");
    assert_eq!(by_first.len(), 2, "each once: {by_first:?}");
    for frame in by_first {
        let macs = [lab.node(2).mac().0, first.mac().0].concat();
        assert_eq!(frame.bytes[..12], macs, "to the owner, from the node itself");
    }
    let [first, second] = counters.map(|counters| counters.packets().unwrap());
    assert_eq!((first[&Reason::Forwarded], second[&Reason::HandedOver]), (2, 2));
    for filter in filters {
        filter.remove().unwrap();
    }
}
