//! `mode: failover`: one node at a time has the VIP.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use vipfarm::{
    model::Timers,
    status::{Explanation, FailoverStatus, Why},
};
use vipfarm_lab::{
    Farm, Frame, Lab, Topology,
    farm::run_to_end,
    lab::{VIP, VIP_V6},
    require, skip,
    traffic::{GRACE, StreamEcho, Streams, UdpProbe},
};

use crate::{
    ECHO, HTTP, ONE_VIP, all, asks_in_vain, events, eventually, has_event, lab,
    probed::{PERIOD, Probed},
    running,
    wire::{Packet, What, answers, arp_replies},
};

/// The first node is the best.
const BY_PRIORITY: &str = "vips:
  - interface: eth0
    mode: failover
    addresses: [10.77.0.100/16]
    priorities: { node1: 150, node2: 100, node3: 50 }
";

fn by_priority(lines: &str) -> String {
    format!("{BY_PRIORITY}    {lines}\n")
}

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

/// Who has it, why, and whose it would be, as a node's agent says.
fn holder(farm: &Farm<'_>, asked: usize) -> (Option<String>, Option<Why>, Option<String>) {
    let FailoverStatus { holder, why, favourite, .. } = told(farm, asked, 0);
    (holder, why, favourite)
}

fn name(node: usize) -> String {
    format!("node{node}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_nodes_vip_is_taken_over_and_goes_back_when_it_returns() {
    let program = require!(skip::farm());
    let lab = lab("floats", 3, 40);
    let mut farm = running(&lab, &program, BY_PRIORITY);
    wait_for_holder(&lab, VIP, 1);
    let traffic = Probed::start(&lab).await;
    assert!(traffic.is_served_by("node1"));
    assert_eq!(holder(&farm, 3), (Some(name(1)), Some(Why::Priority), Some(name(1))));
    // A node that does not have it is its client.
    let of_node = UdpProbe::start(&lab.nodes()[2..], ECHO, 2, PERIOD).unwrap();
    eventually("a node is served", || of_node.log().all_answered(20, GRACE));

    let from = Instant::now();
    lab.node(1).cut().unwrap();
    farm.kill(1).unwrap();
    farm.wait_converged(&[2, 3]).unwrap();
    traffic.all_served().await;
    assert!(traffic.is_served_by("node2"));
    let gap = traffic.log().longest_gap(from, Instant::now());
    assert!(gap < Duration::from_secs(1), "a silent death: {gap:?}");
    eventually("the node too", || of_node.log().all_answered(20, GRACE));
    of_node.stop().await;

    lab.node(1).heal().unwrap();
    farm.start_node(1, &[]).unwrap();
    farm.wait_converged(&[1, 2, 3]).unwrap();
    wait_for_holder(&lab, VIP, 1);
    traffic.all_served().await;

    let from = Instant::now();
    farm.stop_node(1).unwrap();
    wait_for_holder(&lab, VIP, 2);
    traffic.all_served().await;
    let gap = traffic.log().longest_gap(from, Instant::now());
    assert!(gap < Duration::from_millis(500), "a clean stop: {gap:?}");
    traffic.stop().await;
    farm.stop().unwrap();
    assert_eq!(having(&lab, VIP), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn t32_a_frozen_holder_answers_nothing_and_with_preempt_off_the_vip_stays_where_it_went() {
    const NAME: &str =
        "t32_a_frozen_holder_answers_nothing_and_with_preempt_off_the_vip_stays_where_it_went";
    let program = require!(NAME, skip::farm());
    let lab = lab("thaws", 3, 40);
    let mut farm = Farm::new(&lab, &program, "test", &by_priority("preempt: false")).unwrap();
    // Whoever is there first keeps it.
    farm.start_node(1, &[]).unwrap();
    wait_for_holder(&lab, VIP, 1);
    farm.start_node(2, &[]).unwrap();
    farm.start_node(3, &[]).unwrap();
    farm.wait_converged(&[1, 2, 3]).unwrap();
    wait_for_holder(&lab, VIP, 1);
    let traffic = Probed::start(&lab).await;
    let (client, first) = (lab.client(1), lab.node(1));
    let asking: Vec<_> = (0..20).map(|i| Ipv4Addr::new(10, 77, 9, i)).collect();
    let by_name = |sender: &Ipv4Addr| {
        Frame::arp_request(client.mac(), *sender, VIP).macs(client.mac(), first.mac()).bytes()
    };
    let by_name: Vec<_> = asking.iter().map(by_name).collect();
    let ping = |index: u16| {
        let frame = Frame::icmp_echo(client.address().into(), VIP.into(), 7, index);
        frame.macs(client.mac(), first.mac()).bytes()
    };
    let pings: Vec<_> = (0..20).map(ping).collect();
    // Whoever takes over tells all, several times, which is no answer.
    let answered = || {
        let replies = arp_replies(client, &by_name);
        let by_first = replies.iter().filter(|reply| reply.mac == first.mac());
        by_first.filter(|reply| asking.contains(&reply.target.1)).count()
    };
    assert_eq!(answered(), asking.len(), "while it has the VIP");
    let pinged = || {
        let by_first = |answer: &Packet| answer.mac == first.mac();
        let replies = answers(client, &pings, VIP).into_iter().filter(by_first);
        replies.filter(|answer| matches!(answer.what, What::EchoReply { .. })).count()
    };
    assert_eq!(pinged(), pings.len());

    farm.freeze(1, true).unwrap();
    let frozen = Instant::now();
    farm.wait_converged(&[2, 3]).unwrap();
    eventually("node2 serves", || traffic.is_served_by("node2"));
    traffic.all_served().await;
    assert_eq!(having(&lab, VIP), [1, 2], "nobody can take it from a frozen agent's node");
    assert_eq!(answered(), 0);
    assert_eq!(pinged(), 0);
    let served = traffic.log().last_served("node1").unwrap();
    let went_on = served.saturating_duration_since(frozen);
    assert!(went_on <= Timers::BALANCED.lease + Duration::from_millis(50), "{went_on:?}");

    farm.freeze(1, false).unwrap();
    farm.wait_converged(&[1, 2, 3]).unwrap();
    wait_for_holder(&lab, VIP, 2);
    assert_eq!(holder(&farm, 1), (Some(name(2)), Some(Why::Incumbent), Some(name(1))));
    assert_eq!(answered(), 0);
    traffic.all_served().await;
    assert!(traffic.is_served_by("node2") && !traffic.is_served_by("node1"));

    // The same of one that crashed, and left the address behind.
    farm.kill(2).unwrap();
    farm.wait_converged(&[1, 3]).unwrap();
    eventually("the first has it again", || having(&lab, VIP) == [1, 2]);
    farm.start_node(2, &[]).unwrap();
    farm.wait_converged(&[1, 2, 3]).unwrap();
    wait_for_holder(&lab, VIP, 1);
    farm.kill(1).unwrap();
    let down = run_to_end(&mut farm.down_command(1)).unwrap();
    assert!(down.status.success(), "{down:?}");
    wait_for_holder(&lab, VIP, 2);
    traffic.all_served().await;
    traffic.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vip_is_moved_and_goes_back_and_clients_of_both_families_learn_it_at_once() {
    const NAME: &str = "a_vip_is_moved_and_goes_back_and_clients_of_both_families_learn_it_at_once";
    let program = require!(NAME, skip::farm());
    let topology = Topology { client_addresses: 8, ipv6: true, ..Topology::new(3, 1) };
    let lab = Lab::new("moves", &topology).unwrap();
    let vips = BY_PRIORITY.replace("10.77.0.100/16", "10.77.0.100/16, 'fd00:77::a4d:64/64'");
    let mut farm = running(&lab, &program, &vips);
    for vip in [IpAddr::from(VIP), VIP_V6.into()] {
        wait_for_holder(&lab, vip, 1);
    }
    let _echoes: Vec<_> =
        lab.nodes().iter().map(|node| StreamEcho::start(node, 80).unwrap()).collect();
    let pause = Duration::from_millis(5);
    let of = |target: SocketAddr| Streams::start(lab.clients(), target, 8, pause);
    let streams = [of(HTTP.into()).await.unwrap(), of((VIP_V6, 80).into()).await.unwrap()];
    let traffic = Probed::start(&lab).await;
    let client = lab.client(1);
    let believes = |node: usize| {
        let mac = Some(lab.node(node).mac());
        [IpAddr::from(VIP), VIP_V6.into()].map(|vip| client.neighbour(vip).unwrap() == mac)
    };
    assert_eq!(believes(1), [true; 2]);

    let from = Instant::now();
    let words = farm.ask(2, &["move", "10.77.0.100", "node3"]).unwrap();
    assert!(words.contains("node3 has it") && words.contains("move --back"), "{words}");
    for vip in [IpAddr::from(VIP), VIP_V6.into()] {
        wait_for_holder(&lab, vip, 3);
    }
    eventually("the client knows", || believes(3) == [true; 2]);
    traffic.all_served().await;
    assert!(traffic.is_served_by("node3"));
    let gap = traffic.log().longest_gap(from, Instant::now());
    assert!(gap < Duration::from_millis(500), "moved in {gap:?}");
    for fate in streams.into_iter().flat_map(Streams::stop) {
        assert!(fate.is_reset(), "told at once: {fate:?}");
    }
    assert!(has_event(&farm, 1, "vip_reset"));
    let given = events(&farm, 1).into_iter().find(|event| event.kind == "vip_given_up").unwrap();
    assert!(given.message.ends_with("has 10.77.0.100 now"), "{given:?}");
    assert_eq!(holder(&farm, 1).1, Some(Why::Pinned));

    for (asked, words) in [
        (&["move", "10.77.0.101", "node1"][..], "its failover VIPs are 10.77.0.100"),
        (&["move", "10.77.0.100", "node9"], "its nodes are node1, node2, node3"),
    ] {
        asks_in_vain(&farm, 1, asked, 1, words);
    }
    let back: FailoverStatus =
        farm.ask_json(3, &["move", "fd00:77::a4d:64", "--back", "--json"]).unwrap();
    assert_eq!((back.holder, back.why), (Some(name(1)), Some(Why::Priority)));
    wait_for_holder(&lab, VIP, 1);
    eventually("the client knows", || believes(1) == [true; 2]);

    farm.ask(1, &["move", "10.77.0.100", "node2"]).unwrap();
    wait_for_holder(&lab, VIP, 2);
    farm.stop_node(2).unwrap();
    wait_for_holder(&lab, VIP, 1);
    farm.start_node(2, &[]).unwrap();
    farm.wait_converged(&[1, 2, 3]).unwrap();
    assert_eq!(
        holder(&farm, 2),
        (Some(name(1)), Some(Why::Priority), Some(name(1))),
        "it ended with the agent"
    );
    traffic.all_served().await;
    traffic.stop().await;
    farm.stop().unwrap();
}

#[test]
fn explain_names_the_holder_and_why_it_is_that_one() {
    let program = require!(skip::farm());
    let lab = lab("holder", 2, 1);
    let vips = BY_PRIORITY.replace(", node3: 50", "") + "    preempt: false\n";
    let mut farm = Farm::new(&lab, &program, "test", &vips).unwrap();
    farm.start_node(2, &[]).unwrap();
    wait_for_holder(&lab, VIP, 2);
    eventually("it is remembered", || told(&farm, 2, 0).why == Some(Why::Incumbent));
    farm.start_node(1, &[]).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    let client = ["10.77.1.1:4000", "10.77.0.100:80"];
    let explain = |node: usize| {
        let asked = [&["explain", "--json"], &client[..]].concat();
        farm.ask_json::<Explanation>(node, &asked).unwrap()
    };
    for (node, verdict) in [(1, "drop"), (2, "accept")] {
        let told = explain(node);
        assert_eq!((told.owner, told.why), (Some(name(2)), Some(Why::Incumbent)));
        assert_eq!((told.bucket, &*told.verdict), (None, verdict), "{}", told.text);
        let keeps = "node2 keeps it because it has had it before node1 came (`preempt: false`).";
        assert!(told.text.ends_with(keeps), "{}", told.text);
    }
    let offline = farm.explain_offline(&client).unwrap();
    assert_eq!((offline.owner, offline.why), (Some(name(1)), Some(Why::Priority)));
    assert!(offline.text.contains("the file does not tell"), "{}", offline.text);
    farm.ask(1, &["move", "10.77.0.100", "node1"]).unwrap();
    eventually("it is told", || explain(2).why == Some(Why::Pinned));
    assert_eq!(explain(1).verdict, "accept");
    let words = farm.ask(2, &[&["explain"], &client[..]].concat()).unwrap();
    assert!(words.starts_with("node2 drops it: node1 has 10.77.0.100 and serves"), "{words}");
    assert!(words.contains("holder   node1 (pinned)"), "{words}");
    farm.stop().unwrap();
}

#[test]
fn a_better_node_takes_over_when_it_has_been_in_the_farm_for_the_delay() {
    const DELAY: Duration = Duration::from_millis(1500);
    let program = require!(skip::farm());
    let lab = lab("delayed", 2, 1);
    let vips = BY_PRIORITY.replace(", node3: 50", "") + "    preempt_delay: 1500ms\n";
    let mut farm = Farm::new(&lab, &program, "test", &vips).unwrap();
    farm.start_node(2, &[]).unwrap();
    farm.wait_converged(&[2]).unwrap();
    wait_for_holder(&lab, VIP, 2);
    let remembered = || told(&farm, 2, 0).why == Some(Why::Incumbent);
    eventually("it is remembered", remembered);
    farm.start_node(1, &[]).unwrap();
    let from = Instant::now();
    farm.wait_converged(&[1, 2]).unwrap();
    assert_eq!(
        holder(&farm, 1),
        (Some(name(2)), Some(Why::Incumbent), Some(name(1))),
        "the other one waits"
    );
    let words = farm.ask(1, &["status"]).unwrap();
    assert!(words.contains("until node1 has been in the farm"), "{words}");
    wait_for_holder(&lab, VIP, 1);
    assert!(from.elapsed() > DELAY, "after {:?}", from.elapsed());
    eventually("and stays there", || holder(&farm, 2).1 == Some(Why::Incumbent));
    assert_eq!(having(&lab, VIP), [1]);
    farm.stop().unwrap();
}

/// The VIP blocks 10.77.0.100 to .107, spread.
fn spread() -> String {
    let block = |last: u8| {
        format!(
            "  - {{ interface: eth0, mode: failover, balance: spread, addresses: [10.77.0.{last}/16] }}\n"
        )
    };
    format!("vips:\n{}", (100..108).map(block).collect::<String>())
}

/// The node that has each of those VIPs, once exactly one does.
fn settled(lab: &Lab) -> BTreeMap<u8, usize> {
    let mut found = BTreeMap::new();
    for last in 100..108 {
        let vip = Ipv4Addr::new(10, 77, 0, last);
        eventually(&format!("one node has {vip}"), || {
            let having = having(lab, vip);
            if let [node] = having[..] {
                found.insert(last, node);
            }
            having.len() == 1
        });
    }
    found
}

fn loads(holders: &BTreeMap<u8, usize>) -> BTreeMap<usize, usize> {
    let mut loads = BTreeMap::new();
    for &node in holders.values() {
        *loads.entry(node).or_default() += 1;
    }
    loads
}

#[test]
fn eight_vips_are_spread_over_four_nodes_and_a_loss_moves_the_lost_nodes_only() {
    let program = require!(skip::farm());
    let lab = lab("spread", 4, 1);
    let mut farm = running(&lab, &program, &spread());
    let before = settled(&lab);
    assert_eq!(loads(&before), BTreeMap::from([(1, 2), (2, 2), (3, 2), (4, 2)]));
    let remembered = |lab: &Lab, farm: &Farm<'_>| {
        let now = settled(lab);
        let status = farm.status(1).unwrap();
        let holders = status.vips.iter().zip(now.values());
        let is = |(vip, &node): (&vipfarm::status::VipStatus, &usize)| {
            vip.failover.as_ref().unwrap().holder == Some(name(node))
        };
        holders.into_iter().all(is) && status.converged
    };
    eventually("the farm says the same", || remembered(&lab, &farm));
    // What each holder has the farm remember makes views of its own.
    eventually("all is remembered", || {
        let version = farm.status(1).unwrap().powers_version;
        thread::sleep(Duration::from_millis(600));
        version > 0 && farm.status(1).unwrap().powers_version == version
    });

    farm.stop_node(2).unwrap();
    farm.wait_converged(&[1, 3, 4]).unwrap();
    let without = settled(&lab);
    for (vip, node) in before.iter().filter(|(_, node)| **node != 2) {
        assert_eq!(without[vip], *node, "10.77.0.{vip} had no reason to move");
    }
    let mut counts: Vec<_> = loads(&without).into_values().collect();
    counts.sort_unstable();
    assert_eq!(counts, [2, 3, 3]);

    farm.start_node(2, &[]).unwrap();
    farm.wait_converged(&[1, 2, 3, 4]).unwrap();
    eventually("the node that is back has its share", || loads(&settled(&lab)).len() == 4);
    let after = settled(&lab);
    assert_eq!(loads(&after), loads(&before));
    let moved = after.iter().filter(|(vip, node)| without[*vip] != **node);
    assert_eq!(moved.count(), 2, "no more than it must: {without:?} {after:?}");
    farm.stop().unwrap();
}

#[test]
fn eight_vips_are_spread_over_ten_nodes_and_an_idle_one_takes_a_dead_ones() {
    let program = require!(skip::farm());
    let lab = lab("ten", 10, 1);
    let mut farm = running(&lab, &program, &spread());
    let before = settled(&lab);
    assert_eq!(loads(&before).len(), 8, "one each: {before:?}");

    let (&vip, &dead) = before.iter().next().unwrap();
    farm.kill(dead).unwrap();
    lab.node(dead).cut().unwrap();
    let others: Vec<_> = all(&lab).into_iter().filter(|&node| node != dead).collect();
    farm.wait_converged(&others).unwrap();
    // The dead node's kernel has its VIP still, out of reach.
    let holder = |last: u8| {
        let holders = having(&lab, Ipv4Addr::new(10, 77, 0, last));
        holders.into_iter().filter(|&node| node != dead).collect::<Vec<_>>()
    };
    eventually("another node has it", || holder(vip).len() == 1);
    assert!(!before.values().any(|&node| holder(vip) == [node]), "one that had none: {before:?}");
    for (&vip, &node) in before.iter().filter(|(_, node)| **node != dead) {
        assert_eq!(holder(vip), [node], "10.77.0.{vip} had no reason to move");
    }

    lab.node(dead).heal().unwrap();
    farm.start_node(dead, &[]).unwrap();
    farm.wait_converged(&all(&lab)).unwrap();
    assert_eq!(settled(&lab).len(), 8, "whoever has one now");
    farm.stop().unwrap();
}

/// A failover VIP behind [`ONE_VIP`].
const ANOTHER: &str = "  - interface: eth0
    mode: failover
    addresses: [10.77.0.101/16]
    priorities: { node2: 2, node1: 1 }
    rules: [{ port: 7000, proto: udp }]
";

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_adds_a_failover_vip_beside_the_others_and_drops_it() {
    let program = require!(skip::farm());
    let lab = lab("joined", 2, 40);
    let mut farm = running(&lab, &program, ONE_VIP);
    let traffic = Probed::start(&lab).await;
    let from = Instant::now();
    let second = Ipv4Addr::new(10, 77, 0, 101);
    let before = farm.text().unwrap();
    let reload = |farm: &Farm<'_>| {
        asks_in_vain(farm, 1, &["reload", "--timeout", "0s"], 1, "node2");
        farm.ask(2, &["reload"]).unwrap();
    };
    farm.edit(|text| format!("{text}{ANOTHER}")).unwrap();
    reload(&farm);
    wait_for_holder(&lab, second, 2);
    let to = SocketAddr::from((second, ECHO.port()));
    let other = Probed::start_to(&lab, to).await;
    assert!(other.is_served_by("node2") && !other.is_served_by("node1"));
    farm.ask(1, &["drain", "node2"]).unwrap();
    wait_for_holder(&lab, second, 1);
    other.all_served().await;
    farm.ask(1, &["undrain", "node2"]).unwrap();
    wait_for_holder(&lab, second, 2);
    other.all_served().await;
    other.stop().await;

    farm.edit(|text| text.replace("mode: failover", "mode: vmac_directed").replace("    priorities: { node2: 2, node1: 1 }\n    rules: [{ port: 7000, proto: udp }]\n", "    groups: [{ name: second, rules: [{ port: 7000, proto: udp, filter: on_port }] }]\n")).unwrap();
    asks_in_vain(&farm, 1, &["reload"], 1, "10.77.0.101 goes over to `mode: failover`, or back");
    farm.edit(|_| before.clone()).unwrap();
    reload(&farm);
    eventually("nobody has it", || having(&lab, second).is_empty());
    traffic.stop_unharmed(from).await;
    farm.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn t32_of_two_nodes_the_other_takes_a_frozen_ones_vip_and_gives_it_back() {
    const NAME: &str = "t32_of_two_nodes_the_other_takes_a_frozen_ones_vip_and_gives_it_back";
    let program = require!(NAME, skip::farm());
    let lab = lab("thawtwo", 2, 8);
    let vips = BY_PRIORITY.replace(", node3: 50", "");
    let mut farm = running(&lab, &program, &vips);
    wait_for_holder(&lab, VIP, 1);
    let traffic = Probed::start(&lab).await;
    let begin = Instant::now();
    farm.freeze(1, true).unwrap();
    farm.wait_converged(&[2]).unwrap();
    eventually("the other serves", || !traffic.is_served_by("node1"));
    traffic.all_served().await;

    farm.freeze(1, false).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    wait_for_holder(&lab, VIP, 1);
    // It has had the address all the time, and its clients have learnt the other's MAC meanwhile.
    eventually("it serves again", || !traffic.is_served_by("node2"));
    traffic.all_served().await;
    let until = Instant::now();
    let gap = traffic.stop().await.longest_gap(begin, until);
    assert!(gap < Duration::from_millis(500), "clients waited for {gap:?}");
}

#[test]
fn a_node_whose_interface_does_not_take_the_vip_leaves_it_to_the_others() {
    let program = require!(skip::farm());
    let lab = Lab::new("refuses", &Topology { ipv6: true, ..Topology::new(2, 1) }).unwrap();
    let vips =
        BY_PRIORITY.replace(", node3: 50", "").replace("10.77.0.100/16", "'fd00:77::a4d:64/64'");
    let mut farm = running(&lab, &program, &vips);
    wait_for_holder(&lab, VIP_V6, 1);
    farm.ask(1, &["drain", "node1"]).unwrap();
    wait_for_holder(&lab, VIP_V6, 2);
    lab.node(1).set_sysctl("net/ipv6/conf/eth0/disable_ipv6", "1").unwrap();
    farm.ask(2, &["undrain", "node1"]).unwrap();
    eventually("it says what is wrong", || has_event(&farm, 1, "vip_not_moved"));
    wait_for_holder(&lab, VIP_V6, 2);
    eventually("the farm says so", || holder(&farm, 2).0 == Some(name(2)));
    let told = farm.status(1).unwrap().checks;
    assert!(told.iter().any(|it| it.check == "address"), "{told:?}");
    farm.stop().unwrap();
}
