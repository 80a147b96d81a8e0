//! T10: echo requests while nodes come and go.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use vipfarm_lab::{Captured, Direction, Farm, Frame, Host, require, skip};

use super::{BOTH, VIPS, Wires, lab};
use crate::{
    probed::HANDOVER,
    running, vmac,
    wire::{self, SILENCE, What},
};

/// Frames at a time: some 2000 in a second.
const AT_ONCE: usize = 30;

/// Between two changes.
const REST: Duration = Duration::from_millis(300);

/// Ends a loop when dropped, also by a panic.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Asks both VIPs from all addresses in turn, until it is told to stop: when each was asked.
fn ask(client: &Host, stop: &AtomicBool) -> BTreeMap<(IpAddr, u16), Instant> {
    let both = VIPS.map(|vip| client.addresses_like(vip).into_iter().map(move |own| (own, vip)));
    let [v4, v6] = both;
    let pairs: Vec<_> = v4.zip(v6).flat_map(|(v4, v6)| [v4, v6]).collect();
    let mut asked = BTreeMap::new();
    for seq in 0.. {
        for some in pairs.chunks(AT_ONCE) {
            if stop.load(Ordering::Acquire) {
                return asked;
            }
            let ask = |&(own, vip): &(IpAddr, IpAddr)| {
                let frame = Frame::icmp_echo(own, vip, 10, seq);
                frame.macs(client.mac(), vmac()).bytes()
            };
            let frames: Vec<_> = some.iter().map(ask).collect();
            let now = Instant::now();
            client.inject_all(&frames).unwrap();
            asked.extend(some.iter().map(|&(own, _)| ((own, seq), now)));
        }
    }
    asked
}

/// What is done to a farm of three nodes, in words and in deed.
type Change = (&'static str, fn(&mut Farm<'_>));

const CHANGES: [Change; 4] = [
    ("a node is drained", |farm| drop(farm.ask(1, &["drain", "node2"]).unwrap())),
    ("it is no longer", |farm| drop(farm.ask(2, &["undrain"]).unwrap())),
    ("a node stops", |farm| {
        farm.stop_node(3).unwrap();
        farm.wait_converged(&[1, 2]).unwrap();
    }),
    ("it joins", |farm| {
        farm.start_node(3, &[]).unwrap();
        farm.wait_converged(&[1, 2, 3]).unwrap();
    }),
];

#[test]
fn t10_thousands_of_pings_are_answered_once_each_while_nodes_come_and_go() {
    let program = require!(skip::farm());
    let lab = lab("pings", 3, 60);
    let mut farm = running(&lab, &program, BOTH);
    let _wires = Wires::of(&lab, "t10");
    let client = lab.client(1);
    let echo = |frame: &Captured| match wire::packet(frame)?.what {
        What::EchoReply { seq } => Some((wire::packet(frame)?.target, seq)),
        _ => None,
    };
    let is_reply =
        move |frame: &Captured| frame.direction == Direction::Incoming && echo(frame).is_some();
    let replies = client.capture_if(is_reply).unwrap();

    let stop = AtomicBool::new(false);
    let mut changes = Vec::new();
    let asked = thread::scope(|scope| {
        let asking = scope.spawn(|| ask(client, &stop));
        let end = Stop(&stop);
        for (what, change) in [CHANGES, CHANGES].concat() {
            thread::sleep(REST);
            let from = Instant::now();
            change(&mut farm);
            changes.push((what, from..Instant::now()));
        }
        thread::sleep(REST);
        drop(end);
        asking.join().unwrap()
    });
    thread::sleep(SILENCE);

    let mut answered: BTreeMap<_, u32> = BTreeMap::new();
    for reply in replies.stop().iter().filter_map(echo) {
        *answered.entry(reply).or_default() += 1;
    }
    let twice: Vec<_> = answered.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    let mut lost: Vec<_> =
        asked.iter().filter(|(key, _)| !answered.contains_key(key)).map(|(_, &at)| at).collect();
    lost.sort_unstable();
    println!("{} of {} were lost", lost.len(), asked.len());
    assert!(asked.len() > 5000, "hardly anything was asked");
    for (what, span) in changes {
        let (during, others): (Vec<_>, _) = lost.iter().partition(|at| span.contains(at));
        lost = others;
        let [first, .., last] = during[..] else { continue };
        let instant = last - first;
        println!("{} when {what}, within {instant:?}", during.len());
        assert!(instant < HANDOVER, "{what}: {instant:?}");
    }
    assert!(lost.is_empty(), "{} were lost while nothing changed", lost.len());
}
