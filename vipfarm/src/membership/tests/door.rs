//! What comes from the network: taken, refused, dropped.

use super::*;
use crate::model::MAX_NODES;

#[test]
fn an_epoch_beyond_reason_is_dropped_and_the_farm_goes_on() {
    let mut farm = Farm::settled(3);
    for wild in [u64::MAX, 1 << 60, EPOCH_JUMP * 2] {
        farm.nodes[1].max_epoch = wild;
        farm.run(100);
    }
    assert_eq!(
        farm.events(0, "wild_epoch"),
        ["node2 names a view number beyond reason: it is not listened to; restart its agent"]
    );
    assert!(farm.nodes[0].counters().dropped(Dropped::Epoch) > 0);
    farm.run(400);
    assert_eq!((farm.members(0), farm.members(2)), (set(&[0, 2]), set(&[0, 2])));
    farm.stop(1);
    farm.restart(1);
    farm.run(2500);
    assert!((0..3).all(|node| farm.members(node) == set(&[0, 1, 2])));
}

#[test]
fn an_epoch_within_reason_is_followed() {
    let mut farm = Farm::settled(3);
    farm.nodes[1].max_epoch = EPOCH_JUMP;
    farm.run(100);
    farm.stop(2);
    farm.run(400);
    assert_eq!(farm.members(0), set(&[0, 1]));
    assert!(farm.nodes[0].view().expect("up").epoch > EPOCH_JUMP);
}

#[test]
fn a_new_agent_of_a_peer_is_taken_when_the_old_one_is_silent() {
    let (mut node, ack) = speaking();
    let old = heartbeat(1, 2, ack);
    let new = heartbeat(1, 77, ack);
    hear(&mut node, at(0), &old);
    node.handle_timeout(at(0));
    hear(&mut node, at(100), &new);
    assert_eq!(node.counters().dropped(Dropped::Incarnation), 1);
    hear(&mut node, at(110), &Heartbeat { sequence: 2, ..new });
    node.handle_timeout(at(110));
    assert!(kinds(&drain(&mut node)).contains(&"node_restarted"));
    assert_eq!(node.peers(at(110)).next().and_then(|peer| peer.incarnation), Some(77));
}

#[test]
fn an_agent_is_alive_when_it_acknowledges_what_this_one_has_just_sent() {
    let (mut node, ack) = speaking();
    let strange = Ack { life: 99, ..ack };
    let never = Ack { sequence: 9, ..ack };
    for (sequence, heard) in (1..).zip([Ack::default(), strange, never]) {
        hear(&mut node, at(10), &Heartbeat { sequence, ..heartbeat(1, 2, heard) });
        node.handle_timeout(at(10));
        assert!(node.hears.is_empty(), "{heard:?}");
    }
    assert_eq!(node.counters().dropped(Dropped::Unproven), 3);
    // Recorded then and played now.
    hear(&mut node, at(260), &Heartbeat { sequence: 4, ..heartbeat(1, 2, ack) });
    node.handle_timeout(at(260));
    assert!(node.hears.is_empty());
    let sequence = node.counters().sent;
    let now = Ack { sequence: u32::try_from(sequence).expect("few"), ..ack };
    hear(&mut node, at(270), &Heartbeat { sequence: 5, ..heartbeat(1, 2, now) });
    node.handle_timeout(at(270));
    assert_eq!(node.hears, set(&[1]));
}

#[test]
fn a_new_agent_is_answered_at_once() {
    let (mut node, _) = speaking();
    hear(&mut node, at(10), &heartbeat(1, 2, Ack::default()));
    assert!(node.next_deadline() <= at(10));
    node.handle_timeout(at(10));
    let sent = drain(&mut node);
    let [Output::Send { datagram, .. }] = &sent[..] else { panic!("{sent:?}") };
    let answer = wire::open(datagram, 0, &[KEY]).expect("our own");
    assert_eq!(answer.acks[1], Ack { life: 2, sequence: 1 });
}

#[test]
fn an_agent_that_said_goodbye_is_followed_at_once() {
    let (mut node, ack) = speaking();
    let mut old = heartbeat(1, 2, ack);
    old.state.flags = Flags::LEAVING;
    hear(&mut node, at(0), &old);
    hear(&mut node, at(0), &heartbeat(1, 77, ack));
    assert_eq!(node.counters().accepted, 2);
}

#[test]
fn a_mac_is_told_when_learnt_and_when_changed() {
    let (mut node, ack) = speaking();
    let mut heartbeat = heartbeat(1, 2, ack);
    let first = heartbeat.mac;
    let moved = Mac([2, 0, 0, 0, 0, 99]);
    for (sequence, mac) in [(1, first), (2, first), (3, moved)] {
        (heartbeat.sequence, heartbeat.mac) = (sequence, mac);
        hear(&mut node, at(0), &heartbeat);
    }
    let outputs = drain(&mut node);
    let told: Vec<_> = outputs.iter().filter(|o| matches!(o, Output::Peer(..))).collect();
    assert_eq!(told, [&Output::Peer(id(1), 0, first), &Output::Peer(id(1), 0, moved)]);
}

#[test]
fn every_reason_to_drop_a_datagram_is_counted() {
    let (mut node, ack) = speaking();
    let (peer, stranger) = (address(1), IpAddr::from(Ipv4Addr::new(203, 0, 113, 9)));
    let good = heartbeat(1, 2, ack);
    let numbered = |sequence| Heartbeat { sequence, ..good.clone() };
    let altered = |at: usize| {
        let mut bytes = seal(&good);
        bytes[at] ^= 1;
        bytes
    };
    let own = |incarnation| Heartbeat { source: id(0), ..heartbeat(1, incarnation, ack) };
    let mut wild = numbered(9);
    wild.state.max_epoch = u64::MAX;
    let unproven = Heartbeat { sequence: 9, ..heartbeat(1, 2, Ack::default()) };
    node.handle_datagram(at(0), 0, peer, &seal(&numbered(5)));
    for (reason, millis, source, bytes) in [
        (Dropped::Size, 0, peer, vec![0; 3]),
        (Dropped::Magic, 0, peer, altered(0)),
        (Dropped::Version, 0, peer, altered(4)),
        (Dropped::Farm, 0, peer, wire::seal(&good, 0, wire::farm_id("other"), &KEY)),
        (Dropped::Source, 0, stranger, seal(&good)),
        (Dropped::Source, 0, address(0), seal(&good)),
        (Dropped::Tag, 0, peer, altered(20)),
        (Dropped::Tag, 0, peer, wire::seal(&good, 0, wire::farm_id("web"), &[8; 32])),
        (Dropped::Link, 0, peer, wire::reseal(&seal(&good), 1, good.mac, &KEY)),
        (Dropped::Malformed, 0, peer, seal(&Heartbeat { source: id(2), ..good.clone() })),
        (Dropped::Own, 0, address(0), seal(&own(1))),
        (Dropped::Duplicate, 0, address(0), seal(&own(3))),
        (Dropped::Stale, 0, peer, seal(&numbered(5))),
        (Dropped::Stale, 0, peer, seal(&numbered(4))),
        (Dropped::Incarnation, 0, peer, seal(&heartbeat(1, 3, ack))),
        (Dropped::Epoch, 0, peer, seal(&wild)),
        (Dropped::Unproven, 300, peer, seal(&unproven)),
    ] {
        let before = node.counters().dropped(reason);
        node.handle_datagram(at(millis), 0, source, &bytes);
        assert_eq!(node.counters().dropped(reason), before + 1, "{reason:?}");
    }
    assert!(Dropped::ALL.into_iter().all(|reason| node.counters().dropped(reason) > 0));
    assert_eq!(node.counters().accepted, 1);
}

#[test]
fn nuisances_on_the_network_are_told_once_in_a_while() {
    let (mut node, ack) = speaking();
    let forged = wire::seal(&heartbeat(1, 2, ack), 0, wire::farm_id("web"), &[8; 32]);
    let twin = seal(&Heartbeat { source: id(0), ..heartbeat(1, 2, ack) });
    for millis in [0, 1, 9_999, 10_000] {
        node.handle_datagram(at(millis), 0, address(1), &forged);
        node.handle_datagram(at(millis), 0, address(0), &twin);
    }
    let kinds = kinds(&drain(&mut node));
    for kind in ["bad_tag", "duplicate_node"] {
        assert_eq!(kinds.iter().filter(|&&k| k == kind).count(), 2, "{kind}");
    }
}

#[test]
fn a_peer_heard_through_a_dual_stack_socket_is_known() {
    let (mut node, ack) = speaking();
    let IpAddr::V4(peer) = address(1) else { panic!("the test's addresses are IPv4") };
    let bytes = seal(&heartbeat(1, 2, ack));
    node.handle_datagram(at(0), 0, peer.to_ipv6_mapped().into(), &bytes);
    assert_eq!(node.counters().accepted, 1);
}

proptest! {
    #[test]
    fn no_datagram_does_harm(
        bytes in vec(any::<u8>(), 0..400), flips in vec((any::<usize>(), any::<u8>()), 0..3),
    ) {
        let (mut node, ack) = speaking();
        node.handle_datagram(at(0), 0, address(1), &bytes);
        let mut mutated = seal(&heartbeat(1, 2, ack));
        for (at, byte) in flips {
            let at = at % mutated.len();
            mutated[at] = byte;
        }
        node.handle_datagram(at(0), 0, address(1), &mutated);
        node.handle_timeout(at(0));
    }

    #[test]
    fn no_authentic_nonsense_does_harm(
        words: [u64; 6], flags in 0..32u16, hash: [u8; 16], digest: bool, lives: [u32; 2],
    ) {
        let (mut node, ack) = speaking();
        let mut nonsense = heartbeat(1, 2, ack);
        let [epoch, alive, ready, hears, linked, sequence] = words;
        nonsense.sequence = sequence;
        let state = &mut nonsense.state;
        state.flags = Flags::of(flags);
        state.digest = if digest { [0; 16] } else { [1; 16] };
        state.promised = Stamp { id: ViewId { epoch, ..ViewId::default() }, hash };
        state.ready = NodeSet::from_bits(ready);
        state.hears = NodeSet::from_bits(hears);
        state.linked = NodeSet::from_bits(linked);
        let alive = NodeSet::from_bits(alive & 0b111);
        let lives = [lives[0], 1, lives[1]][..alive.len()].to_vec();
        let content = Content { alive, lives, ..Content::default() };
        let id = nonsense.state.promised.id;
        let mut proposal = Agreement::new(id, content);
        if hash[0] % 2 == 0 {
            nonsense.state.promised = proposal.stamp;
        } else {
            proposal.stamp = nonsense.state.promised;
        }
        nonsense.proposal = Some(Arc::new(proposal));
        hear(&mut node, at(0), &nonsense);
        for millis in [0, 1, 50, 400, 1000] {
            node.handle_timeout(at(millis));
        }
    }
}

/// As one would with a file that has more nodes than this node's.
#[test]
fn a_peer_that_speaks_of_nodes_that_are_none_does_no_harm() {
    let mut farm = Farm::settled(2);
    let beyond = NodeSet::from_bits(u64::MAX);
    let now = farm.now();
    let mut heartbeat = farm.nodes[0].heartbeat(now, TIMERS.fail);
    let state = &mut heartbeat.state;
    (state.hears, state.linked, state.ready) = (beyond, beyond, beyond);
    let id = ViewId { epoch: heartbeat.state.promised.id.epoch + 1, ..heartbeat.state.promised.id };
    let content = Content { alive: beyond, lives: vec![2; MAX_NODES], ..Content::default() };
    let proposal = Agreement::new(id, content);
    heartbeat.state.promised = proposal.stamp;
    heartbeat.proposal = Some(Arc::new(proposal));
    let node = &mut farm.nodes[1];
    let before = node.counters().accepted;
    hear(node, now, &heartbeat);
    node.handle_timeout(now);
    assert_eq!(node.counters().accepted, before + 1, "it is heard nevertheless");
    assert_eq!(node.promised.content.alive, set(&[0, 1]));
    assert!(node.linked.is_subset(set(&[0, 1])));
}
