//! What operators do to a running farm: powers, drains; and cables.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use vipfarm::status::{GroupStatus, NodeState};
use vipfarm_lab::{Farm, require, skip};

use crate::{
    ONE_VIP, asks_in_vain, events, eventually, has_event, lab, on_two_networks, probed::Probed,
    running,
};

/// The buckets of the only group that a node owns, as another node's agent says.
pub(crate) fn load(farm: &Farm<'_>, asked: usize, node: &str) -> usize {
    let groups: Vec<GroupStatus> = farm.ask_json(asked, &["bitmap", "--json"]).unwrap();
    groups[0].load[node]
}

#[tokio::test(flavor = "multi_thread")]
async fn t14_powers_and_drains_move_buckets_without_a_gap_or_a_second_answer() {
    let program = require!(skip::farm());
    let lab = lab("powers", 3, 40);
    let mut farm = running(&lab, &program, ONE_VIP);
    let traffic = Probed::start(&lab).await;
    let from = Instant::now();

    farm.ask(1, &["power", "all", "node2=6", "node1=2"]).unwrap();
    assert_eq!((load(&farm, 3, "node2"), load(&farm, 3, "node3")), (171, 28));
    let words = farm.ask(2, &["drain", "node3"]).unwrap();
    assert!(words.contains("node3  power 0, farm load: 0/256"), "{words}");
    for node in 1..=3 {
        assert_eq!(load(&farm, node, "node3"), 0, "in force everywhere");
    }
    farm.ask(3, &["undrain"]).unwrap();
    for power in [1, 9, 2, 0, 5] {
        farm.ask(1, &["power", "all", &format!("node1={power}")]).unwrap();
    }
    farm.ask(1, &["power", "all", "--file", "node1,node2,node3"]).unwrap();
    assert!((85..=86).contains(&load(&farm, 2, "node1")));

    traffic.stop_unharmed(from).await;
    farm.stop().unwrap();
}

#[test]
fn a_change_that_the_farm_cannot_take_is_refused_with_the_reason() {
    let program = require!(skip::farm());
    let lab = lab("unpowered", 2, 1);
    let mut farm = running(&lab, &program, ONE_VIP);
    for (asked, code, words) in [
        (&["power", "all", "node9=1"][..], 1, "its nodes are node1, node2"),
        (&["power", "some", "node1=1"], 1, "its groups are all"),
        (&["power", "all", "node1=1001"], 2, "0 to 1000"),
        (&["drain", "node9"], 1, "has no node `node9`"),
        (&["drain", "node1", "--timeout", "5"], 2, "needs a unit"),
    ] {
        asks_in_vain(&farm, 1, asked, code, words);
    }
    assert_eq!(farm.status(1).unwrap().powers_version, 0);
    farm.stop().unwrap();
}

/// A node without a carrier cannot tell anybody; it stops serving by itself, and does not serve
/// alone beside the others when the cable is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_pulled_cable_fences_at_once_and_a_plugged_one_does_not_serve_before_the_others_agree() {
    let program = require!(skip::farm());
    let lab = lab("cable", 3, 40);
    let mut farm = running(&lab, &program, ONE_VIP);
    let traffic = Probed::start(&lab).await;
    for _ in 0..3 {
        lab.node(2).link_down().unwrap();
        eventually("node2 is fenced", || farm.status(2).unwrap().state == NodeState::Fenced);
        farm.wait_converged(&[1, 3]).unwrap();
        sleep(Duration::from_millis(400)).await;
        lab.node(2).link_up().unwrap();
        farm.wait_converged(&[1, 2, 3]).unwrap();
    }
    assert!(has_event(&farm, 2, "carrier"));
    let lost = events(&farm, 2).into_iter().find(|event| event.kind == "carrier_lost").unwrap();
    assert!(lost.message.starts_with("no carrier on eth0"), "{lost:?}");
    traffic.stop().await;
    farm.stop().unwrap();
}

/// Heartbeats on another network tell a node whose VIP network is cut that the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn t14_a_node_that_only_another_network_reaches_stops_serving_and_answers_nobody_twice() {
    let program = require!(skip::farm());
    let lab = lab("extra", 3, 40);
    let mut farm = on_two_networks(&lab, &program);
    let traffic = Probed::start(&lab).await;
    for cut in [2, 1] {
        let others: Vec<_> = (1..=3).filter(|&node| node != cut).collect();
        lab.node(cut).cut().unwrap();
        eventually("it says so", || has_event(&farm, cut, "cut_off"));
        farm.wait_converged(&others).unwrap();
        sleep(Duration::from_millis(400)).await;
        assert_eq!(farm.status(cut).unwrap().state, NodeState::Fenced);
        lab.node(cut).heal().unwrap();
        farm.wait_converged(&[1, 2, 3]).unwrap();
    }
    lab.node(3).run("ip link set eth1 down").unwrap();
    let before = farm.status(1).unwrap().epoch;
    eventually("the loss of the other network is told", || has_event(&farm, 1, "link_lost"));
    sleep(Duration::from_millis(400)).await;
    assert_eq!(farm.status(1).unwrap().epoch, before, "and changes nothing");
    traffic.stop().await;
    farm.stop().unwrap();
}
