//! `vmac_directed`: nodes answer with their own MACs and hand frames to the owner.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use vipfarm::model::{Mac, NodeId};
use vipfarm_common::{Reason, hash::ARP};
use vipfarm_lab::{
    Frame,
    frame::{ACK, SYN},
    world::{ANSWER, CLIENT, DIRECT, OWN, PEER, VIP_DIRECTED, VIP6_DIRECTED, World},
};

use super::{client, ipv6};

const TCP: u8 = 6;

pub(super) fn rows(world: &World, row: &mut impl FnMut(&'static str, Vec<u8>, Reason)) {
    let of = |node| client(|c| world.owner(DIRECT, c, 4000, TCP).map(NodeId::index) == Some(node));
    let syn = |from: Ipv4Addr| Frame::tcp((from, 4000), (VIP_DIRECTED, 80), SYN).macs(CLIENT, OWN);
    row("directed: TCP of an own bucket", syn(of(0)).bytes(), Reason::Mine);
    row("directed: TCP of a peer's bucket", syn(of(1)).bytes(), Reason::Forwarded);
    row("T19: of a peer whose MAC is not known", syn(of(2)).bytes(), Reason::NoNextHop);
    row("T17: that a peer handed over", syn(of(1)).macs(PEER, OWN).bytes(), Reason::HandedOver);
    row("directed: that a peer handed over, own", syn(of(0)).macs(PEER, OWN).bytes(), Reason::Mine);
    row(
        "directed: to all stations, a peer's",
        syn(of(1)).macs(CLIENT, Mac([0xff; 6])).bytes(),
        Reason::NotMine,
    );
    row(
        "T30: directed, to another station",
        syn(of(1)).macs(CLIENT, PEER).bytes(),
        Reason::OtherMac,
    );
    row("T19: in a priority tag, which stays", syn(of(1)).vlan(0).bytes(), Reason::Forwarded);
    row("directed: behind IP options", syn(of(1)).ip_options(&[1; 8]).bytes(), Reason::Forwarded);
    let v6 = |node| {
        let from =
            ipv6::client(|c| world.owner(DIRECT, c, 4000, TCP).map(NodeId::index) == Some(node));
        Frame::tcp((from, 4000), (VIP6_DIRECTED, 80), SYN).macs(CLIENT, OWN).bytes()
    };
    row("directed: IPv6 TCP of an own bucket", v6(0), Reason::Mine);
    row("directed: IPv6 TCP of a peer's bucket", v6(1), Reason::Forwarded);

    // The file's group says who answers, not the built-in one.
    let asks = |owned| client(|c| world.is_mine(ANSWER, c, 0, ARP) == owned);
    let arp = |from| Frame::arp_request(CLIENT, from, VIP_DIRECTED);
    row("directed: an ARP request, own", arp(asks(true)).bytes(), Reason::Mine);
    row("directed: an ARP request, a peer's", arp(asks(false)).bytes(), Reason::NotMine);
    row(
        "directed: an ARP request to this node by name",
        arp(asks(false)).macs(CLIENT, OWN).bytes(),
        Reason::Mine,
    );
    let asks = |owned| ipv6::client(|c| world.is_mine(ANSWER, c, 0, ARP) == owned);
    let ns = |from| Frame::solicitation(CLIENT, from, VIP6_DIRECTED);
    row("directed: a neighbour solicitation, own", ns(asks(true)).bytes(), Reason::Mine);
    row("directed: a neighbour solicitation, a peer's", ns(asks(false)).bytes(), Reason::NotMine);
    row(
        "a stranger that claims a directed VIP",
        Frame::arp_request(CLIENT, VIP_DIRECTED, VIP_DIRECTED).bytes(),
        Reason::ArpConflict,
    );
    row(
        "a farm node's announcement of a directed VIP",
        Frame::arp_reply((PEER, VIP_DIRECTED), (PEER, VIP_DIRECTED))
            .macs(PEER, Mac([0xff; 6]))
            .bytes(),
        Reason::ArpPeer,
    );
    error_rows(world, row);
}

/// T9: what a router says about an answer of the VIP, to the one node whose MAC it has.
fn error_rows(world: &World, row: &mut impl FnMut(&'static str, Vec<u8>, Reason)) {
    const ALL: Mac = Mac([0xff; 6]);
    let is_of =
        |node, c: IpAddr| world.owner(DIRECT, c, 4000, TCP).map(NodeId::index) == Some(node);
    let of = |node| client(|c| is_of(node, c.into()));
    let quoted = |answer: Frame| answer.bytes()[14..].to_vec();
    let error = |answer: Frame| {
        let body = [&[3, 4, 0, 0, 0, 0, 5, 0][..], &quoted(answer)].concat();
        Frame::ip(Ipv4Addr::new(10, 1, 1, 1).into(), VIP_DIRECTED.into(), 1, &body)
    };
    let tcp = |to: Ipv4Addr| Frame::tcp((VIP_DIRECTED, 80), (to, 4000), ACK);
    let to_here = |frame: Frame| frame.macs(CLIENT, OWN).bytes();
    row("T9: directed, of an own flow", to_here(error(tcp(of(0)))), Reason::Mine);
    row("T9: directed, of a peer's flow", to_here(error(tcp(of(1)))), Reason::Forwarded);

    // Which node sent it, nobody knows: all are told, by the one that was.
    let by_id = |to| error(Frame::udp((VIP_DIRECTED, 53), (to, 4000), b"!"));
    for to in [of(0), of(1)] {
        row("T9: directed, by IP-ID", to_here(by_id(to)), Reason::CopiedIcmp);
        row("T9: that a peer copied", by_id(to).macs(PEER, ALL).bytes(), Reason::IcmpShared);
        row("T9: to all stations", by_id(to).macs(CLIENT, ALL).bytes(), Reason::IcmpShared);
        row("T9: to another station", by_id(to).macs(CLIENT, PEER).bytes(), Reason::OtherMac);
    }

    let too_big = |node| {
        let to = SocketAddr::from((ipv6::client(|c| is_of(node, c.into())), 4000));
        let answer = Frame::tcp((VIP6_DIRECTED, 80), to, ACK);
        let router = "fd00:1::1".parse().expect("an address");
        Frame::icmpv6(router, VIP6_DIRECTED, [2, 0, 0, 0, 5, 0], &quoted(answer))
    };
    row("T9: directed IPv6, of an own flow", to_here(too_big(0)), Reason::Mine);
    row("T9: directed IPv6, of a peer's flow", to_here(too_big(1)), Reason::Forwarded);
}
