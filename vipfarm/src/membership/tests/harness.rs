//! Farms of real machines in virtual time, without loss or delay.

use std::net::{IpAddr, Ipv4Addr};

use super::super::{
    view::Stamp,
    wire::{Ack, Flags, Heartbeat, State},
    *,
};
use crate::model::Version;

use super::{KEY, LISTENED, TIMERS};

/// Nodes on a network without faults: what is sent arrives a millisecond later.
pub(super) struct Farm {
    pub(super) millis: u64,
    pub(super) nodes: Vec<Membership>,
    pub(super) running: Vec<bool>,
    pub(super) frozen_until: Vec<u64>,
    pub(super) inbox: Vec<Vec<(u8, IpAddr, Vec<u8>)>>,
    pub(super) log: Vec<Vec<Output>>,
    pub(super) logged_at: Vec<Vec<BootTime>>,
    /// Nothing arrives anywhere on the first network.
    pub(super) cut: bool,
    /// From whom nothing arrives at whom on the first network.
    pub(super) cuts: Vec<(usize, usize)>,
    /// The same on the other network.
    pub(super) other_cuts: Vec<(usize, usize)>,
    /// Each turn is followed by another that nothing has given cause for.
    pub(super) eager: bool,
}

impl Farm {
    pub(super) fn of(count: usize) -> Self {
        Self::by(count, config)
    }

    /// Nodes that have another network, perhaps with VIPs too.
    pub(super) fn with_two_networks(count: usize, has_vips: bool) -> Self {
        let mut farm = Self::by(count, |own, count| {
            let mut config = config(own, count);
            let nodes = config.nodes.iter_mut().enumerate();
            nodes.for_each(|(index, node)| node.addresses.push(extra(index)));
            config.links.push(OwnLink { has_vips, ..link(own) });
            config
        });
        farm.settle();
        farm
    }

    fn by(count: usize, config: impl Fn(usize, usize) -> Config) -> Self {
        let node = |own: usize| Membership::new(config(own, count), 1 + own as u64, at(0));
        Self {
            millis: 0,
            nodes: (0..count).map(node).collect(),
            running: vec![true; count],
            frozen_until: vec![0; count],
            inbox: vec![Vec::new(); count],
            log: vec![Vec::new(); count],
            logged_at: vec![Vec::new(); count],
            cut: false,
            cuts: Vec::new(),
            other_cuts: Vec::new(),
            eager: false,
        }
    }

    pub(super) fn settled(count: usize) -> Self {
        let mut farm = Self::of(count);
        farm.settle();
        farm
    }

    fn settle(&mut self) {
        self.run(2 * LISTENED);
        assert!(self.nodes.iter().all(Membership::is_converged));
    }

    pub(super) fn now(&self) -> BootTime {
        at(self.millis)
    }

    pub(super) fn run(&mut self, millis: u64) {
        for _ in 0..millis {
            self.millis += 1;
            let awake =
                |index: &usize| self.running[*index] && self.millis >= self.frozen_until[*index];
            // What is sent in this millisecond arrives in the next.
            let turns: Vec<_> = (0..self.nodes.len())
                .filter(awake)
                .map(|index| (index, std::mem::take(&mut self.inbox[index])))
                .collect();
            for (index, datagrams) in turns {
                self.turn(index, datagrams);
            }
        }
    }

    pub(super) fn turn(&mut self, index: usize, datagrams: Vec<(u8, IpAddr, Vec<u8>)>) {
        let now = self.now();
        let node = &mut self.nodes[index];
        for (link, source, datagram) in datagrams {
            node.handle_datagram(now, link, source, &datagram);
        }
        if now >= node.next_deadline() {
            node.handle_timeout(now);
        }
        let mut outputs = drain(node);
        if self.eager {
            node.handle_timeout(now);
            outputs.extend(drain(node));
        }
        for output in outputs {
            if let Output::Send { link, datagram } = &output {
                for to in (0..self.nodes.len()).filter(|&to| to != index && self.running[to]) {
                    let cut_elsewhere = *link == 1 && self.other_cuts.contains(&(index, to));
                    let cut = *link == 0 && (self.cut || self.cuts.contains(&(index, to)));
                    if cut || cut_elsewhere {
                        continue;
                    }
                    let source = if *link == 0 { address(index) } else { extra(index) };
                    self.inbox[to].push((*link, source, datagram.clone()));
                }
            }
            self.log[index].push(output);
            self.logged_at[index].push(now);
        }
    }

    pub(super) fn stop(&mut self, index: usize) {
        self.running[index] = false;
        self.inbox[index].clear();
    }

    pub(super) fn restart(&mut self, index: usize) {
        let config = config(index, self.nodes.len());
        self.nodes[index] = Membership::new(config, 1000 + self.millis, self.now());
        self.running[index] = true;
    }

    pub(super) fn freeze(&mut self, index: usize, millis: u64) {
        self.frozen_until[index] = self.millis + millis;
    }

    pub(super) fn clear_log(&mut self) {
        self.log.iter_mut().for_each(Vec::clear);
        self.logged_at.iter_mut().for_each(Vec::clear);
    }

    pub(super) fn members(&self, index: usize) -> NodeSet {
        self.nodes[index].view().map_or(NodeSet::EMPTY, |view| view.alive)
    }

    pub(super) fn when(&self, index: usize, what: impl Fn(&Output) -> bool) -> Option<BootTime> {
        self.log[index].iter().position(what).map(|position| self.logged_at[index][position])
    }

    pub(super) fn events(&self, index: usize, kind: &str) -> Vec<String> {
        let events = self.log[index].iter().filter_map(|output| match output {
            Output::Event(event) if event.kind() == kind => Some(event.to_string()),
            _ => None,
        });
        events.collect()
    }
}

pub(super) fn config(own: usize, count: usize) -> Config {
    let node = |index| Node { name: format!("node{}", index + 1), addresses: vec![address(index)] };
    Config {
        farm: "web".into(),
        own: id(own),
        nodes: (0..count).map(node).collect(),
        timers: TIMERS,
        keys: vec![KEY],
        digest: [0; 16],
        links: vec![link(own)],
        overrides: Overrides::default(),
    }
}

fn link(node: usize) -> OwnLink {
    OwnLink { mac: Mac([2, 0, 0, 0, 0, octet(node)]), has_vips: true }
}

/// What an agent of that node sends that has just started, and has heard `heard` of node 0.
pub(super) fn heartbeat(source: usize, incarnation: u64, heard: Ack) -> Heartbeat {
    Heartbeat {
        source: id(source),
        incarnation,
        sequence: 1,
        state: State {
            flags: Flags::default(),
            digest: [0; 16],
            staged: None,
            installed: Stamp::default(),
            promised: Stamp::default(),
            ready: NodeSet::EMPTY,
            hears: set(&[0]),
            linked: NodeSet::EMPTY,
            max_epoch: 0,
            overrides: Version::default(),
            hears_on: 0,
            abstains: Abstention::NONE,
            abstains_next: Abstention::NONE,
        },
        mac: link(source).mac,
        proof: Proof::default(),
        acks: vec![heard, Ack::default()],
        proposal: None,
        overrides: None,
        lingering: Arc::default(),
    }
}

pub(super) fn seal(heartbeat: &Heartbeat) -> Vec<u8> {
    wire::seal(heartbeat, 0, wire::farm_id("web"), &KEY)
}

pub(super) fn hear(node: &mut Membership, now: BootTime, heartbeat: &Heartbeat) {
    node.handle_datagram(now, 0, address(heartbeat.source.index()), &seal(heartbeat));
}

/// A node 0 of two that has sent its first heartbeat, which is the acknowledgement's.
pub(super) fn speaking() -> (Membership, Ack) {
    let mut node = Membership::new(config(0, 2), 1, at(0));
    node.handle_timeout(at(0));
    drain(&mut node);
    (node, Ack { life: 1, sequence: 1 })
}

pub(super) fn drain(node: &mut Membership) -> Vec<Output> {
    std::iter::from_fn(|| node.poll_output()).collect()
}

pub(super) fn kinds(outputs: &[Output]) -> Vec<&'static str> {
    let kind = |output: &Output| match output {
        Output::Event(event) => Some(event.kind()),
        _ => None,
    };
    outputs.iter().filter_map(kind).collect()
}

pub(super) fn is_release(output: &Output, alive: NodeSet) -> bool {
    matches!(output, Output::Release(view) if view.alive == alive)
}

pub(super) fn is_acquire(output: &Output, alive: NodeSet) -> bool {
    matches!(output, Output::Acquire(view) if view.alive == alive)
}

pub(super) fn promises(output: &Output, alive: NodeSet) -> bool {
    let Output::Send { datagram, .. } = output else { return false };
    let heartbeat = wire::open(datagram, 0, &[KEY]).expect("our own");
    heartbeat.proposal.is_some_and(|proposal| proposal.content.alive == alive)
}

pub(super) fn at(millis: u64) -> BootTime {
    BootTime::ZERO + Duration::from_mins(1) + Duration::from_millis(millis)
}

pub(super) fn address(node: usize) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, 1 + octet(node)).into()
}

/// A node's address on the other network.
pub(super) fn extra(node: usize) -> IpAddr {
    IpAddr::from([198, 51, 100, 1 + octet(node)])
}

pub(super) fn octet(node: usize) -> u8 {
    u8::try_from(node).expect("a small farm")
}

pub(super) fn id(index: usize) -> NodeId {
    NodeId::new(index).expect("a small farm")
}

pub(super) fn set(indices: &[usize]) -> NodeSet {
    indices.iter().map(|&index| id(index)).collect()
}
