//! A changed file, taken over by a running farm.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use tokio::time::sleep;
use vipfarm::status::NodeState;
use vipfarm_lab::{
    Farm,
    process::Signal,
    require, skip,
    traffic::{UdpEcho, UdpProbe},
};

use crate::{
    ECHO, ONE_VIP, asks_in_vain, directed, eventually,
    handover::{nobody_noticed, through},
    has_event, lab,
    probed::Probed,
    running,
};

const SECOND: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 101);

/// Another VIP with a group of its own behind the first one.
const ANOTHER_VIP: &str = "  - interface: eth0
    addresses: [10.77.0.101/16]
    groups:
      - name: second
        powers: { node1: 1, node2: 1 }
        rules:
          - { port: 7000, proto: udp, filter: on_port }
";

/// Has all nodes read the file; the last one returns when it is in force.
fn reload_all(farm: &Farm<'_>) {
    let nodes = farm.lab().nodes().len();
    for node in 1..nodes {
        asks_in_vain(farm, node, &["reload", "--timeout", "0s"], 1, &format!("node{nodes}"));
    }
    farm.ask(nodes, &["reload"]).unwrap();
    eventually("the file is in force everywhere", || {
        let status: Vec<_> = (1..=nodes).map(|node| farm.status(node).unwrap()).collect();
        status.iter().all(|it| it.configuration == status[0].configuration && it.converged)
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_adds_and_drops_vips_and_powers_and_loses_no_packet_of_the_others() {
    let program = require!(skip::farm());
    let lab = lab("reload", 3, 40);
    let mut farm = running(&lab, &program, ONE_VIP);
    let second = SocketAddrV4::new(SECOND, ECHO.port());
    let traffic = Probed::start(&lab).await;
    let from = Instant::now();
    let owners = traffic.log().owners(from);

    let before = farm.text().unwrap();
    farm.edit(|text| format!("{text}{ANOTHER_VIP}")).unwrap();
    assert!(!lab.node(1).has_address(SECOND.into()).unwrap());
    reload_all(&farm);
    for node in 1..=3 {
        assert!(lab.node(node).has_address(SECOND.into()).unwrap(), "the new VIP");
        assert!(has_event(&farm, node, "config_activated"));
    }
    let _echoes: Vec<_> =
        lab.nodes().iter().map(|node| UdpEcho::start(node, second).unwrap()).collect();
    let asked = UdpProbe::start(lab.clients(), second, 40, Duration::from_millis(4)).unwrap();
    sleep(Duration::from_millis(300)).await;
    let log = asked.stop().await;
    assert!(log.duplicates().is_empty());
    let servers: std::collections::BTreeSet<_> = log.owners(Instant::now()).into_values().collect();
    assert_eq!(servers.iter().map(|it| &**it).collect::<Vec<_>>(), ["node1", "node2"]);
    assert_eq!(traffic.log().owners(Instant::now()), owners, "no flow of the first VIP has moved");

    farm.edit(|text| text.replace("node1: 1, node2: 1", "node1: 1, node3: 3")).unwrap();
    reload_all(&farm);
    assert_eq!(farm.status(1).unwrap().groups[1].load["node3"], 192);

    farm.edit(|_| before.clone()).unwrap();
    for node in 1..=3 {
        farm.agent(node).unwrap().signal(Signal::SIGHUP).unwrap();
    }
    for node in 1..=3 {
        eventually("the dropped VIP is gone", || {
            !lab.node(node).has_address(SECOND.into()).unwrap()
        });
        assert_eq!(farm.status(node).unwrap().vips.len(), 1);
    }
    let until = Instant::now();
    let log = traffic.stop_unharmed(from).await;
    assert_eq!(log.owners(until), owners);
    farm.stop().unwrap();
    for node in lab.nodes() {
        assert!(!node.has_address(SECOND.into()).unwrap());
    }
}

/// What makes buckets others': another rule's filter, that of the connections themselves, and a group before
/// theirs. Powers change with it, and what lingers by one file goes on by the next.
#[tokio::test(flavor = "multi_thread")]
async fn t12_connections_outlive_reloads_that_put_them_into_other_buckets() {
    const NAME: &str = "t12_connections_outlive_reloads_that_put_them_into_other_buckets";
    const UDP: &str = "proto: udp, filter: ";
    const TCP: &str = "proto: tcp, filter: ";
    let (program, object) = require!(NAME, directed::needs());
    for directed in [false, true] {
        let (lab, text) = if directed {
            (directed::lab("rebucketed", 2, 40, &object), directed::directed())
        } else {
            (lab("rebucketed", 3, 40), ONE_VIP.to_owned())
        };
        let powers = |of: [u8; 3]| {
            format!("        powers: {{ node1: {}, node2: {}, node3: {} }}\n", of[0], of[1], of[2])
        };
        let text = text.replace("name: all\n", &format!("name: all\n{}", powers([1, 1, 1])));
        let mut farm = running(&lab, &program, &text);
        let fates = through(&lab, &mut farm, |farm| {
            let reload = |from: [u8; 3], to: [u8; 3], edit: &dyn Fn(&str) -> String| {
                farm.edit(|text| edit(&text.replace(&powers(from), &powers(to)))).unwrap();
                reload_all(farm);
            };
            reload([1, 1, 1], [2, 5, 1], &|text| {
                text.replace(&format!("{UDP}on_port"), &format!("{UDP}on_addr"))
            });
            reload([2, 5, 1], [1, 0, 3], &|text| {
                text.replace(&format!("{TCP}on_port"), &format!("{TCP}on_addr"))
            });
            reload([1, 0, 3], [4, 1, 0], &|text| {
                const FIRST: &str = "groups:\n      - name: first\n        rules: [{ port: 443, proto: tcp, filter: on_port }]\n";
                text.replacen("groups:\n", FIRST, 1)
            });
        })
        .await;
        nobody_noticed(&fates);
        farm.stop().unwrap();
    }
}

#[test]
fn a_file_that_cannot_be_taken_over_changes_nothing_and_says_why() {
    let program = require!(skip::farm());
    let lab = lab("unreloaded", 2, 1);
    let mut farm = running(&lab, &program, ONE_VIP);
    let good = farm.text().unwrap();
    let before = farm.status(1).unwrap();
    let edits: [(&str, &str, &str); 5] = [
        ("port: 80,", "port: eighty,", "farm.yaml:"),
        ("name: node2", "name: other", "other in the place of node2"),
        ("vips:", "membership: { profile: fast }\nvips:", "other timers"),
        ("farm: test", "farm: best", "another farm name"),
        ("interface: eth0", "interface: lo", "lo"),
    ];
    for (from, to, words) in edits {
        farm.edit(|_| good.replacen(from, to, 1)).unwrap();
        asks_in_vain(&farm, 1, &["reload"], 1, words);
    }
    assert!(has_event(&farm, 1, "reload_refused"));
    farm.edit(|_| good.clone()).unwrap();
    let said = farm.ask(1, &["reload"]).unwrap();
    assert!(said.contains("nothing in it has changed"), "{said}");
    let after = farm.status(1).unwrap();
    assert_eq!((after.epoch, after.configuration), (before.epoch, before.configuration));
    farm.stop().unwrap();
}

#[test]
fn a_file_that_was_taken_back_before_all_had_read_it_leaves_nothing() {
    let program = require!(skip::farm());
    let lab = lab("unread", 2, 1);
    let mut farm = running(&lab, &program, ONE_VIP);
    let good = farm.text().unwrap();
    farm.edit(|text| format!("{text}{ANOTHER_VIP}")).unwrap();
    let early = ["reload", "--timeout", "200ms"];
    asks_in_vain(&farm, 1, &early, 1, "node2 has not read the same file");
    assert!(lab.node(1).has_address(SECOND.into()).unwrap(), "ready, and closed");
    assert!(farm.status(1).unwrap().staged.is_some());
    assert_eq!(farm.status(2).unwrap().nodes[0].staged, farm.status(1).unwrap().staged);
    farm.edit(|_| good.clone()).unwrap();
    farm.ask(1, &["reload"]).unwrap();
    eventually("the VIP is gone again", || !lab.node(1).has_address(SECOND.into()).unwrap());
    assert_eq!(farm.status(1).unwrap().staged, None);
    farm.stop().unwrap();
}

/// Those who have read the file go on without the one who has not, and no bucket is served twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_forced_file_leaves_out_who_has_not_read_it_until_he_has() {
    let program = require!(skip::farm());
    let lab = lab("forced", 3, 40);
    let mut farm = running(&lab, &program, ONE_VIP);
    let traffic = Probed::start(&lab).await;
    let from = Instant::now();
    farm.edit(|text| text.replace("port: 80,", "port: 8080,")).unwrap();
    farm.ask_command(1, &["reload", "--timeout", "0s"]).output().unwrap();
    farm.ask(2, &["reload", "--force"]).unwrap();
    eventually("node3 is out", || {
        let status = farm.status(3).unwrap();
        status.state == NodeState::Fenced && has_event(&farm, 3, "held_back")
    });
    assert_eq!(farm.status(1).unwrap().groups[0].load["node3"], 0);
    farm.ask(3, &["reload"]).unwrap();
    farm.wait_converged(&[1, 2, 3]).unwrap();
    traffic.stop_unharmed(from).await;
    farm.stop().unwrap();
}

/// A node that is to go is served by the old file until its agent stops.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_dropped_by_a_reload_serves_until_it_stops() {
    let program = require!(skip::farm());
    let lab = lab("dropped", 3, 40);
    let mut farm = running(&lab, &program, ONE_VIP);
    let traffic = Probed::start(&lab).await;
    let from = Instant::now();
    farm.edit(|text| {
        text.split_inclusive('\n').filter(|line| !line.contains("name: node3")).collect()
    })
    .unwrap();
    for node in 1..=2 {
        asks_in_vain(&farm, node, &["reload", "--timeout", "1s"], 1, "node3");
    }
    asks_in_vain(&farm, 3, &["reload"], 1, "stop this agent");
    let statuses: Vec<_> = (1..=3).map(|node| farm.status(node).unwrap()).collect();
    assert!(statuses.iter().all(|it| it.state == NodeState::Up && it.epoch == statuses[0].epoch));

    farm.stop_node(3).unwrap();
    eventually("the others go over", || {
        (1..=2).all(|node| {
            let status = farm.status(node).unwrap();
            status.nodes.len() == 2 && status.staged.is_none() && status.converged
        })
    });
    traffic.stop_unharmed(from).await;
    farm.stop().unwrap();
}

/// The new node may be started too early: it hears that the farm serves, and waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_added_by_a_reload_joins_and_before_that_serves_nothing() {
    let program = require!(skip::farm());
    let lab = lab("added", 3, 40);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let all = farm.text().unwrap();
    let without =
        |text: &str| text.split_inclusive('\n').filter(|line| !line.contains("node3")).collect();
    farm.edit(without).unwrap();
    farm.start_node(1, &[]).unwrap();
    farm.start_node(2, &[]).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    let traffic = Probed::start(&lab).await;
    let from = Instant::now();

    farm.edit(|_| all.clone()).unwrap();
    farm.start_node(3, &[]).unwrap();
    eventually("both sides say what is the matter", || {
        has_event(&farm, 1, "newcomer") && farm.status(3).is_ok() && has_event(&farm, 3, "unknown")
    });
    sleep(Duration::from_secs(1)).await;
    assert_ne!(farm.status(3).unwrap().state, NodeState::Up);
    assert_eq!(farm.status(1).unwrap().nodes.len(), 2);

    farm.ask_command(1, &["reload", "--timeout", "0s"]).output().unwrap();
    farm.ask(2, &["reload"]).unwrap();
    farm.wait_converged(&[1, 2, 3]).unwrap();
    traffic.stop_unharmed(from).await;
    farm.stop().unwrap();
}
