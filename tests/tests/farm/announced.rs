//! What clients of a directed VIP are told when another node is theirs.

use std::{
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

use tokio::time::sleep;
use vipfarm_lab::{
    Capture, Captured, Direction, Farm, Lab,
    lab::{VIP, VIP_V6},
    require,
};

use crate::{
    all,
    directed::{ECHO_V6, cached, directed, lab, needs},
    eventually, has_event,
    probed::{HANDOVER, Probed},
    running, wire,
};

/// Within which clients are served again whose node is gone: a second as they see it.
const SERVED_AGAIN: Duration = Duration::from_secs(1);

/// Within which nodes stop handing frames to one that is gone: the time-out of the default timers,
/// and what the change of view takes on a busy machine.
const DETECTED: Duration = Duration::from_millis(400);

/// The entries of all clients for both VIPs.
fn entries(lab: &Lab) -> [Vec<Option<&str>>; 2] {
    [cached(lab, IpAddr::from(VIP)), cached(lab, IpAddr::from(VIP_V6))]
}

fn is_anybodys(entries: &[Vec<Option<&str>>; 2], node: &str) -> bool {
    entries.iter().flatten().any(|entry| *entry == Some(node))
}

/// What the agents of these nodes have announced on that occasion.
fn announced(farm: &Farm<'_>, nodes: &[usize], occasion: &str) -> u64 {
    nodes.iter().map(|&node| farm.status(node).unwrap().announcements[occasion]).sum()
}

/// The number of the node that most clients have the MAC of.
fn busiest(lab: &Lab, entries: &[Vec<Option<&str>>; 2]) -> usize {
    let count = |&node: &usize| {
        let name = lab.node(node).name();
        entries.iter().flatten().filter(|entry| **entry == Some(name)).count()
    };
    all(lab).into_iter().max_by_key(count).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn t19_clients_of_a_dead_nodes_mac_are_served_again_and_spread_anew() {
    const NAME: &str = "t19_clients_of_a_dead_nodes_mac_are_served_again_and_spread_anew";
    let (program, object) = require!(NAME, needs());
    let lab = lab("died", 8, 1, &object);
    let mut farm = running(&lab, &program, &directed());
    let traffic = [Probed::start(&lab).await, Probed::start_to(&lab, ECHO_V6).await];
    // What was announced to the first clients when the farm began is over.
    sleep(Duration::from_secs(1)).await;
    let before = entries(&lab);
    let dead = busiest(&lab, &before);
    let others: Vec<_> = all(&lab).into_iter().filter(|&node| node != dead).collect();
    let mac = lab.node(dead).mac();
    let to_the_dead = move |frame: &Captured| {
        frame.direction == Direction::Incoming && frame.bytes[..6] == mac.0 && is_for_the_vip(frame)
    };
    let wires: Vec<_> = others
        .iter()
        .map(|&node| lab.node(node).capture_on_wire_if(to_the_dead).unwrap())
        .collect();

    let (from, at) = (Instant::now(), SystemTime::now());
    lab.node(dead).cut().unwrap();
    farm.kill(dead).unwrap();
    sleep(Duration::from_millis(2500)).await;
    let until = Instant::now();
    let handed = wires.into_iter().flat_map(Capture::stop).map(|frame| frame.at);
    let last = handed.filter_map(|handed| handed.duration_since(at).ok()).max().unwrap_or_default();
    let gaps = traffic.each_ref().map(|traffic| traffic.log().longest_gap(from, until));
    println!("a client waited for {gaps:?}; the last frame was handed to the dead after {last:?}");
    assert!(gaps.iter().all(|gap| *gap < SERVED_AGAIN), "{gaps:?}");
    assert!(last > Duration::ZERO && last < DETECTED, "handed over for {last:?}");
    let after = entries(&lab);
    assert!(!is_anybodys(&after, lab.node(dead).name()), "{after:?}");
    assert!(announced(&farm, &others, "broadcast") >= 6, "three each");
    assert!(others.iter().any(|&node| has_event(&farm, node, "clients_told")));
    for (before, after) in before.iter().flatten().zip(after.iter().flatten()) {
        let lived = *before != Some(lab.node(dead).name());
        assert!(!lived || before == after, "{before:?} lives, and {after:?} has its client");
    }

    // The node comes back, and those who lived without it send its clients to it.
    lab.node(dead).heal().unwrap();
    farm.start_node(dead, &[]).unwrap();
    farm.wait_converged(&all(&lab)).unwrap();
    eventually("each client is its own node's again", || entries(&lab) == before);
    for traffic in traffic {
        traffic.stop().await;
    }
    farm.stop().unwrap();
}

/// Whether it is IP for the VIP: neither a heartbeat nor address resolution.
fn is_for_the_vip(frame: &Captured) -> bool {
    let is = |target: IpAddr| wire::packet(frame).is_some_and(|packet| packet.target == target);
    is(VIP.into()) || is(VIP_V6.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_loses_its_clients_entries_and_no_datagram() {
    const NAME: &str = "a_drained_node_loses_its_clients_entries_and_no_datagram";
    let (program, object) = require!(NAME, needs());
    let lab = lab("drained", 8, 1, &object);
    let mut farm = running(&lab, &program, &directed());
    let traffic = [Probed::start(&lab).await, Probed::start_to(&lab, ECHO_V6).await];
    sleep(Duration::from_secs(1)).await;
    let before = entries(&lab);
    let node = busiest(&lab, &before);
    let name = lab.node(node).name();
    let from = Instant::now();
    let broadcast = announced(&farm, &all(&lab), "broadcast");
    farm.ask(1, &["drain", name]).unwrap();
    eventually("nobody sends to the drained node", || !is_anybodys(&entries(&lab), name));
    farm.ask(1, &["undrain", name]).unwrap();
    eventually("each client is its own node's again", || entries(&lab) == before);
    let until = Instant::now();
    assert_eq!(announced(&farm, &all(&lab), "broadcast"), broadcast, "only by name");
    assert!(announced(&farm, &all(&lab), "moved") > 0);
    sleep(Duration::from_millis(300)).await;
    for traffic in traffic {
        let log = traffic.stop().await;
        let (longest, lost) = (log.longest_gap(from, until), log.lost(from, until));
        println!("drained and back: {lost} lost, a client waited for {longest:?}");
        assert!(longest < HANDOVER, "some client waited for {longest:?}");
    }
    farm.stop().unwrap();
}

/// A node that stops takes its filter and the VIP away: like one that died, it hands nothing on.
#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_node_that_is_stopped_are_told_at_once() {
    const NAME: &str = "clients_of_a_node_that_is_stopped_are_told_at_once";
    let (program, object) = require!(NAME, needs());
    let lab = lab("stopped", 8, 1, &object);
    let mut farm = running(&lab, &program, &directed());
    let traffic = [Probed::start(&lab).await, Probed::start_to(&lab, ECHO_V6).await];
    sleep(Duration::from_secs(1)).await;
    let node = busiest(&lab, &entries(&lab));
    let from = Instant::now();
    farm.stop_node(node).unwrap();
    sleep(Duration::from_millis(1500)).await;
    let until = Instant::now();
    assert!(!is_anybodys(&entries(&lab), lab.node(node).name()));
    for traffic in traffic {
        let log = traffic.stop().await;
        let (longest, lost) = (log.longest_gap(from, until), log.lost(from, until));
        println!("stopped: {lost} lost, a client waited for {longest:?}");
        assert!(longest < SERVED_AGAIN, "some client waited for {longest:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_learnt_another_nodes_mac_is_told_its_own_in_time() {
    const NAME: &str = "a_client_that_has_learnt_another_nodes_mac_is_told_its_own_in_time";
    let (program, object) = require!(NAME, needs());
    let lab = lab("refreshed", 4, 1, &object);
    let vips = directed().replace(
        "    addresses:",
        "    arp_refresh: { interval: 1s, duration: 1h }\n    addresses:",
    );
    let farm = running(&lab, &program, &vips);
    let traffic = Probed::start(&lab).await;
    sleep(Duration::from_secs(1)).await;
    let before = cached(&lab, VIP);
    for client in lab.clients() {
        let own = client.neighbour(IpAddr::V4(VIP)).unwrap();
        let other = lab.nodes().iter().find(|node| Some(node.mac()) != own).unwrap().mac();
        client
            .run(&format!("ip neigh replace {VIP} lladdr {other} dev eth0 nud reachable"))
            .unwrap();
    }
    assert_ne!(cached(&lab, VIP), before);
    eventually("all are told", || cached(&lab, VIP) == before);
    assert!(announced(&farm, &all(&lab), "refreshed") >= 4);
    let metrics = farm.ask(1, &["metrics"]).unwrap();
    assert!(metrics.contains("vipfarm_announcements_total{farm=\"test\",occasion=\"refreshed\"}"));
    traffic.stop().await;
}
