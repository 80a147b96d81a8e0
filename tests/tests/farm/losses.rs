//! A machine that loses what the farm needs, or has kept what it should not.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use tokio::time::sleep;
use vipfarm::status::GroupStatus;
use vipfarm_lab::{
    Farm,
    farm::{PATIENCE, exit_code_and_words},
    lab::VIP,
    require, skip,
};

use crate::{
    ONE_VIP, drained::TWO_VIPS, events, eventually, has_event, lab, operated::load, probed::Probed,
    running,
};

/// Takes a VIP off node1 behind its agent's back: the other node serves its clients, and the agent puts
/// it back.
pub(crate) fn put_back(farm: &mut Farm<'_>, vip: IpAddr, prefix: u8) {
    let before = farm.footprint(1).unwrap();
    farm.lab().node(1).remove_address(vip, prefix).unwrap();
    eventually("node2 serves all", || load(farm, 2, "node1") == 0);
    farm.wait_converged(&[1, 2]).unwrap();
    let lost = events(farm, 1).into_iter().find(|event| event.kind == "vip_lost").unwrap();
    assert!(lost.message.contains(&format!("VIP {vip} was taken off")), "{}", lost.message);
    eventually("node1 serves its share again", || load(farm, 2, "node1") > 0);
    assert!(has_event(farm, 1, "vip_back"));
    assert_eq!(farm.footprint(1).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn t31_a_vip_that_was_taken_off_is_served_by_the_others_and_put_back() {
    let program = require!(skip::farm());
    let lab = lab("t31", 2, 40);
    let mut farm = running(&lab, &program, ONE_VIP);
    let traffic = Probed::start(&lab).await;
    put_back(&mut farm, VIP.into(), 32);
    traffic.all_served().await;
    traffic.stop().await;
    farm.stop().unwrap();
}

#[test]
fn t31_of_two_vips_the_one_that_is_there_is_served_on() {
    let program = require!(skip::farm());
    let lab = lab("t31two", 2, 1);
    let mut farm = running(&lab, &program, TWO_VIPS);
    let loads = |farm: &Farm<'_>| {
        let groups: Vec<GroupStatus> = farm.ask_json(2, &["bitmap", "--json"]).unwrap();
        [groups[0].load["node1"], groups[1].load["node1"]]
    };
    let before = loads(&farm);
    lab.node(1).remove_address([10, 77, 0, 101].into(), 32).unwrap();
    eventually("the second one is node2's", || loads(&farm)[1] == 0);
    assert_eq!(loads(&farm)[0], before[0]);
    eventually("it is put back", || loads(&farm) == before);
    farm.stop().unwrap();
}

/// A failover VIP that one node has, with addresses to spare.
const FLOATING: &str = "vips:
  - interface: eth0
    mode: failover
    addresses: [10.77.0.100/16, 10.77.0.101/16, 10.77.0.102/16]
    priorities: { node1: 2, node2: 1 }
";

#[test]
fn t31_a_failover_vip_that_was_taken_off_is_back_at_once_and_another_nodes_if_it_does_not_stay() {
    let program = require!(skip::farm());
    let lab = lab("t31float", 2, 1);
    let mut farm = running(&lab, &program, FLOATING);
    let vips = [100, 101, 102].map(|last| Ipv4Addr::new(10, 77, 0, last));
    let having = |node: usize| vips.map(|vip| lab.node(node).has_address(vip.into()).unwrap());
    eventually("node1 has all", || (having(1), having(2)) == ([true; 3], [false; 3]));
    // On a machine that does other things too it may take longer now and then.
    let gap = |vip: Ipv4Addr| {
        lab.node(1).remove_address(vip.into(), 32).unwrap();
        let removed = Instant::now();
        eventually("it is back", || lab.node(1).has_address(vip.into()).unwrap());
        removed.elapsed()
    };
    let gaps = vips.map(gap);
    println!("a failover VIP that was removed is back after {gaps:?}");
    assert!(gaps.iter().min().unwrap() < &Duration::from_millis(300), "{gaps:?}");
    assert!(has_event(&farm, 1, "vip_not_moved"));
    assert_eq!(having(2), [false; 3], "nobody else had a reason to take it");

    lab.node(1).remove_address(vips[0].into(), 32).unwrap();
    eventually("node2 has all", || (having(1), having(2)) == ([false; 3], [true; 3]));
    let said = farm.status(1).unwrap().checks;
    assert!(said.iter().any(|check| check.about == "vip 10.77.0.100"), "{said:?}");
    farm.stop().unwrap();
}

#[test]
fn t31_a_node_whose_interface_is_another_one_leaves_the_farm_and_says_why() {
    let program = require!(skip::farm());
    let lab = lab("t31mac", 2, 1);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let before = farm.footprint(1).unwrap();
    farm.start().unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    lab.node(1).run("ip link set eth0 address 02:00:00:00:99:01").unwrap();
    let agent = farm.agent(1).unwrap();
    let status = agent.wait_timeout(PATIENCE).unwrap();
    let last = agent.last_lines(5).join("\n");
    assert_eq!(status.code(), Some(1), "{last}");
    assert!(last.contains("the MAC of eth0 is 02:00:00:00:99:01 now"), "{last}");
    assert_eq!(farm.footprint(1).unwrap().files, before.files);
    farm.wait_converged(&[2]).unwrap();
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
