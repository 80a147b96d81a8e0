//! What operators do: leave, drain, change powers, change keys.

use super::{harness::*, *};
use crate::model::{Override, StayKind, VipId};

#[test]
fn a_leaver_serves_until_the_view_without_it_and_others_take_over_after_that() {
    let mut farm = Farm::settled(3);
    farm.clear_log();
    let now = farm.now();
    farm.nodes[2].leave(now);
    farm.run(10);
    let idle =
        |output: &Output| matches!(output, Output::Release(view) if view.owners() == set(&[0, 1]));
    let taken =
        |output: &Output| matches!(output, Output::Acquire(view) if view.owners() == set(&[0, 1]));
    let released = farm.when(2, idle).expect("it lets go by a view");
    for node in 0..2 {
        assert!(released < farm.when(node, taken).expect("it is followed"));
        assert_eq!(farm.events(node, "node_left"), ["node3 has left the farm"]);
    }
    assert!(farm.nodes[2].has_left());
    farm.stop(2);
    farm.run(1000);
    for node in 0..2 {
        assert_eq!(farm.members(node), set(&[0, 1]));
        assert!(farm.events(node, "node_lost").is_empty());
        assert!(farm.events(node, "lease_lapsed").is_empty());
    }
}

#[test]
fn a_leaver_stays_in_the_view_until_it_serves_nothing_of_what_lingers_with_it() {
    let mut farm = Farm::settled(3);
    farm.clear_log();
    let now = farm.now();
    farm.nodes[2].leave(now);
    farm.run(3);
    // All have promised the view in which it owns nothing, and it is stopped before it knows that they
    // have installed it.
    farm.frozen_until[2] = farm.millis + 130;
    farm.run(129);
    let without =
        |output: &Output| matches!(output, Output::Release(view) if !view.alive.contains(id(2)));
    for node in 0..2 {
        let follows = |output: &Output| matches!(output, Output::Acquire(_));
        assert!(farm.when(node, follows).is_some(), "they have what was its own");
        assert_eq!(farm.when(node, without), None, "it serves what lingers with it");
    }
    farm.run(100);
    let fenced = farm.when(2, |output| *output == Output::Fence).expect("it leaves");
    for node in 0..2 {
        assert!(fenced < farm.when(node, without).expect("it is gone"));
    }
}

#[test]
fn a_node_whose_network_is_back_listens_before_it_serves_alone() {
    let mut farm = Farm::settled(2);
    farm.cut = true;
    let now = farm.now();
    farm.nodes[0].set_fit(now, false);
    farm.run(1000);
    let now = farm.now();
    farm.clear_log();
    farm.nodes[0].set_fit(now, true);
    farm.run(1000 + LISTENED - 10);
    assert!(!farm.log[0].iter().any(|output| matches!(output, Output::Acquire(_))), "ports open");
    farm.run(200);
    assert_eq!(farm.members(0), set(&[0]), "nobody is there");
}

#[test]
fn the_last_but_one_leaves_without_a_gap() {
    for leaver in 0..2 {
        let mut farm = Farm::settled(2);
        farm.clear_log();
        let now = farm.now();
        farm.nodes[leaver].leave(now);
        farm.run(10);
        assert!(farm.nodes[leaver].has_left());
        farm.stop(leaver);
        farm.run(1000);
        let stays = 1 - leaver;
        assert!(!farm.log[stays].contains(&Output::Fence));
        assert_eq!(farm.members(stays), set(&[stays]));
    }
}

#[test]
fn a_leaver_that_nobody_answers_is_gone_after_twice_the_failure_time() {
    let mut farm = Farm::settled(2);
    farm.stop(1);
    let now = farm.now();
    farm.nodes[0].leave(now);
    farm.run(200);
    assert!(!farm.nodes[0].has_left());
    farm.run(301);
    assert!(farm.nodes[0].has_left());
    assert!(farm.log[0].contains(&Output::Fence));
}

#[test]
fn a_leaver_that_is_alone_is_gone_at_once() {
    let mut farm = Farm::of(1);
    farm.run(LISTENED);
    let now = farm.now();
    farm.nodes[0].leave(now);
    farm.run(1);
    assert!(farm.nodes[0].has_left());
}

#[test]
fn a_leaver_never_serves_again() {
    let mut farm = Farm::settled(2);
    let now = farm.now();
    farm.nodes[0].leave(now);
    farm.clear_log();
    farm.run(1000);
    let serves =
        |output: &Output| matches!(output, Output::Acquire(view) if view.owners().contains(id(0)));
    assert!(!farm.log[0].iter().any(serves));
}

#[test]
fn an_unfit_node_is_fenced_at_once_and_its_peers_take_over_at_once() {
    let mut farm = Farm::settled(3);
    farm.clear_log();
    let now = farm.now();
    farm.nodes[0].set_fit(now, false);
    assert_eq!(farm.nodes[0].poll_output(), Some(Output::Event(Event::Unfit)));
    assert_eq!(farm.nodes[0].poll_output(), Some(Output::Fence));
    farm.run(10);
    for node in 1..3 {
        let view = farm.nodes[node].view().expect("up");
        assert_eq!((view.alive, view.owners()), (set(&[0, 1, 2]), set(&[1, 2])));
        assert!(farm.nodes[node].is_converged());
    }
    assert_eq!(farm.nodes[0].state(), NodeState::Fenced);
    farm.run(1000);
    assert_eq!(farm.nodes[0].state(), NodeState::Fenced, "as long as it is unfit");
    let now = farm.now();
    farm.nodes[0].set_fit(now, true);
    farm.run(60);
    for node in 0..3 {
        assert_eq!(farm.nodes[node].view().expect("up").owners(), set(&[0, 1, 2]));
    }
}

#[test]
fn a_changed_power_is_in_one_view_everywhere() {
    let mut farm = Farm::settled(3);
    farm.clear_log();
    let now = farm.now();
    let version = farm.nodes[2].set_power(now, Some(1), id(0), Some(7), true).expect("room");
    farm.run(10);
    for node in 0..3 {
        let view = farm.nodes[node].view().expect("up");
        assert_eq!(view.powers.power(1, id(0)), Some(7));
        assert_eq!(view.powers.version().counter, version);
        assert!(farm.nodes[node].is_converged());
        let acquired = farm.log[node].iter().filter(|o| matches!(o, Output::Acquire(_)));
        assert_eq!(acquired.count(), 1);
    }
    let epoch = farm.nodes[0].view().expect("up").epoch;
    let now = farm.now();
    let again = farm.nodes[1].set_power(now, Some(1), id(0), Some(7), true).expect("room");
    farm.run(300);
    assert_eq!(again, version, "no change");
    assert_eq!(farm.nodes[0].view().expect("up").epoch, epoch);
}

#[test]
fn a_node_is_drained_until_its_agent_starts_anew_or_until_that_is_taken_back() {
    for (away, persist) in [(400, false), (400, true), (60, false), (60, true)] {
        let mut farm = Farm::settled(3);
        let now = farm.now();
        farm.nodes[1].set_power(now, None, id(1), Some(0), persist).expect("room");
        farm.run(10);
        for node in 0..3 {
            assert_eq!(farm.nodes[node].view().expect("up").idle, set(&[1]));
        }
        farm.stop(1);
        farm.run(away);
        farm.restart(1);
        farm.run(2000);
        let idle = if persist { set(&[1]) } else { NodeSet::EMPTY };
        for node in 0..3 {
            let view = farm.nodes[node].view().expect("up");
            assert_eq!((view.alive, view.idle), (set(&[0, 1, 2]), idle), "{persist}");
            assert_eq!(farm.nodes[node].overrides(), &view.powers);
        }
    }
}

#[test]
fn what_is_said_of_one_agent_does_not_end_with_another() {
    let mut farm = Farm::settled(3);
    let now = farm.now();
    farm.nodes[0].set_power(now, None, id(1), Some(0), false).expect("room");
    farm.nodes[0].set_power(now, Some(0), id(2), Some(7), false).expect("room");
    farm.stop(2);
    farm.run(400);
    farm.restart(2);
    farm.run(2000);
    let view = farm.nodes[2].view().expect("up");
    assert_eq!((view.alive, view.idle), (set(&[0, 1, 2]), set(&[1])));
    assert_eq!(view.powers.power(0, id(2)), None);
}

#[test]
fn of_a_node_that_is_not_there_only_what_persists_can_be_said() {
    let mut farm = Farm::settled(2);
    let now = farm.now();
    farm.nodes[1].leave(now);
    farm.run(10);
    assert!(farm.nodes[1].has_left() && farm.nodes[0].hears.contains(id(1)));
    farm.nodes[0].set_power(now, None, id(1), Some(0), false).expect_err("it has left");
    farm.stop(1);
    farm.run(1000);
    let now = farm.now();
    let version = farm.nodes[0].overrides().version();
    let refused = farm.nodes[0].set_power(now, None, id(1), Some(0), false);
    assert_eq!(
        refused.expect_err("node2 is away").to_string(),
        "node2 is not in the farm: add --persist to have it apply when it comes back"
    );
    farm.nodes[0].set_power(now, None, id(1), None, false).expect("to take back is no matter");
    assert_eq!(farm.nodes[0].overrides().version(), version);
    farm.nodes[0].set_power(now, None, id(1), Some(0), true).expect("room");
    farm.restart(1);
    farm.run(2000);
    let view = farm.nodes[0].view().expect("up");
    assert_eq!((view.alive, view.idle), (set(&[0, 1]), set(&[1])));
    let now = farm.now();
    farm.nodes[0].set_power(now, None, id(1), None, false).expect("room");
    farm.run(100);
    assert_eq!(farm.nodes[1].view().expect("up").idle, NodeSet::EMPTY);
}

#[test]
fn of_powers_set_on_two_sides_the_higher_version_wins_when_they_meet() {
    let mut farm = Farm::settled(2);
    farm.cut = true;
    farm.run(600);
    let now = farm.now();
    farm.nodes[0].set_power(now, Some(0), id(0), Some(3), true).expect("room");
    farm.nodes[1].set_power(now, Some(0), id(0), Some(4), true).expect("room");
    farm.run(100);
    farm.cut = false;
    farm.run(200);
    for node in 0..2 {
        let view = farm.nodes[node].view().expect("up");
        assert_eq!((view.alive, view.powers.power(0, id(0))), (set(&[0, 1]), Some(4)));
    }
}

#[test]
fn powers_that_outlast_a_restart_are_the_farms_if_they_are_newer() {
    let mut farm = Farm::of(2);
    let entry = Override::persistent(id(1), Some(0), 9);
    let kept = Overrides::default().with(id(1), entry).expect("room");
    farm.nodes[1] = Membership::new(Config { overrides: kept, ..config(1, 2) }, 50, at(0));
    farm.run(100);
    let view = farm.nodes[0].view().expect("up");
    assert_eq!(view.powers.power(0, id(1)), Some(9));
}

/// What the disk has of a version is only a part of it; the whole goes before it, also when the agent
/// that had only the part becomes the coordinator.
#[test]
fn an_agent_that_knows_a_part_of_the_powers_from_its_disk_takes_over_the_whole() {
    let mut farm = Farm::settled(3);
    let now = farm.now();
    farm.nodes[2].set_power(now, None, id(2), Some(0), false).expect("room");
    farm.nodes[2].set_power(now, Some(0), id(1), Some(9), true).expect("room");
    farm.run(10);
    let whole = farm.nodes[2].view().expect("up").powers;
    let kept = Override::persistent(id(1), Some(0), 9);
    let part = Overrides::new(whole.version(), [kept]).expect("one");
    farm.stop(0);
    farm.run(400);
    let config = Config { overrides: part, ..config(0, 3) };
    farm.nodes[0] = Membership::new(config, 77, farm.now());
    farm.running[0] = true;
    farm.run(2000);
    for node in 0..3 {
        let view = farm.nodes[node].view().expect("up");
        assert_eq!((view.alive, &view.powers), (set(&[0, 1, 2]), &whole));
    }
    let now = farm.now();
    farm.nodes[0].set_power(now, Some(1), id(0), Some(3), false).expect("room");
    farm.run(10);
    assert_eq!(farm.nodes[1].view().expect("up").idle, set(&[2]));
}

#[test]
fn a_new_key_comes_in_and_an_old_one_goes_out_without_a_view_change() {
    let new = [10; 32];
    let mut farm = Farm::settled(2);
    let view = farm.nodes[0].view();
    for keys in [vec![KEY, new], vec![new, KEY], vec![new]] {
        for node in 0..2 {
            let config = Config { keys: keys.clone(), ..(*farm.nodes[node].config).clone() };
            farm.nodes[node].config = Arc::new(config);
            farm.run(300);
        }
    }
    assert_eq!(farm.nodes[0].view(), view);
    assert!(farm.events(1, "bad_tag").is_empty());
}

const VIP: VipId = VipId(7);

/// Whom the view in force of every node names for the VIP.
fn stays(farm: &Farm, kind: StayKind) -> Vec<Option<NodeId>> {
    let of = |node: &Membership| Some(node.view()?.powers.stay(VIP, kind)?.node);
    farm.nodes.iter().map(of).collect()
}

#[test]
fn a_vip_that_is_moved_stays_there_until_it_is_taken_back_or_the_agent_ends() {
    let mut farm = Farm::settled(3);
    let now = farm.now();
    farm.nodes[0].move_vip(now, VIP, Some(id(1)), false).expect("it is there");
    farm.run(200);
    assert_eq!(stays(&farm, StayKind::Pinned), [Some(id(1)); 3]);
    let now = farm.now();
    farm.nodes[2].move_vip(now, VIP, Some(id(2)), false).expect("it is there");
    farm.run(200);
    assert_eq!(stays(&farm, StayKind::Pinned), [Some(id(2)); 3], "one at a time");
    let now = farm.now();
    farm.nodes[2].stay(now, &[VIP]);
    farm.run(200);
    assert_eq!(stays(&farm, StayKind::Incumbent), [Some(id(2)); 3]);
    let now = farm.now();
    let version = farm.nodes[0].move_vip(now, VIP, None, false).expect("always possible");
    assert_eq!(farm.nodes[0].move_vip(now, VIP, None, false), Ok(version), "nothing more to do");
    farm.run(200);
    assert_eq!(stays(&farm, StayKind::Pinned), [None; 3]);
    assert_eq!(stays(&farm, StayKind::Incumbent), [None; 3], "it would not go otherwise");
    let now = farm.now();
    farm.nodes[0].move_vip(now, VIP, Some(id(1)), false).expect("it is there");
    farm.run(200);
    farm.restart(1);
    farm.run(3000);
    assert_eq!(stays(&farm, StayKind::Pinned), [None; 3], "it was the former agent's");
    farm.stop(2);
    farm.run(1000);
    let now = farm.now();
    let refused = farm.nodes[0].move_vip(now, VIP, Some(id(2)), false);
    assert!(matches!(refused, Err(PowerRefused::Absent { .. })), "{refused:?}");
    farm.nodes[0].move_vip(now, VIP, Some(id(2)), true).expect("when it comes back");
}

#[test]
fn a_holder_that_stays_is_remembered_when_it_is_gone_for_a_while_and_forgotten_with_its_agent() {
    let mut farm = Farm::settled(3);
    let now = farm.now();
    farm.nodes[1].stay(now, &[VIP, VipId(8)]);
    let during = farm.nodes[1].overrides().version();
    farm.nodes[1].stay(now, &[]);
    assert_eq!(farm.nodes[1].overrides().version(), during, "not while the farm changes over");
    farm.run(200);
    assert_eq!(stays(&farm, StayKind::Incumbent), [Some(id(1)); 3]);
    let now = farm.now();
    let epoch = farm.nodes[0].view().expect("up").epoch;
    farm.nodes[1].stay(now, &[VIP, VipId(8)]);
    farm.run(200);
    assert_eq!(farm.nodes[0].view().expect("up").epoch, epoch, "it is known");
    let now = farm.now();
    farm.nodes[1].stay(now, &[VipId(8)]);
    farm.run(200);
    assert_eq!(stays(&farm, StayKind::Incumbent), [None; 3]);
    let now = farm.now();
    farm.nodes[1].stay(now, &[VIP]);
    farm.run(200);
    farm.restart(1);
    farm.run(3000);
    assert_eq!(stays(&farm, StayKind::Incumbent), [None; 3]);
}
