//! A farm of real machines and imagined kernels, which a history is played on.

use std::{hash::Hash, sync::Arc};

use super::{
    super::{
        BootTime, Config, Membership, NodeState, Output, OwnLink, Rules, Timers, View, view::life,
    },
    model::Faults,
    state::Agent,
};
use crate::{
    agent::share::{self, Share},
    model::{Bitmap, Mac, Node, NodeId, Override, Overrides},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Farm {
    pub(super) tick: u8,
    pub(super) nodes: Vec<Machine>,
    /// Datagrams that come late: to, from, bytes.
    pub(super) held: Vec<(usize, usize, Arc<[u8]>)>,
    /// By from and to.
    pub(super) paths: Vec<Path>,
    pub(super) used: Faults,
    pub(super) connection: Connection,
}

/// What a client has of bucket 0 since the farm has settled, with node 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Connection {
    Open,
    /// Its node has stopped to serve since, or was cut off, so that others may reset it.
    Forsaken,
    /// Another node has reset it although node 0 serves.
    Harmed,
    Ended,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Machine {
    /// `None`: it has crashed.
    pub(super) agent: Option<Agent>,
    pub(super) share: Share,
    pub(super) lease: BootTime,
    pub(super) inbox: Vec<(usize, Arc<[u8]>)>,
    pub(super) frozen: bool,
    /// It had its turn in this tick.
    pub(super) ran: bool,
}

#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Path {
    pub(super) cut: bool,
    pub(super) lost: bool,
    pub(super) delivered: bool,
    /// Ticks in a row in which nothing came through that was sent.
    pub(super) streak: u8,
    /// More than four in a row, since both ends had one view.
    pub(super) broken: bool,
}

/// What may happen to what a turn sends to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Fate {
    Lost(usize),
    Held(usize),
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
            share: Share::of(vec![true]),
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
            connection: Connection::Open,
        };
        for _ in 0..4 {
            farm.quiet_tick(true);
        }
        farm.connection = Connection::Open;
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

    /// The same farm by other rules of handovers.
    pub(super) fn with_handovers(mut self, rules: share::Rules) -> Self {
        self.nodes.iter_mut().for_each(|node| node.share.rules = rules);
        self
    }

    pub(super) fn now(&self) -> BootTime {
        at(self.tick)
    }

    /// All have their turns, in order, until nobody has anything to do; then a period passes.
    fn quiet_tick(&mut self, drain_first: bool) {
        while let Some(node) = (0..self.nodes.len()).find(|&node| self.can_turn(node)) {
            self.turn(node, None, drain_first);
        }
        self.pass_tick();
    }

    pub(super) fn can_turn(&self, node: usize) -> bool {
        let machine = &self.nodes[node];
        machine.agent.is_some() && !machine.frozen && (!machine.ran || !machine.inbox.is_empty())
    }

    pub(super) fn pass_tick(&mut self) {
        self.tick += 1;
        for (index, node) in self.nodes.iter_mut().enumerate() {
            node.ran = false;
            // Its agent counts the connections that linger.
            if node.agent.is_some() && !node.frozen {
                let has_one = index == 0 && self.connection != Connection::Ended;
                let used = Bitmap([u64::from(has_one), 0, 0, 0]);
                node.share.keep(node.share.steps(), &[used]);
            }
        }
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

    pub(super) fn turn(&mut self, index: usize, fate: Option<Fate>, drain_first: bool) {
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
        machine.share.hear(agent, now);
        if now >= agent.next_deadline() {
            agent.handle_timeout(now);
        }
        let outputs: Vec<_> = std::iter::from_fn(|| agent.poll_output()).collect();
        let installed = outputs.iter().any(|output| matches!(output, Output::Acquire(_)));
        for output in outputs {
            self.carry_out(index, output, fate);
            self.look_at_connection(index);
        }
        let machine = &mut self.nodes[index];
        if let Some(Agent(agent)) = &mut machine.agent {
            let agent = Arc::make_mut(agent);
            if installed {
                machine.share.hear(agent, now);
            }
            // Heartbeats that say what lingers leave in the next turn, which is at once.
            agent.publish_lingering(now, machine.share.told());
            machine.ran = now < agent.next_deadline();
        }
        self.look_at_connection(index);
    }

    /// What becomes of a packet of the connection at that node.
    fn look_at_connection(&mut self, node: usize) {
        let count = self.nodes.len();
        let machine = &self.nodes[node];
        let serves = self.now() < machine.lease;
        let has = |bitmaps: &[Bitmap]| serves && bitmaps[0].has(0);
        if node == 0 && !serves && self.connection == Connection::Open {
            self.connection = Connection::Forsaken;
        }
        if node == 0 || !has(machine.share.accept()) || has(&machine.share.moving()) {
            return;
        }
        let is_split = self.paths[node * count].broken || self.paths[node].broken;
        let holder = &self.nodes[0];
        self.connection = match self.connection {
            Connection::Open if self.now() < holder.lease && !is_split => Connection::Harmed,
            Connection::Open | Connection::Forsaken => Connection::Ended,
            other => other,
        };
    }

    /// Whether the connection reaches its node, or was ended by another.
    fn is_answered(&self) -> bool {
        let Machine { share, lease, .. } = &self.nodes[0];
        let has = |bitmaps: &[Bitmap]| bitmaps[0].has(0);
        let served = self.now() < *lease && (has(share.accept()) || has(&share.moving()));
        served || self.connection == Connection::Ended
    }

    fn carry_out(&mut self, index: usize, output: Output, fate: Option<Fate>) {
        let count = self.nodes.len();
        let machine = &mut self.nodes[index];
        match output {
            Output::Release(view) => machine.share.release(|_| own(&view, index, count)),
            Output::Acquire(view) => {
                let node = NodeId::new(index).expect("a node");
                machine.share.acquire(node, &view, |_| own(&view, index, count));
                self.note_common_view(index);
            }
            Output::Lease(until) => {
                machine.lease = until;
                machine.share.serve();
            }
            Output::Fence => {
                machine.share.clear();
                machine.lease = BootTime::ZERO;
            }
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

    fn accepting(&self, node: usize) -> u64 {
        let machine = &self.nodes[node];
        if self.now() < machine.lease { machine.share.accept()[0].0[0] } else { 0 }
    }

    /// No bucket is accepted by two nodes that could know of each other.
    pub(super) fn is_served_at_most_once(&self) -> bool {
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
        let all = (1_u64 << self.nodes.len()) - 1;
        let total: u32 = served.clone().map(u64::count_ones).sum();
        let union = served.fold(0, |union, accepting| union | accepting);
        agents == 0 || (union == all && total == all.count_ones())
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
        let agents = self.nodes.iter().filter(|machine| machine.agent.is_some()).count();
        self.is_served_once()
            && (agents == 0 || self.is_answered())
            && !views.flat_map(|it| it.powers.entries().to_vec()).any(|it| has_ended(&it))
    }

    /// Whether the farm comes to rest when nothing goes wrong any more.
    pub(super) fn settles(&self, ticks: u8, drain_first: bool) -> bool {
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
    pub(super) fn receive(&mut self, from: usize, datagram: &Arc<[u8]>) {
        if self.agent.is_some() {
            self.inbox.push((from, Arc::clone(datagram)));
        }
    }
}

pub(super) fn start(
    node: usize,
    count: usize,
    incarnation: u64,
    now: BootTime,
    rules: Rules,
) -> Membership {
    let name = |node| Node { name: format!("node{node}"), addresses: vec![address(node)] };
    let config = Config {
        farm: "model".into(),
        own: NodeId::new(node).expect("a node"),
        nodes: (0..count).map(name).collect(),
        timers: TIMERS,
        keys: vec![[1; 32]],
        digest: [0; 16],
        links: vec![OwnLink { mac: Mac([2, 0, 0, 0, 0, 1]), has_vips: true }],
        overrides: Overrides::default(),
    };
    let mut agent = Membership::new(config, incarnation << 8 | node as u64 | 1 << 7, now);
    agent.rules = rules;
    agent
}

/// As many buckets as nodes. Each goes to the next owner in a circle, which every change of powers
/// turns by one.
fn own(view: &View, node: usize, count: usize) -> Bitmap {
    let shift = usize::try_from(view.powers.version().counter).expect("few changes");
    let owners = view.owners();
    let is_owner = |&node: &usize| NodeId::new(node).is_some_and(|node| owners.contains(node));
    let owner = |bucket| (0..count).map(|step| (bucket + shift + step) % count).find(is_owner);
    let is_own = |&bucket: &usize| owner(bucket) == Some(node);
    Bitmap([(0..count).filter(is_own).fold(0, |own, bucket| own | 1 << bucket), 0, 0, 0])
}

fn at(tick: u8) -> BootTime {
    BootTime::ZERO + std::time::Duration::from_mins(1) + millis(PERIOD * u64::from(tick))
}

fn address(node: usize) -> std::net::IpAddr {
    [192, 0, 2, u8::try_from(node).expect("few nodes")].into()
}
