//! A farm in virtual time: the real machine on every node, a network that loses, delays, reorders
//! and repeats, agents that freeze, crash, leave and come back, and the kernel they leave behind.
//!
//! After every turn of every agent no bucket may be accepted by two nodes; when the faults end,
//! every bucket must soon be accepted by exactly one. A failure names the seed of its schedule.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use super::*;
use crate::{assign::Assigner, model::Bitmap};

const MILLI: u64 = 1_000_000;

/// What the network may do to one datagram.
#[derive(Clone, Copy)]
struct Weather {
    /// In percent.
    loss: u64,
    /// Losses in a row on one link, at most.
    losses_in_a_row: u32,
    /// In milliseconds.
    delay: u64,
}

/// What is broken on purpose, to see that the simulator notices.
#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    None,
    /// The kernel goes on accepting when the lease has ended.
    NoLease,
    /// The kernel goes on accepting what the agent has released.
    NoRelease,
}

struct Kernel {
    accept: Bitmap,
    /// On the node's own clock.
    lease: BootTime,
}

struct SimNode {
    /// `None`: no agent runs.
    agent: Option<Membership>,
    kernel: Kernel,
    socket: VecDeque<(IpAddr, Vec<u8>)>,
    /// What the agent was frozen in the middle of.
    unfinished: VecDeque<Output>,
    frozen_until: u64,
    restart_at: Option<u64>,
    /// Clocks of different nodes differ, and run up to a percent fast or slow.
    clock_offset: u64,
    clock_permille: u64,
    digest: [u8; 16],
}

struct Farm {
    seed: u64,
    rng: Rng,
    flaw: Flaw,
    weather: Weather,
    /// The faults have ended.
    calm: bool,
    timers: Timers,
    /// Milliseconds.
    now: u64,
    nodes: Vec<SimNode>,
    /// By arrival and a running number.
    in_flight: BTreeMap<(u64, u64), (usize, IpAddr, Vec<u8>)>,
    posted: u64,
    lost_in_a_row: Vec<u32>,
    tables: Tables,
    /// What happened last, for the report of a failure.
    history: VecDeque<String>,
}

/// One group over the whole farm; tables are kept because a debug build is slow to make them.
struct Tables {
    assigner: Assigner,
    known: BTreeMap<u64, Vec<Bitmap>>,
}

/// Two nodes serve one bucket.
#[derive(Debug)]
struct Overlap;

#[test]
fn with_fast_timers_no_bucket_is_served_twice_and_all_are_served_again() {
    survive_faults(Timers::FAST);
}

#[test]
fn with_balanced_timers_no_bucket_is_served_twice_and_all_are_served_again() {
    survive_faults(Timers::BALANCED);
}

#[test]
fn the_simulator_notices_a_kernel_without_lease() {
    assert!(overlaps(Flaw::NoLease, 1) > 0);
}

#[test]
fn the_simulator_notices_a_kernel_that_does_not_release() {
    assert!(overlaps(Flaw::NoRelease, 1) > 0);
}

/// The limit of this protocol that the module's documentation admits.
#[test]
fn the_simulator_notices_more_losses_in_a_row_than_the_lease_allows_for() {
    assert!(overlaps(Flaw::None, 20) > 0);
}

fn survive_faults(timers: Timers) {
    for seed in 0..seeds() {
        let mut rng = Rng(seed);
        let delay = millis(timers.period) / 3;
        let weather = Weather { loss: rng.below(30), losses_in_a_row: 1, delay };
        let mut farm = Farm::new(seed, rng, timers, weather, Flaw::None);
        assert!(farm.suffer().is_ok(), "two nodes serve one bucket: {farm}");
        farm.settle();
    }
}

/// As many schedules as `VIPFARM_SEEDS` says, or those that a debug build runs in seconds.
fn seeds() -> u64 {
    std::env::var("VIPFARM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(120)
}

fn overlaps(flaw: Flaw, losses_in_a_row: u32) -> usize {
    let weather = Weather { loss: 30 + 2 * u64::from(losses_in_a_row), losses_in_a_row, delay: 15 };
    let overlaps =
        |seed| Farm::new(seed, Rng(seed), Timers::BALANCED, weather, flaw).suffer().is_err();
    (0..20).filter(|&seed| overlaps(seed)).count()
}

impl Farm {
    fn new(seed: u64, mut rng: Rng, timers: Timers, weather: Weather, flaw: Flaw) -> Self {
        let count = 2 + rng.index(7);
        let nodes = (0..count).map(|_| SimNode {
            agent: None,
            kernel: Kernel { accept: Bitmap::default(), lease: BootTime::ZERO },
            socket: VecDeque::new(),
            unfinished: VecDeque::new(),
            frozen_until: 0,
            restart_at: Some(rng.below(500)),
            clock_offset: rng.below(1 << 50),
            clock_permille: 990 + rng.below(21),
            digest: [0; 16],
        });
        Self {
            seed,
            nodes: nodes.collect(),
            rng,
            flaw,
            weather,
            calm: false,
            timers,
            now: 0,
            in_flight: BTreeMap::new(),
            posted: 0,
            lost_in_a_row: vec![0; count * count],
            tables: Tables::of(count),
            history: VecDeque::new(),
        }
    }

    /// A random history of faults.
    fn suffer(&mut self) -> Result<(), Overlap> {
        let fail = millis(self.timers.fail);
        let end = 15 * fail;
        while self.now < end {
            let calm = 1 + self.rng.below(fail);
            self.run(calm)?;
            let node = self.rng.index(self.nodes.len());
            let pause = 1 + self.rng.below(3 * fail);
            match self.rng.below(10) {
                0..=4 => self.freeze(node, pause),
                5..=6 => self.crash(node, pause),
                7 => self.leave(node),
                // A joint freeze, as on one busy host.
                8 => (0..self.nodes.len()).for_each(|node| self.freeze(node, pause)),
                _ => {}
            }
        }
        Ok(())
    }

    /// The faults end.
    fn settle(&mut self) {
        let fail = millis(self.timers.fail);
        self.weather.loss = 0;
        self.calm = true;
        for node in &mut self.nodes {
            node.frozen_until = self.now;
            node.restart_at = node.restart_at.map(|at| at.min(self.now + fail));
        }
        assert!(self.run(5 * fail).is_ok(), "two nodes serve one bucket: {self}");
        let served = (0..self.nodes.len()).fold(Bitmap::default(), |served, node| {
            let accepting = self.accepting(node);
            Bitmap(std::array::from_fn(|word| served.0[word] | accepting.0[word]))
        });
        let running = self.nodes.iter().any(|node| node.agent.is_some());
        assert_eq!(served.len(), if running { 256 } else { 0 }, "buckets served by nobody: {self}");
        for node in self.nodes.iter().filter_map(|node| node.agent.as_ref()) {
            assert!(node.is_converged() || node.held_back_by.is_some(), "no agreement: {self}");
        }
    }

    fn run(&mut self, millis: u64) -> Result<(), Overlap> {
        for _ in 0..millis {
            self.now += 1;
            self.deliver();
            for node in 0..self.nodes.len() {
                self.start_if_due(node);
                if self.now >= self.nodes[node].frozen_until {
                    self.turn(node);
                }
                self.check()?;
            }
        }
        Ok(())
    }

    /// What the driver of the agent does, as the module's documentation tells it.
    fn turn(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let now = node.clock(self.now);
        let Some(agent) = &mut node.agent else { return };
        if node.unfinished.is_empty() {
            for (source, datagram) in node.socket.drain(..) {
                agent.handle_datagram(now, source, &datagram);
            }
            if now >= agent.next_deadline() {
                agent.handle_timeout(now);
            }
            node.unfinished.extend(std::iter::from_fn(|| agent.poll_output()));
            if agent.has_left() {
                self.crash(index, 100);
                return;
            }
        }
        while let Some(output) = self.nodes[index].unfinished.pop_front() {
            self.carry_out(index, output);
            if !self.calm && self.rng.below(2000) == 0 {
                let pause = self.rng.below(2 * millis(self.timers.fail));
                self.freeze(index, pause);
                return;
            }
        }
    }

    fn carry_out(&mut self, index: usize, output: Output) {
        let flaw = self.flaw;
        if !matches!(output, Output::Broadcast(_) | Output::Lease(_) | Output::Peer(..)) {
            self.record(index, &format!("{output:?}"));
        }
        let own = |view: View, tables: &mut Tables| tables.bitmaps(view.alive)[index];
        let kernel = &mut self.nodes[index].kernel;
        match output {
            Output::Release(_) if flaw == Flaw::NoRelease => {}
            Output::Release(view) => {
                kernel.accept = kernel.accept.and(own(view, &mut self.tables));
            }
            Output::Acquire(view) => kernel.accept = own(view, &mut self.tables),
            Output::Lease(deadline) => {
                assert!(deadline > kernel.lease, "seed {}: a lease must grow", self.seed);
                kernel.lease = deadline;
            }
            Output::Fence => {
                *kernel = Kernel { accept: Bitmap::default(), lease: BootTime::ZERO };
            }
            Output::Broadcast(datagram) => self.broadcast(index, &datagram),
            Output::Peer(..) | Output::Event(_) => {}
        }
    }

    fn broadcast(&mut self, from: usize, datagram: &[u8]) {
        for to in (0..self.nodes.len()).filter(|&to| to != from) {
            let lost = &mut self.lost_in_a_row[from * self.nodes.len() + to];
            if *lost < self.weather.losses_in_a_row && self.rng.below(100) < self.weather.loss {
                *lost += 1;
                continue;
            }
            *lost = 0;
            self.post(from, to, self.weather.delay, datagram);
            match self.rng.below(100) {
                0..=4 => self.post(from, to, self.weather.delay, datagram),
                5 => self.post(from, to, 1000, datagram),
                _ => {}
            }
        }
    }

    fn post(&mut self, from: usize, to: usize, delay: u64, datagram: &[u8]) {
        let arrival = self.now + 1 + self.rng.below(delay.max(1));
        self.posted += 1;
        self.in_flight.insert((arrival, self.posted), (to, address(from), datagram.to_vec()));
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.in_flight.first_entry()
            && entry.key().0 <= self.now
        {
            let (to, source, datagram) = entry.remove();
            if self.nodes[to].agent.is_some() {
                self.nodes[to].socket.push_back((source, datagram));
            }
        }
    }

    /// The agent is not run, its kernel is, and its socket goes on queueing.
    fn freeze(&mut self, index: usize, pause: u64) {
        self.record(index, &format!("is frozen for {pause} ms"));
        self.nodes[index].frozen_until = self.now + pause;
    }

    /// The agent dies; its kernel goes on for as long as the lease lets it.
    fn crash(&mut self, index: usize, pause: u64) {
        self.record(index, &format!("has no agent for {pause} ms"));
        let node = &mut self.nodes[index];
        node.agent = None;
        node.socket.clear();
        node.unfinished.clear();
        node.restart_at.get_or_insert(self.now + pause);
        // One in eight comes back with another file.
        node.digest = [u8::from(self.rng.below(8) == 0); 16];
    }

    fn leave(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let now = node.clock(self.now);
        if let Some(agent) = &mut node.agent {
            agent.leave(now);
        }
    }

    fn start_if_due(&mut self, index: usize) {
        let names = (0..self.nodes.len())
            .map(|node| Node { name: format!("node{node}"), addresses: vec![address(node)] });
        let node = &mut self.nodes[index];
        if node.restart_at.is_none_or(|at| self.now < at) || node.agent.is_some() {
            return;
        }
        let config = Config {
            farm: "sim".into(),
            own: NodeId::new(index).expect("a small farm"),
            nodes: names.collect(),
            timers: self.timers,
            key: [1; 32],
            digest: node.digest,
            mac: Mac([2, 0, 0, 0, 0, octet(index)]),
        };
        node.restart_at = None;
        node.agent = Some(Membership::new(config, self.rng.next(), node.clock(self.now)));
    }

    fn record(&mut self, index: usize, what: &str) {
        self.history.truncate(60);
        self.history.push_front(format!("{} ms: node {index} {what}", self.now));
    }

    fn accepting(&self, index: usize) -> Bitmap {
        let node = &self.nodes[index];
        let leased = node.clock(self.now) < node.kernel.lease;
        let armed = node.kernel.lease != BootTime::ZERO;
        match self.flaw {
            Flaw::NoLease if armed => node.kernel.accept,
            _ if leased => node.kernel.accept,
            _ => Bitmap::default(),
        }
    }

    fn check(&self) -> Result<(), Overlap> {
        let mut served = Bitmap::default();
        for node in 0..self.nodes.len() {
            let accepting = self.accepting(node);
            if !served.and(accepting).is_empty() {
                return Err(Overlap);
            }
            served = Bitmap(std::array::from_fn(|word| served.0[word] | accepting.0[word]));
        }
        Ok(())
    }
}

impl fmt::Display for Farm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} after {} ms", self.seed, self.now)?;
        self.nodes.iter().try_for_each(|node| writeln!(f, "{}", node.describe()))?;
        self.history.iter().rev().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl SimNode {
    fn clock(&self, now: u64) -> BootTime {
        BootTime::from_nanos(self.clock_offset + now * MILLI / 1000 * self.clock_permille)
    }

    fn describe(&self) -> String {
        let Some(agent) = &self.agent else { return "no agent".into() };
        let held = agent.held_back_by;
        let (state, view, promised) = (agent.state(), agent.view(), agent.promised_view());
        format!("{state:?} installed {view:?} promised {promised:?} held back by {held:?}")
    }
}

impl Tables {
    fn of(count: usize) -> Self {
        let names: Vec<String> = (0..count).map(|node| format!("node{node}")).collect();
        let members: Vec<(&str, u16)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        Self { assigner: Assigner::new("sim", &members), known: BTreeMap::new() }
    }

    fn bitmaps(&mut self, alive: NodeSet) -> &[Bitmap] {
        self.known.entry(alive.bits()).or_insert_with(|| {
            let table = self.assigner.table(alive);
            (0..8).filter_map(NodeId::new).map(|node| table.bitmap(node)).collect()
        })
    }
}

fn address(node: usize) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, 1 + octet(node)).into()
}

fn octet(node: usize) -> u8 {
    u8::try_from(node).expect("a small farm")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("a short time")
}

/// splitmix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    /// A number below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// An index into a list that long.
    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("less than a length")
    }
}
