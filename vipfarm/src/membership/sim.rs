//! A farm in virtual time: the real machine on every node, a network that loses, delays, reorders,
//! repeats and is cut in one direction or both, agents that freeze, crash, leave and come back,
//! clocks that drift, operators that change powers and configurations, and the kernel that agents
//! leave behind.
//!
//! Whenever a kernel accepts more, no bucket may be accepted by two nodes, unless the network
//! between these two has been cut since they were in one view; when the faults end, every bucket must
//! soon be accepted by exactly one node. Clients have connections meanwhile, which no other node may
//! reset as long as theirs serves, and which soon reach it or are reset (`clients.rs`). A failure names the seed of its schedule: `VIPFARM_SEED=N` runs that one alone.
//! `VIPFARM_SEEDS` says how many, `VIPFARM_NODES` how many nodes each time.

use std::env;

use self::{
    farm::{Farm, Grief},
    faults::Weather,
    rng::Rng,
};
use super::*;
use crate::agent::share;

mod clients;
mod farm;
mod faults;
mod network;
pub(super) mod node;
pub(super) mod rng;

/// What is broken on purpose, to see that the simulator notices.
#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    None,
    /// The kernel goes on accepting when the lease has ended.
    NoLease,
    /// The kernel goes on accepting what the agent has released.
    NoRelease,
    /// A rule of the protocol does not hold.
    Rules(Rules),
    /// A rule of the handover of old connections does not hold.
    Handover(share::Rules),
}

#[test]
fn with_fast_timers_no_bucket_is_served_twice_and_all_are_served_again() {
    survive_faults(0, Timers::FAST);
}

#[test]
fn with_balanced_timers_no_bucket_is_served_twice_and_all_are_served_again() {
    survive_faults(1, Timers::BALANCED);
}

#[test]
fn with_the_shortest_timers_no_bucket_is_served_twice_and_all_are_served_again() {
    let millis = Duration::from_millis;
    let timers =
        Timers { period: millis(5), suspect: millis(11), lease: millis(20), fail: millis(30) };
    survive_faults(2, timers);
}

#[test]
fn sixty_four_nodes_start_at_once_and_survive_a_partition() {
    let mut farm = Farm::new(64, Rng(64), 64, Timers::BALANCED, Weather::FAIR, Flaw::None);
    let mut survives = || {
        farm.settle()?;
        farm.partition();
        farm.run_for(600)?;
        farm.settle()
    };
    survives().unwrap_or_else(|grief| panic!("{grief}: {farm}"));
}

#[test]
fn the_simulator_notices_a_kernel_without_lease() {
    assert!(overlaps(Flaw::NoLease));
}

#[test]
fn the_simulator_notices_a_kernel_that_does_not_release() {
    assert!(overlaps(Flaw::NoRelease));
}

#[test]
fn the_simulator_notices_what_the_rules_are_for() {
    let without = [
        ("barrier", Rules { barrier: false, ..Rules::ALL }),
        ("lease by acknowledgements", Rules { lease_by_acks: false, ..Rules::ALL }),
        ("vouch", Rules { vouch: false, ..Rules::ALL }),
        ("listen", Rules { listen: false, ..Rules::ALL }),
        ("lapse", Rules { lapse: false, ..Rules::ALL }),
        ("stall", Rules { stall: false, ..Rules::ALL }),
        ("first lease", Rules { first_lease_by_same_view: false, ..Rules::ALL }),
    ];
    for (rule, rules) in without {
        assert!(overlaps(Flaw::Rules(rules)), "{rule}");
    }
}

#[test]
fn the_simulator_notices_what_the_rules_of_handovers_are_for() {
    // With the seed to begin with: the harm that the second one prevents is rare.
    let without = [
        ("unsaid", 0, share::Rules { unsaid: false, ..share::Rules::ALL }),
        ("dead", 5000, share::Rules { dead: false, ..share::Rules::ALL }),
    ];
    for (rule, from, rules) in without {
        assert!(loses_connections(Flaw::Handover(rules), from), "{rule}");
    }
}

fn survive_faults(profile: u64, timers: Timers) {
    let seeds = number("VIPFARM_SEED")
        .map_or(0..number("VIPFARM_SEEDS").unwrap_or(2000), |seed| seed..seed + 1);
    for seed in seeds.filter(|seed| seed % 3 == profile) {
        let mut farm = farm(seed, timers, Flaw::None);
        farm.survive().unwrap_or_else(|grief| panic!("{grief}: {farm}"));
    }
}

fn farm(seed: u64, timers: Timers, flaw: Flaw) -> Farm {
    let mut rng = Rng(seed);
    let usual = match rng.below(200) {
        0..4 => large(&mut rng),
        4..9 => 9 + rng.index(8),
        _ => 2 + rng.index(7),
    };
    let count = number("VIPFARM_NODES").and_then(|count| usize::try_from(count).ok());
    let weather = Weather::random(&mut rng, timers);
    let mut farm = Farm::new(seed, rng, count.unwrap_or(usual), timers, weather, flaw);
    if farm.rng.once_in(4) {
        farm.mix_files();
    }
    farm
}

/// 17 to 64 nodes, seldom many of them: the time that a farm takes here grows with the third power
/// of their number.
fn large(rng: &mut Rng) -> usize {
    let bound = 1 + rng.index(48);
    let bound = 1 + rng.index(bound);
    17 + rng.index(bound)
}

/// Whether some history ends with two owners of a bucket; for some flaws few do.
fn overlaps(flaw: Flaw) -> bool {
    let overlap = |found: &Grief| matches!(found, Grief::Overlap(..));
    (0..8000).any(|seed| farm(seed, Timers::BALANCED, flaw).suffer().is_err_and(|it| overlap(&it)))
}

/// Whether some history ends with a connection that is reset or without an answer, of the seeds from there.
fn loses_connections(flaw: Flaw, from: u64) -> bool {
    let overlap = |found: &Grief| matches!(found, Grief::Overlap(..));
    let seeds = from..from + 8000;
    let mut farms = seeds.map(|seed| farm(seed, Timers::FAST, flaw));
    farms.any(|mut farm| farm.survive().is_err_and(|it| !overlap(&it)))
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}
