//! Nodes that come, go, freeze and are cut off, in farms of several sizes: they agree again, every
//! bucket has one owner again (`wait_converged` looks at both), and no client is answered twice (T14).

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use vipfarm::{model::Timers, status::NodeState};
use vipfarm_lab::{Farm, Lab, Topology, farm::PATIENCE, require, skip, traffic::ProbeLog};

use crate::{
    ONE_VIP, all, eventually, has_event, lab, on_two_networks,
    probed::{HANDOVER, PERIOD, Probed},
    running,
};

/// How long a cut lasts: three times `fail`, so that the farm has drawn its conclusions.
const CUT: Duration = Duration::from_millis(750);

/// How long a farm may take to be whole again: a node that was lost waits twice as long each time.
const RESUMED: Duration = Duration::from_secs(3);

/// What one mishap leaves behind is gone by then: all have acknowledged each other's newest heartbeats.
const SETTLED: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn t14_two_nodes_come_and_go() {
    come_and_go(&require!(skip::farm()), 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t14_three_nodes_come_and_go() {
    come_and_go(&require!(skip::farm()), 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t14_five_nodes_come_and_go() {
    come_and_go(&require!(skip::farm()), 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t14_eight_nodes_come_and_go() {
    come_and_go(&require!(skip::farm()), 8).await;
}

/// All at once, none, one by one, one by one down to one, all again.
async fn come_and_go(program: &Path, nodes: u8) {
    let lab = lab("come-and-go", nodes, 40);
    let mut farm = Farm::new(&lab, program, "test", ONE_VIP).unwrap();
    // Each datagram goes to every node: as many arrive in a farm of any size.
    let traffic = Probed::begin(&lab, PERIOD * u32::from(nodes));
    let all = all(&lab);
    farm.start().unwrap();
    farm.wait_converged(&all).unwrap();
    traffic.all_served().await;
    farm.stop().unwrap();

    let (&last, leaving) = all.split_last().unwrap();
    farm.start_node(all[0], &[]).unwrap();
    farm.wait_converged(&all[..1]).unwrap();
    traffic.all_served().await;
    let from = Instant::now();
    for (count, &node) in (2..).zip(&all[1..]) {
        farm.start_node(node, &[]).unwrap();
        farm.wait_converged(&all[..count]).unwrap();
    }
    for (count, &node) in (1..).zip(leaving) {
        farm.agent(node).unwrap().stop(PATIENCE).unwrap();
        farm.wait_converged(&all[count..]).unwrap();
    }
    traffic.all_served().await;
    for &node in &all {
        assert_eq!(traffic.is_served_by(lab.node(node).name()), node == last);
    }
    for &node in leaving {
        farm.start_node(node, &[]).unwrap();
    }
    farm.wait_converged(&all).unwrap();
    traffic.all_served().await;
    traffic.stop_unharmed(from).await;
}

/// What one node sends does not reach some others; all reach the clients.
struct OneWay {
    from: usize,
    to: &'static [usize],
    /// Whether all clients are served meanwhile. A node that is heard by some and not by others waits
    /// for these, and its share with it.
    served: bool,
}

#[tokio::test(flavor = "multi_thread")]
async fn t14_a_cut_in_one_direction_between_two_nodes_answers_nothing_twice() {
    let cuts = [(1, &[2]), (2, &[1])].map(|(from, to)| OneWay { from, to, served: true });
    cut_in_one_direction(&require!(skip::farm()), 2, &cuts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t14_a_cut_in_one_direction_among_three_nodes_answers_nothing_twice() {
    let cuts = [
        OneWay { from: 1, to: &[2], served: false },
        OneWay { from: 3, to: &[1], served: false },
        OneWay { from: 2, to: &[1, 3], served: true },
    ];
    cut_in_one_direction(&require!(skip::farm()), 3, &cuts).await;
}

async fn cut_in_one_direction(program: &Path, nodes: u8, cuts: &[OneWay]) {
    let lab = lab("one-way", nodes, 40);
    let mut farm = running(&lab, program, ONE_VIP);
    let traffic = Probed::start(&lab).await;
    for &OneWay { from, to, served } in cuts {
        let what = format!("from node{from} to {to:?}");
        for &deaf in to {
            lab.node(deaf).deafen(lab.node(from)).unwrap();
        }
        sleep(CUT.saturating_sub(SETTLED)).await;
        let late = Instant::now();
        sleep(SETTLED).await;
        let healed = Instant::now();
        for &deaf in to {
            lab.node(deaf).undeafen().unwrap();
        }
        farm.wait_converged(&all(&lab)).unwrap();
        let took = healed.elapsed();
        traffic.all_served().await;
        let lost = traffic.log().lost(late, healed);
        println!("{what}: {lost} lost at the end, whole again after {took:?}");
        assert!(lost == 0 || !served, "{what}: {lost} lost");
        assert!(took < RESUMED, "{what}: whole again after {took:?}");
        sleep(SETTLED).await;
    }
    traffic.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t14_t32_t35_a_freeze_of_any_length_costs_the_other_nodes_clients_nothing() {
    let program = require!(skip::farm());
    let lab = lab("freeze", 3, 40);
    let mut farm = running(&lab, &program, ONE_VIP);
    let traffic = Probed::start(&lab).await;
    let mut events = Vec::new();
    for (millis, node) in [(10, 1), (100, 2), (1000, 3), (5000, 1)] {
        let (from, before) = (Instant::now(), farm.status(node).unwrap().epoch);
        farm.freeze(node, true).unwrap();
        sleep(Duration::from_millis(millis)).await;
        farm.freeze(node, false).unwrap();
        farm.wait_converged(&all(&lab)).unwrap();
        traffic.all_served().await;
        let after = farm.status(node).unwrap().epoch;
        events.push((millis, node, from, Instant::now(), after - before));
        sleep(SETTLED).await;
    }
    let log = traffic.stop().await;
    for (millis, node, from, until, views) in events {
        let outage = log.outage(from, until, lab.node(node).name());
        println!("{millis} ms: {views} views, {outage:?}");
        assert_eq!(outage.survivor_failures, 0, "{millis} ms: {outage:?}");
        // A freeze that is shorter than the lease is none to anybody.
        if millis < 50 {
            assert_eq!((views, outage.lost), (0, 0), "{millis} ms: {outage:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t14_a_node_that_was_cut_off_silently_answers_twice_for_an_instant_only() {
    let program = require!(skip::farm());
    let lab = lab("silent", 3, 40);
    let mut farm = running(&lab, &program, ONE_VIP);
    let traffic = Probed::start(&lab).await;
    lab.node(3).cut().unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    farm.wait_converged(&[3]).unwrap();
    sleep(CUT).await;
    assert!(!traffic.is_served_by("node3"));
    let from = Instant::now();
    lab.node(3).heal().unwrap();
    let healed = Instant::now();
    farm.wait_converged(&all(&lab)).unwrap();
    traffic.all_served().await;
    let log = traffic.end().await;
    assert_twice_only_at_the_heal(&log, from, healed);
}

/// Two switches: two nodes and a client on the first, the third node and a client on the other.
fn two_switches(name: &str) -> Lab {
    let topology = Topology { client_addresses: 20, ..Topology::new(3, 2) };
    let lab = Lab::new(name, &topology).unwrap();
    lab.add_switch(&[lab.node(3), lab.client(2)]).unwrap();
    lab
}

#[tokio::test(flavor = "multi_thread")]
async fn t14_each_side_of_a_split_switch_serves_its_clients_and_both_merge() {
    let program = require!(skip::farm());
    let lab = two_switches("split");
    let mut farm = running(&lab, &program, ONE_VIP);
    let traffic = Probed::start(&lab).await;
    lab.split().unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    farm.wait_converged(&[3]).unwrap();
    traffic.all_served().await;
    sleep(CUT).await;
    for (client, node) in traffic.log().owners(Instant::now()) {
        let is_beside_node3 = lab.client(2).addresses_like(client.ip()).contains(&client.ip());
        assert_eq!(&*node == "node3", is_beside_node3, "{client} is served by {node}");
    }
    let from = Instant::now();
    lab.unite().unwrap();
    let united = Instant::now();
    farm.wait_converged(&all(&lab)).unwrap();
    traffic.all_served().await;
    let log = traffic.end().await;
    assert_twice_only_at_the_heal(&log, from, united);
}

#[tokio::test(flavor = "multi_thread")]
async fn t14_the_smaller_side_of_a_split_that_hears_the_larger_elsewhere_serves_nothing() {
    let program = require!(skip::farm());
    let lab = two_switches("sides");
    let mut farm = on_two_networks(&lab, &program);
    let traffic = Probed::start(&lab).await;
    let split = Instant::now();
    lab.split().unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    eventually("it says so", || has_event(&farm, 3, "cut_off"));
    sleep(CUT).await;
    assert_eq!(farm.status(3).unwrap().state, NodeState::Fenced);
    let served = traffic.log().last_served("node3").unwrap().saturating_duration_since(split);
    assert!(served < Timers::BALANCED.fail + HANDOVER, "node3 served for {served:?}");
    lab.unite().unwrap();
    farm.wait_converged(&all(&lab)).unwrap();
    traffic.all_served().await;
    traffic.stop().await;
}

/// Both sides of a healed cut serve all clients until they hear each other.
pub(crate) fn assert_twice_only_at_the_heal(log: &ProbeLog, from: Instant, healed: Instant) {
    let twice = log.duplicates();
    let until = healed + 4 * Timers::BALANCED.period;
    println!("{} datagrams were answered twice at the heal", twice.len());
    if let Some(last) = twice.iter().map(|probe| probe.sent).max() {
        println!("the last {:?} after it", last.saturating_duration_since(healed));
    }
    for probe in twice {
        let after = probe.sent.saturating_duration_since(healed);
        assert!((from..until).contains(&probe.sent), "twice, {after:?} after the heal");
    }
}
