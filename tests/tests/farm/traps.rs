//! Packets that go wrong where several nodes share an address, as real traffic: the traps that
//! `docs/traps.md` numbers.

mod fragments;
mod narrow;
mod offloads;
mod pings;
mod strangers;

use std::{
    fs, io,
    net::{IpAddr, Ipv6Addr, TcpListener, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use tokio::task::spawn_blocking;
use vipfarm_lab::{
    Capture, Captured, Direction, Frame, Lab, Topology,
    lab::{VIP, VIP_V6},
    require, skip,
};

use crate::eventually;

/// A VIP of each family, TCP and UDP by port.
const BOTH: &str = "vips:
  - interface: eth0
    addresses: [10.77.0.100/16, 'fd00:77::a4d:64/64']
    groups:
      - name: all
        rules:
          - { port: 80, proto: tcp, filter: on_port }
          - { port: 8080, proto: tcp, filter: on_port }
          - { port: 8081, proto: tcp, filter: on_addr }
          - { port: 7000, proto: udp, filter: on_port }
          - { virtual_addr: 10.77.0.100, port: 7001, proto: udp, filter: on_ipid }
";

const VIPS: [IpAddr; 2] = [IpAddr::V4(VIP), IpAddr::V6(VIP_V6)];

fn lab(name: &str, nodes: u8, client_addresses: u8) -> Lab {
    let topology = Topology { client_addresses, ipv6: true, ..Topology::new(nodes, 1) };
    Lab::new(name, &topology).unwrap()
}

/// What a connection may take that nothing disturbs.
const PATIENCE: Duration = Duration::from_secs(3);

/// Every node handles connections to that port of all its addresses, also of those that it gets
/// later; `handle` is told the node's number, from 0 on.
fn listen(lab: &Lab, port: u16, handle: fn(u8, TcpStream) -> io::Result<()>) {
    for (number, node) in (0..).zip(lab.nodes()) {
        let listener = node.in_ns(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let stream = stream.into_std().unwrap();
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
                // A client that gave up has said so.
                spawn_blocking(move || handle(number, stream));
            }
        });
    }
}

/// Bytes that a part in the wrong place would change.
fn filler(length: usize) -> impl Iterator<Item = u8> {
    (0..251).cycle().take(length)
}

/// What the nodes' switch ports see. Dropped by a panic, it leaves that in files for Wireshark.
struct Wires {
    test: &'static str,
    ports: Vec<(String, Capture)>,
}

impl Wires {
    fn of(lab: &Lab, test: &'static str) -> Self {
        let port =
            |node: &vipfarm_lab::Host| (node.name().to_owned(), node.capture_on_wire().unwrap());
        Self { test, ports: lab.nodes().iter().map(port).collect() }
    }

    /// What the nodes have sent so far.
    fn sent(&self) -> impl Iterator<Item = Captured> {
        let frames = self.ports.iter().flat_map(|(_, port)| port.frames());
        frames.filter(|frame| frame.direction == Direction::Incoming)
    }

    fn path(&self, port: &str) -> PathBuf {
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{port}.pcap", self.test))
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        for (name, port) in &self.ports {
            let path = self.path(name);
            match port.write_pcap(&path) {
                Ok(()) => println!("what the port of {name} saw: {}", path.display()),
                Err(error) => println!("what the port of {name} saw is lost: {error:#}"),
            }
        }
    }
}

#[test]
fn a_test_that_fails_leaves_what_the_ports_saw() {
    require!(skip::lab());
    let lab = lab("pcap", 1, 1);
    let client = lab.client(1);
    let frame =
        Frame::udp((client.address(), 9), (VIP, 9), b"kept").macs(client.mac(), lab.node(1).mac());
    let frame = frame.bytes();
    let wires = Wires::of(&lab, "pcap");
    let path = wires.path("node1");
    let failed = catch_unwind(AssertUnwindSafe(|| {
        let wires = wires;
        client.inject(&frame).unwrap();
        let saw = |frame: &Captured| frame.bytes.ends_with(b"kept");
        eventually("the port sees it", || wires.ports[0].1.frames().iter().any(saw));
        panic!("on purpose");
    }));
    assert!(failed.is_err());
    let written = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(written.windows(frame.len()).any(|part| part == frame));
}
