//! T12: UDP flows stay where they are when their buckets move, by rules that have them linger.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use vipfarm_lab::{
    Farm, Lab, require,
    traffic::{ProbeLog, UdpEcho},
};

use crate::{
    ECHO, ONE_VIP, all,
    directed::{self, ECHO_V6},
    eventually,
    operated::load,
    packets_of_all,
    probed::Probed,
    running,
};

/// How often each flow asks.
const PERIOD: Duration = Duration::from_millis(10);

/// A heartbeat at most, which may be late here.
const UNSERVED: Duration = Duration::from_millis(300);

const TARGETS: [SocketAddr; 2] = [SocketAddr::V4(ECHO), ECHO_V6];

/// All nodes echo.
fn echoes(lab: &Lab) -> Vec<UdpEcho> {
    let of_node = |node| TARGETS.map(|target| UdpEcho::start(node, target).unwrap());
    lab.nodes().iter().flat_map(of_node).collect()
}

/// VIPs of both families whose UDP flows linger, in that mode.
fn lingering(directed: bool, linger: &str) -> String {
    let text = if directed {
        directed::directed()
    } else {
        ONE_VIP.replace("10.77.0.100/16", "10.77.0.100/16, 'fd00:77::a4d:64/64'")
    };
    text.replace(
        "proto: udp, filter: on_port",
        &format!("proto: udp, filter: on_port, linger: {linger}"),
    )
}

/// Flows of both families.
struct Flows([Probed; 2]);

impl Flows {
    async fn start(lab: &Lab) -> Self {
        let [v4, v6] = TARGETS.map(|to| Probed::start_anew(lab, to, PERIOD));
        Self([v4.await, v6.await])
    }

    /// Ends them: none has changed its node, or waited for long, since then, but for those that
    /// `died` had served.
    async fn stop_kept(self, since: Instant, died: Option<&str>) {
        for probed in self.0 {
            let until = Instant::now();
            let log = probed.stop().await;
            assert_kept(&log, since, until, died);
        }
    }
}

fn assert_kept(log: &ProbeLog, since: Instant, until: Instant, died: Option<&str>) {
    let servers = log.servers(since, until);
    let moved = servers.iter().filter(|(_, nodes)| nodes.len() != 1);
    let moved: Vec<_> =
        moved.filter(|(_, nodes)| nodes.iter().all(|node| Some(&**node) != died)).collect();
    assert!(moved.is_empty(), "{} of {} flows moved: {moved:?}", moved.len(), servers.len());
    if died.is_none() {
        let longest = log.longest_gap(since, until);
        println!("{} of {} datagrams lost, {longest:?}", log.lost(since, until), log.counts().0);
        assert!(longest < UNSERVED, "some flow waited for {longest:?}, and nobody died");
    }
}

async fn through_moves(name: &str, directed: bool) {
    let (program, object) = require!(name, directed::needs());
    let lab = directed::lab(if directed { "flowsto" } else { "flows" }, 2, 40, &object);
    let mut farm = Farm::new(&lab, &program, "test", &lingering(directed, "10s")).unwrap();
    farm.start_node(1, &[]).unwrap();
    farm.start_node(2, &[]).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    let _echoes = echoes(&lab);
    let old = Flows::start(&lab).await;
    let begin = Instant::now();
    farm.start_node(3, &[]).unwrap();
    farm.wait_converged(&all(&lab)).unwrap();
    farm.ask(1, &["power", "all", "node2=6", "node1=2"]).unwrap();
    let middle = Flows::start(&lab).await;
    let then = Instant::now();
    farm.ask(2, &["drain", "node3"]).unwrap();
    farm.ask(2, &["drain", "node2"]).unwrap();
    // All are node1's, and come from nodes that have flows of before.
    let new = Flows::start(&lab).await;
    let last = Instant::now();
    let owners = new.0.each_ref().map(|probed| probed.log().owners(last));
    let others = owners
        .iter()
        .flat_map(|owners| owners.values())
        .filter(|node| &***node != lab.node(1).name());
    assert_eq!(others.count(), 0, "new flows are their owner's");
    farm.ask(3, &["undrain"]).unwrap();
    for power in [1, 9, 2, 0, 5] {
        farm.ask(1, &["power", "all", &format!("node1={power}")]).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    old.stop_kept(begin, None).await;
    middle.stop_kept(then, None).await;
    new.stop_kept(last, None).await;
    assert!(packets_of_all(&farm, "lingering") > 0);
    farm.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn t12_udp_flows_that_linger_outlive_joins_powers_and_drains() {
    through_moves("t12_udp_flows_that_linger_outlive_joins_powers_and_drains", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t12_udp_flows_that_linger_outlive_moves_where_nodes_hand_over() {
    through_moves("t12_udp_flows_that_linger_outlive_moves_where_nodes_hand_over", true).await;
}

/// Flows of a former owner that dies are the others' at once, and nobody else's change hands.
#[tokio::test(flavor = "multi_thread")]
async fn t12_udp_flows_of_a_former_owner_that_dies_are_served_by_others() {
    const NAME: &str = "t12_udp_flows_of_a_former_owner_that_dies_are_served_by_others";
    let (program, object) = require!(NAME, directed::needs());
    for directed in [false, true] {
        let lab = directed::lab("flowsdie", 2, 40, &object);
        let mut farm = running(&lab, &program, &lingering(directed, "10s"));
        let _echoes = echoes(&lab);
        let flows = Flows::start(&lab).await;
        let begin = Instant::now();
        farm.ask(1, &["drain", "node3"]).unwrap();
        eventually("it lingers", || load(&farm, 1, "node3") == 0);
        farm.kill(3).unwrap();
        lab.node(3).cut().unwrap();
        farm.wait_converged(&[1, 2]).unwrap();
        for probed in &flows.0 {
            probed.all_served().await;
        }
        flows.stop_kept(begin, Some(lab.node(3).name())).await;
        farm.stop_node(1).unwrap();
        farm.stop_node(2).unwrap();
    }
}

/// When no flow is left that lingers, the bucket is its owner's alone; one that was idle for longer is new.
#[tokio::test(flavor = "multi_thread")]
async fn t12_udp_flows_linger_until_they_are_idle() {
    const NAME: &str = "t12_udp_flows_linger_until_they_are_idle";
    let (program, object) = require!(NAME, directed::needs());
    let lab = directed::lab("flowsidle", 2, 40, &object);
    let mut farm = running(&lab, &program, &lingering(false, "2s"));
    let _echoes = echoes(&lab);
    let flows = Flows::start(&lab).await;
    farm.ask(1, &["drain", "node3"]).unwrap();
    let handover = |farm: &Farm<'_>, node| farm.status(node).unwrap().groups[0].handover;
    eventually("its flows are counted", || {
        handover(&farm, 3).flows.is_some_and(|count| count > 10)
    });
    assert!(flows.0.iter().all(|probed| probed.is_served_by(lab.node(3).name())));
    let begin = Instant::now();
    for probed in flows.0 {
        probed.stop().await;
    }
    eventually("nothing lingers", || handover(&farm, 3).lingering == 0);
    assert!(begin.elapsed() > Duration::from_secs(1), "{:?}", begin.elapsed());
    eventually("nothing is inherited", || {
        [1, 2].iter().all(|&node| handover(&farm, node).inherited == 0)
    });
    let flows = Flows::start(&lab).await;
    assert!(flows.0.iter().all(|probed| !probed.is_served_by(lab.node(3).name())));
    for probed in flows.0 {
        probed.stop().await;
    }
    farm.stop().unwrap();
}
