//! `mode: vmac_directed`: nodes answer with their own MACs, and hand frames to the owner.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket},
    path::PathBuf,
    thread,
    time::Duration,
};

use tokio::time::sleep;
use vipfarm::model::{Mac, Mode};
use vipfarm_lab::{
    Captured, Direction, Frame, Lab, Topology, lab::VIP, require, skip, traffic::HttpLoad,
    traffic::HttpServer,
};

use crate::{
    HTTP, ONE_VIP, all, eventually, packets, packets_of_all,
    probed::Probed,
    running, vmac,
    wire::{self, arp, arp_replies, node_of},
};

/// [`ONE_VIP`] with nodes that answer themselves.
pub(crate) fn directed() -> String {
    ONE_VIP.replace("  - interface: eth0\n", "  - interface: eth0\n    mode: vmac_directed\n")
}

/// The program, and what makes veth pairs carry frames that nodes hand on.
pub(crate) fn needs() -> Result<(PathBuf, PathBuf), String> {
    Ok((skip::farm()?, skip::lab_object()?))
}

/// A lab whose wires carry frames that nodes hand on.
pub(crate) fn lab(name: &str, nodes: u8, clients: u8, object: &std::path::Path) -> Lab {
    let topology = Topology { client_addresses: 40, ..Topology::new(nodes, clients) };
    let lab = Lab::new(name, &topology).unwrap();
    lab.carry_handed_on_frames(object).unwrap();
    lab
}

/// The node whose MAC a client has for the VIP.
pub(crate) fn cached(lab: &Lab, client: usize) -> Option<String> {
    let mac = lab.client(client).neighbour(IpAddr::V4(VIP)).unwrap();
    mac.map(|mac| node_of(lab, mac).to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn t17_t18_whoever_has_a_clients_frames_the_owner_answers_once() {
    const NAME: &str = "t17_t18_whoever_has_a_clients_frames_the_owner_answers_once";
    let (program, object) = require!(NAME, needs());
    let lab = lab("directed", 3, 6, &object);
    let vips = directed().replace("name: all", "name: all\n        powers: { node1: 2, node2: 1, node3: 1 }");
    let farm = running(&lab, &program, &vips);
    let _servers: Vec<_> =
        lab.nodes().iter().map(|node| HttpServer::start(node, 80).unwrap()).collect();
    let traffic = Probed::start(&lab).await;
    let load = HttpLoad::start(lab.clients(), HTTP, 400, Duration::from_millis(900)).unwrap();
    sleep(Duration::from_secs(1)).await;
    let requests = load.stop().await.unwrap();
    traffic.stop().await;

    let failed: Vec<_> = requests.iter().filter(|request| request.outcome.is_err()).collect();
    assert!(requests.len() > 200 && failed.is_empty(), "{failed:?}");
    let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
    for request in &requests {
        *shares.entry(request.outcome.as_deref().unwrap()).or_default() += 1;
    }
    let status = farm.status(1).unwrap();
    wire::assert_plausible(&shares, &status.groups[0].load, requests.len());
    for request in requests.iter().step_by(20) {
        let owner = farm.owner(request.client, HTTP);
        assert_eq!(request.outcome.as_ref(), Ok(&owner.unwrap()), "{request:?}");
    }
    for node in all(&lab) {
        assert!(packets(&farm, node, "mine") > 0, "node{node} serves");
        assert_eq!(packets(&farm, node, "handed_over"), 0, "node{node} was sent another's");
        assert_eq!(packets(&farm, node, "no_next_hop"), 0, "node{node} knows its peers");
    }
    assert!(packets_of_all(&farm, "forwarded") > 400);
    assert_eq!((status.vips[0].mode, &status.vips[0].vmac), (Mode::VmacDirected, &None));
    assert_eq!(status.proof.verdict, vipfarm::status::Verdict::OwnedOnce, "{:?}", status.proof);

    // T18: the switch has every station at its own port, and the virtual MAC at none.
    let hosts = || lab.nodes().iter().chain(lab.clients());
    for entry in lab.fdb().unwrap() {
        let host = hosts().find(|host| host.mac() == entry.mac);
        assert_eq!(host.map(|host| host.name()), Some(&*entry.port), "{entry:?}");
    }
    for client in 1..=lab.clients().len() {
        assert!(cached(&lab, client).is_some(), "client{client} has some node's MAC");
    }
}

#[test]
fn t4_t7_requesters_are_shared_out_and_one_node_answers_each_with_its_own_mac() {
    const NAME: &str = "t4_t7_requesters_are_shared_out_and_one_node_answers_each_with_its_own_mac";
    let (program, object) = require!(NAME, needs());
    let lab = lab("asked", 3, 1, &object);
    let farm = running(&lab, &program, &directed());
    let client = lab.client(1);
    let asking: Vec<_> = (0..200).map(|i| Ipv4Addr::new(10, 77, 9, i)).collect();
    let request = |&sender: &Ipv4Addr| Frame::arp_request(client.mac(), sender, VIP).bytes();
    let replies = arp_replies(client, &asking.iter().map(request).collect::<Vec<_>>());

    let mut answered: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for reply in &replies {
        assert_eq!(reply.sender, (reply.mac, VIP), "its own MAC");
        answered.entry(reply.target.1).or_default().push(node_of(&lab, reply.mac));
    }
    for client in &asking {
        let by = answered.get(client).map_or(&[][..], Vec::as_slice);
        assert_eq!(by.len(), 1, "{client} was answered by {by:?}");
    }
    let equal = [("node1", 85), ("node2", 85), ("node3", 86)].map(|(n, b)| (n.to_owned(), b));
    let shares = wire::shares(&lab, replies.iter().map(|reply| reply.mac));
    wire::assert_plausible(&shares, &BTreeMap::from(equal), asking.len());

    // Asked by name, to see whether it lives, a node answers whoever asks.
    for node in lab.nodes() {
        let frames: Vec<_> = asking.iter().step_by(10).map(|&sender| {
            Frame::arp_request(client.mac(), sender, VIP).macs(client.mac(), node.mac()).bytes()
        }).collect();
        let by: BTreeSet<_> = arp_replies(client, &frames).iter().map(|reply| reply.mac).collect();
        assert_eq!(by, BTreeSet::from([node.mac()]));
    }
    drop(farm);
}

#[test]
fn t1_a_node_that_uses_the_vip_asks_as_itself_and_moves_no_client() {
    const NAME: &str = "t1_a_node_that_uses_the_vip_asks_as_itself_and_moves_no_client";
    let (program, object) = require!(NAME, needs());
    let lab = lab("askself", 3, 1, &object);
    let farm = running(&lab, &program, &directed());
    let client = lab.client(1);
    let socket = client.in_ns(|| UdpSocket::bind((client.address(), 0))).unwrap();
    socket.send_to(b"who has the VIP?", (VIP, 9)).unwrap();
    eventually("the client has an entry", || cached(&lab, 1).is_some());
    let before = cached(&lab, 1);
    for node in lab.nodes() {
        let seen = |frame: &Captured| frame.direction == Direction::Incoming && arp(frame).is_some();
        let wire = node.capture_on_wire_if(seen).unwrap();
        // What `arping -s VIP` and a socket bound to the VIP have sent.
        node.inject(&Frame::arp_request(node.mac(), VIP, client.address()).bytes()).unwrap();
        let bound = node.in_ns(|| UdpSocket::bind((VIP, 0))).unwrap();
        bound.send_to(b"from the VIP", (client.address(), 9)).unwrap();
        thread::sleep(wire::SILENCE);
        for asked in wire.stop().iter().filter_map(arp).filter(|arp| arp.request) {
            assert_eq!(asked.sender, (node.mac(), node.address()), "it asks as itself");
        }
        assert_eq!(cached(&lab, 1), before, "{} taught the client its MAC", node.name());
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
    let lab = lab("both", 3, 3, &object);
    let farm = running(&lab, &program, BOTH_MODES);
    let _servers: Vec<_> =
        lab.nodes().iter().map(|node| HttpServer::start(node, 80).unwrap()).collect();
    for target in [HTTP, SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 101), 80)] {
        let load = HttpLoad::start(lab.clients(), target, 300, Duration::from_millis(900)).unwrap();
        sleep(Duration::from_millis(500)).await;
        let requests = load.stop().await.unwrap();
        let failed: Vec<_> = requests.iter().filter(|request| request.outcome.is_err()).collect();
        assert!(requests.len() > 60 && failed.is_empty(), "{target}: {failed:?}");
        for request in requests.iter().step_by(10) {
            let owner = farm.owner(request.client, target);
            assert_eq!(request.outcome.as_ref(), Ok(&owner.unwrap()), "{request:?}");
        }
    }
    for client in lab.clients() {
        let has = |vip: [u8; 4]| client.neighbour(IpAddr::from(vip)).unwrap();
        assert_eq!(has([10, 77, 0, 100]), Some(vmac()));
        let mac: Mac = has([10, 77, 0, 101]).unwrap();
        assert!(node_of(&lab, mac).starts_with("node"));
    }
}
