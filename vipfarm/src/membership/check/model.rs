//! The farm as stateright sees it: states, what may happen next, and what must hold.

use std::{hash::Hash, sync::Arc};

use stateright::{Model, Property};

use super::{
    super::{BootTime, Membership, NodeState, Output, Rules, Timers, View, view::life},
    state::Agent,
};
use crate::{
    membership::Config,
    model::{Mac, Node, NodeId, Override, Overrides},
};

/// How much may go wrong in one history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Faults {
    pub(super) freezes: u8,
    pub(super) crashes: u8,
    pub(super) restarts: u8,
    /// Single datagrams that get lost.
    pub(super) losses: u8,
    /// Single datagrams that come arbitrarily late.
    pub(super) holds: u8,
    /// Directions between two nodes that are cut, and healed at any later time.
    pub(super) cuts: u8,
    /// Power changes.
    pub(super) powers: u8,
}

/// What is explored.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    pub(super) start: Farm,
    pub(super) ticks: u8,
    pub(super) faults: Faults,
    /// Agents have their turns in every order; else in that of their indices.
    pub(super) all_orders: bool,
    /// Sockets are read before time is judged.
    pub(super) drain_first: bool,
    /// Whether the farm must settle from every tick boundary, and within how many ticks.
    pub(super) settles: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Farm {
    tick: u8,
    nodes: Vec<Machine>,
    /// Datagrams that come late: to, from, bytes.
    held: Vec<(usize, usize, Arc<[u8]>)>,
    /// By from and to.
    paths: Vec<Path>,
    used: Faults,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Machine {
    /// `None`: it has crashed.
    agent: Option<Agent>,
    accept: u8,
    lease: BootTime,
    inbox: Vec<(usize, Arc<[u8]>)>,
    frozen: bool,
    /// It had its turn in this tick.
    ran: bool,
}

#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Path {
    cut: bool,
    lost: bool,
    delivered: bool,
    /// Ticks in a row in which nothing came through that was sent.
    streak: u8,
    /// More than four in a row, since both ends had one view.
    broken: bool,
}

/// What may happen to what a turn sends to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Fate {
    Lost(usize),
    Held(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Action {
    /// The agent reads, decides and acts.
    Turn(usize, Option<Fate>),
    /// Everybody who could has had a turn: a period passes.
    Tick,
    Freeze(usize),
    Thaw(usize),
    Crash(usize),
    Restart(usize),
    Cut(usize, usize),
    Heal(usize, usize),
    /// The first datagram that was held arrives.
    Arrive,
    Power(usize),
}

/// One tick.
const PERIOD: u64 = 10;
const TIMERS: Timers = Timers {
    period: millis(PERIOD),
    suspect: millis(2 * PERIOD + 1),
    lease: millis(4 * PERIOD),
    fail: millis(6 * PERIOD),
};

const fn millis(millis: u64) -> std::time::Duration {
    std::time::Duration::from_millis(millis)
}

impl Farm {
    /// A settled farm.
    pub(super) fn settled(nodes: usize) -> Self {
        let machine = |node| Machine {
            agent: Some(Agent(Arc::new(start(node, nodes, 1, at(0), Rules::ALL)))),
            accept: 0,
            lease: BootTime::ZERO,
            inbox: Vec::new(),
            frozen: false,
            ran: false,
        };
        let mut farm = Self {
            tick: 0,
            nodes: (0..nodes).map(machine).collect(),
            held: Vec::new(),
            paths: vec![Path::default(); nodes * nodes],
            used: Faults::default(),
        };
        for _ in 0..4 {
            farm.quiet_tick(true);
        }
        assert!(farm.is_served_once(), "a farm without faults is served: {farm:#?}");
        farm
    }

    /// The same farm by other rules.
    pub(super) fn with(mut self, rules: Rules) -> Self {
        for Agent(agent) in self.nodes.iter_mut().filter_map(|node| node.agent.as_mut()) {
            Arc::make_mut(agent).rules = rules;
        }
        self
    }

    fn now(&self) -> BootTime {
        at(self.tick)
    }

    /// All have their turns, in order, until nobody has anything to do; then a period passes.
    fn quiet_tick(&mut self, drain_first: bool) {
        while let Some(node) = (0..self.nodes.len()).find(|&node| self.can_turn(node)) {
            self.turn(node, None, drain_first);
        }
        self.pass_tick();
    }

    fn can_turn(&self, node: usize) -> bool {
        let machine = &self.nodes[node];
        machine.agent.is_some() && !machine.frozen && (!machine.ran || !machine.inbox.is_empty())
    }

    fn pass_tick(&mut self) {
        self.tick += 1;
        self.nodes.iter_mut().for_each(|node| node.ran = false);
        for path in &mut self.paths {
            match (path.delivered, path.lost) {
                (true, _) => path.streak = 0,
                (false, true) => path.streak += 1,
                (false, false) => {}
            }
            path.broken |= path.streak > 4;
            (path.delivered, path.lost) = (false, false);
        }
    }

    fn turn(&mut self, index: usize, fate: Option<Fate>, drain_first: bool) {
        let now = self.now();
        let machine = &mut self.nodes[index];
        machine.ran = true;
        let inbox = std::mem::take(&mut machine.inbox);
        let Some(Agent(agent)) = &mut machine.agent else { return };
        let agent = Arc::make_mut(agent);
        if !drain_first && now >= agent.next_deadline() {
            agent.handle_timeout(now);
        }
        for (from, datagram) in inbox {
            agent.handle_datagram(now, 0, address(from), &datagram);
        }
        if now >= agent.next_deadline() {
            agent.handle_timeout(now);
        }
        let outputs: Vec<_> = std::iter::from_fn(|| agent.poll_output()).collect();
        for output in outputs {
            self.carry_out(index, output, fate);
        }
    }

    fn carry_out(&mut self, index: usize, output: Output, fate: Option<Fate>) {
        let count = self.nodes.len();
        let machine = &mut self.nodes[index];
        match output {
            Output::Release(view) => machine.accept &= own(&view, index, count),
            Output::Acquire(view) => {
                machine.accept = own(&view, index, count);
                self.note_common_view(index);
            }
            Output::Lease(until) => machine.lease = until,
            Output::Fence => (machine.accept, machine.lease) = (0, BootTime::ZERO),
            Output::Send { datagram, .. } => self.send(index, &datagram.into(), fate),
            Output::SendTo { .. } => unreachable!("all nodes are in every configuration"),
            Output::Peer(..) | Output::Event(_) => {}
        }
    }

    fn send(&mut self, from: usize, datagram: &Arc<[u8]>, fate: Option<Fate>) {
        let count = self.nodes.len();
        for to in (0..count).filter(|&to| to != from) {
            let path = &mut self.paths[from * count + to];
            if path.cut || fate == Some(Fate::Lost(to)) {
                path.lost = true;
            } else if fate == Some(Fate::Held(to)) {
                self.held.push((to, from, Arc::clone(datagram)));
            } else {
                path.delivered = true;
                self.nodes[to].receive(from, datagram);
            }
        }
    }

    fn note_common_view(&mut self, index: usize) {
        let count = self.nodes.len();
        let stamp = |machine: &Machine| {
            let agent = machine.agent.as_ref().filter(|agent| agent.0.state() == NodeState::Up)?;
            agent.0.installed.as_ref().map(|installed| installed.stamp)
        };
        for other in 0..count {
            if stamp(&self.nodes[other]) == stamp(&self.nodes[index]) {
                self.paths[index * count + other].broken = false;
                self.paths[other * count + index].broken = false;
            }
        }
    }

    fn accepting(&self, node: usize) -> u8 {
        let machine = &self.nodes[node];
        if self.now() < machine.lease { machine.accept } else { 0 }
    }

    /// No bucket is accepted by two nodes that could know of each other.
    fn is_served_at_most_once(&self) -> bool {
        let count = self.nodes.len();
        (0..count).all(|one| {
            (0..one).all(|other| {
                let broken = |from: usize, to: usize| self.paths[from * count + to].broken;
                self.accepting(one) & self.accepting(other) == 0
                    || broken(one, other)
                    || broken(other, one)
            })
        })
    }

    fn is_served_once(&self) -> bool {
        let served = (0..self.nodes.len()).map(|node| self.accepting(node));
        let agents = self.nodes.iter().filter(|machine| machine.agent.is_some()).count();
        let all = (1_u32 << self.nodes.len()) - 1;
        let total: u32 = served.clone().map(u8::count_ones).sum();
        let union = served.fold(0, |union, accepting| union | accepting);
        agents == 0 || (u32::from(union) == all && total == all.count_ones())
    }

    /// Whether every bucket has one owner and no power in force has ended with an agent.
    fn is_at_rest(&self) -> bool {
        let agents = || self.nodes.iter().filter_map(|node| node.agent.as_ref());
        let present: Vec<_> =
            agents().map(|it| (it.0.config.own, life(it.0.incarnation))).collect();
        let has_ended = |entry: &Override| {
            let another = |&(node, life)| node == entry.node && Some(life) != entry.life;
            entry.life.is_some() && present.iter().any(another)
        };
        let views = agents().filter_map(|agent| agent.0.view());
        self.is_served_once()
            && !views.flat_map(|it| it.powers.entries().to_vec()).any(|it| has_ended(&it))
    }

    /// Whether the farm comes to rest when nothing goes wrong any more.
    fn settles(&self, ticks: u8, drain_first: bool) -> bool {
        if self.is_at_rest() && self.nodes.iter().all(|node| node.agent.is_some()) {
            return true;
        }
        let mut farm = self.clone();
        farm.nodes.iter_mut().for_each(|node| node.frozen = false);
        farm.paths.iter_mut().for_each(|path| path.cut = false);
        farm.held.clear();
        for _ in 0..ticks {
            if farm.is_at_rest() {
                return true;
            }
            farm.quiet_tick(drain_first);
        }
        false
    }
}

impl Machine {
    fn receive(&mut self, from: usize, datagram: &Arc<[u8]>) {
        if self.agent.is_some() {
            self.inbox.push((from, Arc::clone(datagram)));
        }
    }
}

impl Model for Scope {
    type State = Farm;
    type Action = Action;

    fn init_states(&self) -> Vec<Farm> {
        vec![self.start.clone()]
    }

    fn actions(&self, farm: &Farm, actions: &mut Vec<Action>) {
        let (may, used) = (self.faults, farm.used);
        let nodes = 0..farm.nodes.len();
        let mut everybody_ran = true;
        for node in nodes.clone() {
            let machine = &farm.nodes[node];
            if farm.can_turn(node) && (everybody_ran || self.all_orders) {
                everybody_ran = false;
                actions.push(Action::Turn(node, None));
                for to in nodes.clone().filter(|&to| to != node) {
                    if used.losses < may.losses {
                        actions.push(Action::Turn(node, Some(Fate::Lost(to))));
                    }
                    if used.holds < may.holds {
                        actions.push(Action::Turn(node, Some(Fate::Held(to))));
                    }
                }
            }
            if machine.frozen {
                actions.push(Action::Thaw(node));
            } else if machine.agent.is_some() {
                if used.freezes < may.freezes && !machine.ran {
                    actions.push(Action::Freeze(node));
                }
                if used.crashes < may.crashes {
                    actions.push(Action::Crash(node));
                }
                if used.powers < may.powers {
                    actions.push(Action::Power(node));
                }
            } else if used.restarts < may.restarts {
                actions.push(Action::Restart(node));
            }
            for to in nodes.clone().filter(|&to| to != node) {
                let cut = farm.paths[node * nodes.len() + to].cut;
                if cut {
                    actions.push(Action::Heal(node, to));
                } else if used.cuts < may.cuts {
                    actions.push(Action::Cut(node, to));
                }
            }
        }
        if !farm.held.is_empty() {
            actions.push(Action::Arrive);
        }
        if everybody_ran {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, farm: &Farm, action: Action) -> Option<Farm> {
        let mut farm = farm.clone();
        let count = farm.nodes.len();
        let now = farm.now();
        match action {
            Action::Turn(node, fate) => {
                let sent_before = farm.paths.clone();
                farm.turn(node, fate, self.drain_first);
                match fate {
                    Some(Fate::Lost(to)) => {
                        let path = node * count + to;
                        let had = sent_before[path].lost;
                        // Nothing was sent, so nothing was lost.
                        if farm.paths[path].lost == had && !had {
                            return None;
                        }
                        farm.used.losses += 1;
                    }
                    Some(Fate::Held(_)) => farm.used.holds += 1,
                    None => {}
                }
            }
            Action::Tick => farm.pass_tick(),
            Action::Freeze(node) => {
                farm.nodes[node].frozen = true;
                farm.used.freezes += 1;
            }
            Action::Thaw(node) => farm.nodes[node].frozen = false,
            Action::Crash(node) => {
                farm.nodes[node].agent = None;
                farm.nodes[node].inbox.clear();
                farm.used.crashes += 1;
            }
            Action::Restart(node) => {
                farm.used.restarts += 1;
                let incarnation = 1 + u64::from(farm.used.restarts);
                let rules = self.rules();
                let agent = start(node, count, incarnation, now, rules);
                farm.nodes[node].agent = Some(Agent(Arc::new(agent)));
                farm.nodes[node].ran = false;
            }
            Action::Cut(from, to) => {
                farm.paths[from * count + to].cut = true;
                farm.used.cuts += 1;
            }
            Action::Heal(from, to) => farm.paths[from * count + to].cut = false,
            Action::Arrive => {
                let (to, from, datagram) = farm.held.remove(0);
                farm.nodes[to].receive(from, &datagram);
            }
            Action::Power(node) => {
                farm.used.powers += 1;
                if let Some(Agent(agent)) = &mut farm.nodes[node].agent {
                    let of = NodeId::new(0).expect("a node");
                    let power = u16::from(farm.used.powers);
                    let agent = Arc::make_mut(agent);
                    // Of a node that is not there, it is refused.
                    let _ = agent.set_power(now, Some(0), of, Some(power), false);
                    farm.nodes[node].ran = false;
                }
            }
        }
        Some(farm)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no bucket is served twice", |_, farm: &Farm| {
                farm.is_served_at_most_once()
            }),
            Property::always("all is served again", |scope: &Self, farm: &Farm| {
                let at_boundary = farm.nodes.iter().all(|node| !node.ran);
                let settles = |ticks| farm.settles(ticks, scope.drain_first);
                !at_boundary || scope.settles.is_none_or(settles)
            }),
        ]
    }

    fn within_boundary(&self, farm: &Farm) -> bool {
        farm.tick <= self.start.tick + self.ticks
    }
}

impl Scope {
    fn rules(&self) -> Rules {
        let agents = self.start.nodes.iter().filter_map(|node| node.agent.as_ref());
        agents.map(|agent| agent.0.rules).next().unwrap_or(Rules::ALL)
    }
}

fn start(node: usize, count: usize, incarnation: u64, now: BootTime, rules: Rules) -> Membership {
    let name = |node| Node { name: format!("node{node}"), addresses: vec![address(node)] };
    let config = Config {
        farm: "model".into(),
        own: NodeId::new(node).expect("a node"),
        nodes: (0..count).map(name).collect(),
        timers: TIMERS,
        keys: vec![[1; 32]],
        digest: [0; 16],
        mac: Mac([2, 0, 0, 0, 0, 1]),
        overrides: Overrides::default(),
    };
    let mut agent = Membership::new(config, incarnation << 8 | node as u64 | 1 << 7, now);
    agent.rules = rules;
    agent
}

/// As many buckets as nodes. Each goes to the next owner in a circle, which every change of powers
/// turns by one.
fn own(view: &View, node: usize, count: usize) -> u8 {
    let shift = usize::try_from(view.powers.version().counter).expect("few changes");
    let owners = view.owners();
    let is_owner = |&node: &usize| NodeId::new(node).is_some_and(|node| owners.contains(node));
    let owner = |bucket| (0..count).map(|step| (bucket + shift + step) % count).find(is_owner);
    (0..count)
        .filter(|&bucket| owner(bucket) == Some(node))
        .fold(0, |own, bucket| own | 1 << bucket)
}

fn at(tick: u8) -> BootTime {
    BootTime::ZERO + std::time::Duration::from_mins(1) + millis(PERIOD * u64::from(tick))
}

fn address(node: usize) -> std::net::IpAddr {
    [192, 0, 2, u8::try_from(node).expect("few nodes")].into()
}
