//! VIPs on two networks of the same nodes, in all modes.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use vipfarm::{model::Mac, status::NodeState};
use vipfarm_lab::{
    Capture, Captured, Direction, Farm, Host, Lab, Topology,
    elsewhere::VIP_ELSEWHERE,
    lab::{VIP, beside},
    require, skip,
};

use crate::{
    ECHO, ONE_VIP, all,
    conflicts::conflicts,
    directed::needs,
    eventually, has_event, packets, packets_of_all,
    probed::{PERIOD, Probed},
    vmac, wire, with_second_addresses,
};

/// The directed VIP beside the invisible one.
const BESIDE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 101);

/// One that one node has at a time, on the other network.
const FLOATING: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 102);

/// On one network an invisible VIP and a directed one, on the other a directed one of both families and one
/// that fails over.
const VIPS: &str = "vips:
  - interface: eth0
    addresses: [10.77.0.100/16]
    groups:
      - { name: one, rules: [{ port: 7000, proto: udp, filter: on_port }] }
  - interface: eth0
    mode: vmac_directed
    addresses: [10.77.0.101/16]
    groups:
      - { name: two, rules: [{ port: 7000, proto: udp, filter: on_port }] }
  - mode: vmac_directed
    addresses: [10.78.0.100/16, 'fd00:77::a4e:64/112']
    groups:
      - { name: three, rules: [{ port: 7000, proto: udp, filter: on_port }] }
  - mode: failover
    addresses: [10.78.0.102/16, 'fd00:77::a4e:66/112']
";

/// A client waits for a node that is gone no longer than that.
const SERVED_AGAIN: Duration = Duration::from_secs(1);

fn echo(vip: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(vip.into(), ECHO.port())
}

fn lab(name: &str, nodes: u8, object: &Path) -> (Lab, Vec<Ipv4Addr>) {
    let topology = Topology { client_addresses: 10, ipv6: true, ..Topology::new(nodes, 4) };
    let lab = Lab::new(name, &topology).unwrap();
    let second = lab.add_network(4, 10).unwrap();
    lab.carry_handed_on_frames(object).unwrap();
    (lab, second)
}

fn running<'a>(lab: &'a Lab, second: &[Ipv4Addr], program: &Path) -> Farm<'a> {
    let mut farm = Farm::new(lab, program, "test", VIPS).unwrap();
    farm.edit(|text| with_second_addresses(lab, text, second)).unwrap();
    farm.start().unwrap();
    farm.wait_converged(&all(lab)).unwrap();
    farm
}

/// Clients of all VIPs, that are served.
async fn traffic(lab: &Lab) -> [Probed; 6] {
    // Six times as many as usual, each a sixth as often.
    let start = |clients, to| Probed::start_from(lab, clients, to, 6 * PERIOD);
    let (here, elsewhere) = (lab.clients(), lab.clients_elsewhere());
    [
        start(here, echo(VIP)).await,
        start(here, echo(BESIDE)).await,
        start(elsewhere, echo(VIP_ELSEWHERE)).await,
        start(elsewhere, echo(beside(VIP_ELSEWHERE))).await,
        start(elsewhere, echo(FLOATING)).await,
        start(elsewhere, echo(beside(FLOATING))).await,
    ]
}

/// The numbers of the nodes whose MACs clients have for a directed VIP, on that VIP's network.
fn cached(clients: &[Host], vip: IpAddr, macs: &[Mac]) -> Vec<usize> {
    let number = |client: &Host| {
        let mac = client.neighbour(vip).unwrap().expect("it has asked");
        1 + macs.iter().position(|it| *it == mac).unwrap_or_else(|| panic!("{vip} has {mac}"))
    };
    clients.iter().map(number).collect()
}

/// The entries of all clients for all directed VIPs.
fn entries(lab: &Lab) -> Vec<usize> {
    let first: Vec<_> = lab.nodes().iter().map(Host::mac).collect();
    let second: Vec<_> = (1..).take(first.len()).map(|i| lab.mac_elsewhere(i)).collect();
    let elsewhere = |vip| cached(lab.clients_elsewhere(), vip, &second);
    [
        cached(lab.clients(), BESIDE.into(), &first),
        elsewhere(VIP_ELSEWHERE.into()),
        elsewhere(beside(VIP_ELSEWHERE).into()),
    ]
    .concat()
}

/// The VIPs that ARP and neighbour discovery speak for, as a client hears it.
fn announced(client: &Host) -> Capture {
    let heard = |frame: &Captured| {
        let speaks = wire::arp(frame).is_some() || wire::neighbour(frame).is_some();
        frame.direction == Direction::Incoming && speaks
    };
    client.capture_if(heard).unwrap()
}

fn spoken_for(heard: Capture) -> Vec<IpAddr> {
    let vip = |frame: &Captured| {
        let arp = wire::arp(frame).map(|arp| IpAddr::from(arp.sender.1));
        let neighbour = wire::neighbour(frame).filter(|neighbour| !neighbour.solicits);
        arp.or_else(|| neighbour.map(|neighbour| neighbour.target.into()))
    };
    let vips = [VIP, BESIDE, VIP_ELSEWHERE];
    let vips: Vec<IpAddr> = vips.iter().flat_map(|&vip| [vip.into(), beside(vip).into()]).collect();
    let mut spoken: Vec<_> = heard.stop().iter().filter_map(vip).collect();
    spoken.retain(|vip| vips.contains(vip));
    spoken.sort();
    spoken.dedup();
    spoken
}

#[tokio::test(flavor = "multi_thread")]
async fn vips_of_all_modes_on_two_networks_are_each_served_once_and_fail_over() {
    const NAME: &str = "vips_of_all_modes_on_two_networks_are_each_served_once_and_fail_over";
    let (program, object) = require!(NAME, needs());
    let (lab, second) = lab("networks", 3, &object);
    let mut farm = running(&lab, &second, &program);
    let traffic = traffic(&lab).await;
    sleep(Duration::from_secs(1)).await;
    for client in lab.clients() {
        assert_eq!(client.neighbour(VIP.into()).unwrap(), Some(vmac()));
    }
    let before = entries(&lab);
    for node in all(&lab) {
        assert!(packets(&farm, node, "mine") > 0, "node{node} serves");
        assert_eq!(packets(&farm, node, "handed_over"), 0, "node{node} was sent another's");
        assert_eq!(packets(&farm, node, "no_next_hop"), 0, "node{node} knows its peers");
    }
    assert!(packets_of_all(&farm, "forwarded") > 400);

    let dead = (1..=3).max_by_key(|node| before.iter().filter(|it| *it == node).count()).unwrap();
    let others: Vec<_> = all(&lab).into_iter().filter(|&node| node != dead).collect();
    let heard = [announced(lab.client(1)), announced(&lab.clients_elsewhere()[0])];
    let from = Instant::now();
    lab.node(dead).cut().unwrap();
    lab.cut_elsewhere(lab.node(dead)).unwrap();
    farm.kill(dead).unwrap();
    sleep(Duration::from_millis(2500)).await;
    let until = Instant::now();
    let gaps = traffic.each_ref().map(|traffic| traffic.log().longest_gap(from, until));
    let holders =
        |node| traffic[4..].iter().all(|traffic| traffic.is_served_by(lab.node(node).name()));
    assert_eq!(
        others.iter().filter(|&&node| holders(node)).count(),
        1,
        "one has the VIP that fails over"
    );
    println!("a client waited for {gaps:?}");
    assert!(gaps.iter().all(|gap| *gap < SERVED_AGAIN), "{gaps:?}");
    assert!(!entries(&lab).contains(&dead), "{:?}", entries(&lab));
    let [here, there] = heard.map(spoken_for);
    assert!(here.contains(&BESIDE.into()), "{here:?}");
    let elsewhere = [VIP_ELSEWHERE.into(), beside(VIP_ELSEWHERE).into()];
    assert_eq!(there, elsewhere, "each VIP is announced on its own network");
    assert!(here.iter().all(|vip| !elsewhere.contains(vip)), "{here:?}");
    farm.wait_converged(&others).unwrap();

    lab.node(dead).heal().unwrap();
    lab.heal_elsewhere(lab.node(dead)).unwrap();
    farm.start_node(dead, &[]).unwrap();
    farm.wait_converged(&all(&lab)).unwrap();
    eventually("each client is its own node's again", || entries(&lab) == before);
    for traffic in traffic {
        traffic.stop().await;
    }
    farm.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn t14_a_node_that_loses_one_of_its_networks_is_replaced_on_both_and_answers_nobody_twice() {
    const NAME: &str =
        "t14_a_node_that_loses_one_of_its_networks_is_replaced_on_both_and_answers_nobody_twice";
    let (program, object) = require!(NAME, needs());
    let (lab, second) = lab("one-of-two", 3, &object);
    let mut farm = running(&lab, &second, &program);
    let traffic = traffic(&lab).await;
    for (node, first) in [(2, false), (2, true), (1, false), (1, true)] {
        let host = lab.node(node);
        if first { host.cut() } else { lab.cut_elsewhere(host) }.unwrap();
        eventually("it serves nothing", || farm.status(node).unwrap().state == NodeState::Fenced);
        sleep(Duration::from_secs(2)).await;
        for (traffic, is_there) in traffic.iter().zip([true, true, false, false, false, false]) {
            let what = format!("node{node}, first network: {first}, VIPs there: {is_there}");
            assert!(!traffic.is_served_by(host.name()), "{what}");
            traffic.all_served().await;
        }
        if first { host.heal() } else { lab.heal_elsewhere(host) }.unwrap();
        farm.wait_converged(&all(&lab)).unwrap();
    }
    assert!(has_event(&farm, 2, "cut_off"));

    // The first switch dies: one node serves the other network.
    lab.nodes().iter().try_for_each(Host::cut).unwrap();
    let alone = |node: usize| farm.status(node).unwrap().state;
    eventually("one serves", || {
        (alone(1), alone(2), alone(3)) == (NodeState::Up, NodeState::Fenced, NodeState::Fenced)
    });
    for traffic in &traffic[2..] {
        traffic.all_served().await;
    }
    lab.nodes().iter().try_for_each(Host::heal).unwrap();
    farm.wait_converged(&all(&lab)).unwrap();
    for traffic in traffic {
        traffic.all_served().await;
        traffic.stop().await;
    }
    farm.stop().unwrap();
}

#[test]
fn t34_two_farms_with_one_vip_on_a_further_network_both_say_so_in_both_families() {
    const NAME: &str =
        "t34_two_farms_with_one_vip_on_a_further_network_both_say_so_in_both_families";
    let program = require!(NAME, skip::farm());
    for (vip, reason) in
        [("10.78.0.100/16", "arp_conflict"), ("'fd00:77::a4e:64/112'", "nd_conflict")]
    {
        let topology = Topology { ipv6: true, ..Topology::new(4, 1) };
        let lab = Lab::new("samevip2", &topology).unwrap();
        let second = lab.add_network(0, 0).unwrap();
        let farm = |name, nodes: &[usize], first: &str| {
            let group = |name: &str| {
                format!(
                    "    groups:\n      - {{ name: {name}, rules: [{{ port: 80, proto: tcp, filter: on_port }}] }}\n"
                )
            };
            let vips = format!(
                "{}  - interface: eth1\n    addresses: [{vip}]\n{}",
                ONE_VIP.replace("10.77.0.100", first),
                group("second")
            );
            let mut farm = Farm::of_nodes(&lab, nodes, &program, name, &vips).unwrap();
            farm.edit(|text| with_second_addresses(&lab, text, &second)).unwrap();
            farm.start().unwrap();
            farm.wait_converged(nodes).unwrap();
            farm
        };
        let farms = [farm("one", &[1, 2], "10.77.0.100"), farm("two", &[3, 4], "10.77.0.101")];
        let told = conflicts(&farms, reason);
        for (told, others) in told.iter().zip([[3, 4], [3, 4], [1, 2], [1, 2]]) {
            let named = others.iter().any(|&it| told.contains(&lab.mac_elsewhere(it).to_string()));
            assert!(named, "{told} does not name one of {others:?}");
        }
    }
}
