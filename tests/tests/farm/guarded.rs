//! What leaves a node although nobody should believe it.

use std::{
    net::{IpAddr, Ipv4Addr, UdpSocket},
    thread,
};

use vipfarm::model::Mac;
use vipfarm_lab::{Captured, Direction, Frame, host::Host, lab::VIP, require, skip, tcx};

use crate::{
    ONE_VIP, PATIENCE, eventually, lab, running, vmac,
    wire::{SILENCE, arp},
};

const BROADCAST: Mac = Mac([0xff; 6]);

const FLOATING: &str = "vips:
  - interface: eth0
    mode: failover
    addresses: [10.77.0.100/16]
    priorities: { node1: 150, node2: 100 }
";

/// What `arping -A -I eth0 VIP` writes.
fn claim(node: &Host) -> Vec<Vec<u8>> {
    vec![Frame::arp_reply((node.mac(), VIP), (BROADCAST, VIP)).bytes()]
}

/// Whether a frame on the wire comes from the node and speaks for the VIP.
fn is_claim(frame: &Captured) -> bool {
    let speaks = |frame: &Captured| arp(frame).is_some_and(|arp| arp.sender.1 == VIP);
    frame.direction == Direction::Incoming && speaks(frame)
}

#[test]
fn t1_t3_a_node_that_does_not_have_a_failover_vip_cannot_take_its_clients() {
    let program = require!(skip::farm());
    let lab = lab("claims", 2, 4);
    let mut farm = running(&lab, &program, FLOATING);
    let (client, node1, node2) = (lab.client(1), lab.node(1), lab.node(2));
    let known = || client.neighbour(IpAddr::V4(VIP)).unwrap();
    let asks = client.in_ns(|| UdpSocket::bind((client.address(), 0))).unwrap();
    eventually("the client knows the holder", || {
        asks.send_to(b"who has the VIP?", (VIP, 9)).unwrap();
        known() == Some(node1.mac())
    });

    let refused = |farm: &vipfarm_lab::Farm<'_>| farm.status(2).unwrap().guard["refused"];
    assert_eq!(refused(&farm), 0);
    // As a hook may that believes it is the master.
    node2.inject_all(&claim(node2)).expect_err("its sender is told");
    // Its own stack may have tried as well.
    eventually("it was refused", || refused(&farm) >= 1);
    assert_eq!(known(), Some(node1.mac()));

    farm.kill(1).unwrap();
    eventually("the client has learnt of the new holder", || {
        asks.send_to(b"who has the VIP?", (VIP, 9)).unwrap();
        known() == Some(node2.mac())
    });
    // Its agent is gone, and the address is still there.
    assert!(node1.has_address(Ipv4Addr::into(VIP)).unwrap());
    let wire = node1.capture_on_wire_if(is_claim).unwrap();
    node1.inject_all(&claim(node1)).expect_err("its sender is told");
    thread::sleep(SILENCE);
    assert_eq!(wire.stop(), []);
    assert_eq!(known(), Some(node2.mac()));
}

#[test]
fn t3_another_program_that_ends_the_chain_keeps_nothing_from_the_guard() {
    let program = require!(skip::farm());
    let lab = lab("chain", 2, 4);
    let node = lab.node(2);
    let _stranger = node.in_ns(|| tcx::attach("eth0", false)).unwrap();
    let farm = running(&lab, &program, ONE_VIP);
    let wire = node.capture_on_wire_if(is_claim).unwrap();
    node.inject_all(&claim(node)).unwrap();
    let claimed = wire.wait_for(PATIENCE, |_| true).and_then(|frame| arp(&frame)).unwrap();
    assert_eq!((claimed.mac, claimed.sender.0), (node.mac(), vmac()));
    assert!(farm.status(2).unwrap().guard["arp_corrected"] > 0);
}
