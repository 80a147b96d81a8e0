//! `mode: failover`: one node at a time has the VIP.

use std::{net::IpAddr, time::Instant};

use vipfarm::status::{FailoverStatus, Why};
use vipfarm_lab::{Farm, Lab, lab::VIP, require, skip};

use crate::{all, eventually, lab, probed::Probed, running};

/// The first node is the best.
const BY_PRIORITY: &str = "vips:
  - interface: eth0
    mode: failover
    addresses: [10.77.0.100/16]
    priorities: { node1: 150, node2: 100, node3: 50 }
";

/// The nodes whose interface has the address.
fn having(lab: &Lab, vip: impl Into<IpAddr>) -> Vec<usize> {
    let vip = vip.into();
    all(lab).into_iter().filter(|&node| lab.node(node).has_address(vip).unwrap()).collect()
}

/// Waits until that node, and no other, has the address.
fn wait_for_holder(lab: &Lab, vip: impl Into<IpAddr>, node: usize) {
    let vip = vip.into();
    eventually(&format!("only node{node} has {vip}"), || having(lab, vip) == [node]);
}

/// What a node's agent says of a failover block.
fn told(farm: &Farm<'_>, asked: usize, block: usize) -> FailoverStatus {
    farm.status(asked).unwrap().vips[block].failover.clone().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_nodes_vip_is_taken_over_and_goes_back_when_it_returns() {
    let program = require!(skip::farm());
    let lab = lab("floats", 3, 40);
    let mut farm = running(&lab, &program, BY_PRIORITY);
    wait_for_holder(&lab, VIP, 1);
    let traffic = Probed::start(&lab).await;
    assert!(traffic.is_served_by("node1"));
    let holder = told(&farm, 3, 0);
    assert_eq!((holder.holder.as_deref(), holder.why), (Some("node1"), Some(Why::Priority)));

    let from = Instant::now();
    lab.node(1).cut().unwrap();
    farm.kill(1).unwrap();
    farm.wait_converged(&[2, 3]).unwrap();
    traffic.all_served().await;
    assert!(traffic.is_served_by("node2"));
    println!("a silent death: {:?}", traffic.log().longest_gap(from, Instant::now()));

    lab.node(1).heal().unwrap();
    farm.start_node(1, &[]).unwrap();
    farm.wait_converged(&[1, 2, 3]).unwrap();
    wait_for_holder(&lab, VIP, 1);
    traffic.all_served().await;

    let from = Instant::now();
    farm.stop_node(1).unwrap();
    wait_for_holder(&lab, VIP, 2);
    traffic.all_served().await;
    println!("a clean stop: {:?}", traffic.log().longest_gap(from, Instant::now()));
    traffic.stop().await;
    farm.stop().unwrap();
    assert_eq!(having(&lab, VIP), [0; 0]);
}
