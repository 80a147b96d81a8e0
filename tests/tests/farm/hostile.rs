//! Floods by a machine on the farm's own network: neither the view nor the lease changes, and clients
//! are served.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use vipfarm::{model::DEFAULT_PORT, status::Status};
use vipfarm_lab::{Farm, Frame, frame::SYN, require, skip, traffic::HttpServer};

use crate::{
    HTTP, ONE_VIP, all, events, eventually, heartbeats::recorded, lab, probed::Probed, running,
    vmac,
};

/// How long a flood lasts: many times what a node may be silent for.
const FLOOD: Duration = Duration::from_secs(2);
const BURST: Duration = Duration::from_millis(1);
/// Frames of a flood at least.
const MANY: usize = 10_000;

/// What every agent said before, in a view that has been the last for a while: a node that has just come
/// may say something new of itself.
fn statuses(farm: &Farm<'_>) -> Vec<Status> {
    let look = || all(farm.lab()).into_iter().map(|node| farm.status(node).unwrap());
    let mut before: Vec<Status> = look().collect();
    eventually("one view is the last for a second", || {
        thread::sleep(Duration::from_secs(1));
        let former = std::mem::replace(&mut before, look().collect());
        former.iter().zip(&before).all(|(former, now)| former.epoch == now.epoch)
    });
    before
}

/// No view was left, and no lease has lapsed.
fn nothing_has_changed(farm: &mut Farm<'_>, before: &[Status]) {
    let nodes = all(farm.lab());
    farm.wait_converged(&nodes).unwrap();
    for (node, before) in nodes.into_iter().zip(before) {
        assert_eq!(farm.status(node).unwrap().epoch, before.epoch, "{:?}", events(farm, node));
        let told = events(farm, node);
        for kind in ["node_lost", "lease_lapsed", "fenced", "not_owned_once"] {
            assert!(told.iter().all(|event| event.kind != kind), "node{node}: {told:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_on_the_heartbeat_port_changes_neither_view_nor_lease() {
    let program = require!(skip::farm());
    let lab = lab("deluge", 3, 10);
    let mut farm = running(&lab, &program, ONE_VIP);
    let (client, victim, peer) = (lab.client(1), lab.node(1), lab.node(2));
    let genuine = recorded(peer, victim, 8);
    let mut forged = genuine[0].clone();
    forged[60] ^= 1;
    let from = |source: Ipv4Addr, bytes: &[u8]| {
        let frame = Frame::udp((source, DEFAULT_PORT), (victim.address(), DEFAULT_PORT), bytes);
        frame.macs(client.mac(), victim.mac()).bytes()
    };
    let noise: Vec<Vec<u8>> = (0..64).map(|i| from(client.address(), &[i; 300])).collect();
    let spoofed: Vec<Vec<u8>> = (0..64).map(|i| from(peer.address(), &[i; 300])).collect();
    let replayed: Vec<Vec<u8>> =
        genuine.iter().cycle().take(64).map(|bytes| from(peer.address(), bytes)).collect();
    let forged = vec![from(peer.address(), &forged); 64];

    let traffic = Probed::start(&lab).await;
    for (name, frames) in
        [("noise", noise), ("spoofed", spoofed), ("replayed", replayed), ("forged", forged)]
    {
        let before = statuses(&farm);
        let sent = thread::scope(|scope| {
            scope.spawn(|| client.flood(&frames, FLOOD).unwrap()).join().unwrap()
        });
        let after = farm.status(1).unwrap();
        let read = |status: &Status| {
            let counts = status.heartbeats.iter();
            let refused = counts.filter(|(word, _)| word.starts_with("dropped_"));
            refused.map(|(_, count)| count).sum::<u64>()
        };
        let read = read(&after) - read(&before[0]);
        println!("{name}: {sent} sent, {read} read and refused, lease {:.0} ms", after.lease_ms);
        assert!(sent > MANY, "{sent}");
        nothing_has_changed(&mut farm, &before);
    }
    traffic.all_served().await;
    traffic.stop().await;
    farm.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_datagrams_as_a_kernel_can_make_change_neither_view_nor_lease() {
    let program = require!(skip::farm());
    require!(skip::lab_object());
    let lab = lab("cataract", 3, 10);
    let mut farm = running(&lab, &program, ONE_VIP);
    let victim = lab.node(1);
    let traffic = Probed::start(&lab).await;
    // A peer's heartbeat but for one bit, from 4096 addresses of the network, those of the nodes among them.
    let mut forged = recorded(lab.node(2), victim, 1).remove(0);
    forged[60] ^= 1;
    let network = Ipv4Addr::from(u32::from(victim.address()) & 0xffff_f000);
    let frame = Frame::udp((network, DEFAULT_PORT), (victim.address(), DEFAULT_PORT), &forged);
    let mut frame = frame.macs(lab.client(1).mac(), victim.mac()).bytes();
    frame[40..42].fill(0);
    let before = statuses(&farm);
    let sent =
        thread::scope(|scope| scope.spawn(|| victim.deluge(frame, FLOOD).unwrap()).join().unwrap());
    let after = farm.status(1).unwrap();
    println!("{sent} sent; {:?}", after.heartbeats);
    assert!(sent > MANY as u64, "no flood: {sent}");
    nothing_has_changed(&mut farm, &before);
    traffic.all_served().await;
    traffic.stop().await;
    farm.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_syn_flood_on_the_vip_changes_neither_view_nor_lease_and_clients_are_served() {
    const SOURCES: u8 = 4;
    let program = require!(skip::farm());
    let lab = lab("synflood", 3, 10);
    let mut farm = running(&lab, &program, ONE_VIP);
    let _servers: Vec<_> =
        lab.nodes().iter().map(|node| HttpServer::start(node, HTTP.port()).unwrap()).collect();
    let client = lab.client(1);
    let source = |n: u8| Ipv4Addr::new(10, 77, 200, n);
    // They never answer, and nobody looks for them.
    for (node, n) in lab.nodes().iter().flat_map(|node| (0..SOURCES).map(move |n| (node, n))) {
        node.set_neighbour(source(n).into(), client.mac()).unwrap();
    }
    let syn = |port: u16| {
        let sender = (source((port % u16::from(SOURCES)).to_le_bytes()[0]), port);
        Frame::tcp(sender, (*HTTP.ip(), HTTP.port()), SYN).macs(client.mac(), vmac()).bytes()
    };
    let frames: Vec<Vec<u8>> = (10_000..30_000).map(syn).collect();

    let before = statuses(&farm);
    let until = Instant::now() + FLOOD;
    let (sent, served) = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let (mut bursts, mut sent) = (frames.chunks(100).cycle(), 0);
            while Instant::now() < until || sent < MANY {
                assert!(Instant::now() < until + 10 * FLOOD, "{sent} sent");
                // With pauses: all nodes share the machine's processors, and who gets them is not the
                // question.
                thread::sleep(BURST);
                sent += client.flood(bursts.next().unwrap(), BURST).unwrap();
            }
            sent
        });
        let mut served = 0;
        while Instant::now() < until {
            client.in_ns(|| {
                let to = SocketAddr::from(HTTP);
                TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
            });
            served += 1;
        }
        (flood.join().unwrap(), served)
    });
    println!("{sent} sent, {served} connections meanwhile");
    assert!(served > 0, "{sent} {served}");
    nothing_has_changed(&mut farm, &before);
}
