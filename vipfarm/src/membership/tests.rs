use std::net::Ipv4Addr;

use proptest::{collection::vec, prelude::*};

use super::*;

mod harness;
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
fn a_node_alone_serves_after_it_has_listened() {
    let mut farm = Farm::of(1);
    farm.run(LISTENED - 1);
    assert_eq!(farm.nodes[0].state(), NodeState::Joining);
    assert_eq!(farm.nodes[0].view(), None);
    assert!(!farm.log[0].iter().any(|output| matches!(output, Output::Lease(_))));
    farm.run(1);
    assert_eq!(farm.nodes[0].state(), NodeState::Up);
    assert_eq!(farm.members(0), set(&[0]));
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
    farm.run(LISTENED / 2);
    let alive = set(&[0, 1]);
    let released = farm.when(0, |output| is_release(output, alive));
    let acquired = farm.when(1, |output| is_acquire(output, alive));
    assert!(released.expect("node 0 makes room") < acquired.expect("node 1 joins"));
    assert!(farm.when(1, |output| is_acquire(output, set(&[1]))).is_none());
}

#[test]
fn a_joiner_does_not_wait_for_its_own_listening_when_a_member_serves() {
    let mut farm = Farm::of(2);
    farm.stop(1);
    farm.run(2 * LISTENED);
    farm.restart(1);
    farm.run(10);
    assert_eq!(farm.members(1), set(&[0, 1]));
}

#[test]
fn joiners_that_agree_still_listen_for_somebody_who_serves() {
    let mut farm = Farm::of(2);
    farm.run(LISTENED - 1);
    assert_eq!(farm.nodes[0].promised_view().alive, set(&[0, 1]));
    assert_eq!(farm.nodes[0].view(), None);
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
fn a_lease_follows_the_heartbeat_it_is_counted_from() {
    let mut farm = Farm::settled(2);
    farm.clear_log();
    farm.run(50);
    let [heartbeat, lease] = &farm.log[0][..] else { panic!("{:?}", farm.log[0]) };
    assert!(matches!(heartbeat, Output::Broadcast(_)));
    let sent = farm.when(0, |output| matches!(output, Output::Broadcast(_)));
    assert_eq!(*lease, Output::Lease(sent.expect("sent above") + TIMERS.lease));
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

#[test]
fn a_node_that_comes_back_is_a_member_again() {
    let mut farm = Farm::settled(3);
    farm.stop(2);
    farm.run(300);
    farm.restart(2);
    farm.run(100);
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
    assert_eq!(kinds(&outputs), ["stall", "lease_lapsed"]);
}

#[test]
fn a_node_whose_lease_lapsed_serves_again_once_peers_have_agreed() {
    let mut farm = Farm::settled(2);
    farm.freeze(0, 200);
    farm.run(250);
    assert_eq!(farm.events(0, "lease_lapsed").len(), 1);
    assert_eq!(farm.nodes[0].state(), NodeState::Up);
    assert_eq!(farm.members(0), set(&[0, 1]));
}

#[test]
fn agreement_that_waited_in_the_socket_of_a_frozen_joiner_is_void() {
    for frozen in [Duration::ZERO, TIMERS.lease] {
        let mut farm = Farm::of(2);
        farm.stop(1);
        farm.run(2 * LISTENED);
        farm.restart(1);
        farm.run(2);
        assert_eq!(farm.nodes[0].promised_view().alive, set(&[0, 1]));
        // All that node 0 says later is lost: that it has missed node 1 and taken everything back.
        let agreement = std::mem::take(&mut farm.inbox[1]);
        let now = farm.now() + frozen;
        for (source, datagram) in agreement {
            farm.nodes[1].handle_datagram(now, source, &datagram);
        }
        farm.nodes[1].handle_timeout(now);
        assert_eq!(farm.nodes[1].view().is_some(), frozen.is_zero());
    }
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
    assert!(farm.nodes[0].members.contains(id(1)));
    farm.run(200);
    assert!(!farm.nodes[0].members.contains(id(1)));
}

#[test]
fn a_leaver_stops_first_and_its_peers_take_over_without_waiting() {
    let mut farm = Farm::settled(3);
    farm.clear_log();
    let now = farm.now();
    farm.nodes[2].leave(now);
    farm.run(10);
    let fenced = farm.log[2].iter().position(|output| *output == Output::Fence);
    let told = farm.log[2].iter().position(|output| matches!(output, Output::Broadcast(_)));
    assert!(fenced.is_some() && fenced < told);
    assert!(farm.nodes[2].has_left());
    for node in 0..2 {
        assert_eq!(farm.members(node), set(&[0, 1]));
        assert_eq!(farm.events(node, "node_left"), ["node3 has left the farm"]);
        assert!(farm.events(node, "node_lost").is_empty());
    }
}

#[test]
fn a_joiner_that_hears_only_another_key_serves_nothing() {
    let mut node = Membership::new(Config { key: [1; 32], ..config(0, 2) }, 7, at(0));
    let mut late = 0;
    for millis in (0..2_000).step_by(50) {
        hear(&mut node, at(millis), &Heartbeat { sequence: millis + 1, ..heartbeat(1, 8) });
        node.handle_timeout(at(millis));
        late = millis;
    }
    assert_eq!(node.state(), NodeState::Joining);
    assert_eq!(node.counters().dropped(Dropped::Tag), 40);
    // The other is gone: alone after all.
    for millis in (late..late + 1_000).step_by(50) {
        node.handle_timeout(at(millis));
    }
    assert_eq!(node.state(), NodeState::Up);
}

#[test]
fn a_leaver_that_nobody_answers_is_gone_after_the_failure_time() {
    let mut farm = Farm::settled(2);
    farm.stop(1);
    let now = farm.now();
    farm.nodes[0].leave(now);
    farm.run(200);
    assert!(!farm.nodes[0].has_left());
    farm.run(51);
    assert!(farm.nodes[0].has_left());
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
    assert!(!farm.log[0].iter().any(|o| matches!(o, Output::Acquire(_) | Output::Lease(_))));
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
    assert!(!farm.nodes[0].peers(farm.now()).all(|peer| peer.same_config));

    farm.stop(1);
    farm.run(LISTENED);
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
    farm.run(60);
    assert_eq!((farm.members(0), farm.nodes[1].view()), (set(&[0]), None));
}

#[test]
fn both_sides_of_a_healed_network_come_to_one_view() {
    let mut farm = Farm::settled(2);
    farm.cut = true;
    farm.run(600);
    assert_eq!((farm.members(0), farm.members(1)), (set(&[0]), set(&[1])));
    farm.cut = false;
    farm.run(60);
    assert_eq!(farm.nodes[0].view(), farm.nodes[1].view());
    assert_eq!(farm.members(0), set(&[0, 1]));
}

#[test]
fn the_higher_number_of_the_same_view_wins() {
    let mut farm = Farm::settled(2);
    let epoch = farm.nodes[0].view().expect("settled").epoch;
    farm.nodes[1].promise.epoch = epoch + 7;
    farm.nodes[1].installed = Some(farm.nodes[1].promise);
    farm.clear_log();
    farm.run(60);
    for node in &farm.nodes {
        assert_eq!(node.view().map(|view| view.epoch), Some(epoch + 7));
    }
    assert!(farm.events(0, "view_installed").is_empty(), "no news for operators");
}

#[test]
fn the_last_epoch_is_survived() {
    let mut farm = Farm::settled(3);
    farm.nodes[1].promise.epoch = u64::MAX;
    farm.run(100);
    farm.stop(2);
    farm.run(400);
    assert_eq!(farm.members(0), set(&[0, 1]));
}

#[test]
fn a_new_agent_of_a_peer_is_taken_when_the_old_one_is_silent() {
    let (mut node, old) = (Membership::new(config(0, 2), 1, at(0)), heartbeat(1, 2));
    let new = Heartbeat { life: Life { incarnation: 77, number: 0 }, ..old };
    hear(&mut node, at(0), &old);
    node.handle_timeout(at(0));
    hear(&mut node, at(100), &new);
    assert_eq!(node.counters().dropped(Dropped::Incarnation), 1);
    hear(&mut node, at(110), &Heartbeat { sequence: 2, ..new });
    node.handle_timeout(at(110));
    assert!(kinds(&drain(&mut node)).ends_with(&["node_restarted"]));
    assert_eq!(node.peers(at(110)).next().and_then(|peer| peer.incarnation), Some(77));
}

#[test]
fn an_agent_that_said_goodbye_is_followed_at_once() {
    let (mut node, old) = (Membership::new(config(0, 2), 1, at(0)), heartbeat(1, 2));
    hear(&mut node, at(0), &Heartbeat { activity: Activity::Leaving, ..old });
    hear(&mut node, at(0), &Heartbeat { life: Life { incarnation: 77, number: 0 }, ..old });
    assert_eq!(node.counters().accepted, 2);
}

#[test]
fn a_mac_is_told_when_learnt_and_when_changed() {
    let (mut node, heartbeat) = (Membership::new(config(0, 2), 1, at(0)), heartbeat(1, 2));
    let moved = Mac([2, 0, 0, 0, 0, 99]);
    for (sequence, mac) in [(1, heartbeat.mac), (2, heartbeat.mac), (3, moved)] {
        hear(&mut node, at(0), &Heartbeat { sequence, mac, ..heartbeat });
    }
    let told = |mac| Output::Peer(id(1), mac);
    let outputs = drain(&mut node);
    let told_all: Vec<_> = outputs.iter().filter(|o| matches!(o, Output::Peer(..))).collect();
    assert_eq!(told_all, [&told(heartbeat.mac), &told(moved)]);
}

#[test]
fn every_reason_to_drop_a_datagram_is_counted() {
    let mut node = Membership::new(config(0, 2), 1, at(0));
    let (peer, stranger) = (address(1), IpAddr::from(Ipv4Addr::new(203, 0, 113, 9)));
    let good = heartbeat(1, 2);
    let farm = wire::farm_id("web");
    let sealed = |heartbeat: &Heartbeat| wire::seal(heartbeat, farm, &KEY);
    let altered = |at: usize| {
        let mut bytes = sealed(&good);
        bytes[at] ^= 1;
        bytes
    };
    let own = Heartbeat { source: id(0), ..good };
    let first_life = Life { incarnation: 1, number: 0 };
    let other_agent = Life { incarnation: 3, number: 0 };
    node.handle_datagram(at(0), peer, &sealed(&Heartbeat { sequence: 5, ..good }));
    for (reason, source, bytes) in [
        (Dropped::Size, peer, vec![0; 3]),
        (Dropped::Magic, peer, altered(0)),
        (Dropped::Version, peer, altered(4)),
        (Dropped::Farm, peer, wire::seal(&good, wire::farm_id("other"), &KEY)),
        (Dropped::Source, stranger, sealed(&good)),
        (Dropped::Source, address(0), sealed(&good)),
        (Dropped::Tag, peer, altered(20)),
        (Dropped::Tag, peer, wire::seal(&good, farm, &[8; 32])),
        (Dropped::Malformed, peer, sealed(&Heartbeat { source: id(2), ..good })),
        (Dropped::Own, address(0), sealed(&Heartbeat { life: first_life, ..own })),
        (Dropped::Duplicate, address(0), sealed(&own)),
        (Dropped::Stale, peer, sealed(&Heartbeat { sequence: 5, ..good })),
        (Dropped::Stale, peer, sealed(&Heartbeat { sequence: 4, ..good })),
        (Dropped::Incarnation, peer, sealed(&Heartbeat { life: other_agent, ..good })),
    ] {
        let before = node.counters().dropped(reason);
        node.handle_datagram(at(0), source, &bytes);
        assert_eq!(node.counters().dropped(reason), before + 1, "{reason:?}");
    }
    assert!(Dropped::ALL.into_iter().all(|reason| node.counters().dropped(reason) > 0));
    assert_eq!(node.counters().accepted, 1);
}

#[test]
fn nuisances_on_the_network_are_told_once_in_a_while() {
    let mut node = Membership::new(config(0, 2), 1, at(0));
    let forged = wire::seal(&heartbeat(1, 2), wire::farm_id("web"), &[8; 32]);
    let twin = Heartbeat { source: id(0), ..heartbeat(1, 2) };
    let twin = wire::seal(&twin, wire::farm_id("web"), &KEY);
    for millis in [0, 1, 9_999, 10_000] {
        node.handle_datagram(at(millis), address(1), &forged);
        node.handle_datagram(at(millis), address(0), &twin);
    }
    let kinds = kinds(&drain(&mut node));
    for kind in ["bad_tag", "duplicate_node"] {
        assert_eq!(kinds.iter().filter(|&&k| k == kind).count(), 2, "{kind}");
    }
}

#[test]
fn a_peer_heard_through_a_dual_stack_socket_is_known() {
    let mut node = Membership::new(config(0, 2), 1, at(0));
    let IpAddr::V4(peer) = address(1) else { panic!("the test's addresses are IPv4") };
    let bytes = wire::seal(&heartbeat(1, 2), wire::farm_id("web"), &KEY);
    node.handle_datagram(at(0), peer.to_ipv6_mapped().into(), &bytes);
    assert_eq!(node.counters().accepted, 1);
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

proptest! {
    #[test]
    fn no_datagram_does_harm(
        bytes in vec(any::<u8>(), 0..200), flips in vec((0..wire::LEN, any::<u8>()), 0..3),
    ) {
        let mut node = Membership::new(config(0, 2), 1, at(0));
        node.handle_datagram(at(0), address(1), &bytes);
        let mut mutated = wire::seal(&heartbeat(1, 2), wire::farm_id("web"), &KEY);
        for (at, byte) in flips {
            mutated[at] = byte;
        }
        node.handle_datagram(at(0), address(1), &mutated);
        node.handle_timeout(at(0));
    }

    #[test]
    fn no_authentic_nonsense_does_harm(
        epoch: u64, alive: u64, number: u32, sequence: u64, hash: [u8; 16], digest: bool,
    ) {
        let mut node = Membership::new(config(0, 2), 1, at(0));
        let digest = if digest { [0; 16] } else { [1; 16] };
        let promise = Promise { epoch, alive: NodeSet::from_bits(alive), hash };
        let life = Life { incarnation: 2, number };
        let nonsense = Heartbeat { life, sequence, digest, promise, ..heartbeat(1, 2) };
        hear(&mut node, at(0), &nonsense);
        for millis in [0, 1, 50, 400, 1000] {
            node.handle_timeout(at(millis));
        }
    }
}
