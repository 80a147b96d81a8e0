use std::net::{IpAddr, Ipv4Addr};

use proptest::{collection::vec, prelude::*};

use super::{
    view::{Content, Stamp, ViewId},
    wire::{Ack, Flags, Heartbeat},
    *,
};

mod abstaining;
mod configs;
mod door;
mod fuzz;
mod harness;
mod networks;
mod operated;
mod proof;
use harness::*;

const TIMERS: Timers = Timers::BALANCED;
const KEY: [u8; 32] = [9; 32];
/// In milliseconds: when a node that hears nobody has listened enough.
const LISTENED: u64 = 350;

#[test]
fn a_new_agent_fences_before_anything_else() {
    let mut node = Membership::new(config(0, 2), 1, at(0));
    assert_eq!(node.poll_output(), Some(Output::Fence));
}

#[test]
fn a_node_that_hears_nobody_serves_after_it_has_listened() {
    let mut farm = Farm::of(2);
    farm.stop(1);
    farm.run(LISTENED - 1);
    assert_eq!(farm.nodes[0].state(), NodeState::Joining);
    assert_eq!(farm.nodes[0].view(), None);
    assert!(!farm.log[0].iter().any(|output| matches!(output, Output::Lease(_))));
    farm.run(1);
    assert_eq!(farm.nodes[0].state(), NodeState::Up);
    assert_eq!(farm.members(0), set(&[0]));
}

#[test]
fn nobody_need_listen_when_everybody_is_there() {
    let mut farm = Farm::of(3);
    farm.run(20);
    for node in 0..3 {
        assert_eq!(farm.members(node), set(&[0, 1, 2]));
        assert!(farm.nodes[node].lease() > farm.now());
    }
}

#[test]
fn all_nodes_come_to_the_same_view() {
    let farm = Farm::settled(5);
    let view = farm.nodes[0].view();
    assert!(view.is_some());
    for node in &farm.nodes {
        assert_eq!(node.view(), view);
        assert!(node.is_converged());
    }
}

#[test]
fn a_joiner_serves_nothing_before_the_others_have_made_room() {
    let mut farm = Farm::of(2);
    farm.stop(1);
    farm.run(2 * LISTENED);
    assert_eq!(farm.members(0), set(&[0]));
    farm.restart(1);
    farm.clear_log();
    farm.run(2 * LISTENED);
    let alive = set(&[0, 1]);
    let released = farm.when(0, |output| is_release(output, alive));
    let acquired = farm.when(1, |output| is_acquire(output, alive));
    assert!(released.expect("node 0 makes room") < acquired.expect("node 1 joins"));
    assert!(farm.when(1, |output| is_acquire(output, set(&[1]))).is_none());
}

#[test]
fn a_joiner_becomes_a_member_when_it_has_been_heard_for_ten_periods() {
    let mut farm = Farm::of(2);
    farm.stop(1);
    farm.run(2 * LISTENED);
    farm.restart(1);
    farm.run(450);
    assert_eq!((farm.members(0), farm.members(1)), (set(&[0]), NodeSet::EMPTY));
    farm.run(160);
    assert_eq!((farm.members(0), farm.members(1)), (set(&[0, 1]), set(&[0, 1])));
}

#[test]
fn a_joiner_that_is_lost_again_and_again_waits_twice_as_long_each_time() {
    let mut farm = Farm::settled(2);
    let mut waited = Vec::new();
    for _ in 0..4 {
        farm.stop(1);
        farm.run(600);
        farm.restart(1);
        let from = farm.millis;
        while !farm.members(0).contains(id(1)) {
            farm.run(10);
        }
        waited.push(farm.millis - from);
        farm.run(500);
    }
    for (waited, periods) in waited.iter().zip([20, 40, 80, 160]) {
        assert!((50 * periods..50 * periods + 200).contains(waited), "{waited} {periods}");
    }
}

#[test]
fn joiners_that_miss_somebody_listen_for_it() {
    let mut farm = Farm::of(3);
    farm.stop(2);
    farm.run(LISTENED - 1);
    assert_eq!(farm.nodes[0].view(), None);
    farm.run(20);
    assert_eq!(farm.members(0), set(&[0, 1]));
}

#[test]
fn a_release_precedes_the_heartbeat_that_tells_of_it() {
    let farm = Farm::settled(2);
    let outputs = &farm.log[0];
    let release = outputs.iter().position(|output| is_release(output, set(&[0, 1])));
    let announcement = outputs.iter().position(|output| promises(output, set(&[0, 1])));
    let acquire = outputs.iter().position(|output| is_acquire(output, set(&[0, 1])));
    assert!(release.is_some() && release < announcement && announcement < acquire);
}

#[test]
fn a_node_that_hears_another_go_on_alone_does_not_go_on_beside_it() {
    for mute in 0..2 {
        let mut farm = Farm::settled(2);
        farm.cuts = vec![(mute, 1 - mute)];
        for _ in 0..1000 {
            farm.run(1);
            let serves_alone = |&node: &usize| {
                farm.nodes[node].lease() > farm.now() && farm.members(node).len() == 1
            };
            let both = (0..2).all(|node| serves_alone(&node));
            assert!(!both, "{mute} is mute: both serve alone at {} ms", farm.millis);
        }
        assert_eq!(farm.members(1 - mute), set(&[1 - mute]));
    }
}

#[test]
fn a_lease_is_counted_from_the_newest_heartbeat_that_was_acknowledged() {
    let mut farm = Farm::settled(2);
    farm.run(25);
    // Until then node 0 is acknowledged, though not after.
    farm.cuts = vec![(1, 0)];
    let acknowledged = farm.now();
    farm.run(200);
    let longest = acknowledged + TIMERS.fail.saturating_sub(TIMERS.margin());
    let mut deadlines = farm.log[0].iter().filter_map(|output| match output {
        Output::Lease(deadline) => Some(*deadline),
        _ => None,
    });
    assert!(deadlines.all(|deadline| deadline <= longest));
}

#[test]
fn a_node_that_is_heard_by_nobody_stops_before_others_take_over() {
    let mut farm = Farm::settled(3);
    farm.cuts = vec![(0, 1), (0, 2)];
    farm.clear_log();
    farm.run(300);
    let fenced = farm.when(0, |output| *output == Output::Fence).expect("its lease ends");
    let taken = farm.when(1, |output| is_acquire(output, set(&[1, 2])));
    assert!(fenced < taken.expect("the others take over"));
    assert_eq!(farm.nodes[0].state(), NodeState::Fenced);
}

#[test]
fn survivors_of_three_go_on_while_they_miss_a_node() {
    let mut farm = Farm::settled(3);
    farm.stop(2);
    farm.clear_log();
    farm.run(400);
    for node in 0..2 {
        assert!(farm.events(node, "lease_lapsed").is_empty());
        assert_eq!(farm.members(node), set(&[0, 1]));
    }
}

#[test]
fn a_cut_between_two_nodes_changes_nothing_while_a_third_hears_both() {
    let mut farm = Farm::settled(3);
    let view = farm.nodes[0].view();
    farm.cuts = vec![(0, 2), (2, 0)];
    farm.run(2000);
    for node in 0..3 {
        assert_eq!(farm.nodes[node].view(), view);
        assert!(farm.events(node, "lease_lapsed").is_empty());
    }
    farm.stop(1);
    farm.run(600);
    assert_eq!((farm.members(0), farm.members(2)), (set(&[0]), set(&[2])));
}

#[test]
fn a_view_passes_through_a_node_that_hears_all() {
    let mut farm = Farm::settled(4);
    farm.cuts = vec![(0, 2), (2, 0)];
    farm.run(500);
    farm.stop(3);
    farm.run(500);
    for node in 0..3 {
        assert_eq!(farm.members(node), set(&[0, 1, 2]));
        assert!(farm.nodes[node].is_converged());
    }
}

#[test]
fn a_node_that_has_become_deaf_does_not_stop_the_others() {
    let mut farm = Farm::settled(3);
    farm.cuts = vec![(0, 2), (1, 2)];
    farm.run(1500);
    assert_eq!(farm.members(2), set(&[2]));
    for node in 0..2 {
        assert_eq!(farm.members(node), set(&[0, 1]));
    }
    farm.cuts.clear();
    farm.run(500);
    for node in 0..3 {
        assert_eq!(farm.members(node), set(&[0, 1, 2]));
    }
}

#[test]
fn survivors_take_over_when_a_node_has_been_silent_for_the_failure_time() {
    let mut farm = Farm::settled(3);
    farm.stop(2);
    farm.run(200);
    assert_eq!(farm.members(0), set(&[0, 1, 2]));
    farm.run(60);
    assert_eq!(farm.members(0), set(&[0, 1]));
    assert_eq!(farm.members(1), set(&[0, 1]));
    assert_eq!(farm.events(0, "node_lost"), ["node3 is lost: not heard for 250 ms"]);
    let peer = farm.nodes[0].peers(farm.now()).last().expect("node 3");
    assert_eq!(peer.state, NodeState::Down);
}

/// What the rule is for that only peers that are heard count for the lease.
#[test]
fn one_crash_does_not_stop_the_others_as_it_would_if_the_dead_counted_for_the_lease() {
    for by_heard in [true, false] {
        let mut farm = Farm::settled(3);
        farm.nodes.iter_mut().for_each(|node| node.rules.lease_by_heard = by_heard);
        farm.stop(2);
        farm.run(400);
        for survivor in 0..2 {
            assert_eq!(farm.members(survivor), set(&[0, 1]));
            assert_eq!(farm.events(survivor, "lease_lapsed").is_empty(), by_heard);
        }
    }
}

/// What the rule is for that nobody begins beside a node that serves by another view.
#[test]
fn no_first_lease_is_taken_beside_a_node_that_serves_by_another_view() {
    for stand_back in [true, false] {
        let (mut node, _) = speaking();
        node.rules.first_lease_by_stand_back = stand_back;
        while node.state() != NodeState::Up {
            node.handle_timeout(node.next_deadline());
        }
        node.lease.end();
        drain(&mut node);
        let now = node.last_turn;
        let sequence = u32::try_from(node.counters().sent).expect("few");
        let mut other = heartbeat(1, 2, Ack { life: 1, sequence });
        let id = ViewId { epoch: 9, ..ViewId::default() };
        other.state.flags = Flags::SERVING;
        other.state.installed = Stamp { id, hash: [7; 16] };
        other.state.promised = other.state.installed;
        hear(&mut node, now, &other);
        node.handle_timeout(now);
        assert!(node.linked.contains(other.source));
        let begins = drain(&mut node).iter().any(|output| matches!(output, Output::Lease(_)));
        assert_eq!(begins, !stand_back);
    }
}

#[test]
fn a_node_that_comes_back_is_a_member_again() {
    let mut farm = Farm::settled(3);
    farm.stop(2);
    farm.run(300);
    farm.restart(2);
    farm.run(1300);
    for node in 0..3 {
        assert_eq!(farm.members(node), set(&[0, 1, 2]));
    }
}

#[test]
fn a_lapsed_lease_fences_until_peers_agree_with_the_new_life() {
    let mut farm = Farm::settled(2);
    let late = farm.now() + TIMERS.lease + Duration::from_millis(50);
    let node = &mut farm.nodes[0];
    node.handle_timeout(late);
    let outputs = drain(node);
    assert!(outputs.contains(&Output::Fence));
    assert!(!outputs.iter().any(|output| matches!(output, Output::Acquire(_) | Output::Lease(_))));
    assert_eq!((node.state(), node.view()), (NodeState::Fenced, None));
    assert_eq!(kinds(&outputs)[..2], ["stall", "lease_lapsed"]);
}

#[test]
fn a_node_whose_lease_lapsed_serves_again_once_peers_have_agreed() {
    let mut farm = Farm::settled(2);
    let epoch = farm.nodes[0].view().expect("settled").epoch;
    farm.freeze(0, 200);
    farm.run(260);
    assert_eq!(farm.events(0, "lease_lapsed").len(), 1);
    assert_eq!(farm.nodes[0].state(), NodeState::Up);
    assert!(farm.nodes[0].view().expect("up").epoch > epoch);
    assert_eq!(farm.members(0), set(&[0, 1]));
}

#[test]
fn what_a_frozen_agent_finds_in_its_socket_counts_before_silence_does() {
    let mut farm = Farm::settled(2);
    farm.freeze(0, 1000);
    farm.run(1050);
    assert!(farm.events(0, "node_lost").is_empty());
}

#[test]
fn a_stalled_agent_gives_its_peers_another_failure_time() {
    let mut farm = Farm::settled(2);
    farm.stop(1);
    farm.freeze(0, 500);
    farm.run(600);
    assert_eq!(farm.events(0, "stall").len(), 1);
    assert!(farm.nodes[0].hears.contains(id(1)));
    farm.run(200);
    assert!(!farm.nodes[0].hears.contains(id(1)));
}

#[test]
fn a_joiner_with_another_configuration_serves_nothing_while_somebody_serves() {
    let mut farm = Farm::of(2);
    farm.stop(0);
    farm.run(LISTENED);
    farm.nodes[0] = Membership::new(Config { digest: [5; 16], ..config(0, 2) }, 100, farm.now());
    farm.running[0] = true;
    farm.clear_log();
    farm.run(2 * LISTENED);
    assert_eq!((farm.nodes[0].view(), farm.members(1)), (None, set(&[1])));
    for (node, other) in [(0, "node2"), (1, "node1")] {
        let event = Event::ConfigMismatch { node: other.into() };
        assert_eq!(farm.events(node, "config_mismatch"), [event.to_string()], "once");
    }
    assert_eq!(farm.events(0, "held_back").len(), 1);
    assert!(!farm.nodes[0].peers(farm.now()).all(|peer| peer.config_differs.is_empty()));

    farm.stop(1);
    farm.run(2 * LISTENED);
    assert_eq!(farm.members(0), set(&[0]), "nobody else serves any more");
}

#[test]
fn of_two_configurations_that_nobody_serves_yet_the_first_nodes_is_served() {
    let mut farm = Farm::of(2);
    farm.nodes[1] = Membership::new(Config { digest: [5; 16], ..config(1, 2) }, 100, at(0));
    farm.run(3 * LISTENED);
    assert_eq!((farm.members(0), farm.nodes[1].view()), (set(&[0]), None));
}

#[test]
fn of_two_configurations_that_both_serve_one_stops() {
    let mut farm = Farm::of(2);
    farm.nodes[1] = Membership::new(Config { digest: [5; 16], ..config(1, 2) }, 100, at(0));
    farm.cut = true;
    farm.run(2 * LISTENED);
    assert_eq!((farm.members(0), farm.members(1)), (set(&[0]), set(&[1])));
    farm.cut = false;
    farm.run(120);
    assert_eq!((farm.members(0), farm.nodes[1].view()), (set(&[0]), None));
}

#[test]
fn both_sides_of_a_healed_network_come_to_one_view() {
    let mut farm = Farm::settled(2);
    farm.cut = true;
    farm.run(600);
    assert_eq!((farm.members(0), farm.members(1)), (set(&[0]), set(&[1])));
    farm.cut = false;
    farm.run(130);
    assert_eq!(farm.nodes[0].view(), farm.nodes[1].view());
    assert_eq!(farm.members(0), set(&[0, 1]));
}

#[test]
fn the_next_turn_is_never_more_than_a_period_away() {
    let mut farm = Farm::settled(3);
    farm.stop(2);
    for _ in 0..500 {
        farm.run(1);
        assert!(farm.nodes[0].next_deadline() <= farm.now() + TIMERS.period);
    }
}

#[test]
fn events_say_what_happened() {
    let members = vec!["node1".into(), "node2".into()];
    let installed = Event::ViewInstalled { epoch: 7, members };
    assert_eq!(installed.to_string(), "farm membership: node1 node2 (view 7)");
    assert_eq!((installed.kind(), installed.level()), ("view_installed", Level::Info));
    let forged = Event::BadTag { source: address(1) };
    assert!(
        forged.to_string().starts_with("a heartbeat from 192.0.2.2 does not carry this farm's key")
    );
    assert_eq!(forged.level().as_str(), "warn");
}
