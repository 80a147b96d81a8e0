//! T12: agents that are stopped while something else happens to their connections.

use std::{
    fs,
    io::{Read, Write},
    net::SocketAddr,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use tokio::{net::TcpSocket, time::timeout};
use vipfarm_lab::{
    Farm, Lab,
    farm::{Footprint, PATIENCE},
    process::Signal,
    require, skip,
    traffic::StreamEcho,
};

use crate::{HTTP, ONE_VIP, eventually, handover::through, has_event, lab, operated::load};

/// How long the agents wait for open connections.
const STOP_TIMEOUT: &str = "1500ms";

/// A farm of two whose agents stop in that time, and what the second node was like without.
fn stopping<'a>(lab: &'a Lab, program: &Path, vips: &str) -> (Farm<'a>, Footprint) {
    let mut farm = Farm::new(lab, program, "test", vips).unwrap();
    let before = farm.footprint(2).unwrap();
    for node in [1, 2] {
        farm.start_node(node, &["--stop-timeout", STOP_TIMEOUT]).unwrap();
    }
    farm.wait_converged(&[1, 2]).unwrap();
    (farm, before)
}

/// Tells the second node's agent to stop once it is being replaced as far as that: its connections are reset
/// when their time is over and not before, and it leaves nothing behind.
async fn stops_in_time(name: &str, program: &Path, vips: &str, wait: impl Fn(&mut Farm<'_>)) {
    let lab = lab(name, 2, 40);
    let (mut farm, before) = stopping(&lab, program, vips);
    let mut stopped = None;
    let fates = through(&lab, &mut farm, |farm| {
        let mut asking = farm.ask_command(2, &["upgrade", "--timeout", "1s"]);
        let mut asking = asking.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait(farm);
        stopped = Some(Instant::now());
        farm.agent(2).unwrap().signal(Signal::SIGTERM).unwrap();
        let status = farm.agent(2).unwrap().wait_timeout(PATIENCE).unwrap();
        assert!(status.success(), "{status}");
        asking.wait().unwrap();
    })
    .await;
    let stopped = stopped.unwrap();
    let broken: Vec<_> = fates.iter().filter(|fate| fate.broken.is_some()).collect();
    assert!((30..90).contains(&broken.len()), "half of them: {}", broken.len());
    for fate in broken {
        let after = fate.broken_at.unwrap().saturating_duration_since(stopped);
        assert!(fate.broken.as_deref().unwrap().contains("reset"), "{fate:?}");
        assert!(after > Duration::from_millis(1300), "{after:?} {fate:?}");
    }
    assert_eq!(farm.footprint(2).unwrap(), before);
    farm.stop_node(1).unwrap();
}

/// The other nodes have its buckets already, and its kernel serves what is open.
#[tokio::test(flavor = "multi_thread")]
async fn t12_an_agent_that_is_stopped_while_it_gives_way_to_the_next_waits_for_its_connections() {
    let program = require!(skip::farm());
    stops_in_time("givesway", &program, ONE_VIP, |farm| {
        let log = farm.agent(2).unwrap().log().to_owned();
        let deadline = Instant::now() + PATIENCE;
        while !fs::read_to_string(&log).unwrap().contains("this agent is being replaced") {
            assert!(Instant::now() < deadline, "it does not begin");
            thread::sleep(Duration::from_millis(1));
        }
    })
    .await;
}

/// There is nobody to give anything to, and silence would help no client.
#[tokio::test(flavor = "multi_thread")]
async fn t12_a_node_that_is_alone_serves_who_comes_while_it_is_told_to_stop() {
    let program = require!(skip::farm());
    let lab = lab("lonely", 1, 1);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let before = farm.footprint(1).unwrap();
    farm.start_node(1, &["--stop-timeout", STOP_TIMEOUT]).unwrap();
    farm.wait_converged(&[1]).unwrap();
    let _echo = StreamEcho::start(lab.node(1), HTTP.port()).unwrap();
    let connect = async || {
        let socket = lab.client(1).in_ns(TcpSocket::new_v4).unwrap();
        timeout(PATIENCE, socket.connect(HTTP.into())).await.unwrap().unwrap()
    };
    let open = connect().await;
    farm.agent(1).unwrap().signal(Signal::SIGTERM).unwrap();
    eventually("it waits", || has_event(&farm, 1, "stopping"));
    drop((connect().await, open));
    let status = farm.agent(1).unwrap().wait_timeout(PATIENCE).unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(farm.footprint(1).unwrap(), before);
}

/// The thread has ended, and the hooks are being told: the next agent would not know that it is to stop.
#[tokio::test(flavor = "multi_thread")]
async fn t12_an_agent_that_is_stopped_just_before_it_becomes_the_next_is_not_replaced() {
    let program = require!(skip::farm());
    let vips = ONE_VIP.replace("vips:", "hooks: { on_closed: [/bin/sleep, '1'] }\nvips:");
    stops_in_time("becomes", &program, &vips, |farm| {
        eventually("nobody answers any more", || farm.status(2).is_err());
    })
    .await;
}

/// Nothing is open when it is told to stop, and clients go on connecting before the farm has agreed that
/// the other node serves them: its agent is frozen for a moment.
#[tokio::test(flavor = "multi_thread")]
async fn t12_who_connects_while_an_idle_node_is_told_to_stop_is_served_to_the_end() {
    let program = require!(skip::farm());
    let lab = lab("rush", 2, 1);
    // The frozen one is not to be missed meanwhile.
    let vips = ONE_VIP.replace("vips:", "membership: { profile: relaxed }\nvips:");
    let (mut farm, before) = stopping(&lab, &program, &vips);
    let _echoes: Vec<_> =
        lab.nodes().iter().map(|node| StreamEcho::start(node, HTTP.port()).unwrap()).collect();
    let address = lab.client(1).addresses()[0];
    let clients = (20_000..).map(|port| SocketAddr::from((address, port)));
    let of_node2 = clients.filter(|client| farm.owner(*client, HTTP).unwrap() == "node2");
    let clients: Vec<_> = of_node2.take(4).collect();
    farm.freeze(1, true).unwrap();
    farm.agent(2).unwrap().signal(Signal::SIGTERM).unwrap();
    // It looks what is open, and tells the frozen one.
    thread::sleep(Duration::from_millis(40));
    let mut streams = Vec::new();
    for client in clients {
        let socket = lab.client(1).in_ns(TcpSocket::new_v4).unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(client).unwrap();
        let connected = timeout(PATIENCE, socket.connect(HTTP.into())).await.unwrap();
        streams.push(connected.unwrap().into_std().unwrap());
    }
    farm.freeze(1, false).unwrap();
    eventually("node2 serves nothing new", || load(&farm, 1, "node2") == 0);
    thread::sleep(Duration::from_millis(300));
    for mut stream in streams {
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"still there?").unwrap();
        let mut back = [0; 12];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"still there?");
    }
    let status = farm.agent(2).unwrap().wait_timeout(PATIENCE).unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(farm.footprint(2).unwrap(), before);
    farm.stop_node(1).unwrap();
}
