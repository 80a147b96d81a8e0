//! A machine that loses what the farm needs, or has kept what it should not.

use std::{net::Ipv4Addr, time::Duration};

use tokio::time::sleep;
use vipfarm_lab::{
    Farm,
    farm::{PATIENCE, exit_code_and_words},
    lab::VIP,
    require, skip,
};

use crate::{ONE_VIP, eventually, has_event, lab, probed::Probed, running};

#[test]
fn t31_a_node_that_loses_its_vip_leaves_the_farm_and_says_why() {
    let program = require!(skip::farm());
    let lab = lab("t31", 2, 1);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let before = farm.footprint(1).unwrap();
    farm.start().unwrap();
    farm.wait_converged(&[1, 2]).unwrap();

    lab.node(1).remove_address(VIP.into(), 32).unwrap();
    let agent = farm.agent(1).unwrap();
    let status = agent.wait_timeout(PATIENCE).unwrap();
    let last = agent.last_lines(5).join("\n");
    assert_eq!(status.code(), Some(1), "{last}");
    assert!(last.contains("VIP 10.77.0.100 was removed from eth0"), "{last}");
    assert_eq!(farm.footprint(1).unwrap(), before);
    farm.wait_converged(&[2]).unwrap();
    assert!(has_event(&farm, 2, "node_left"), "it said goodbye");
}

/// Without its own address a node can neither speak nor hear, but clients still reach it through
/// the VIP: it must not take the silence for the others' death.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_send_heartbeats_stops_serving_and_comes_back() {
    let program = require!(skip::farm());
    let lab = lab("mute", 3, 40);
    let mut farm = running(&lab, &program, ONE_VIP);
    let traffic = Probed::start(&lab).await;

    let own: Ipv4Addr = lab.node(2).address();
    lab.node(2).remove_address(own.into(), 16).unwrap();
    farm.wait_converged(&[1, 3]).unwrap();
    eventually("node2 says that it cannot speak", || has_event(&farm, 2, "cannot_send"));
    sleep(Duration::from_millis(1500)).await;
    assert!(!farm.status(2).unwrap().converged, "it serves nothing");

    lab.node(2).add_address(own.into(), 16).unwrap();
    farm.wait_converged(&[1, 2, 3]).unwrap();
    traffic.stop().await;
    farm.stop().unwrap();
}

#[test]
fn a_vip_that_the_file_no_longer_names_does_not_outlive_a_crash() {
    let program = require!(skip::farm());
    let lab = lab("dropped", 1, 1);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let two = |yaml: &str| yaml.replace("10.77.0.100/16", "10.77.0.100/16, 10.77.0.101/16");
    let dropped = Ipv4Addr::new(10, 77, 0, 101);
    farm.give_own_config(1, two).unwrap();
    farm.start_node(1, &[]).unwrap();
    farm.wait_converged(&[1]).unwrap();
    assert!(lab.node(1).has_address(dropped.into()).unwrap());
    farm.kill(1).unwrap();

    farm.give_own_config(1, str::to_owned).unwrap();
    farm.start_node(1, &[]).unwrap();
    farm.wait_converged(&[1]).unwrap();
    assert!(!lab.node(1).has_address(dropped.into()).unwrap(), "nothing filters it any more");
    assert!(lab.node(1).has_address(VIP.into()).unwrap());
    farm.stop().unwrap();
}

#[test]
fn a_vip_that_somebody_else_has_added_is_refused_and_left_alone() {
    let program = require!(skip::farm());
    let lab = lab("present", 1, 1);
    let farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    lab.node(1).add_address(VIP.into(), 16).unwrap();
    let before = farm.footprint(1).unwrap();
    let (code, words) = exit_code_and_words(&mut farm.agent_command(1)).unwrap();
    assert_eq!(code, Some(2), "{words}");
    assert!(words.contains("ip addr del 10.77.0.100/16 dev eth0"), "{words}");
    assert_eq!(farm.footprint(1).unwrap(), before);
}
