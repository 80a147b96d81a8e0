//! Real agents on the nodes of a lab: what must hold on the wire and at the command line.
//!
//! Trap numbers (T1, T2, ..) in names are those of the project's list of what breaks networks when
//! several nodes hold one address.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agreement;
mod announced;
mod arp;
mod checked;
mod conflicts;
mod directed;
mod doctor;
mod drained;
mod explained;
mod failover;
mod flows;
mod guarded;
mod handover;
mod handshakes;
mod heartbeats;
mod hostile;
mod ipv6;
mod jumbo;
mod keys;
mod lease;
mod life;
mod losses;
mod networks;
mod opened;
mod operated;
mod persisted;
mod probed;
mod proof;
mod refused;
mod reloaded;
mod secured;
mod serving;
mod stopped;
mod system;
mod tagged;
mod told;
mod traced;
mod traps;
mod upgraded;
mod wire;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use vipfarm::model::Mac;
use vipfarm_lab::{
    Farm, Lab, Topology,
    farm::{PATIENCE, exit_code_and_words},
    lab::VIP,
};

/// One VIP for everything: TCP by port, UDP by port, each on any port.
const ONE_VIP: &str = "vips:
  - interface: eth0
    addresses: [10.77.0.100/16]
    groups:
      - name: all
        rules:
          - { port: 80, proto: tcp, filter: on_port }
          - { port: 7000, proto: udp, filter: on_port }
";

const ECHO: SocketAddrV4 = SocketAddrV4::new(VIP, 7000);
const HTTP: SocketAddrV4 = SocketAddrV4::new(VIP, 80);

fn vmac() -> Mac {
    Mac::of_vip(VIP)
}

fn lab(name: &str, nodes: u8, client_addresses: u8) -> Lab {
    Lab::new(name, &Topology { client_addresses, ..Topology::new(nodes, 1) }).unwrap()
}

/// A farm on all nodes of the lab that has agreed.
fn running<'a>(lab: &'a Lab, program: &Path, vips: &str) -> Farm<'a> {
    let mut farm = Farm::new(lab, program, "test", vips).unwrap();
    farm.start().unwrap();
    farm.wait_converged(&all(lab)).unwrap();
    farm
}

/// As [`running`], with a second address of each node on a network of its own.
fn on_two_networks<'a>(lab: &'a Lab, program: &Path) -> Farm<'a> {
    let second = lab.add_network(0, 0).unwrap();
    let mut farm = Farm::new(lab, program, "test", ONE_VIP).unwrap();
    farm.edit(|text| with_second_addresses(lab, text, &second)).unwrap();
    farm.start().unwrap();
    farm.wait_converged(&all(lab)).unwrap();
    farm
}

/// A configuration that has these addresses besides the nodes' first ones.
fn with_second_addresses(lab: &Lab, text: &str, second: &[Ipv4Addr]) -> String {
    lab.nodes().iter().zip(second).fold(text.to_owned(), |text, (node, second)| {
        let first = node.address();
        text.replace(&format!("[{first}]"), &format!("[{first}, {second}]"))
    })
}

/// The numbers of the lab's nodes.
fn all(lab: &Lab) -> Vec<usize> {
    (1..=lab.nodes().len()).collect()
}

/// Waits until something holds.
fn eventually(what: &str, holds: impl FnMut() -> bool) {
    within(PATIENCE, what, holds);
}

/// Waits for at most so long.
fn within(patience: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !holds() {
        assert!(Instant::now() < deadline, "still not after {patience:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Asks a node's agent in vain: the command ends with that exit code and these words.
fn asks_in_vain(farm: &Farm<'_>, node: usize, arguments: &[&str], code: i32, words: &str) {
    let (ended, said) = exit_code_and_words(&mut farm.ask_command(node, arguments)).unwrap();
    assert!(
        ended == Some(code) && said.contains(words),
        "{arguments:?}, `{words}`: {ended:?} {said}"
    );
}

/// A counter of a node's agent: packets by reason.
fn packets(farm: &Farm<'_>, node: usize, reason: &str) -> u64 {
    farm.status(node).unwrap().packets[reason]
}

/// As [`packets`], of all nodes together.
fn packets_of_all(farm: &Farm<'_>, reason: &str) -> u64 {
    all(farm.lab()).into_iter().map(|node| packets(farm, node, reason)).sum()
}

/// Whether the history of a node's agent has an event of that kind.
fn has_event(farm: &Farm<'_>, node: usize, kind: &str) -> bool {
    events(farm, node).iter().any(|event| event.kind == kind)
}

fn events(farm: &Farm<'_>, node: usize) -> Vec<vipfarm::status::EventRecord> {
    farm.ask_json(node, &["events", "--json"]).unwrap()
}
