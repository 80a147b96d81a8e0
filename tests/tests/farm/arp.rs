//! Address resolution: one answer to each request, and never another MAC than the VMAC.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, UdpSocket},
    thread,
};

use vipfarm::model::Mac;
use vipfarm_lab::{Captured, Direction, Frame, lab::VIP, require, skip};

use crate::{
    ONE_VIP, all, eventually, has_event, lab, packets, packets_of_all, running, vmac,
    wire::{self, SILENCE, arp, arp_replies, node_of},
};

const BROADCAST: Mac = Mac([0xff; 6]);

#[test]
fn t1_t2_t3_whatever_a_node_sends_nobody_learns_another_mac_for_the_vip() {
    let program = require!(skip::farm());
    let lab = lab("guard", 2, 4);
    let farm = running(&lab, &program, ONE_VIP);
    let (client, node) = (lab.client(1), lab.node(2));
    let resolve = client.in_ns(|| UdpSocket::bind((client.address(), 0))).unwrap();
    resolve.send_to(b"who has the VIP?", (VIP, 9)).unwrap();
    eventually("the client knows the VIP", || {
        client.neighbour(IpAddr::V4(VIP)).unwrap() == Some(vmac())
    });

    // What `arping -I`, `arping -U` and `arping -A` write: a request, and the two announcements.
    let own = (node.mac(), VIP);
    let speaking_for_the_vip = [
        Frame::arp_request(node.mac(), VIP, client.address()),
        Frame::arp_request(node.mac(), VIP, VIP),
        Frame::arp_reply(own, (BROADCAST, VIP)),
    ];
    let frames: Vec<_> = speaking_for_the_vip.iter().map(Frame::bytes).collect();
    let sent = |frame: &Captured| frame.direction == Direction::Incoming && arp(frame).is_some();
    let wire = node.capture_on_wire_if(sent).unwrap();
    let before = farm.status(2).unwrap().guard;
    node.inject_all(&frames).unwrap();
    // A frame whose Ethernet source is the VMAC (T2).
    let to_client = Frame::udp((node.address(), 9), (client.address(), 9), b"stray");
    let stray = client.capture_if(|frame| is_received(frame, b"stray")).unwrap();
    node.inject(&to_client.macs(vmac(), client.mac()).bytes()).unwrap();
    thread::sleep(SILENCE);

    let on_wire = wire.stop();
    let for_the_vip: Vec<_> =
        on_wire.iter().filter_map(arp).filter(|arp| arp.sender.1 == VIP).collect();
    assert_eq!(for_the_vip.len(), 3, "{on_wire:?}");
    for arp in for_the_vip {
        assert_eq!((arp.mac, arp.sender.0), (node.mac(), vmac()), "{arp:?}");
    }
    let stray = stray.stop();
    assert_eq!(stray.iter().map(wire::source).collect::<Vec<_>>(), [node.mac()]);
    let after = farm.status(2).unwrap().guard;
    assert_eq!(after["arp_corrected"], before["arp_corrected"] + 3);
    assert_eq!(after["source_corrected"], before["source_corrected"] + 1);
    assert_eq!(client.neighbour(IpAddr::V4(VIP)).unwrap(), Some(vmac()));
    assert!(lab.fdb().unwrap().iter().all(|entry| entry.mac != vmac()));
}

#[test]
fn t1_a_node_that_uses_the_vip_as_its_source_asks_in_a_way_that_poisons_nobody() {
    let program = require!(skip::farm());
    let lab = lab("source", 2, 4);
    let _farm = running(&lab, &program, ONE_VIP);
    let (client, node) = (lab.client(1), lab.node(1));
    let asked = |frame: &Captured| {
        frame.direction == Direction::Incoming
            && arp(frame).is_some_and(|arp| arp.request && arp.target.1 != VIP)
    };
    let wire = node.capture_on_wire_if(asked).unwrap();
    let arrives = client.capture_if(|frame| is_received(frame, b"from the VIP")).unwrap();
    // What `ping -I VIP` does: the kernel must ask for the client's MAC first.
    let socket = node.in_ns(|| UdpSocket::bind((VIP, 0))).unwrap();
    socket.send_to(b"from the VIP", (client.address(), 9)).unwrap();
    let frame = arrives.wait_for(crate::PATIENCE, |_| true).unwrap();
    assert_eq!(wire::source(&frame), node.mac());

    let requests: Vec<_> = wire.stop().iter().filter_map(arp).collect();
    assert!(!requests.is_empty());
    for request in requests {
        assert_eq!(request.mac, node.mac());
        assert_eq!(request.sender, (node.mac(), node.address()), "its own address asks");
    }
    // Unless the client has just asked for the VIP itself, to say that its port 9 is closed.
    assert!(client.neighbour(IpAddr::V4(VIP)).unwrap().is_none_or(|mac| mac == vmac()));
    assert_eq!(client.neighbour(IpAddr::V4(node.address())).unwrap(), Some(node.mac()));
}

#[test]
fn t4_exactly_one_node_answers_an_arp_request() {
    let program = require!(skip::farm());
    let lab = lab("arp", 3, 1);
    let farm = running(&lab, &program, ONE_VIP);
    let client = lab.client(1);
    let asking: Vec<_> = (0..200).map(|i| Ipv4Addr::new(10, 77, 9, i)).collect();
    let request = |&sender: &Ipv4Addr| Frame::arp_request(client.mac(), sender, VIP).bytes();
    let replies = arp_replies(client, &asking.iter().map(request).collect::<Vec<_>>());

    let mut answered: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for reply in &replies {
        assert_eq!(reply.sender, (vmac(), VIP));
        assert_eq!(reply.target.0, client.mac());
        answered.entry(reply.target.1).or_default().push(node_of(&lab, reply.mac));
    }
    wire::assert_answered_in_turn(&lab, &asking, &answered, &replies);
    for client in asking.iter().step_by(10) {
        let (client_text, vip) = (client.to_string(), VIP.to_string());
        let explained = farm.explain_offline(&[&client_text, &vip, "--proto", "arp"]).unwrap();
        assert_eq!(explained.owner.as_deref(), Some(answered[client][0]), "{client}");
    }

    // T2: all these exchanges later the switch still floods to the VMAC.
    assert!(lab.fdb().unwrap().iter().all(|entry| entry.mac != vmac()));
    let wires: Vec<_> = lab.nodes().iter().map(|node| node.capture_on_wire().unwrap()).collect();
    let frame = Frame::udp((client.address(), 9), (VIP, 9), b"flooded");
    client.inject(&frame.macs(client.mac(), vmac()).bytes()).unwrap();
    for wire in wires {
        assert!(wire.wait_for(SILENCE, |frame| frame.bytes.ends_with(b"flooded")).is_some());
    }
}

#[test]
fn t5_a_strangers_probe_is_answered_once_and_a_members_by_nobody() {
    let program = require!(skip::farm());
    let lab = lab("probe", 3, 1);
    let farm = running(&lab, &program, ONE_VIP);
    let client = lab.client(1);
    let probe = |mac| Frame::arp_request(mac, Ipv4Addr::UNSPECIFIED, VIP).bytes();
    let strangers: Vec<_> = (0..40).map(|i| Mac([2, 0, 0, 0, 9, i])).collect();
    let frames: Vec<_> = strangers.iter().copied().map(probe).collect();
    let replies = arp_replies(client, &frames);
    let defended: Vec<_> = replies.iter().map(|reply| reply.target.0).collect();
    assert_eq!(defended.len(), strangers.len(), "one reply each: {replies:?}");
    assert_eq!(BTreeSet::from_iter(defended), BTreeSet::from_iter(strangers));
    assert!(replies.iter().all(|reply| reply.sender == (vmac(), VIP)));
    let by: BTreeSet<_> = replies.iter().map(|reply| node_of(&lab, reply.mac)).collect();
    assert!(by.len() > 1, "a probe is bucketed by its MAC: only {by:?} answered");
    assert_eq!(packets_of_all(&farm, "arp_probe"), 40);
    for node in by {
        let node = lab.nodes().iter().position(|it| it.name() == node).unwrap() + 1;
        eventually("who wants the VIP is told of", || has_event(&farm, node, "address_conflict"));
    }

    let member = lab.node(2);
    let before = packets_of_all(&farm, "arp_peer");
    let frames =
        [probe(member.mac()), Frame::arp_request(member.mac(), member.address(), VIP).bytes()];
    assert_eq!(arp_replies(member, &frames), [], "members never answer members");
    // And now and then a probe of the first node's.
    let heard = packets_of_all(&farm, "arp_peer") - before;
    assert!((4..=6).contains(&heard), "two others heard both: {heard}");
}

#[test]
fn a_strangers_claim_of_the_vip_is_counted_by_all_and_answered_by_nobody() {
    let program = require!(skip::farm());
    let lab = lab("claim", 3, 1);
    let farm = running(&lab, &program, ONE_VIP);
    let client = lab.client(1);
    let (mac, nobody) = (client.mac(), (BROADCAST, VIP));
    let claims =
        [Frame::arp_request(mac, VIP, VIP).bytes(), Frame::arp_reply((mac, VIP), nobody).bytes()];
    assert_eq!(arp_replies(client, &claims), []);
    for node in all(&lab) {
        assert_eq!(packets(&farm, node, "arp_conflict"), 2, "node{node}");
    }
}

fn is_received(frame: &Captured, ends_with: &[u8]) -> bool {
    frame.direction == Direction::Incoming && frame.bytes.ends_with(ends_with)
}
