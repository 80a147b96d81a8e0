//! Agents that freeze or die: their nodes stop serving before their peers take over, and nothing is
//! ever answered twice (T14, T32).

use std::time::{Duration, Instant};

use tokio::time::sleep;
use vipfarm::{model::Timers, status::NodeState};
use vipfarm_lab::{require, skip};

use crate::{ONE_VIP, all, eventually, has_event, lab, probed::Probed, running};

/// What a busy machine may add to a time that is asserted.
const SLACK: Duration = Duration::from_millis(30);

#[tokio::test(flavor = "multi_thread")]
async fn t14_t32_a_frozen_agents_node_stops_serving_before_its_peers_take_over() {
    let program = require!(skip::farm());
    let lab = lab("frozen", 3, 40);
    let mut farm = running(&lab, &program, ONE_VIP);
    let traffic = Probed::start(&lab).await;
    assert!(traffic.is_served_by("node3"));

    farm.freeze(3, true).unwrap();
    let frozen = Instant::now();
    farm.wait_converged(&[1, 2]).unwrap();
    traffic.all_served().await;
    sleep(Duration::from_millis(300)).await;
    assert!(!traffic.is_served_by("node3"));
    let served = traffic.log().last_served("node3").unwrap();
    let went_on = served.saturating_duration_since(frozen);
    assert!(went_on <= Timers::BALANCED.lease + SLACK, "went on for {went_on:?}");

    farm.freeze(3, false).unwrap();
    farm.wait_converged(&[1, 2, 3]).unwrap();
    eventually("the thawed node serves its clients again", || traffic.is_served_by("node3"));
    traffic.all_served().await;
    assert!(has_event(&farm, 3, "lease_lapsed"));
    assert!(has_event(&farm, 1, "node_lost"));
    traffic.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t14_t32_freezes_of_every_length_in_a_row_answer_nothing_twice() {
    let program = require!(skip::farm());
    let lab = lab("freezes", 3, 40);
    let mut farm = running(&lab, &program, ONE_VIP);
    let traffic = Probed::start(&lab).await;
    // Around each of the timers: 50, 110, 170 and 250 ms; each node in turn, then two at once.
    let lengths = [50, 90, 120, 150, 165, 175, 190, 230, 245, 255, 270, 300, 350, 450, 600];
    for (&length, node) in lengths.iter().zip((1..=3).cycle()) {
        farm.freeze(node, true).unwrap();
        sleep(Duration::from_millis(length)).await;
        farm.freeze(node, false).unwrap();
        sleep(Duration::from_millis(40)).await;
    }
    for length in [100, 200, 260, 400] {
        farm.freeze(1, true).unwrap();
        farm.freeze(2, true).unwrap();
        sleep(Duration::from_millis(length)).await;
        farm.freeze(2, false).unwrap();
        sleep(Duration::from_millis(60)).await;
        farm.freeze(1, false).unwrap();
    }
    farm.wait_converged(&all(&lab)).unwrap();
    traffic.all_served().await;
    traffic.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t32_a_killed_agents_node_stops_serving_and_a_restart_takes_its_filter_over() {
    let program = require!(skip::farm());
    let lab = lab("killed", 3, 40);
    let mut farm = running(&lab, &program, ONE_VIP);
    let traffic = Probed::start(&lab).await;
    let before = farm.footprint(2).unwrap();
    assert_eq!(before.links.len(), 3, "filter, guard and fix-up: {before:?}");

    farm.kill(2).unwrap();
    let killed = Instant::now();
    farm.wait_converged(&[1, 3]).unwrap();
    traffic.all_served().await;
    let served = traffic.log().last_served("node2").unwrap();
    let went_on = served.saturating_duration_since(killed);
    assert!(went_on <= Timers::BALANCED.lease + SLACK, "went on for {went_on:?}");
    assert_eq!(farm.footprint(2).unwrap(), before, "the filter stays, and refuses");

    // Once after its peers have missed it, and once before: within the lease of the dead agent.
    for pause in [0, 60] {
        farm.start_node(2, &[]).unwrap();
        farm.wait_converged(&[1, 2, 3]).unwrap();
        assert_eq!(
            farm.footprint(2).unwrap().links,
            before.links,
            "the same links, at no time detached"
        );
        eventually("it serves its clients again", || traffic.is_served_by("node2"));
        farm.kill(2).unwrap();
        sleep(Duration::from_millis(pause)).await;
    }
    farm.start_node(2, &[]).unwrap();
    eventually("the restarted node is back", || {
        let status = farm.status(2);
        status.is_ok_and(|status| status.state == NodeState::Up && status.converged)
    });
    farm.wait_converged(&[1, 2, 3]).unwrap();
    let after = farm.footprint(2).unwrap();
    assert_eq!(after.links, before.links);
    assert_ne!(after.xdp, before.xdp, "the link runs the new agent's program");
    assert_eq!(after.tc.len(), before.tc.len(), "nothing was attached beside it");
    traffic.all_served().await;
    traffic.stop().await;
}
