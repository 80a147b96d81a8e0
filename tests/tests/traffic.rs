//! The lab's servers and clients: that they count what is there, and only that.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use vipfarm::model::Mac;
use vipfarm_lab::{
    Lab, Topology,
    lab::{PREFIX, VIP},
    require, skip,
    traffic::{Failure, GRACE, HttpLoad, HttpServer, UdpEcho, UdpProbe},
};

const HTTP: SocketAddrV4 = SocketAddrV4::new(VIP, 80);
const ECHO: SocketAddrV4 = SocketAddrV4::new(VIP, 7000);
const PERIOD: Duration = Duration::from_millis(5);

fn lab(name: &str, nodes: u8, clients: u8) -> Lab {
    let topology = Topology { client_addresses: 50, ..Topology::new(nodes, clients) };
    Lab::new(name, &topology).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_answered_once_and_says_by_whom() {
    require!(skip::lab());
    let lab = lab("http", 1, 2);
    let server = HttpServer::start(lab.node(1), 80).unwrap();
    // The address comes after the server, as a VIP does.
    lab.node(1).add_address(VIP.into(), PREFIX).unwrap();
    let load = HttpLoad::start(lab.clients(), HTTP, 200, Duration::from_secs(1)).unwrap();
    sleep(Duration::from_millis(500)).await;
    let requests = load.stop().await.unwrap();

    assert!((50..=110).contains(&requests.len()), "200 a second: {}", requests.len());
    assert!(requests.iter().all(|request| request.outcome == Ok("node1".into())), "{requests:?}");
    let clients: BTreeSet<_> = requests.iter().map(|request| request.client.ip()).collect();
    assert!(clients.len() >= 50, "many source addresses: {}", clients.len());
    let mut served = server.served();
    served.sort_unstable();
    let mut asked: Vec<_> = requests.iter().map(|request| request.id).collect();
    asked.sort_unstable();
    assert_eq!(served, asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_shows_as_time_outs_and_a_closed_port_as_refusals() {
    require!(skip::lab());
    let lab = lab("dead", 1, 1);
    let node = lab.node(1);
    let patience = Duration::from_millis(300);
    node.add_address(VIP.into(), PREFIX).unwrap();
    let load = HttpLoad::start(lab.clients(), HTTP, 50, patience).unwrap();
    sleep(Duration::from_millis(200)).await;
    let refused = load.stop().await.unwrap();
    assert!(!refused.is_empty());
    assert!(refused.iter().all(|request| request.outcome == Err(Failure::Refused)), "{refused:?}");

    node.cut().unwrap();
    let load = HttpLoad::start(lab.clients(), HTTP, 50, patience).unwrap();
    sleep(Duration::from_millis(200)).await;
    let lost = load.stop().await.unwrap();
    assert!(!lost.is_empty());
    for request in lost {
        assert_eq!(request.outcome, Err(Failure::Timeout));
        assert!(request.latency >= patience);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_answer_one_datagram_are_caught() {
    require!(skip::lab());
    let lab = lab("twice", 2, 1);
    let mut echoes = Vec::new();
    for node in lab.nodes() {
        node.add_address(VIP.into(), PREFIX).unwrap();
        echoes.push(UdpEcho::start(node, ECHO).unwrap());
    }
    // A group address is flooded by the switch and taken in by both kernels.
    lab.client(1).set_neighbour(VIP.into(), Mac([3, 0, 0, 0, 0, 1])).unwrap();
    let probe = UdpProbe::start(lab.clients(), ECHO, 8, PERIOD).unwrap();
    sleep(Duration::from_millis(200)).await;
    let log = probe.stop().await;
    let (sent, answered) = log.counts();
    let duplicates = log.duplicates();
    assert!(sent >= 80 && answered == sent, "{answered} of {sent}");
    assert_eq!(duplicates.len(), sent, "every probe was answered by both");
    for probe in duplicates {
        assert_ne!(probe.answer.unwrap().node, probe.duplicates[0].node);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_node_never_looks_like_a_duplicate_or_an_outage() {
    require!(skip::lab());
    let lab = lab("once", 1, 2);
    lab.node(1).add_address(VIP.into(), PREFIX).unwrap();
    let _echo = UdpEcho::start(lab.node(1), ECHO).unwrap();
    let begin = Instant::now();
    let probe = UdpProbe::start(lab.clients(), ECHO, 40, PERIOD).unwrap();
    sleep(Duration::from_millis(400)).await;
    let end = Instant::now();
    assert!(probe.log().all_answered(10, GRACE));
    let log = probe.stop().await;
    assert_eq!(log.duplicates().len(), 0);
    assert_eq!(log.longest_gap(begin, end), Duration::ZERO);
    assert_eq!(log.owners(end).len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_of_known_length_is_measured_and_its_neighbour_is_not_blamed() {
    require!(skip::lab());
    let lab = lab("gap", 2, 2);
    let mut echoes = Vec::new();
    for (node, client) in lab.nodes().iter().zip(lab.clients()) {
        node.add_address(VIP.into(), PREFIX).unwrap();
        client.set_neighbour(VIP.into(), node.mac()).unwrap();
        echoes.push(UdpEcho::start(node, ECHO).unwrap());
    }
    let probe = UdpProbe::start(lab.clients(), ECHO, 20, PERIOD).unwrap();
    sleep(Duration::from_millis(200)).await;
    let from = Instant::now();
    lab.node(1).cut().unwrap();
    let cut = Instant::now();
    sleep(Duration::from_millis(250)).await;
    let healing = Instant::now();
    lab.node(1).heal().unwrap();
    let healed = Instant::now();
    sleep(Duration::from_millis(150)).await;
    let until = Instant::now();
    let outage = probe.stop().await.outage(from, until, "node1");

    assert_eq!((outage.flows, outage.survivor_flows), (10, 10));
    assert_eq!(outage.survivor_failures, 0);
    // A probe may pass just before the cut, and the next come a period (or a busy machine's
    // delay) after the healing.
    let shortest = (healing - cut).saturating_sub(4 * PERIOD);
    let longest = (healed - from) + Duration::from_millis(50);
    assert!((shortest..=longest).contains(&outage.longest), "{outage:?} {shortest:?} {longest:?}");
}
