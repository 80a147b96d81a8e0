//! A datagram that is judged while the agent stores: whichever words it reads before a store, and whichever
//! after it, nobody takes for his own what another one judges first, and no frame goes back.

use std::{cell::Cell, ptr};

use vipfarm_common::{
    Reason, State, Tables, decide,
    hash::Start,
    packet::{Connection, FragmentKey, HostPacket, Tuple},
};

use super::*;

/// Tables that go over from one of those states to another before the read of that number.
struct Racing<'s> {
    states: &'s [HostTables],
    from: usize,
    to: usize,
    at: usize,
    reads: Cell<usize>,
}

impl Racing<'_> {
    fn first(&self) -> &HostTables {
        &self.states[0]
    }
}

impl Tables for Racing<'_> {
    fn state(&self) -> &State {
        self.first().state()
    }

    fn volatile<T: Copy>(&self, word: &T) -> T {
        let reads = self.reads.replace(self.reads.get() + 1);
        let state = |of: &HostTables| ptr::from_ref(of.state());
        let offset = ptr::from_ref(word).addr() - state(self.first()).addr();
        assert!(offset + size_of::<T>() <= size_of::<State>(), "a word of the state");
        let now = state(&self.states[if reads < self.at { self.from } else { self.to }]);
        // SAFETY: the word lies within the first state, so it does at the same place of another.
        unsafe { now.byte_add(offset).cast::<T>().read() }
    }

    fn ticks(&self) -> u64 {
        self.first().ticks()
    }

    fn boot_ns(&self) -> u64 {
        self.first().boot_ns()
    }

    fn hash_start(&self) -> Start {
        self.first().hash_start()
    }

    fn own_mac(&self) -> [u8; 6] {
        self.first().own_mac()
    }

    fn connection(&self, _: &Tuple) -> Connection {
        Connection::None
    }

    fn flow_seen(&self, _: &Tuple) -> u64 {
        0
    }

    fn note_flow(&self, _: &Tuple, _: u64) {}

    fn fragment(&self, _: &FragmentKey) -> Option<u32> {
        None
    }

    fn put_fragment(&self, _: &FragmentKey, _: u32) {}

    fn may_keep_fragment(&self) -> bool {
        false
    }
}

/// All the states of a node's tables while it goes from one view to another, in which the buckets are all
/// those nodes' one after the other; and how many there are until it has released.
fn states(own: usize, directed: bool, owners: [usize; 3]) -> (Vec<HostTables>, usize) {
    let mut paper = Paper::new(directed, 1);
    let mut node = paper.nodes[own].take().expect("it lives");
    let view = |owner: usize| {
        let powers =
            (0..NODES).map(|it| Override::persistent(id(it), Some(0), u16::from(it == owner)));
        let powers =
            powers.fold(Overrides::default(), |all, entry| all.with(id(0), entry).expect("room"));
        View { powers: Arc::new(powers), ..all() }
    };
    let nothing = |node| Said { node, lingering: Some(&[]), held_until: None };
    let [before, now, next] = owners.map(view);
    for view in [&before, &now] {
        node.port.release(id(own), view);
        node.port.acquire(id(own), view);
        node.port.serve();
        if view == &before || owners[0] == owners[1] {
            let others: Vec<_> = all().alive.without(id(own)).iter().map(nothing).collect();
            node.port.take(&others, BootTime::ZERO);
            // Of its share of the first view.
            let none = vec![Bitmap::default(); node.port.accept().len()];
            node.port.keep(node.port.share().steps(), &none);
        }
    }
    let mut plan = node.port.plan();
    node.tables.apply(&plan);
    let mut states = vec![node.tables.clone()];
    let mut released = 0;
    for phase in [Port::release, Port::acquire] {
        phase(&mut node.port, id(own), &next);
        let after = node.port.plan();
        for change in after.changes_from(Some(&plan)) {
            node.tables.change(change, &after);
            states.push(node.tables.clone());
        }
        plan = after;
        released = if released == 0 { states.len() } else { released };
    }
    (states, released)
}

/// What becomes of a frame, and where it then goes, in every race.
fn every_race(states: &[HostTables], source: Mac, target: Mac, mut check: impl FnMut(Reason, Mac)) {
    let stages = (0..states.len()).flat_map(|from| (from..states.len()).map(move |to| (from, to)));
    for (from, to) in stages {
        let mut at = 0;
        loop {
            let racing = Racing { states, from, to, at, reads: Cell::new(0) };
            let mut bytes = frame(0, target);
            bytes[6..12].copy_from_slice(&source.0);
            let reason = decide(&HostPacket::new(&mut bytes), &racing).reason();
            check(reason, Mac(*bytes.first_chunk().expect("a frame")));
            if at > racing.reads.get() {
                break;
            }
            at += 1;
        }
    }
}

#[test]
fn no_store_that_is_half_seen_has_a_node_judge_what_another_one_does() {
    // One that gives away what another lingers in, and one that takes over from another.
    for (own, owners, judge) in [(0, [1, 0, 2], 1), (2, [0, 0, 2], 0)] {
        for directed in [false, true] {
            let (states, released) = states(own, directed, owners);
            assert!(states.len() > 3, "several stores");
            let vmac = Mac::of_vip(VIP.into());
            let target = if directed { mac(own) } else { vmac };
            every_race(&states, CLIENT, target, |reason, _| {
                let judges = [Reason::Mine, Reason::Lingering].contains(&reason);
                assert!(!judges, "node {own}, directed {directed}: {reason:?}");
            });
            // A race costs one hop more; between two stores there may be many frames. Who has gone on to a
            // view hands nothing to a former owner.
            let sent = if own == owners[2] { states.len() } else { released };
            for state in states[..sent].chunks(1) {
                every_race(state, mac(judge), mac(own), |reason, goes_to| {
                    let goes = reason.verdict() == Verdict::Forward;
                    assert!(!goes || goes_to != mac(judge), "{reason:?} back to who sent it");
                });
            }
        }
    }
}
