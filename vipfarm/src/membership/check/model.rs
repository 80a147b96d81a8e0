//! The farm as stateright sees it: what may happen next, what comes of it, and what must hold.

use std::sync::Arc;

use stateright::{Model, Property};

use super::{
    super::Rules,
    farm::{Connection, Farm, Fate, start},
    state::Agent,
};
use crate::model::NodeId;

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
            Property::always("no connection is reset", |_, farm: &Farm| {
                farm.connection != Connection::Harmed
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
