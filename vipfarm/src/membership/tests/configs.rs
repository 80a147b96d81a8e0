//! Files that change, and nodes that have different ones.

use super::{harness::*, *};

const NEXT: [u8; 16] = [5; 16];

#[test]
fn a_staged_configuration_comes_into_force_everywhere_at_once_when_all_have_it() {
    let mut farm = Farm::settled(3);
    for node in 0..3 {
        assert_eq!(farm.nodes[0].view().expect("up").digest, [0; 16]);
        let now = farm.now();
        farm.nodes[node].stage(now, NEXT, false);
        farm.run(200);
    }
    for node in 0..3 {
        let view = farm.nodes[node].view().expect("up");
        assert_eq!((view.digest, view.alive), (NEXT, set(&[0, 1, 2])));
        assert_eq!(farm.nodes[node].configurations(), (NEXT, None));
        assert_eq!(farm.events(node, "config_activated").len(), 1);
        assert!(farm.events(node, "lease_lapsed").is_empty());
    }
}

/// A node that has gone over hears of the others' going over a moment later, and must not take them for
/// adherents of the former file meanwhile.
#[test]
fn going_over_holds_nobody_back_however_often_a_node_judges() {
    for dropped in [false, true] {
        let mut farm = Farm::settled(3);
        farm.eager = true;
        farm.clear_log();
        let now = farm.now();
        for node in 0..if dropped { 2 } else { 3 } {
            farm.nodes[node].stage(now, NEXT, false);
        }
        farm.run(100);
        if dropped {
            let now = farm.now();
            farm.nodes[2].leave(now);
            farm.run(30);
            assert!(farm.nodes[2].has_left());
            farm.stop(2);
        }
        farm.run(600);
        for node in 0..2 {
            assert_eq!(farm.nodes[node].view().expect("up").digest, NEXT);
            assert_eq!(farm.events(node, "held_back"), [""; 0], "{node} {dropped}");
        }
    }
}

#[test]
fn what_was_set_by_group_is_forgotten_with_the_file_and_drains_are_not() {
    let mut farm = Farm::settled(2);
    let now = farm.now();
    farm.nodes[0].set_power(now, Some(0), id(0), Some(3), false).expect("room");
    farm.nodes[0].set_power(now, None, id(1), Some(0), false).expect("room");
    for node in &mut farm.nodes {
        node.stage(now, NEXT, false);
    }
    farm.run(300);
    let view = farm.nodes[1].view().expect("up");
    assert_eq!((view.digest, view.idle), (NEXT, set(&[1])));
    assert_eq!(view.powers.power(0, id(0)), None);
    let epoch = view.epoch;
    farm.run(500);
    assert_eq!(farm.nodes[1].view().expect("up").epoch, epoch);
}

#[test]
fn a_staged_configuration_can_be_taken_back() {
    let mut farm = Farm::settled(2);
    let now = farm.now();
    farm.nodes[0].stage(now, NEXT, false);
    farm.run(100);
    let now = farm.now();
    farm.nodes[0].stage(now, [0; 16], false);
    farm.nodes[1].stage(now, NEXT, false);
    farm.run(300);
    assert_eq!(farm.nodes[0].view().expect("up").digest, [0; 16]);
}

#[test]
fn a_forced_configuration_leaves_those_behind_that_do_not_have_it() {
    for stager in 0..3 {
        let mut farm = Farm::settled(3);
        farm.clear_log();
        let now = farm.now();
        farm.nodes[stager].stage(now, NEXT, true);
        farm.run(400);
        let others: Vec<_> = (0..3).filter(|&node| node != stager).collect();
        let view = farm.nodes[stager].view().expect("up");
        assert_eq!((view.digest, view.alive), (NEXT, set(&[stager])));
        let taken = |o: &Output| matches!(o, Output::Acquire(view) if view.digest == NEXT);
        let taken = farm.when(stager, taken).expect("it goes over");
        let now = farm.now();
        for node in others {
            assert_eq!(farm.nodes[node].view(), None);
            let idle =
                |o: &Output| matches!(o, Output::Release(v) if !v.owners().contains(id(node)));
            assert!(farm.when(node, idle).expect("it lets go") < taken);
            assert_eq!(farm.events(node, "held_back").len(), 1);
            farm.nodes[node].stage(now, NEXT, false);
        }
        farm.run(2000);
        assert!(farm.nodes.iter().all(|node| node.view().is_some_and(|view| view.digest == NEXT)));
    }
}

#[test]
fn the_configuration_of_the_most_nodes_is_served_wherever_the_odd_one_stands() {
    for odd in 0..3 {
        let mut farm = Farm::of(3);
        let config = Config { digest: NEXT, ..config(odd, 3) };
        farm.nodes[odd] = Membership::new(config, 100, at(0));
        farm.run(3 * LISTENED);
        let others: Vec<_> = (0..3).filter(|&node| node != odd).collect();
        assert_eq!(farm.nodes[odd].view(), None);
        assert!(others.iter().all(|&node| farm.members(node) == set(&others)));
        assert_eq!(farm.nodes[odd].held_back_by(), Some(id(others[0])));
        // It learns of the other file and joins.
        let now = farm.now();
        farm.nodes[odd].stage(now, [0; 16], false);
        farm.run(800);
        assert!((0..3).all(|node| farm.members(node) == set(&[0, 1, 2])));
    }
}

#[test]
fn another_file_adds_and_displaces_nodes_behind_the_others_and_forgets_none() {
    let mut node = Membership::new(config(0, 3), 1, at(0));
    let names =
        |node: &Membership| node.nodes().iter().map(|node| node.name.clone()).collect::<Vec<_>>();
    let nodes = config(0, 4).nodes;
    node.reconfigure(at(0), vec![KEY], &nodes[..2]);
    assert_eq!(names(&node), ["node1", "node2", "node3"], "it may still serve");
    node.reconfigure(at(0), vec![KEY], &nodes);
    assert_eq!(names(&node).len(), 4);
    let ack = Ack { life: 1, sequence: 1 };
    node.handle_timeout(at(0));
    hear(&mut node, at(0), &heartbeat(3, 2, ack));
    node.handle_timeout(at(0));
    assert!(node.hears.contains(id(3)));
    let mut others = nodes;
    others[3] = Node { name: "other".into(), addresses: vec![[192, 0, 2, 77].into()] };
    node.reconfigure(at(1), vec![KEY], &others);
    assert_eq!(names(&node)[3], "other");
    node.handle_timeout(at(1));
    assert!(!node.hears.contains(id(3)), "another machine");
    hear(&mut node, at(2), &Heartbeat { sequence: 2, ..heartbeat(3, 2, ack) });
    assert_eq!(node.counters().dropped(Dropped::Source), 1);
}
