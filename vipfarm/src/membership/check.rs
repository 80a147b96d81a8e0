//! Exhaustive exploration of small farms, by stateright: the real machine on every node, time in
//! ticks of one period, and every order of turns, deliveries and faults that a budget allows.
//!
//! A frozen agent keeps its kernel's tables and lease, and its socket goes on queueing. In every
//! state no two kernels accept one bucket; at every tick boundary, if the faults end there, every
//! bucket is soon accepted by exactly one node. Each rule of the protocol can be switched off, and
//! then a counterexample must be found: that shows what the rule is for, and that the model could
//! tell.

use stateright::{Checker as _, Model as _};

use self::{
    farm::Farm,
    model::{Faults, Scope},
};
use super::rules::Rules;
use crate::agent::share;

mod farm;
mod model;
pub(super) mod state;

/// The whole protocol, but that joiners are not kept waiting: that would only take ticks.
const ALL: Rules = Rules { damping: 0, ..Rules::ALL };

fn check(scope: Scope) -> Result<usize, String> {
    let checker = scope.checker().threads(2).spawn_bfs().join();
    match checker.discoveries().into_iter().next() {
        Some((property, path)) => Err(format!("{property}: {path}")),
        None => Ok(checker.unique_state_count()),
    }
}

fn holds(name: &str, scope: &Scope) {
    let states = check(scope.clone()).unwrap_or_else(|found| panic!("{name}: {found}"));
    eprintln!("{name}: {states} states");
    assert!(states > 100, "{name}: too few states to mean anything: {states}");
}

/// Finds the shortest history that a farm comes to grief by.
fn fails(name: &str, scope: &Scope) {
    let Err(found) = check(scope.clone()) else { panic!("nothing found without {name}") };
    let steps = found.lines().count();
    eprintln!("without {name}: {steps} lines");
    if std::env::var_os("VIPFARM_SHOW").is_some() {
        eprintln!("{found}");
    }
}

fn scope(nodes: usize, ticks: u8, faults: Faults) -> Scope {
    let start = Farm::settled(nodes).with(ALL);
    Scope { start, ticks, faults, all_orders: false, drain_first: true, settles: Some(30) }
}

fn without_handover(rules: share::Rules, scope: Scope) -> Scope {
    Scope { start: scope.start.with_handovers(rules), ..scope }
}

fn without(rules: Rules, scope: Scope) -> Scope {
    Scope { start: scope.start.with(rules), ..scope }
}

const NONE: Faults =
    Faults { freezes: 0, crashes: 0, restarts: 0, losses: 0, holds: 0, cuts: 0, powers: 0 };

#[test]
fn two_nodes_in_every_order_of_turns() {
    let faults = Faults { freezes: 1, losses: 1, ..NONE };
    holds("2 nodes, all orders, freeze, loss", &Scope { all_orders: true, ..scope(2, 9, faults) });
}

#[test]
fn a_freeze_of_any_length() {
    holds("freeze", &scope(3, 13, Faults { freezes: 1, ..NONE }));
}

#[test]
fn a_freeze_and_two_losses() {
    holds("freeze, 2 losses", &scope(3, 6, Faults { freezes: 1, losses: 2, ..NONE }));
}

#[test]
fn two_freezes() {
    holds("2 freezes", &scope(3, 8, Faults { freezes: 2, ..NONE }));
}

#[test]
fn a_crash_two_losses_and_a_late_datagram() {
    let faults = Faults { crashes: 1, losses: 2, holds: 1, ..NONE };
    holds("crash, 2 losses, 1 late", &scope(3, 3, faults));
}

#[test]
fn cuts_and_heals() {
    holds("2 one-way cuts", &scope(3, 8, Faults { cuts: 2, ..NONE }));
}

#[test]
fn a_freeze_and_a_cut() {
    holds("freeze, 1 one-way cut", &scope(3, 7, Faults { freezes: 1, cuts: 1, ..NONE }));
}

#[test]
fn a_power_change_a_loss_and_a_late_datagram() {
    let faults = Faults { powers: 1, losses: 1, holds: 1, ..NONE };
    holds("power, 1 loss, 1 late", &scope(3, 2, faults));
}

#[test]
fn a_crash_a_restart_and_a_freeze() {
    let faults = Faults { crashes: 1, restarts: 1, freezes: 1, ..NONE };
    holds("crash, restart, freeze", &scope(3, 6, faults));
}

#[test]
fn a_power_ends_with_its_agent() {
    let faults = Faults { crashes: 1, restarts: 1, powers: 1, ..NONE };
    holds("power, crash, restart", &scope(3, 6, faults));
}

#[test]
fn without_the_barrier_a_power_change_makes_two_owners() {
    let rules = Rules { barrier: false, ..ALL };
    fails("barrier", &without(rules, scope(2, 4, Faults { powers: 1, losses: 1, ..NONE })));
}

#[test]
fn without_waiting_for_what_others_say_a_power_change_resets_a_connection() {
    let rules = share::Rules { unsaid: false, ..share::Rules::ALL };
    let faults = Faults { powers: 1, ..NONE };
    fails("unsaid", &without_handover(rules, scope(2, 3, faults)));
}

#[test]
fn without_acknowledgements_a_cut_and_a_freeze_make_two_owners() {
    let rules = Rules { lease_by_acks: false, ..ALL };
    fails("lease_by_acks", &without(rules, scope(2, 9, Faults { freezes: 1, cuts: 1, ..NONE })));
}

#[test]
fn without_vouching_a_node_that_another_hears_is_left_out() {
    let rules = Rules { vouch: false, ..ALL };
    fails("vouch", &without(rules, scope(3, 9, Faults { cuts: 2, ..NONE })));
}

#[test]
fn without_the_fenced_bit_a_node_waits_for_ever() {
    let rules = Rules { fenced_is_told: false, ..ALL };
    fails("fenced_is_told", &without(rules, scope(3, 7, Faults { freezes: 1, ..NONE })));
}

#[test]
fn without_the_lapse_rule_a_thawed_node_goes_on() {
    let rules = Rules { lapse: false, ..ALL };
    let faults = Faults { freezes: 1, losses: 1, holds: 1, ..NONE };
    fails("lapse", &without(rules, scope(2, 9, faults)));
}

#[test]
fn without_listening_a_new_agent_takes_what_a_frozen_node_serves() {
    let rules = Rules { listen: false, ..ALL };
    let faults = Faults { crashes: 1, restarts: 1, freezes: 1, ..NONE };
    fails("listen", &without(rules, scope(2, 9, faults)));
}
