//! Drains and stops that wait for connections, and their counting.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    process::ExitStatus,
    time::{Duration, Instant},
};

use vipfarm::status::{Explanation, GroupStatus, HandoverStatus, Status};
use vipfarm_lab::{
    Farm, Lab,
    farm::PATIENCE,
    process::{Process, Signal},
    require, skip,
};

use crate::{
    HTTP, ONE_VIP, asks_in_vain, events, eventually, has_event, lab, operated::load, running,
};

/// A VIP whose connections are left alone, beside one whose connections are reset.
const KEPT: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(10, 77, 0, 101), 80);
pub(crate) const TWO_VIPS: &str = "vips:
  - addresses: [10.77.0.100/16]
    groups: [{ name: all, rules: [{ port: 80, proto: tcp, filter: on_port }] }]
  - addresses: [10.77.0.101/16]
    tcp_reset: false
    groups: [{ name: kept, rules: [{ port: 80, proto: tcp, filter: on_port }] }]
";

/// A service on all nodes that does nothing with its connections.
pub(crate) struct Servers(Vec<TcpListener>);

/// An open connection, and where it is served. Dropped, the client ends it.
pub(crate) struct Open {
    client: TcpStream,
    server: TcpStream,
    node: usize,
}

impl Servers {
    pub(crate) fn start(lab: &Lab) -> Self {
        let listen = |node: &vipfarm_lab::Host| {
            let listener = node.in_ns(|| TcpListener::bind(("0.0.0.0", HTTP.port()))).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        };
        Self(lab.nodes().iter().map(listen).collect())
    }

    fn connect(&self, lab: &Lab, vip: SocketAddrV4) -> Open {
        let client = lab.clients()[0]
            .in_ns(|| TcpStream::connect_timeout(&SocketAddr::from(vip), PATIENCE))
            .unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut accepted = None;
        eventually("a node has accepted the connection", || {
            let mut nodes = (1..).zip(&self.0);
            accepted = nodes.find_map(|(node, it)| it.accept().ok().map(|(it, _)| (it, node)));
            accepted.is_some()
        });
        let (server, node) = accepted.unwrap();
        server.set_nonblocking(false).unwrap();
        Open { client, server, node }
    }

    /// So many connections that this node serves.
    pub(crate) fn open(
        &self,
        lab: &Lab,
        vip: SocketAddrV4,
        node: usize,
        count: usize,
    ) -> Vec<Open> {
        let any = std::iter::repeat_with(|| self.connect(lab, vip));
        any.filter(|open| open.node == node).take(count).collect()
    }
}

impl Open {
    /// Panics unless a byte comes through.
    pub(crate) fn assert_lives(&mut self) {
        self.client.write_all(b"?").unwrap();
        let mut byte = [0];
        self.server.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"?");
    }

    /// Waits until the client is told of its end by a reset: for how long.
    pub(crate) fn reset_after(&mut self) -> Duration {
        let begin = Instant::now();
        // A child of another test that ends interrupts it.
        let error = self.client.read_exact(&mut [0]).expect_err("it is not closed in order");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        begin.elapsed()
    }
}

fn handover(farm: &Farm<'_>, node: usize) -> HandoverStatus {
    farm.status(node).unwrap().groups[0].handover
}

/// Waits until a node counts so many connections of what it has given away.
fn left(farm: &Farm<'_>, node: usize, count: u64) {
    eventually(&format!("{count} connections are left"), || {
        handover(farm, node).connections == Some(count)
    });
}

/// The number of buckets that node3 still serves, as another node knows.
fn lingering_at_node3(farm: &Farm<'_>) -> Option<usize> {
    let status: Status = farm.status(1).unwrap();
    status.nodes[2].lingering
}

/// Starts a command that waits; what it says is in its log.
fn begin(farm: &Farm<'_>, node: usize, name: &str, arguments: &[&str]) -> Process {
    farm.lab().node(node).spawn(name, farm.ask_command(node, arguments)).unwrap()
}

fn ended(process: &mut Process) -> (ExitStatus, String) {
    let status = process.wait_timeout(PATIENCE).unwrap();
    (status, process.last_lines(40).join("\n"))
}

#[test]
fn t12_a_drain_waits_until_the_last_connection_has_ended() {
    let program = require!(skip::farm());
    let lab = lab("waiting", 3, 1);
    let mut farm = running(&lab, &program, ONE_VIP);
    let servers = Servers::start(&lab);
    let mut streams = servers.open(&lab, HTTP, 3, 4);
    let others = servers.open(&lab, HTTP, 1, 2);

    let mut drain = begin(&farm, 3, "drain", &["drain", "--timeout", "60s"]);
    left(&farm, 3, 4);
    let now = handover(&farm, 3);
    assert!(now.lingering >= 1 && now.since_s.is_some(), "{now:?}");
    eventually("only buckets with connections linger", || handover(&farm, 3).lingering <= 4);
    eventually("other nodes know of them", || {
        lingering_at_node3(&farm) == Some(handover(&farm, 3).lingering)
    });
    let inherited = |node| handover(&farm, node).inherited;
    assert_eq!(inherited(1) + inherited(2), handover(&farm, 3).lingering);
    let status = farm.ask(3, &["status"]).unwrap();
    assert!(status.contains("all: lingering: 4 connections in "), "{status}");
    let metrics = farm.ask(3, &["metrics"]).unwrap();
    let sample = r#"vipfarm_lingering_connections{farm="test",group="all"} 4"#;
    assert!(metrics.lines().any(|line| line == sample), "{metrics}");

    for count in [3, 2, 1, 0] {
        assert!(drain.try_wait().unwrap().is_none(), "it waits for {count} and one more");
        streams.pop();
        left(&farm, 3, count);
    }
    let (status, words) = ended(&mut drain);
    assert!(status.success(), "{words}");
    for told in ["4 connections are left (all 4)", "1 connection is left (all 1)"] {
        assert!(words.contains(told), "{told}: {words}");
    }
    assert!(words.ends_with("node3 is drained: no connection is left"), "{words}");
    eventually("nothing lingers", || lingering_at_node3(&farm) == Some(0));
    drop(others);
    farm.stop().unwrap();
}

#[test]
fn t12_a_drain_resets_what_has_not_ended_in_time_where_the_file_has_it_so() {
    let program = require!(skip::farm());
    let lab = lab("deadline", 3, 1);
    let mut farm = running(&lab, &program, TWO_VIPS);
    let servers = Servers::start(&lab);
    let mut mine = servers.open(&lab, HTTP, 3, 2);
    let mut kept = servers.open(&lab, KEPT, 3, 1);
    let mut elsewhere = servers.open(&lab, HTTP, 1, 1);

    let from_afar = &["drain", "node3", "--timeout", "500ms"];
    asks_in_vain(&farm, 1, from_afar, 1, "`vipfarm drain --timeout 0s` on node3 resets");
    mine.iter_mut().for_each(Open::assert_lives);
    let words = farm.ask(3, &["drain"]).unwrap();
    assert!(words.contains("node3 is drained: 3 connections are left (all 2, kept 1)"), "{words}");

    let begin = Instant::now();
    asks_in_vain(&farm, 3, &["drain", "--timeout", "1s"], 1, "tcp_reset: false");
    assert!(begin.elapsed() > Duration::from_secs(1), "it gives them their time");
    let waited: Vec<_> = mine.iter_mut().map(Open::reset_after).collect();
    assert!(waited.iter().all(|waited| *waited < Duration::from_millis(100)), "{waited:?}");
    assert!(has_event(&farm, 3, "connections_reset"));
    kept.iter_mut().for_each(Open::assert_lives);
    elsewhere.iter_mut().for_each(Open::assert_lives);
    drop(kept);
    farm.ask(3, &["undrain"]).unwrap();

    let mut again = servers.open(&lab, HTTP, 3, 1);
    let drained: serde_json::Value =
        farm.ask_json(3, &["drain", "--timeout", "0s", "--json"]).unwrap();
    assert_eq!((&drained["reset"], &drained["connections"]), (&1.into(), &0.into()), "{drained}");
    again[0].reset_after();
    drop(elsewhere);
    farm.stop().unwrap();
}

#[test]
fn a_drain_that_is_taken_back_or_interrupted_resets_nothing() {
    let program = require!(skip::farm());
    let lab = lab("undrained", 3, 1);
    let mut farm = running(&lab, &program, ONE_VIP);
    let servers = Servers::start(&lab);
    let mut streams = servers.open(&lab, HTTP, 3, 1);
    let waiting = ["drain", "--timeout", "60s"];

    let mut drain = begin(&farm, 3, "undrained", &waiting);
    left(&farm, 3, 1);
    farm.ask(1, &["undrain", "node3"]).unwrap();
    let (status, words) = ended(&mut drain);
    assert!(status.code() == Some(1) && words.contains("is not drained any more"), "{words}");
    streams[0].assert_lives();

    let mut drain = begin(&farm, 3, "interrupted", &waiting);
    eventually("it waits", || drain.last_lines(1) == ["1 connection is left (all 1); 60 s to go"]);
    drain.signal(Signal::SIGINT).unwrap();
    let (status, words) = ended(&mut drain);
    assert!(status.code() == Some(1) && words.contains("node3 stays drained"), "{words}");
    streams[0].assert_lives();
    assert_eq!(load(&farm, 1, "node3"), 0);

    let mut drain = begin(&farm, 3, "orphaned", &waiting);
    eventually("it waits", || !drain.last_lines(1).is_empty());
    farm.kill(3).unwrap();
    let (status, words) = ended(&mut drain);
    assert!(status.code() == Some(3) && words.contains("no agent runs here"), "{words}");
    asks_in_vain(&farm, 3, &waiting, 3, "no agent runs here");
    farm.stop_node(1).unwrap();
    farm.stop_node(2).unwrap();
}

#[test]
fn the_last_node_can_be_drained_too_and_it_is_said_that_nobody_serves() {
    let program = require!(skip::farm());
    let lab = lab("lastdrained", 2, 1);
    let mut farm = running(&lab, &program, ONE_VIP);
    let servers = Servers::start(&lab);
    let mut streams = servers.open(&lab, HTTP, 1, 1);
    streams.extend(servers.open(&lab, HTTP, 2, 1));
    asks_in_vain(&farm, 1, &["drain", "node9", "--timeout", "1s"], 1, "has no node `node9`");
    let words = farm.ask(1, &["drain", "node2"]).unwrap();
    assert!(!words.contains("nobody") && words.contains("connections may be left in"), "{words}");
    let words = farm.ask(1, &["drain"]).unwrap();
    assert!(words.contains("  nobody  farm load: 256/256\n"), "{words}");
    assert!(words.ends_with("node1 is drained: 1 connection is left (all 1)\n"), "{words}");
    streams.iter_mut().for_each(Open::assert_lives);
    drop(streams);
    let words = farm.ask(1, &["drain", "--timeout", "10s"]).unwrap();
    assert!(words.ends_with("node1 is drained: no connection is left\n"), "{words}");
    farm.stop().unwrap();
}

/// The time-outs of the file: of an agent that stops, and of buckets that move.
#[test]
fn t12_connections_end_when_their_time_in_the_file_is_over() {
    let program = require!(skip::farm());
    let lab = lab("timeouts", 3, 1);
    let vips = ONE_VIP.replace("- name: all", "- name: all\n        handover_timeout: 2s");
    let mut farm = running(&lab, &program, &format!("stop_timeout: 700ms\n{vips}"));
    let servers = Servers::start(&lab);
    let (mut moved, mut stopped) = (servers.open(&lab, HTTP, 3, 1), servers.open(&lab, HTTP, 2, 1));

    farm.ask(3, &["drain"]).unwrap();
    let waited = moved[0].reset_after();
    assert!((1000..5000).contains(&waited.as_millis()), "{waited:?}");
    eventually("it is told", || has_event(&farm, 3, "handover_timeout"));
    eventually("nothing lingers", || handover(&farm, 3).lingering == 0);

    farm.agent(2).unwrap().signal(Signal::SIGTERM).unwrap();
    let waited = stopped[0].reset_after();
    assert!((600..4000).contains(&waited.as_millis()), "{waited:?}");
    let status = farm.agent(2).unwrap().wait_timeout(PATIENCE).unwrap();
    assert!(status.success(), "{status}");
    farm.stop_node(1).unwrap();
    farm.stop_node(3).unwrap();
}

#[test]
fn connections_are_counted_by_vip_and_bucket_where_the_file_has_it_so() {
    let program = require!(skip::farm());
    let lab = lab("counted", 3, 1);
    let wanted = "[{ addr: 10.77.0.100/16, connections: true }]";
    let mut farm = running(&lab, &program, &TWO_VIPS.replace("[10.77.0.100/16]", wanted));
    let servers = Servers::start(&lab);
    let streams: Vec<_> = (0..30).map(|_| servers.connect(&lab, HTTP)).collect();
    let uncounted: Vec<_> = (0..5).map(|_| servers.connect(&lab, KEPT)).collect();
    let mut expected = vec![vec![0_u32; 256]; 3];
    for open in &streams {
        let client = open.client.local_addr().unwrap().to_string();
        let explained: Explanation = farm.explain_offline(&[&client, &HTTP.to_string()]).unwrap();
        expected[open.node - 1][usize::from(explained.bucket.unwrap())] += 1;
    }
    for (node, expected) in (1..).zip(&expected) {
        let asked = ["bitmap", "all", "--connections", "--json"];
        eventually("the numbers are right", || {
            let groups: Vec<GroupStatus> = farm.ask_json(node, &asked).unwrap_or_default();
            groups.first().is_some_and(|group| group.connections.as_ref() == Some(expected))
        });
        let total: u32 = expected.iter().sum();
        let picture = farm.ask(node, &["bitmap", "all", "--connections"]).unwrap();
        assert!(picture.contains(&format!("\n   {total} open connection")), "{picture}");
        let status = farm.ask(node, &["status"]).unwrap();
        let line = format!("open connections here: {total} to 10.77.0.100");
        assert!(status.contains(&line), "{line}: {status}");
        let metrics = farm.ask(node, &["metrics"]).unwrap();
        let sample = format!(r#"vipfarm_vip_connections{{farm="test",vip="10.77.0.100"}} {total}"#);
        assert!(metrics.lines().any(|line| line == sample), "{sample}: {metrics}");
    }
    asks_in_vain(&farm, 1, &["bitmap", "kept", "--connections"], 1, "`connections: true`");
    assert!(!events(&farm, 1).iter().any(|event| event.kind == "not_counted"));
    drop((streams, uncounted));
    farm.stop().unwrap();
}
