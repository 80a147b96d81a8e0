//! Groups that nodes do not serve by their own word.

use super::{harness::*, *};
use crate::model::Abstention;

const IN_FORCE: [u8; 16] = [0; 16];
const NEXT: [u8; 16] = [9; 16];

fn some() -> Abstention {
    Abstention::NONE.and_from(2)
}

fn abstain(farm: &mut Farm, node: usize, from: &[([u8; 16], Abstention)]) {
    let now = farm.now();
    farm.nodes[node].abstain(now, from.into());
}

#[test]
fn it_is_in_one_view_everywhere_and_changes_no_power() {
    let mut farm = Farm::settled(3);
    let now = farm.now();
    farm.nodes[1].set_power(now, Some(1), id(2), Some(7), false).expect("room");
    farm.run(100);
    farm.clear_log();
    abstain(&mut farm, 2, &[(IN_FORCE, some())]);
    farm.run(10);
    for node in 0..3 {
        let view = farm.nodes[node].view().expect("up");
        assert!(view.abstains(id(2), 2) && !view.abstains(id(2), 1) && !view.abstains(id(1), 2));
        assert_eq!((view.owners(), view.powers.power(1, id(2))), (set(&[0, 1, 2]), Some(7)));
        let acquired = farm.log[node].iter().filter(|o| matches!(o, Output::Acquire(_)));
        assert_eq!(acquired.count(), 1);
    }
    abstain(&mut farm, 2, &[(IN_FORCE, Abstention::NONE)]);
    farm.run(110);
    let view = farm.nodes[0].view().expect("up");
    assert!(view.abstentions.entries().is_empty());
    assert_eq!(view.powers.power(1, id(2)), Some(7), "what the operator said goes on");
}

#[test]
fn from_all_groups_it_owns_nothing_and_stays_a_member() {
    let mut farm = Farm::settled(2);
    for node in 0..2 {
        abstain(&mut farm, node, &[(IN_FORCE, Abstention::ALL)]);
    }
    farm.run(110);
    for node in 0..2 {
        let view = farm.nodes[node].view().expect("up");
        assert_eq!((view.alive, view.owners()), (set(&[0, 1]), set(&[])));
    }
    abstain(&mut farm, 1, &[]);
    farm.run(110);
    assert_eq!(farm.nodes[0].view().expect("up").owners(), set(&[1]));
}

#[test]
fn it_ends_with_the_agent_that_said_it_and_a_joiner_brings_its_own() {
    let mut farm = Farm::settled(2);
    abstain(&mut farm, 1, &[(IN_FORCE, some())]);
    farm.run(110);
    farm.restart(1);
    abstain(&mut farm, 1, &[(IN_FORCE, Abstention::ALL)]);
    farm.clear_log();
    farm.run(3 * LISTENED + 2000);
    let view = farm.nodes[0].view().expect("up");
    assert_eq!((view.alive, view.owners()), (set(&[0, 1]), set(&[0])));
    let served =
        |output: &Output| matches!(output, Output::Acquire(view) if view.owners().contains(id(1)));
    assert!(!farm.log[1].iter().any(served), "never before its checks passed");
}

#[test]
fn another_configuration_comes_with_what_was_said_for_it() {
    let mut farm = Farm::settled(2);
    abstain(&mut farm, 1, &[(IN_FORCE, some()), (NEXT, Abstention::NONE.and_from(5))]);
    farm.run(110);
    farm.clear_log();
    for node in 0..2 {
        let now = farm.now();
        farm.nodes[node].stage(now, NEXT, false);
    }
    farm.run(300);
    for log in &farm.log {
        for output in log {
            let Output::Acquire(view) = output else { continue };
            let groups = [2, 5].map(|group| view.abstains(id(1), group));
            assert_eq!(groups, [view.digest == IN_FORCE, view.digest == NEXT], "{view:?}");
        }
    }
    assert_eq!(farm.nodes[0].view().expect("up").digest, NEXT);
}

/// As an agent does that is to stop: first it has no connections left, then it leaves.
#[test]
fn a_node_that_had_nothing_any_more_is_told_to_have_left_once() {
    for drained in [false, true] {
        let mut farm = Farm::settled(3);
        let now = farm.now();
        if drained {
            farm.nodes[2].set_power(now, None, id(2), Some(0), true).expect("room");
        } else {
            abstain(&mut farm, 2, &[(IN_FORCE, Abstention::ALL)]);
        }
        farm.run(100);
        let now = farm.now();
        farm.nodes[2].leave(now);
        farm.run(1000);
        assert!(farm.nodes[2].has_left());
        farm.stop(2);
        farm.run(1000);
        for node in 0..2 {
            assert_eq!(farm.members(node), set(&[0, 1]));
            assert_eq!(farm.events(node, "node_left"), ["node3 has left the farm"]);
        }
    }
}
