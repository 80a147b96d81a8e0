//! The farm: time, delivery, the driver's loop and the invariants.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use super::{
    super::{
        BootTime, Membership, NodeId, NodeState, Output, Timers,
        view::{Life, life},
    },
    Flaw,
    clients::Connection,
    faults::Weather,
    network::{Datagram, Path},
    node::{self, Kernel, SimNode},
    rng::Rng,
};
use crate::agent::share::Share;

pub(super) const MILLI: u64 = 1_000_000;

pub(super) struct Farm {
    seed: u64,
    pub(super) rng: Rng,
    flaw: Flaw,
    weather: Weather,
    /// The faults have ended.
    calm: bool,
    timers: Timers,
    /// Nanoseconds.
    pub(super) now: u64,
    pub(super) nodes: Vec<SimNode>,
    /// From and to.
    paths: Vec<Path>,
    /// By arrival and a running number.
    in_flight: BTreeMap<(u64, u64), (usize, IpAddr, Datagram)>,
    posted: u64,
    pub(super) connections: Vec<Connection>,
    pub(super) most_connections: usize,
    /// What clients do is not to change what befalls the farm.
    pub(super) clients: Rng,
    /// What happened last, for the report of a failure.
    history: VecDeque<String>,
}

/// What must not happen.
#[derive(Debug)]
pub(super) enum Grief {
    /// Two nodes serve one bucket.
    Overlap(usize, usize),
    /// A node resets what a client has with another one.
    Reset(usize, Connection),
    /// Without faults the farm does not come to rest, or clients get no answer.
    Unrest,
}

impl fmt::Display for Grief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overlap(one, other) => write!(f, "nodes {one} and {other} serve one bucket"),
            Self::Reset(by, connection) => write!(f, "node {by} resets {connection:?}"),
            Self::Unrest => write!(f, "no agreement, or connections without an answer"),
        }
    }
}

impl Farm {
    pub(super) fn new(
        seed: u64,
        mut rng: Rng,
        count: usize,
        timers: Timers,
        weather: Weather,
        flaw: Flaw,
    ) -> Self {
        Self {
            seed,
            nodes: (0..count).map(|_| SimNode::new(&mut rng)).collect(),
            rng,
            flaw,
            weather,
            calm: false,
            timers,
            now: 0,
            paths: vec![Path::default(); count * count],
            in_flight: BTreeMap::new(),
            posted: 0,
            connections: Vec::new(),
            most_connections: 24,
            clients: Rng(!seed),
            history: VecDeque::new(),
        }
    }

    pub(super) fn fail_millis(&self) -> u64 {
        u64::try_from(self.timers.fail.as_millis()).expect("a short time")
    }

    /// Whether nothing is wrong with its agents and kernels on purpose.
    pub(super) fn is_sound(&self) -> bool {
        matches!(self.flaw, Flaw::None)
    }

    pub(super) fn path(&mut self, from: usize, to: usize) -> &mut Path {
        &mut self.paths[from * self.nodes.len() + to]
    }

    /// The faults end: soon all is served, once, and nothing changes any more.
    pub(super) fn settle(&mut self) -> Result<(), Grief> {
        self.calm = true;
        self.weather = Weather::FAIR;
        let now = self.now;
        self.paths.iter_mut().for_each(|path| path.cut_until = now);
        let fail = self.fail_millis();
        for index in 0..self.nodes.len() {
            let clock = self.nodes[index].clock(now);
            let node = &mut self.nodes[index];
            node.frozen_until = now;
            node.restart_at = node.restart_at.map(|at| at.min(now + fail * MILLI));
            if let Some(agent) = &mut node.agent {
                agent.set_fit(clock, true);
                agent.abstain(clock, Arc::default());
            }
            self.schedule(index);
        }
        self.run_for(2 * fail)?;
        self.stage_everywhere();
        self.run_until(Self::is_agreed)?;
        self.check_powers();
        for index in 0..self.nodes.len() {
            self.give_power(0, None, index, None, false);
        }
        self.run_until(|farm| farm.is_settled() && farm.are_answered())?;
        self.close_for_good();
        self.run_until(|farm| farm.nodes.iter().all(|node| node.share.is_settled()))?;
        self.calm = false;
        Ok(())
    }

    /// Runs until that has held for a while and nothing has changed.
    fn run_until(&mut self, holds: impl Fn(&Self) -> bool) -> Result<(), Grief> {
        let fail = self.fail_millis();
        let limit = self.now + (12 * fail + self.longest_damping()) * MILLI;
        let describe = |farm: &Self| farm.nodes.iter().map(SimNode::describe).collect::<Vec<_>>();
        let (mut since, mut before) = (self.now, describe(self));
        while self.now < since + 3 * fail * MILLI {
            if self.now >= limit {
                return Err(Grief::Unrest);
            }
            self.run_for(fail / 4)?;
            let now = describe(self);
            if now != before || !holds(self) {
                (since, before) = (self.now, now);
            }
        }
        Ok(())
    }

    /// All have the same powers, and none that has ended with an agent.
    fn check_powers(&self) {
        let agents: Vec<_> = self.nodes.iter().filter_map(|node| node.agent.as_ref()).collect();
        let powers = |agent: &&Membership| agent.view().map(|view| view.powers);
        let agreed = agents.first().and_then(powers).unwrap_or_default();
        assert!(agents.iter().all(|it| powers(it).as_ref() == Some(&agreed)), "powers: {self}");
        let is_of = |node: NodeId, of: Life| life(agents[node.index()].incarnation) == of;
        let ended =
            agreed.entries().iter().find(|it| it.life.is_some_and(|of| !is_of(it.node, of)));
        assert_eq!(ended, None, "a power outlives its agent: {self}");
        let ended = agreed.stays().iter().find(|it| it.life.is_some_and(|of| !is_of(it.node, of)));
        assert_eq!(ended, None, "who is to hold a VIP outlives its agent: {self}");
    }

    /// How long a joiner may be kept waiting, in milliseconds.
    fn longest_damping(&self) -> u64 {
        let agents = self.nodes.iter().filter_map(|node| node.agent.as_ref());
        let dampings = agents
            .flat_map(|agent| agent.peers.iter())
            .map(|peer| peer.damping(10, self.timers.period).as_millis());
        u64::try_from(dampings.max().unwrap_or(0)).expect("a short time")
    }

    fn is_agreed(&self) -> bool {
        self.nodes.iter().all(|node| node.agent.as_ref().is_some_and(Membership::is_converged))
    }

    fn is_settled(&self) -> bool {
        let served = self.nodes.iter().map(|node| node.accepting(self.now, false));
        // Disjoint, as every step has checked.
        let served = served.fold(0, |served, accepting| served | accepting);
        self.is_agreed() && served == u64::MAX
    }

    pub(super) fn run_for(&mut self, millis: u64) -> Result<(), Grief> {
        let end = self.now + millis * MILLI;
        loop {
            let arrival = self.in_flight.first_key_value().map_or(u64::MAX, |(key, _)| key.0);
            let starts = self.nodes.iter().filter_map(|node| node.restart_at);
            let turns = self.nodes.iter().map(|node| node.turn_at.max(node.frozen_until));
            let next = starts.chain(turns).fold(arrival, u64::min);
            if next > end {
                self.now = end;
                return Ok(());
            }
            self.now = self.now.max(next);
            self.deliver();
            for index in 0..self.nodes.len() {
                self.start_if_due(index);
                let node = &self.nodes[index];
                if node.turn_at.max(node.frozen_until) <= self.now {
                    self.turn(index)?;
                    self.clients_act();
                }
            }
        }
    }

    /// Sets the agent's next turn, which comes a little late.
    pub(super) fn schedule(&mut self, index: usize) {
        let late = self.rng.lateness();
        let node = &mut self.nodes[index];
        let Some(agent) = &node.agent else { return };
        let due = if node.unfinished.is_empty() && node.socket.is_empty() {
            node.time_of(agent.next_deadline()).max(self.now)
        } else {
            self.now
        };
        node.turn_at = node.turn_at.min(due + late);
    }

    fn start_if_due(&mut self, index: usize) {
        let count = self.nodes.len();
        let incarnation = self.rng.next();
        let node = &mut self.nodes[index];
        if node.restart_at.is_none_or(|at| self.now < at) || node.agent.is_some() {
            return;
        }
        let config = node::config(index, count, self.timers, node.file, &node.disk);
        node.restart_at = None;
        let mut agent = Membership::new(config, incarnation, node.clock(self.now));
        if let Flaw::Rules(rules) = self.flaw {
            agent.rules = rules;
        }
        node.agent = Some(agent);
        node.share = Share::of(vec![true]);
        if let Flaw::Handover(rules) = self.flaw {
            node.share.rules = rules;
        }
        self.forsake(|server| server == index);
        self.record(index, || "starts".into());
        self.schedule(index);
    }

    /// What the driver of the agent does, as the module's documentation tells it.
    fn turn(&mut self, index: usize) -> Result<(), Grief> {
        let node = &mut self.nodes[index];
        node.turn_at = u64::MAX;
        let now = node.clock(self.now);
        if node.agent.is_none() {
            return Ok(());
        }
        if node.unfinished.is_empty() {
            self.obey(index)?;
            let node = &mut self.nodes[index];
            let agent = node.agent.as_mut().expect("as before");
            for (source, datagram) in node.socket.drain(..) {
                agent.handle_datagram(now, 0, source, &datagram);
            }
            self.hear(index)?;
            let node = &mut self.nodes[index];
            let agent = node.agent.as_mut().expect("as before");
            if now >= agent.next_deadline() {
                agent.handle_timeout(now);
            }
            node.unfinished.extend(std::iter::from_fn(|| agent.poll_output()));
        }
        while let Some(output) = self.nodes[index].unfinished.pop_front() {
            self.carry_out(index, output)?;
            if !self.calm && self.rng.once_in(2000) {
                let pause = self.rng.below(2 * self.fail_millis());
                self.freeze(index, pause);
                break;
            }
        }
        if self.nodes[index].unfinished.is_empty() && self.nodes[index].installed {
            self.nodes[index].installed = false;
            self.hear(index)?;
        }
        let node = &self.nodes[index];
        if node.unfinished.is_empty() && node.agent.as_ref().is_some_and(Membership::has_left) {
            self.crash(index, 100);
        }
        self.schedule(index);
        Ok(())
    }

    fn carry_out(&mut self, index: usize, output: Output) -> Result<(), Grief> {
        let flaw = self.flaw;
        if !matches!(output, Output::Send { .. } | Output::Lease(_) | Output::Peer(..)) {
            self.record(index, || node::describe(&output));
        }
        let (now, own) = (self.now, NodeId::new(index).expect("a small farm"));
        let node = &mut self.nodes[index];
        match output {
            Output::Release(view) => {
                let before = node.kernel.accept;
                node.share.release(|_| node::own(&view, index));
                node.apply();
                if flaw == Flaw::NoRelease {
                    node.kernel.accept = before;
                }
                node.tell(now);
            }
            Output::Acquire(view) => {
                node.share.acquire(own, &view, |_| node::own(&view, index));
                node.apply();
                node.tell(now);
                node.installed = true;
                node.keep(&view.powers);
                self.forsake(|server| !view.alive.iter().any(|it| it.index() == server));
                self.note_common_view(index);
            }
            Output::Lease(deadline) => {
                assert!(deadline > node.kernel.lease, "seed {}: a lease must grow", self.seed);
                node.kernel.lease = deadline;
                node.share.serve();
            }
            Output::Fence => {
                node.kernel = Kernel::FENCED;
                node.share.clear();
                node.tell(now);
            }
            Output::Send { datagram, .. } => {
                // It says so, and that it lets its clients go.
                if node.is_barred() && node.kernel.lease == BootTime::ZERO {
                    self.forsake(|server| server == index);
                }
                self.broadcast(index, &datagram);
            }
            Output::SendTo { .. } => unreachable!("all nodes are in every configuration"),
            Output::Peer(..) | Output::Event(_) => return Ok(()),
        }
        self.check(index)?;
        self.check_connections(index)
    }

    /// Two nodes that have come to one view start anew: what was between them is forgotten.
    fn note_common_view(&mut self, index: usize) {
        let stamp = |node: &SimNode| {
            let agent = node.agent.as_ref().filter(|agent| agent.state() == NodeState::Up)?;
            agent.installed.as_ref().map(|installed| installed.stamp)
        };
        for other in 0..self.nodes.len() {
            if stamp(&self.nodes[other]) == stamp(&self.nodes[index]) {
                self.path(index, other).mend();
                self.path(other, index).mend();
            }
        }
    }

    fn broadcast(&mut self, from: usize, datagram: &[u8]) {
        let Weather { loss, delay } = self.weather;
        let datagram = Datagram::from(datagram);
        for to in (0..self.nodes.len()).filter(|&to| to != from) {
            let (now, timers) = (self.now, self.timers);
            let lost = self.rng.below(100) < loss;
            let path = self.path(from, to);
            if lost || path.cut_until > now {
                path.lose(now, timers);
                continue;
            }
            path.deliver(now, timers);
            self.post(from, to, delay, &datagram);
            if !self.calm {
                match self.rng.below(100) {
                    0..=2 => self.post(from, to, delay, &datagram),
                    3 => self.post(from, to, 1000 * MILLI, &datagram),
                    _ => {}
                }
            }
        }
    }

    fn post(&mut self, from: usize, to: usize, delay: u64, datagram: &Datagram) {
        let arrival = self.now + 50_000 + self.rng.below(delay);
        self.posted += 1;
        let source = node::address(from);
        self.in_flight.insert((arrival, self.posted), (to, source, Datagram::clone(datagram)));
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.in_flight.first_entry()
            && entry.key().0 <= self.now
        {
            let (to, source, datagram) = entry.remove();
            if self.nodes[to].agent.is_some() {
                self.nodes[to].socket.push_back((source, datagram));
                self.schedule(to);
            }
        }
    }

    /// Whether another node accepts what this one does, although the two could know of each other.
    fn check(&self, index: usize) -> Result<(), Grief> {
        let without_lease = self.flaw == Flaw::NoLease;
        let mine = self.nodes[index].accepting(self.now, without_lease);
        for other in (0..self.nodes.len()).filter(|&other| other != index) {
            let theirs = self.nodes[other].accepting(self.now, without_lease);
            if mine & theirs != 0 && !self.are_split(index, other) {
                return Err(Grief::Overlap(index, other));
            }
        }
        Ok(())
    }

    /// Whether the network between the two has been cut since they were in one view.
    pub(super) fn are_split(&self, one: usize, other: usize) -> bool {
        let broken = |from: usize, to: usize| {
            self.paths[from * self.nodes.len() + to].is_broken(self.now, self.timers)
        };
        broken(one, other) || broken(other, one)
    }

    pub(super) fn record(&mut self, index: usize, what: impl Fn() -> String) {
        self.history.truncate(if self.nodes.len() > 16 { 40 } else { 120 });
        self.history.push_front(format!("{} us: node {index} {}", self.now / 1000, what()));
    }
}

impl fmt::Display for Farm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} after {} ms", self.seed, self.now / MILLI)?;
        self.nodes.iter().try_for_each(|node| writeln!(f, "{}", node.describe()))?;
        self.history.iter().rev().try_for_each(|line| writeln!(f, "{line}"))
    }
}
