//! The egress guard on single frames, as the kernel runs it.

use std::net::{Ipv4Addr, Ipv6Addr};

use vipfarm::{datapath::manual::Entry, model::Mac};
use vipfarm_lab::{
    Frame, require, skip,
    world::{
        CLIENT, OWN, OWN_V4, OWN_V4_TAGGED, OWN_V6, OWN_V6_TAGGED, PEER, VIP, VIP_DIRECTED,
        VIP_DIRECTED_TAGGED, VIP_FLOATED, VIP_FLOATING, VIP_OF_NODE2, VIP6, VIP6_DIRECTED,
        VIP6_DIRECTED_TAGGED, VIP6_FLOATED, VIP6_FLOATING, VMAC, VMAC_OF_NODE2, VMAC6, World,
    },
};

const OTHER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 11);

#[test]
fn t1_t3_arp_that_speaks_for_a_vip_carries_its_vmac() {
    require!(skip::bpf());
    let mut kernel = World::new().kernel();
    for (vip, vmac) in [(VIP, VMAC), (VIP_OF_NODE2, VMAC_OF_NODE2)] {
        for frame in [
            Frame::arp_request(OWN, vip, OTHER),
            Frame::arp_request(OWN, vip, vip),
            Frame::arp_reply((OWN, vip), (CLIENT, OTHER)),
        ] {
            let run = kernel.run(Entry::Guard, &frame.bytes()).expect("it runs");
            assert_eq!(run.frame[22..28], vmac.0, "the sender's hardware address");
            assert_eq!(run.frame[6..12], OWN.0, "the Ethernet source");
            assert_eq!(run.guarded, ["arp_corrected"]);
            assert_eq!(run.action.cast_signed(), -1, "the next program has its turn");
        }
    }
}

/// What a frame would be with other bytes: checksums and all.
fn assert_guarded(frame: &Frame, expected: &Frame, word: &str) {
    let mut kernel = World::new().kernel();
    let run = kernel.run(Entry::Guard, &frame.bytes()).expect("it runs");
    assert_eq!(run.frame, expected.bytes(), "{word}");
    assert_eq!(run.guarded, [word]);
    assert_eq!(run.action.cast_signed(), -1, "the next program has its turn");
}

#[test]
fn t7_neighbour_discovery_that_speaks_for_a_vip_carries_its_vmac() {
    require!(skip::bpf());
    let (all, other) = (Ipv6Addr::from([0xff02, 0, 0, 0, 0, 0, 0, 1]), OWN_V6);
    for (frame, expected) in [
        (Frame::advertisement(OWN, VIP6, all, 0x20), Frame::advertisement(VMAC6, VIP6, all, 0x20)),
        (
            Frame::advertisement(OWN, VIP6, other, 0x60),
            Frame::advertisement(VMAC6, VIP6, other, 0x60),
        ),
        (Frame::solicitation(OWN, VIP6, other), Frame::solicitation(VMAC6, VIP6, other)),
    ] {
        let to = Mac([0x33, 0x33, 0, 0, 0, 1]);
        assert_guarded(&frame.macs(OWN, to), &expected.macs(OWN, to), "nd_corrected");
    }
    // The address behind another option: a nonce (RFC 7527).
    let with = |mac: Mac| {
        let options = [&[14, 1, 1, 2, 3, 4, 5, 6][..], &[1, 1], &mac.0].concat();
        let body = [&other.octets()[..], &options].concat();
        Frame::icmpv6(VIP6, all, [135, 0, 0, 0, 0, 0], &body).hops(255).macs(OWN, CLIENT)
    };
    assert_guarded(&with(OWN), &with(VMAC6), "nd_corrected");
}

#[test]
fn t1_a_node_that_answers_with_its_own_mac_never_asks_as_the_vip() {
    require!(skip::bpf());
    assert_guarded(
        &Frame::arp_request(OWN, VIP_DIRECTED, OTHER),
        &Frame::arp_request(OWN, OWN_V4, OTHER),
        "arp_corrected",
    );
    let other = Ipv6Addr::from([0xfd00, 1, 0, 0, 0, 0, 0, 7]);
    assert_guarded(
        &Frame::solicitation(OWN, VIP6_DIRECTED, other),
        &Frame::solicitation(OWN, OWN_V6, other),
        "nd_corrected",
    );
}

#[test]
fn t1_only_the_node_that_has_a_failover_vip_may_announce_it() {
    require!(skip::bpf());
    let mut kernel = World::new().kernel();
    let announcement = |vip| Frame::arp_request(OWN, vip, vip).bytes();
    let asks = |vip| Frame::arp_request(OWN, OWN_V4, vip).bytes();
    let mut leaves = |frame: Vec<u8>, leased: bool| {
        if leased {
            kernel.lease(std::time::Duration::from_mins(1)).expect("a lease");
        } else {
            kernel.fence();
        }
        kernel.run(Entry::Guard, &frame).expect("it runs").frame
    };
    assert_eq!(leaves(announcement(VIP_FLOATING), true), announcement(VIP_FLOATING));
    assert_eq!(leaves(announcement(VIP_FLOATING), false), asks(VIP_FLOATING), "it has no lease");
    assert_eq!(leaves(announcement(VIP_FLOATED), true), asks(VIP_FLOATED), "another node has it");
    let question = |own| Frame::arp_request(OWN, own, OTHER).bytes();
    assert_eq!(leaves(question(VIP_FLOATING), true), question(OWN_V4), "a question is its own");
}

#[test]
fn t1_t3_nobody_claims_a_vip_for_a_mac_that_does_not_serve_it() {
    require!(skip::bpf());
    let mut kernel = World::new().kernel();
    let all: Ipv6Addr = "ff02::1".parse().expect("an address");
    // What `arping -A` writes, and what an agent tells a client.
    let v4 = |vip, mac| {
        [Frame::arp_reply((mac, vip), (mac, vip)), Frame::arp_reply((mac, vip), (CLIENT, OTHER))]
    };
    let v6 = |vip, mac| {
        [all, OWN_V6].map(|to| Frame::advertisement(mac, vip, to, 0x20).macs(OWN, CLIENT))
    };
    let claims = |v4_vip, v6_vip, mac| {
        let frames = v4(v4_vip, mac).into_iter().chain(v6(v6_vip, mac));
        frames.map(|frame| frame.macs(OWN, CLIENT).bytes()).collect::<Vec<_>>()
    };
    let bare = |vip: Ipv6Addr| {
        let head = [136, 0, 0x20, 0, 0, 0];
        Frame::icmpv6(OWN_V6, all, head, &vip.octets()).hops(255).macs(OWN, CLIENT).bytes()
    };
    let (floating, floated) = ((VIP_FLOATING, VIP6_FLOATING), (VIP_FLOATED, VIP6_FLOATED));
    let directed = (VIP_DIRECTED, VIP6_DIRECTED);
    for (name, (v4_vip, v6_vip), mac, leased, leaves) in [
        ("its own", floating, OWN, true, true),
        ("another's, by its MAC", floating, CLIENT, true, false),
        ("a peer's MAC", floating, PEER, true, false),
        ("its own, whose agent is gone", floating, OWN, false, false),
        ("another node's", floated, OWN, true, false),
        ("shared", directed, OWN, true, true),
        ("shared, another node's share", directed, PEER, true, true),
        ("shared, a MAC that is nobody's", directed, CLIENT, true, false),
        ("shared, by a node whose agent is gone", directed, OWN, false, false),
    ] {
        if leased {
            kernel.lease(std::time::Duration::from_mins(1)).expect("a lease");
        } else {
            kernel.fence();
        }
        let mut frames = claims(v4_vip, v6_vip, mac);
        frames.extend((mac == OWN).then(|| bare(v6_vip)));
        for frame in frames {
            let run = kernel.run(Entry::Guard, &frame).expect("it runs");
            assert_eq!(run.frame, frame, "{name}");
            let (action, guarded): (_, &[_]) = if leaves { (-1, &[]) } else { (2, &["refused"]) };
            assert_eq!((run.action.cast_signed(), &run.guarded[..]), (action, guarded), "{name}");
        }
    }
}

#[test]
fn t1_a_node_without_an_address_to_ask_with_asks_as_the_vip_only_where_it_alone_has_it() {
    require!(skip::bpf());
    let mut kernel = World::without_addresses().kernel();
    let v4 = |vip| Frame::arp_request(OWN, vip, OTHER).macs(OWN, CLIENT).bytes();
    let v6 = |vip| Frame::solicitation(OWN, vip, OWN_V6).macs(OWN, CLIENT).bytes();
    for leased in [true, false] {
        if leased {
            kernel.lease(std::time::Duration::from_mins(1)).expect("a lease");
        } else {
            kernel.fence();
        }
        for (frame, is_alone) in [
            (v4(VIP_FLOATING), true),
            (v6(VIP6_FLOATING), true),
            (v4(VIP_FLOATED), false),
            (v4(VIP_DIRECTED), false),
            (v6(VIP6_DIRECTED), false),
        ] {
            let run = kernel.run(Entry::Guard, &frame).expect("it runs");
            if leased && is_alone {
                assert_eq!((&run.frame, &run.guarded[..]), (&frame, &[][..]), "{frame:?}");
            } else {
                assert_eq!((run.action, &run.guarded[..]), (2, &["refused"][..]), "{frame:?}");
            }
        }
    }
}

#[test]
fn t1_t23_a_node_asks_in_a_vlan_with_its_address_there() {
    require!(skip::bpf());
    let ask = |own| Frame::arp_request(OWN, own, OTHER).vlan(40);
    assert_guarded(&ask(VIP_DIRECTED_TAGGED), &ask(OWN_V4_TAGGED), "arp_corrected");
    let other = Ipv6Addr::from([0xfd00, 1, 0, 0, 0, 0, 0, 7]);
    let ask = |own| Frame::solicitation(OWN, own, other).vlan(40);
    assert_guarded(&ask(VIP6_DIRECTED_TAGGED), &ask(OWN_V6_TAGGED), "nd_corrected");
}

#[test]
fn t2_the_vmac_never_leaves_as_an_ethernet_source() {
    require!(skip::bpf());
    let mut kernel = World::new().kernel();
    let frame = Frame::udp("10.9.0.11:1", "10.1.0.1:2", b"x").macs(VMAC, CLIENT).bytes();
    let run = kernel.run(Entry::Guard, &frame).expect("it runs");
    assert_eq!(run.frame[6..12], OWN.0);
    assert_eq!(run.frame[14..], frame[14..]);
    assert_eq!(run.guarded, ["source_corrected"]);
    let announcement = Frame::arp_request(OWN, VIP, VIP).macs(VMAC, CLIENT).bytes();
    let run = kernel.run(Entry::Guard, &announcement).expect("it runs");
    assert_eq!((&run.frame[6..12], &run.frame[22..28]), (&OWN.0[..], &VMAC.0[..]));
}

#[test]
fn everything_else_leaves_as_it_came() {
    require!(skip::bpf());
    let mut kernel = World::new().kernel();
    kernel.lease(std::time::Duration::from_mins(1)).expect("a lease");
    for frame in [
        Frame::arp_request(OWN, OTHER, VIP).macs(OWN, Mac([0xff; 6])),
        Frame::arp_reply((VMAC, VIP), (CLIENT, OTHER)).macs(OWN, CLIENT),
        Frame::tcp("10.9.0.100:80", "10.1.0.1:4000", 0x12).macs(OWN, CLIENT),
        Frame::udp("[fd00::1]:1", "[fd00::2]:2", b"x").macs(OWN, CLIENT),
        Frame::arp_reply((OWN, VIP_DIRECTED), (CLIENT, OTHER)).macs(OWN, CLIENT),
        Frame::advertisement(OWN, VIP6_DIRECTED, OWN_V6, 0x60).macs(OWN, CLIENT),
        Frame::advertisement(VMAC6, VIP6, OWN_V6, 0x60).macs(OWN, CLIENT),
        Frame::solicitation(OWN, OWN_V6, VIP6).macs(OWN, CLIENT),
        Frame::udp("10.9.0.11:1", "10.1.0.1:2", b"x").macs(CLIENT, OWN),
    ] {
        let frame = frame.bytes();
        let run = kernel.run(Entry::Guard, &frame).expect("it runs");
        assert_eq!(run.frame, frame);
        assert!(run.guarded.is_empty(), "{:?}", run.guarded);
    }
}
