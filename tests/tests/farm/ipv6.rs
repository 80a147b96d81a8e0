//! VIPs of IPv6, alone and beside one of IPv4.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use vipfarm::model::Timers;
use vipfarm_lab::{
    Capture, Captured, Direction, Farm, Frame, Host, Lab, Topology,
    lab::{PREFIX_V6, VIP_V6, beside},
    require, skip,
    traffic::{HttpLoad, HttpServer},
};

use crate::{
    HTTP,
    agreement::assert_twice_only_at_the_heal,
    all,
    conflicts::{conflicts, two_farms},
    events, eventually, has_event,
    losses::put_back,
    packets_of_all,
    probed::Probed,
    running,
    serving::echoed,
    vmac,
    wire::{self, Neighbour, assert_plausible, neighbour},
};

/// One VIP of each family; the virtual MAC is the same with either alone.
const BOTH: &str = "vips:
  - interface: eth0
    addresses: [10.77.0.100/16, 'fd00:77::a4d:64/64']
    groups:
      - name: all
        powers: { node1: 2, node2: 1, node3: 1 }
        rules:
          - { port: 80, proto: tcp, filter: on_port }
          - { port: 7000, proto: udp, filter: on_port }
";

/// A VIP of IPv6 alone.
const V6_ONLY: &str = "vips:
  - interface: eth0
    addresses: ['fd00:77::a4d:64/64']
    groups:
      - name: all
        rules:
          - { port: 80, proto: tcp, filter: on_addr }
          - { port: 7000, proto: udp, filter: on_port }
";

const ECHO_V6: SocketAddr = SocketAddr::new(IpAddr::V6(VIP_V6), 7000);
const HTTP_V6: SocketAddr = SocketAddr::new(IpAddr::V6(VIP_V6), 80);

/// The solicited-node address of the VIP, and that of all nodes (RFC 4291 section 2.7.1).
const SOLICITED: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff4d, 0x64);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

fn lab(name: &str, nodes: u8, client_addresses: u8) -> Lab {
    let topology = Topology { client_addresses, ipv6: true, ..Topology::new(nodes, 1) };
    Lab::new(name, &topology).unwrap()
}

/// How a host holds the VIP: `ip`'s words for it, empty if it does not.
fn held(host: &Host) -> String {
    host.run(&format!("ip -6 -o addr show dev eth0 to {VIP_V6}")).unwrap()
}

fn set(host: &Host, sysctl: &str, value: &str) {
    let path = Path::new("/proc/sys/net/ipv6").join(sysctl);
    host.in_ns(|| fs::write(&path, value)).unwrap();
}

/// What a host is told of the VIP.
pub(crate) fn advertised(host: &Host) -> Capture {
    let about_vip = |frame: &Captured| {
        frame.direction == Direction::Incoming
            && neighbour(frame).is_some_and(|it| !it.solicits && it.target == VIP_V6)
    };
    host.capture_if(about_vip).unwrap()
}

pub(crate) fn read(capture: Capture) -> Vec<Neighbour> {
    capture.stop().iter().filter_map(neighbour).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_families_are_served_once_each_and_by_power() {
    let program = require!(skip::farm());
    let lab = lab("dual", 3, 60);
    let mut farm = Farm::new(&lab, &program, "test", BOTH).unwrap();
    let before = farm.footprint(2).unwrap();
    farm.start().unwrap();
    farm.wait_converged(&all(&lab)).unwrap();
    let servers: Vec<_> =
        lab.nodes().iter().map(|node| HttpServer::start(node, 80).unwrap()).collect();
    let datagrams = [Probed::start(&lab).await, Probed::start_to(&lab, ECHO_V6).await];
    let patience = Duration::from_millis(900);
    let start = |target: SocketAddr| HttpLoad::start(lab.clients(), target, 250, patience).unwrap();
    let loads = [start(HTTP.into()), start(HTTP_V6)];

    let buckets = farm.status(1).unwrap().groups[0].load.clone();
    for load in loads {
        let requests = load.stop_after(300).await.unwrap();
        let failed: Vec<_> = requests.iter().filter(|request| request.outcome.is_err()).collect();
        assert!(failed.is_empty(), "{failed:?}");
        let mut shares: BTreeMap<_, _> = lab.nodes().iter().map(|node| (node.name(), 0)).collect();
        for node in requests.iter().filter_map(|request| request.outcome.as_ref().ok()) {
            *shares.get_mut(node.as_str()).expect("a node's name") += 1;
        }
        assert_plausible(&shares, &buckets, requests.len());
    }
    let mut served: Vec<_> = servers.iter().flat_map(HttpServer::served).collect();
    let count = served.len();
    served.sort_unstable();
    served.dedup();
    assert_eq!(served.len(), count, "a request was served twice");
    for probed in datagrams {
        probed.stop().await;
    }
    assert!(lab.fdb().unwrap().iter().all(|entry| entry.mac != vmac()), "learnt by the switch");
    assert_eq!(packets_of_all(&farm, "nd_conflict"), 0);
    farm.stop().unwrap();
    assert_eq!(farm.footprint(2).unwrap(), before);
}

#[test]
fn t10_an_ipv6_echo_request_is_answered_exactly_once() {
    let program = require!(skip::farm());
    let lab = lab("echo6", 3, 150);
    let _farm = running(&lab, &program, BOTH);
    assert_eq!(echoed(&lab, VIP_V6.into(), vmac()).len(), 150);
}

#[test]
fn t6_all_nodes_hold_the_vip_at_once_and_an_outsider_cannot_have_it() {
    let program = require!(skip::farm());
    let lab = lab("dad", 3, 1);
    // The nodes themselves detect duplicates, as is usual.
    for host in lab.nodes().iter().chain(lab.clients()) {
        set(host, "conf/eth0/accept_dad", "1");
        set(host, "conf/eth0/dad_transmits", "1");
    }
    let farm = running(&lab, &program, BOTH);
    for node in lab.nodes() {
        let held = held(node);
        assert!(held.contains("/128") && held.contains("deprecated"), "{held}");
        assert!(!held.contains("dadfailed") && !held.contains("tentative"), "{held}");
    }
    let client = lab.client(1);
    let told = advertised(client);
    client.run(&format!("ip addr add {VIP_V6}/{PREFIX_V6} dev eth0")).unwrap();
    eventually("the outsider learns that it is taken", || held(client).contains("dadfailed"));
    let told = read(told);
    let [answer] = told[..] else { panic!("not one answer: {told:?}") };
    assert_eq!((answer.to, answer.named), (ALL_NODES, Some(vmac())), "{answer:?}");
    assert_eq!(answer.flags, [false, true], "{answer:?}");
    assert_eq!(packets_of_all(&farm, "nd_conflict"), 0, "an answer of the farm's own");
    assert!(packets_of_all(&farm, "nd_probe") > 0);
    eventually("who wants the VIP is told of", || {
        all(&lab).iter().any(|&node| has_event(&farm, node, "address_conflict"))
    });
}

#[test]
fn t7_every_solicitation_gets_one_answer_with_the_virtual_mac() {
    let program = require!(skip::farm());
    let lab = lab("solicited", 3, 100);
    let farm = running(&lab, &program, V6_ONLY);
    let client = lab.client(1);
    let asking: Vec<_> = client.addresses().iter().map(|&address| beside(address)).collect();
    let ask = |&source: &Ipv6Addr| Frame::solicitation(client.mac(), source, VIP_V6).bytes();
    let told = advertised(client);
    client.inject_all(&asking.iter().map(ask).collect::<Vec<_>>()).unwrap();
    std::thread::sleep(wire::SILENCE);
    let told = read(told);
    let mut answered: Vec<_> = told.iter().map(|answer| answer.to).collect();
    answered.sort_unstable();
    assert_eq!(answered, asking, "exactly one answer each");
    for answer in &told {
        assert_eq!((answer.source, answer.named), (VIP_V6, Some(vmac())), "{answer:?}");
        assert_eq!(answer.flags, [true, true], "{answer:?}");
    }
    let load = &farm.status(1).unwrap().groups[0].load;
    assert_plausible(&wire::shares(&lab, told.iter().map(|it| it.mac)), load, told.len());
    assert!(lab.fdb().unwrap().iter().all(|entry| entry.mac != vmac()));
}

/// The client's entry for the VIP, its MAC and state, in `ip`'s words.
fn entry(client: &Host) -> String {
    client.run(&format!("ip -6 neigh show {VIP_V6} dev eth0")).unwrap()
}

/// Has a client doubt its entry, and use it; says who then assured it.
fn reassured<'a>(lab: &'a Lab, client: &Host) -> &'a str {
    let told = advertised(client);
    let socket = client.in_ns(|| UdpSocket::bind((beside(client.address()), 0))).unwrap();
    client.run(&format!("ip neigh change {VIP_V6} lladdr {} nud stale dev eth0", vmac())).unwrap();
    eventually("the entry is reachable again", || {
        socket.send_to(b"still there?", (VIP_V6, 9)).unwrap();
        entry(client).contains("REACHABLE")
    });
    assert!(entry(client).contains(&vmac().to_string()), "{}", entry(client));
    let told = read(told);
    let [answer] = told[..] else { panic!("not one answer: {told:?}") };
    assert!(answer.flags[0], "{answer:?}");
    wire::node_of(lab, answer.mac)
}

#[tokio::test(flavor = "multi_thread")]
async fn t7_a_clients_doubt_is_answered_by_the_owner_and_by_its_successor() {
    let program = require!(skip::farm());
    let lab = lab("doubt", 3, 40);
    let mut farm = running(&lab, &program, V6_ONLY);
    let client = lab.client(1);
    set(client, "neigh/eth0/delay_first_probe_time", "1");
    let traffic = Probed::start_to(&lab, ECHO_V6).await;
    let owner = reassured(&lab, client);

    let index = 1 + lab.nodes().iter().position(|node| node.name() == owner).expect("a node");
    let others: Vec<_> = all(&lab).into_iter().filter(|&node| node != index).collect();
    let from = Instant::now();
    lab.node(index).cut().unwrap();
    farm.kill(index).unwrap();
    farm.wait_converged(&others).unwrap();
    traffic.all_served().await;
    let until = Instant::now();
    assert_ne!(reassured(&lab, client), owner);
    let log = traffic.stop().await;
    let outage = log.outage(from, until, owner);
    println!("clients of the dead node waited {:?} at most", outage.longest);
    assert!(outage.flows > 0 && outage.survivor_failures == 0, "{outage:?}");
    // What a busy machine adds included.
    assert!(outage.longest < Timers::BALANCED.fail + Duration::from_millis(150), "{outage:?}");
}

#[test]
fn t1_a_node_that_asks_as_the_vip_teaches_the_virtual_mac() {
    let program = require!(skip::farm());
    let lab = lab("guard6", 2, 1);
    let farm = running(&lab, &program, V6_ONLY);
    let (client, node) = (lab.client(1), lab.node(2));
    let stranger = beside(client.address());
    let asked = client
        .capture_if(move |frame| {
            neighbour(frame).is_some_and(|it| it.solicits && it.target == stranger)
        })
        .unwrap();
    let socket = node.in_ns(|| UdpSocket::bind((VIP_V6, 0))).unwrap();
    socket.send_to(b"from the VIP", (stranger, 9)).unwrap();
    eventually("the client is asked for", || !asked.frames().is_empty());
    for question in read(asked) {
        assert_eq!((question.source, question.named), (VIP_V6, Some(vmac())), "{question:?}");
        assert_eq!(question.mac, node.mac());
    }
    let known = client.neighbour(VIP_V6.into()).unwrap();
    assert!(known.is_none_or(|mac| mac == vmac()), "{known:?}");
    assert!(farm.status(2).unwrap().guard["nd_corrected"] > 0);
    // The answer came to every node, the one that asked among them.
    eventually("the node knows the client", || {
        node.neighbour(stranger.into()).unwrap() == Some(client.mac())
    });
}

#[test]
fn t16_a_node_speaks_for_itself_though_the_vip_resembles_the_target_more() {
    let program = require!(skip::farm());
    let lab = lab("source", 1, 1);
    let _farm = running(&lab, &program, V6_ONLY);
    let node = lab.node(1);
    let own = beside(node.address());
    let neighbour = Ipv6Addr::from_bits(VIP_V6.to_bits() + 1);
    let route = node.run(&format!("ip -6 route get {neighbour}")).unwrap();
    assert!(route.contains(&format!("src {own} ")), "{route}");
    let local = node.in_ns(|| {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        socket.connect((neighbour, 9)).unwrap();
        socket.local_addr().unwrap().ip()
    });
    assert_eq!(local, IpAddr::V6(own));
}

#[test]
fn t31_an_ipv6_vip_that_was_taken_off_is_put_back() {
    let program = require!(skip::farm());
    let lab = lab("t31v6", 2, 1);
    let mut farm = running(&lab, &program, &BOTH.replace(", node3: 1", ""));
    put_back(&mut farm, VIP_V6.into(), 128);
    farm.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_that_went_down_has_the_vip_when_it_is_up_again() {
    let program = require!(skip::farm());
    let lab = lab("downup", 3, 40);
    let mut farm = running(&lab, &program, BOTH);
    let traffic = Probed::start_to(&lab, ECHO_V6).await;
    let before = held(lab.node(2));
    lab.node(2).run("ip link set eth0 down").unwrap();
    farm.wait_converged(&[1, 3]).unwrap();
    traffic.all_served().await;
    lab.node(2).run("ip link set eth0 up").unwrap();
    farm.wait_converged(&[1, 2, 3]).unwrap();
    assert_eq!(held(lab.node(2)), before);
    eventually("it serves again", || traffic.is_served_by("node2"));
    traffic.all_served().await;
    traffic.stop().await;
    assert!(!has_event(&farm, 2, "vip_lost"), "{:?}", events(&farm, 2));
}

#[test]
fn a_switch_that_snoops_sends_solicitations_for_the_vip_to_every_node() {
    let program = require!(skip::farm());
    let topology = Topology { mcast_snooping: true, ipv6: true, ..Topology::new(3, 1) };
    let lab = Lab::new("snoop", &topology).unwrap();
    let mut farm = running(&lab, &program, V6_ONLY);
    let listeners = || {
        let mut ports = lab.listeners(SOLICITED.into()).unwrap();
        ports.sort_unstable();
        ports
    };
    eventually("all nodes are listeners", || listeners() == ["node1", "node2", "node3"]);
    farm.stop().unwrap();
    eventually("no node is", || listeners().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farm_without_ipv4_agrees_and_fails_over() {
    let program = require!(skip::farm());
    let lab = lab("only6", 3, 40);
    let mut farm = Farm::new(&lab, &program, "test", V6_ONLY).unwrap();
    farm.edit(|text| {
        lab.nodes().iter().fold(text.to_owned(), |text, node| {
            let (v4, v6) = (node.address(), beside(node.address()));
            text.replace(&format!("[{v4}]"), &format!("['{v6}']"))
        })
    })
    .unwrap();
    for node in lab.nodes() {
        node.run("ip -4 addr flush dev eth0").unwrap();
    }
    farm.start().unwrap();
    farm.wait_converged(&all(&lab)).unwrap();
    let traffic = Probed::start_to(&lab, ECHO_V6).await;
    lab.node(3).cut().unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    traffic.all_served().await;
    farm.wait_converged(&[3]).unwrap();
    // So long that the kernel would have to look for its neighbours anew.
    sleep(Duration::from_secs(2)).await;
    let from = Instant::now();
    lab.node(3).heal().unwrap();
    let healed = Instant::now();
    farm.wait_converged(&all(&lab)).unwrap();
    traffic.all_served().await;
    let log = traffic.end().await;
    assert_twice_only_at_the_heal(&log, from, healed);
    farm.stop().unwrap();
}

#[test]
fn t34_two_farms_with_one_ipv6_vip_both_say_so() {
    let program = require!(skip::farm());
    let lab = lab("samevip6", 4, 1);
    let farms = two_farms(&lab, &program, [V6_ONLY, V6_ONLY]);
    for (index, told) in conflicts(&farms, "nd_conflict").iter().enumerate() {
        assert!(told.contains("another farm"), "{told}");
        assert!(told.contains(&VIP_V6.to_string()), "{told}");
        let others = if index < 2 { [3, 4] } else { [1, 2] };
        let named = others.iter().any(|&node| told.contains(&lab.node(node).mac().to_string()));
        assert!(named, "{told}");
    }
}

#[test]
fn t34_a_machine_that_has_the_ipv6_vip_is_found() {
    let program = require!(skip::farm());
    let lab = lab("squatter6", 2, 1);
    let client = lab.client(1);
    let farm = running(&lab, &program, V6_ONLY);
    client.add_address(VIP_V6.into(), PREFIX_V6).unwrap();
    for told in conflicts(&[farm], "nd_conflict") {
        assert!(told.contains(&client.mac().to_string()), "{told}");
        assert!(told.contains("another machine"), "{told}");
    }
}
