//! Two farms on one network.

use std::{
    net::{IpAddr, SocketAddrV4, UdpSocket},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use vipfarm::{
    model::Mac,
    status::{CheckState, CheckStatus, GroupStatus},
};
use vipfarm_lab::{
    Direction, Farm, Lab, Topology,
    frame::Frame,
    lab::VIP,
    require, skip,
    traffic::{GRACE, UdpEcho, UdpProbe},
};

use crate::{
    ECHO, ONE_VIP, events, eventually, has_event, lab, packets,
    probed::{PERIOD, Probed},
    vmac,
    wire::{self, arp},
    within,
};

/// Long enough for each farm to have asked for its VIPs twice.
const TWO_ROUNDS: Duration = Duration::from_millis(6500);

/// Long enough for a check of claims to have looked three times, and for claims to be heard before.
const LOOKS: Duration = Duration::from_secs(20);

/// Farms of nodes 1 and 2 and of nodes 3 and 4 that have agreed, with these VIPs.
pub(crate) fn two_farms<'a>(lab: &'a Lab, program: &Path, vips: [&str; 2]) -> [Farm<'a>; 2] {
    let farm = |name, nodes, vips| {
        let mut farm = Farm::of_nodes(lab, nodes, program, name, vips).unwrap();
        farm.start().unwrap();
        farm
    };
    let mut farms = [farm("one", &[1, 2], vips[0]), farm("two", &[3, 4], vips[1])];
    for farm in &mut farms {
        let nodes = farm.nodes().to_vec();
        farm.wait_converged(&nodes).unwrap();
    }
    farms
}

/// Waits until every node has told of a conflict, as counted by `reason`, and returns what each said.
pub(crate) fn conflicts(farms: &[Farm<'_>], reason: &str) -> Vec<String> {
    let of_node = |(farm, node): (&Farm<'_>, usize)| {
        eventually("the conflict is told of", || has_event(farm, node, "address_conflict"));
        let told: Vec<_> = events(farm, node)
            .into_iter()
            .filter(|event| event.kind == "address_conflict")
            .collect();
        assert_eq!(told.len(), 1, "told once, not each time: {told:?}");
        eventually("it is counted so", || packets(farm, node, reason) > 0);
        told[0].message.clone()
    };
    let nodes = farms.iter().flat_map(|farm| farm.nodes().iter().map(move |&node| (farm, node)));
    nodes.map(of_node).collect()
}

#[test]
fn t34_two_farms_with_one_vip_both_say_so_and_neither_poisons_a_cache() {
    const NAME: &str = "t34_two_farms_with_one_vip_both_say_so_and_neither_poisons_a_cache";
    let program = require!(NAME, skip::farm());
    let lab = lab("samevip", 4, 1);
    let client = lab.client(1);
    let heard = client
        .capture_if(|frame| frame.direction == Direction::Incoming && arp(frame).is_some())
        .unwrap();
    let farms = two_farms(&lab, &program, [ONE_VIP, ONE_VIP]);
    let told = conflicts(&farms, "arp_conflict");
    for (told, first) in told.iter().zip([3, 3, 1, 1]) {
        let (mac, vip) = (lab.node(first).mac().to_string(), VIP.to_string());
        assert!(told.contains("another farm") && told.contains(&vip), "{told}");
        assert!(told.contains(&mac), "{told} does not name {mac}");
    }

    let socket = client.in_ns(|| UdpSocket::bind((client.address(), 0))).unwrap();
    socket.send_to(b"who has the VIP?", (VIP, 9)).unwrap();
    eventually("the client knows the VIP", || {
        client.neighbour(IpAddr::V4(VIP)).unwrap() == Some(vmac())
    });
    thread::sleep(TWO_ROUNDS);
    assert_eq!(client.neighbour(IpAddr::V4(VIP)).unwrap(), Some(vmac()));
    let heard = heard.stop();
    let probes =
        heard.iter().filter(|frame| arp(frame).is_some_and(|arp| arp.sender.1.is_unspecified()));
    assert!((4..=20).contains(&probes.count()), "one now and then");
    for frame in &heard {
        let packet = arp(frame).expect("kept for it");
        let own = lab.nodes().iter().any(|node| node.mac() == wire::source(frame));
        assert!(own, "a frame from no node's own MAC: {packet:?}");
        assert!(packet.sender.1 != VIP || packet.sender.0 == vmac(), "{packet:?}");
    }
    assert!(lab.fdb().unwrap().iter().all(|entry| entry.mac != vmac()));
}

#[test]
fn t34_two_farms_with_one_virtual_mac_both_say_so() {
    const NAME: &str = "t34_two_farms_with_one_virtual_mac_both_say_so";
    let program = require!(NAME, skip::farm());
    let lab = lab("samevmac", 4, 1);
    let other = ONE_VIP.replace(
        "addresses: [10.77.0.100/16]",
        &format!("addresses: [10.77.0.101/16]\n    vmac: {}", vmac()),
    );
    let farms = two_farms(&lab, &program, [ONE_VIP, &other]);
    for (told, first) in conflicts(&farms, "arp_conflict").iter().zip([3, 3, 1, 1]) {
        assert!(told.contains("another farm") && told.contains("virtual MAC"), "{told}");
        assert!(told.contains(&lab.node(first).mac().to_string()), "{told}");
    }
}

#[test]
fn t34_a_machine_that_has_the_vip_and_says_nothing_is_found() {
    const NAME: &str = "t34_a_machine_that_has_the_vip_and_says_nothing_is_found";
    let program = require!(NAME, skip::farm());
    let lab = lab("squatter", 2, 1);
    let client = lab.client(1);
    let farm = crate::running(&lab, &program, ONE_VIP);
    client.add_address(VIP.into(), 16).unwrap();
    eventually("the first node says so", || has_event(&farm, 1, "address_conflict"));
    let told = events(&farm, 1);
    let told = told.iter().find(|event| event.kind == "address_conflict").expect("an event");
    assert!(told.message.contains(&client.mac().to_string()), "{told:?}");
    assert!(told.message.contains("another machine"), "{told:?}");
}

/// Two VIPs of which nodes are to stop serving whichever somebody else claims, at the least `interval`,
/// and one of which nobody cares.
fn left_when_claimed() -> String {
    let block = |vip: &str, name: &str, checks: &str| {
        let rules = "rules: [{ port: 7000, proto: udp, filter: on_port }]";
        let group = format!("groups: [{{ name: {name}, {rules} }}]");
        format!("  - {{ interface: eth0, addresses: [{vip}/16], {checks}{group} }}\n")
    };
    let check = "checks: [{ claimed: false, interval: 4s, fall: 2, rise: 1, effect: leave }], ";
    let blocks = [
        block("10.77.0.100", "one", check),
        block("10.77.0.101", "two", check),
        block("10.77.0.102", "three", ""),
    ];
    format!("vips:\n{}", blocks.concat())
}

/// What the nodes have of each group.
fn loads(farm: &Farm<'_>) -> [Vec<usize>; 3] {
    let groups: Vec<GroupStatus> = farm.ask_json(1, &["bitmap", "--json"]).unwrap();
    let loads: Vec<_> = groups.iter().map(|it| it.load.values().copied().collect()).collect();
    loads.try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn t34_nodes_leave_a_vip_that_a_stranger_has_and_no_other_if_the_file_asks_for_it() {
    let program = require!(skip::farm());
    let lab = Lab::new("left", &Topology { client_addresses: 20, ..Topology::new(2, 2) }).unwrap();
    let mut farm = crate::running(&lab, &program, &left_when_claimed());
    let (stranger, other) = (lab.client(2), SocketAddrV4::new([10, 77, 0, 101].into(), 7000));
    let traffic = Probed::start_from(&lab, &lab.clients()[..1], other.into(), PERIOD).await;
    eventually("both nodes serve", || loads(&farm) == [[128, 128]; 3]);

    let begin = Instant::now();
    // Who has two is asked for both in one go.
    let taken = [VIP, [10, 77, 0, 102].into()];
    for vip in taken {
        stranger.add_address(vip.into(), 16).unwrap();
    }
    // To the virtual MAC, for no client is to believe it.
    let forged = Frame::arp_reply((stranger.mac(), *other.ip()), (Mac::of_vip(*other.ip()), VIP));
    stranger.inject(&forged.bytes()).unwrap();
    let left = [[0, 0], [128, 128], [128, 128]];
    within(LOOKS, "nobody serves it", || loads(&farm) == left);
    println!("nobody serves the VIP after {:?}", begin.elapsed());
    let mac = stranger.mac().to_string();
    for node in [1, 2] {
        let words = farm.ask(node, &["status"]).unwrap();
        assert!(words.contains("unclaimed (vip 10.77.0.100) fails: another machine"), "{words}");
        let [one, two] = <[_; 2]>::try_from(own_checks(&farm, node)).unwrap();
        assert!(one.state == CheckState::Failing && one.last_error.unwrap().contains(&mac));
        assert_eq!(two.state, CheckState::Passing, "one frame is one bad look");
        assert!(two.last_error.unwrap().contains("10.77.0.101"), "which there was");
    }
    // One look that hears nothing would do.
    let until = Instant::now() + Duration::from_millis(4500);
    while Instant::now() < until {
        assert_eq!(loads(&farm), left);
        sleep(Duration::from_millis(50)).await;
    }
    let end = Instant::now();
    for vip in taken {
        stranger.remove_address(vip.into(), 16).unwrap();
    }
    within(LOOKS, "both nodes serve again", || loads(&farm)[0] == [128, 128]);
    println!("served again after {:?}", end.elapsed());
    traffic.stop_unharmed(begin).await;
    farm.stop().unwrap();
}

/// The checks of the file.
fn own_checks(farm: &Farm<'_>, node: usize) -> Vec<CheckStatus> {
    let checks = farm.status(node).unwrap().checks;
    checks.into_iter().filter(|check| check.check == "unclaimed").collect()
}

#[test]
fn t34_two_farms_that_both_leave_a_claimed_vip_both_stay_away() {
    let program = require!(skip::farm());
    let lab = Lab::new("bothleave", &Topology { ipv6: true, ..Topology::new(4, 1) }).unwrap();
    // Neither has a virtual MAC that would tell one farm from the other.
    let vips = "checks: [{ claimed: false, rise: 1, effect: leave }]
vips:
  - { mode: failover, addresses: [10.77.0.100/16], rules: [{ port: 80, proto: tcp }] }
  - mode: vmac_directed
    addresses: ['fd00:77::a4d:64/64']
    groups: [{ name: six, rules: [{ port: 80, proto: tcp, filter: on_port }] }]
";
    let farms = two_farms(&lab, &program, [vips, vips]);
    let nodes = || farms.iter().flat_map(|farm| farm.nodes().iter().map(move |&node| (farm, node)));
    let is_failing = |(farm, node)| own_checks(farm, node)[0].state == CheckState::Failing;
    within(LOOKS, "all have looked", || nodes().all(is_failing));
    // One look that hears nothing, and they would serve.
    let until = Instant::now() + TWO_ROUNDS;
    while Instant::now() < until {
        assert!(nodes().all(is_failing));
        thread::sleep(Duration::from_millis(100));
    }
    for (farm, node) in nodes() {
        let status = farm.status(node).unwrap();
        assert!(status.groups.iter().all(|group| group.load.values().all(|&load| load == 0)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t34_two_farms_with_vips_of_their_own_do_not_disturb_each_other() {
    const NAME: &str = "t34_two_farms_with_vips_of_their_own_do_not_disturb_each_other";
    let program = require!(NAME, skip::farm());
    let lab = lab("apart", 4, 30);
    let other = SocketAddrV4::new([10, 77, 0, 101].into(), ECHO.port());
    let second = ONE_VIP.replace("10.77.0.100", "10.77.0.101");
    let mut farms = two_farms(&lab, &program, [ONE_VIP, &second]);
    let echo = |(index, node)| UdpEcho::start(node, if index < 2 { ECHO } else { other }).unwrap();
    let _echoes: Vec<_> = lab.nodes().iter().enumerate().map(echo).collect();
    let start =
        |target| UdpProbe::start(lab.clients(), target, 30, Duration::from_millis(5)).unwrap();
    let probes = [start(ECHO), start(other)];
    let before = farms.each_ref().map(|farm| farm.status(farm.nodes()[0]).unwrap().epoch);
    sleep(TWO_ROUNDS).await;
    let after = farms.each_ref().map(|farm| farm.status(farm.nodes()[0]).unwrap().epoch);
    assert_eq!(after, before, "no view was changed");
    sleep(GRACE).await;
    for probe in probes {
        let log = probe.stop().await;
        assert!(log.counts().0 > 1000 && log.duplicates().is_empty(), "{:?}", log.counts());
    }
    // A node that starts hears probes of members that it does not know yet.
    for farm in &mut farms {
        let nodes = farm.nodes().to_vec();
        farm.stop_node(nodes[1]).unwrap();
        farm.start_node(nodes[1], &[]).unwrap();
        farm.wait_converged(&nodes).unwrap();
    }
    thread::sleep(Duration::from_secs(1));
    for farm in &farms {
        for &node in farm.nodes() {
            assert!(!has_event(farm, node, "address_conflict"), "{:?}", events(farm, node));
            let status = farm.status(node).unwrap();
            assert!(status.heartbeats["dropped_farm"] == 0, "{:?}", status.heartbeats);
        }
        assert_eq!(packets(farm, farm.nodes()[0], "arp_conflict"), 0);
    }
}
