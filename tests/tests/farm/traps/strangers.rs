//! T11: what nobody serves is refused once. T30: what is not the farm's is left alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use vipfarm::model::Mac;
use vipfarm_common::{Reason, reason::Verdict};
use vipfarm_lab::{Captured, Direction, Frame, frame::SYN, lab::VIP, lab::beside, require, skip};

use super::{BOTH, VIPS, Wires, lab};
use crate::{
    all, running, vmac,
    wire::{self, What, answers},
};

#[test]
fn t11_a_closed_port_refuses_once_in_both_families() {
    let program = require!(skip::farm());
    let lab = lab("closed", 3, 40);
    let _farm = running(&lab, &program, BOTH);
    let _wires = Wires::of(&lab, "t11");
    let client = lab.client(1);
    for vip in VIPS {
        let own = client.addresses_like(vip);
        let asked: BTreeSet<_> = own.iter().copied().collect();
        let to = |frame: Frame| frame.macs(client.mac(), vmac()).bytes();
        let at = |address: &IpAddr| std::net::SocketAddr::new(*address, 4000);
        let [tcp, udp] = [80, 7000].map(|port| std::net::SocketAddr::new(vip, port));
        let syns: Vec<_> = own.iter().map(|own| to(Frame::tcp(at(own), tcp, SYN))).collect();
        let datagrams: Vec<_> = own.iter().map(|own| to(Frame::udp(at(own), udp, b"?"))).collect();
        for (frames, refusal) in
            [(syns, What::Reset { target: 4000 }), (datagrams, What::Unreachable)]
        {
            let refused = answers(client, &frames, vip);
            let answered: BTreeSet<_> = refused.iter().map(|answer| answer.target).collect();
            assert!(refused.iter().all(|answer| answer.what == refusal), "{refused:?}");
            assert_eq!((refused.len(), answered), (own.len(), asked.clone()), "once each");
            let nodes: BTreeSet<_> =
                refused.iter().map(|answer| wire::node_of(&lab, answer.mac)).collect();
            assert!(nodes.len() > 1, "only {nodes:?} refused");
        }
    }
}

#[test]
fn t30_what_is_not_the_farms_reaches_every_node_as_it_was_sent_and_is_counted_so() {
    let program = require!(skip::farm());
    let lab = lab("passes", 3, 1);
    let farm = running(&lab, &program, BOTH);
    let _wires = Wires::of(&lab, "t30");
    let client = lab.client(1);
    let own = client.address();
    let (to_all, other) = (Mac([0xff; 6]), Mac([2, 0, 0, 0, 8, 8]));
    let mdns = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
    let elsewhere = Ipv4Addr::new(10, 77, 200, 1);
    let discover = Frame::udp((Ipv4Addr::UNSPECIFIED, 68), (Ipv4Addr::BROADCAST, 67), b"discover");
    let vrrp = Frame::ip(own.into(), Ipv4Addr::new(224, 0, 0, 18).into(), 112, b"vrrp");
    let vrrp_v6 = Frame::ip(
        beside(own).into(),
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12).into(),
        112,
        b"vrrp",
    );
    let rows = [
        (discover.macs(client.mac(), to_all), Reason::NotVip),
        (vrrp.macs(client.mac(), Mac([1, 0, 0x5e, 0, 0, 18])), Reason::NotVip),
        (vrrp_v6.macs(client.mac(), Mac([0x33, 0x33, 0, 0, 0, 0x12])), Reason::NotVip),
        (
            Frame::udp((beside(own), 5353), (mdns, 5353), b"mdns")
                .macs(client.mac(), Mac([0x33, 0x33, 0, 0, 0, 0xfb])),
            Reason::NotVip,
        ),
        (Frame::arp_request(client.mac(), own, elsewhere), Reason::NotVip),
        // Flooded by the switch, like all to a MAC that it has never heard.
        (Frame::udp((own, 9), (elsewhere, 9), b"other").macs(client.mac(), other), Reason::NotVip),
        (Frame::udp((own, 9), (elsewhere, 9), b"vmac").macs(client.mac(), vmac()), Reason::NotVip),
        (Frame::udp((own, 9), (VIP, 7000), b"bridged").macs(client.mac(), other), Reason::OtherMac),
        (
            Frame::icmp_echo(own.into(), VIP.into(), 1, 1).macs(client.mac(), other),
            Reason::OtherMac,
        ),
    ];
    let mut expected: BTreeMap<_, u64> = BTreeMap::new();
    let mut frames: Vec<_> = rows
        .iter()
        .map(|(frame, reason)| {
            *expected.entry(reason.as_str()).or_default() += 1;
            frame.bytes()
        })
        .collect();
    // Of a protocol that is not IP.
    frames.push([&[0xff; 6], &client.mac().0[..], &[0x88, 0xb5], &[7; 46]].concat());
    expected.insert(Reason::NotIp.as_str(), 1);

    let seen: Vec<_> = lab.nodes().iter().map(|node| node.capture().unwrap()).collect();
    let counted = || all(&lab).into_iter().map(|node| farm.status(node).unwrap().packets);
    let before: Vec<_> = counted().collect();
    client.inject_all(&frames).unwrap();
    for (node, seen) in (1..).zip(seen) {
        for frame in &frames {
            let same = |it: &Captured| it.direction == Direction::Incoming && it.bytes == *frame;
            assert!(
                seen.wait_for(Duration::from_secs(1), same).is_some(),
                "node{node}: {frame:02x?}"
            );
        }
    }
    for (node, (before, after)) in before.into_iter().zip(counted()).enumerate() {
        for reason in Reason::ALL.iter().filter(|reason| reason.verdict() != Verdict::Accept) {
            let word = reason.as_str();
            let (new, expected) = (after[word] - before[word], expected.get(word).copied());
            // Heartbeats are not for a VIP either, and now and then a node asks for its VIPs.
            let right = match reason {
                Reason::NotVip => new >= expected.unwrap_or_default(),
                Reason::ArpPeer | Reason::NdPeer => new <= 2,
                _ => new == expected.unwrap_or_default(),
            };
            assert!(right, "node{}: {new} times {word}, not {expected:?}", node + 1);
        }
    }
}
