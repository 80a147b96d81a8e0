//! `failover`: one node has the VIP and all that is for it; the other nodes are its clients.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vipfarm::model::Mac;
use vipfarm_common::Reason;
use vipfarm_lab::{
    Frame,
    frame::{ACK, SYN},
    world::{CLIENT, OWN, PEER, VIP_FLOATED, VIP_FLOATING, VIP6_FLOATED, VIP6_FLOATING},
};

const FROM: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 7);
const FROM6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 7);
const ICMP: u8 = 1;
const GRE: u8 = 47;

pub(super) fn rows(row: &mut impl FnMut(&'static str, Vec<u8>, Reason)) {
    let tcp = |vip: Ipv4Addr, port| Frame::tcp((FROM, 4000), (vip, port), SYN).macs(CLIENT, OWN);
    row("failover: TCP, own", tcp(VIP_FLOATING, 4711).bytes(), Reason::Mine);
    row("failover: TCP, another node's", tcp(VIP_FLOATED, 80).bytes(), Reason::NotMine);
    row("failover: TCP that no rule names", tcp(VIP_FLOATED, 81).bytes(), Reason::NoRule);
    row(
        "T30: failover, to another station",
        tcp(VIP_FLOATING, 80).macs(CLIENT, PEER).bytes(),
        Reason::OtherMac,
    );
    row("failover: from a member", tcp(VIP_FLOATING, 80).macs(PEER, OWN).bytes(), Reason::Mine);
    row(
        "failover: behind IP options",
        tcp(VIP_FLOATING, 80).ip_options(&[1; 8]).bytes(),
        Reason::Mine,
    );
    let tcp = |vip: Ipv6Addr| Frame::tcp((FROM6, 4000), (vip, 80), ACK).macs(CLIENT, OWN).bytes();
    row("failover: IPv6 TCP, own", tcp(VIP6_FLOATING), Reason::Mine);
    row("failover: IPv6 TCP, another node's", tcp(VIP6_FLOATED), Reason::NotMine);
    let udp = Frame::udp((FROM, 4000), (VIP_FLOATING, 5000), &[7; 60]).macs(CLIENT, OWN);
    let [_, .., last] = &udp.fragments(24)[..] else { panic!("several parts") };
    row("T8: failover: a last part that comes first", last.clone(), Reason::Mine);
    icmp_rows(row);
    arp_rows(row);
    neighbour_rows(row);
}

fn icmp_rows(row: &mut impl FnMut(&'static str, Vec<u8>, Reason)) {
    let ip = |vip: Ipv4Addr, proto, body: &[u8]| {
        Frame::ip(FROM.into(), vip.into(), proto, body).macs(CLIENT, OWN).bytes()
    };
    let echo =
        |vip: IpAddr, from: IpAddr| Frame::icmp_echo(from, vip, 1, 1).macs(CLIENT, OWN).bytes();
    row("T10: failover: an echo, own", echo(VIP_FLOATING.into(), FROM.into()), Reason::Mine);
    row(
        "T10: failover: an echo, another node's",
        echo(VIP_FLOATED.into(), FROM.into()),
        Reason::NotMine,
    );
    row(
        "T10: failover: an IPv6 echo, another node's",
        echo(VIP6_FLOATED.into(), FROM6.into()),
        Reason::NotMine,
    );
    let reply = [0, 0, 0, 0, 0, 1, 0, 1];
    row("failover: an echo reply", ip(VIP_FLOATING, ICMP, &reply), Reason::Mine);
    row("failover: of another node", ip(VIP_FLOATED, ICMP, &reply), Reason::NotMine);
    let error = [&[3, 4, 0, 0, 0, 0, 5, 0][..], &[0x45; 20]].concat();
    row("T9: failover: an error, whatever it quotes", ip(VIP_FLOATING, ICMP, &error), Reason::Mine);
    row("failover: another protocol", ip(VIP_FLOATING, GRE, &[0; 20]), Reason::Mine);
    row(
        "failover: another protocol where rules say what is served",
        ip(VIP_FLOATED, GRE, &[0; 20]),
        Reason::OtherProto,
    );
}

fn arp_rows(row: &mut impl FnMut(&'static str, Vec<u8>, Reason)) {
    let asks = |mac, vip| Frame::arp_request(mac, FROM, vip);
    row("T4: failover: an ARP request, own", asks(CLIENT, VIP_FLOATING).bytes(), Reason::Mine);
    row(
        "T4: failover: an ARP request, another node's",
        asks(CLIENT, VIP_FLOATED).bytes(),
        Reason::NotMine,
    );
    row(
        "T4: failover: to this node by name, another node's",
        asks(CLIENT, VIP_FLOATED).macs(CLIENT, OWN).bytes(),
        Reason::NotMine,
    );
    row("failover: a member's ARP request", asks(PEER, VIP_FLOATING).bytes(), Reason::Mine);
    row(
        "failover: a member's announcement",
        Frame::arp_request(PEER, VIP_FLOATED, VIP_FLOATED).bytes(),
        Reason::ArpReply,
    );
    row(
        "failover: a member's answer",
        Frame::arp_reply((PEER, VIP_FLOATED), (OWN, FROM)).bytes(),
        Reason::ArpReply,
    );
    row(
        "failover: a stranger's announcement",
        Frame::arp_request(CLIENT, VIP_FLOATED, VIP_FLOATED).bytes(),
        Reason::ArpConflict,
    );
}

fn neighbour_rows(row: &mut impl FnMut(&'static str, Vec<u8>, Reason)) {
    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let asks = |mac: Mac, vip| Frame::solicitation(mac, FROM6, vip).bytes();
    row("T7: failover: a solicitation, own", asks(CLIENT, VIP6_FLOATING), Reason::Mine);
    row("T7: failover: another node's", asks(CLIENT, VIP6_FLOATED), Reason::NotMine);
    row("failover: a member's solicitation", asks(PEER, VIP6_FLOATING), Reason::Mine);
    let says = |mac: Mac| Frame::advertisement(mac, VIP6_FLOATED, all, 0x20).bytes();
    row("failover: a member's advertisement", says(PEER), Reason::NdReply);
    row("failover: a stranger's advertisement", says(CLIENT), Reason::NdConflict);
}
