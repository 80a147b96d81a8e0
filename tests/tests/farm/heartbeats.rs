//! What arrives at the heartbeat port and is not a heartbeat of this farm; and nodes that are not
//! what they should be.

use std::{collections::BTreeMap, net::Ipv4Addr, thread, time::Duration};

use etherparse::{SlicedPacket, TransportSlice};
use vipfarm::{
    model::DEFAULT_PORT,
    status::{NodeState, Status},
};
use vipfarm_lab::{Captured, Direction, Farm, Frame, Host, require, skip};

use crate::{ONE_VIP, events, eventually, has_event, lab, running, wire};

/// Bytes of a heartbeat in a settled farm of three nodes.
const LEN: usize = 241 + 3;

/// Heartbeat datagrams of one node, as they come to another's wire.
pub(crate) fn recorded(from: &Host, to: &Host, count: usize) -> Vec<Vec<u8>> {
    let source = from.mac();
    let is_heartbeat = move |frame: &Captured| {
        let Some(payload) = payload(&frame.bytes) else { return false };
        let sent = frame.direction == Direction::Outgoing && wire::source(frame) == source;
        sent && payload.len() == LEN
    };
    let wire = to.capture_on_wire_if(is_heartbeat).unwrap();
    eventually("heartbeats are recorded", || wire.frames().len() >= count);
    let frames = wire.stop();
    frames.iter().filter_map(|frame| payload(&frame.bytes)).collect()
}

fn payload(frame: &[u8]) -> Option<Vec<u8>> {
    match SlicedPacket::from_ethernet(frame).ok()?.transport? {
        TransportSlice::Udp(udp) if udp.destination_port() == DEFAULT_PORT => {
            Some(udp.payload().to_vec())
        }
        _ => None,
    }
}

/// That many different bytes, the same in every run.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

fn rises(before: &Status, after: &Status) -> BTreeMap<String, u64> {
    let rise = |(word, count): (&String, &u64)| (word.clone(), count - before.heartbeats[word]);
    let rises = after.heartbeats.iter().map(rise);
    rises.filter(|(word, rise)| word.starts_with("dropped_") && *rise > 0).collect()
}

#[test]
fn forged_replayed_cut_and_random_datagrams_change_no_view_and_are_counted_by_reason() {
    const TIMES: usize = 300;
    let program = require!(skip::farm());
    let lab = lab("forged", 3, 1);
    let mut farm = running(&lab, &program, ONE_VIP);
    let (client, victim, peer) = (lab.client(1), lab.node(1), lab.node(2));
    let genuine = recorded(peer, victim, 4);
    let altered = |at: usize, value: u8| {
        let mut bytes = genuine[0].clone();
        bytes[at] ^= value;
        bytes
    };
    let stranger = client.address();
    let peers = peer.address();
    // From whom, what, and the word it is counted by.
    let datagrams: [(Ipv4Addr, Vec<u8>, &str); 13] = [
        (peers, vec![], "dropped_size"),
        (peers, genuine[0][..100].to_vec(), "dropped_size"),
        (peers, genuine[0][..LEN - 1].to_vec(), "dropped_tag"),
        (peers, [&genuine[0][..], &[0]].concat(), "dropped_tag"),
        (peers, noise(1, 1400), "dropped_magic"),
        (peers, noise(2, LEN), "dropped_magic"),
        (peers, altered(4, 0x80), "dropped_version"),
        (peers, altered(8, 1), "dropped_farm"),
        (stranger, genuine[0].clone(), "dropped_source"),
        (lab.node(3).address(), genuine[0].clone(), "dropped_source"),
        (peers, altered(LEN - 1, 1), "dropped_tag"),
        (peers, altered(60, 1), "dropped_tag"),
        (peers, genuine[1].clone(), "dropped_stale"),
    ];
    let frame = |(from, bytes, _): &(Ipv4Addr, Vec<u8>, &str)| {
        let frame = Frame::udp((*from, DEFAULT_PORT), (victim.address(), DEFAULT_PORT), bytes);
        frame.macs(client.mac(), victim.mac()).bytes()
    };
    let frames: Vec<_> = datagrams.iter().map(frame).collect();
    let flood: Vec<_> = frames.iter().cycle().take(frames.len() * TIMES).cloned().collect();

    let before = farm.status(1).unwrap();
    client.inject_all(&flood).unwrap();
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for (_, _, word) in &datagrams {
        *expected.entry((*word).to_owned()).or_default() += TIMES as u64;
    }
    eventually("all are counted", || {
        let risen = rises(&before, &farm.status(1).unwrap());
        risen.values().sum::<u64>() >= flood.len() as u64
    });
    let after = farm.status(1).unwrap();
    assert_eq!(rises(&before, &after), expected);
    assert_eq!((after.epoch, after.state), (before.epoch, NodeState::Up));
    assert!(after.heartbeats["accepted"] > before.heartbeats["accepted"]);
    farm.wait_converged(&[1, 2, 3]).unwrap();
    let told = events(&farm, 1);
    let of_kind = |kind: &str| told.iter().filter(|event| event.kind == kind).count();
    assert_eq!(of_kind("bad_tag"), 1, "a flood does not fill the history: {told:?}");
    for kind in ["node_lost", "lease_lapsed", "node_restarted"] {
        assert_eq!(of_kind(kind), 0, "{told:?}");
    }
}

/// Has node 3 come to a farm that serves, and gives it time to do wrong.
fn two_and_then_the_third(farm: &mut Farm<'_>) {
    farm.start_node(1, &[]).unwrap();
    farm.start_node(2, &[]).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    farm.start_node(3, &[]).unwrap();
    eventually("node3 can be asked", || farm.status(3).is_ok());
    thread::sleep(Duration::from_millis(600));
}

#[test]
fn a_node_with_another_key_never_joins_and_both_sides_say_so() {
    let program = require!(skip::farm());
    let lab = lab("keys", 3, 1);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let other = lab.directory().join("other.key");
    vipfarm_lab::farm::exit_code_and_words(farm.command("keygen").arg(&other)).unwrap();
    farm.give_own_config(3, |yaml| yaml.replace("farm.key", "other.key")).unwrap();
    two_and_then_the_third(&mut farm);

    for node in [1, 2] {
        let status = farm.status(node).unwrap();
        assert!(!status.nodes[2].alive, "{status:?}");
        assert!(status.heartbeats["dropped_tag"] >= 8, "{:?}", status.heartbeats);
        let told = events(&farm, node);
        let told = told.iter().find(|event| event.kind == "bad_tag").expect("an event");
        assert!(told.message.contains("10.77.0.13") && told.message.contains("key file"));
    }
    let alone = farm.status(3).unwrap();
    assert!(!alone.nodes[0].alive && !alone.nodes[1].alive, "{alone:?}");
    assert!(alone.heartbeats["dropped_tag"] >= 16, "{:?}", alone.heartbeats);
    assert!(has_event(&farm, 3, "bad_tag"));
    assert_eq!(alone.state, NodeState::Joining, "it must not serve beside the others");
    assert!(alone.groups.iter().all(|group| group.bitmap.0 == [0; 4]), "{alone:?}");
}

#[test]
fn a_node_with_another_configuration_serves_nothing_and_both_sides_say_so() {
    let program = require!(skip::farm());
    let lab = lab("files", 3, 1);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    farm.give_own_config(3, |yaml| yaml.replace("port: 80,", "port: 81,")).unwrap();
    two_and_then_the_third(&mut farm);

    for node in [1, 2] {
        let status = farm.status(node).unwrap();
        assert!(
            status.nodes[2].config_differs == ["groups"] && !status.nodes[2].alive,
            "{status:?}"
        );
        let told = events(&farm, node);
        let told = told.iter().find(|event| event.kind == "config_mismatch").expect("an event");
        assert!(told.message.contains("node3") && told.message.contains("same file"));
    }
    let status = farm.status(3).unwrap();
    assert_eq!(status.state, NodeState::Joining, "it must not serve a table of its own");
    assert!(status.groups.iter().all(|group| group.bitmap.0 == [0; 4]), "{status:?}");
    assert!(has_event(&farm, 3, "config_mismatch") && has_event(&farm, 3, "held_back"));

    // Given the same file it joins.
    farm.give_own_config(3, str::to_owned).unwrap();
    farm.agent(3).unwrap().stop(vipfarm_lab::farm::PATIENCE).unwrap();
    farm.start_node(3, &[]).unwrap();
    farm.wait_converged(&[1, 2, 3]).unwrap();
}

/// Whoever starts long before the others serves alone, with whatever file.
#[test]
fn a_node_that_served_alone_with_another_configuration_stands_back_for_the_farm() {
    let program = require!(skip::farm());
    let lab = lab("early", 3, 1);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    farm.give_own_config(3, |yaml| yaml.replace("port: 80,", "port: 81,")).unwrap();
    farm.start_node(3, &[]).unwrap();
    farm.wait_converged(&[3]).unwrap();
    farm.start_node(1, &[]).unwrap();
    farm.start_node(2, &[]).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    let status = farm.status(3).unwrap();
    assert_eq!(status.state, NodeState::Fenced);
    assert!(status.groups.iter().all(|group| group.bitmap.is_empty()), "{status:?}");
    assert!(has_event(&farm, 3, "held_back"));
    farm.stop().unwrap();
}

#[test]
fn another_machine_that_claims_a_nodes_name_does_not_get_in_and_is_told_of() {
    let program = require!(skip::farm());
    let lab = lab("double", 3, 1);
    let mut farm = running(&lab, &program, ONE_VIP);
    // The same address, name and files on a second machine, as after a cloned disk.
    let (impostor, original) = (lab.client(1), lab.node(2));
    impostor.add_address(original.address().into(), 16).unwrap();
    let mut command = impostor.command(&program);
    command.args(["agent", "--node", "node2", "-c"]).arg(farm.config(2));
    command.arg("--run-dir").arg(lab.directory().join("impostor"));
    command.arg("--state-dir").arg(lab.directory().join("impostor"));
    command.arg("--bpf-dir").arg(lab.bpf_directory().join("impostor"));
    let before = farm.status(1).unwrap();
    let agent = impostor.spawn("agent", command).unwrap();
    for node in [1, 3] {
        eventually("the others say so", || has_event(&farm, node, "duplicate_node"));
        let told = events(&farm, node);
        let told = told.iter().find(|event| event.kind == "duplicate_node").expect("an event");
        assert!(told.message.contains("node2, from 10.77.0.12"), "{told:?}");
    }
    farm.wait_converged(&[1, 2, 3]).unwrap();
    let after = farm.status(1).unwrap();
    assert_eq!(after.epoch, before.epoch, "the one that was there first is the member");
    assert!(after.heartbeats["dropped_duplicate"] > 0, "{:?}", after.heartbeats);
    drop(agent);
}
