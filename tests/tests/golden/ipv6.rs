//! IPv6: TCP and UDP, extension headers, neighbour discovery, `ICMPv6` errors.

use std::net::Ipv6Addr;

use vipfarm::model::Mac;
use vipfarm_common::{Reason, hash::ARP};
use vipfarm_lab::{
    Frame,
    frame::{ACK, SYN},
    world::{
        CLIENT, PEER, RESOLVE, VIP6, VIP6_BY_ADDR, VIP6_TAGGED, VMAC_TAGGED, VMAC6, WEB6, World,
    },
};

const TCP: u8 = 6;
const ICMPV6: u8 = 58;
/// A protocol without ports.
const ESP: u8 = 50;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;
/// `PadN` of four bytes, which fills an option header.
const PADDED: [u8; 6] = [1, 4, 0, 0, 0, 0];

pub(super) fn rows(world: &World, row: &mut impl FnMut(&'static str, Vec<u8>, Reason)) {
    let mine = client(|c| world.is_mine(WEB6, c, 4000, TCP));
    let theirs = client(|c| !world.is_mine(WEB6, c, 4000, TCP));
    row("IPv6 TCP of an own bucket", tcp(mine, VIP6, 80).bytes(), Reason::Mine);
    row("IPv6 TCP of a peer's bucket", tcp(theirs, VIP6, 80).bytes(), Reason::NotMine);
    row("IPv6 TCP to a port without rule", tcp(mine, VIP6, 81).bytes(), Reason::NoRule);
    row("IPv6 TCP to another address", tcp(mine, other(), 80).bytes(), Reason::NotVip);
    row(
        "IPv6 TCP that the switch flooded for another host",
        tcp(mine, VIP6, 80).macs(CLIENT, PEER).bytes(),
        Reason::OtherMac,
    );
    let by_addr = client(|c| world.is_mine(WEB6, c, 0, TCP) && !world.is_mine(WEB6, c, 4000, TCP));
    row("IPv6 TCP by address", tcp(by_addr, VIP6_BY_ADDR, 80).bytes(), Reason::Mine);
    row("IPv6 TCP cut in its ports", tcp(mine, VIP6, 80).bytes()[..56].to_vec(), Reason::Malformed);
    row("IPv6 cut in its header", tcp(mine, VIP6, 80).bytes()[..50].to_vec(), Reason::NotVip);
    let mut version = tcp(mine, VIP6, 80).bytes();
    version[14] = 0x45;
    row("IPv6 of another version", version, Reason::Malformed);
    let tagged = client(|c| world.is_mine(vipfarm_lab::world::TAGGED, c, 4000, TCP));
    let tagged = || tcp(tagged, VIP6_TAGGED, 80).macs(CLIENT, VMAC_TAGGED);
    row("T23: IPv6 TCP in the VIP's VLAN", tagged().vlan(10).bytes(), Reason::Mine);
    row("T23: IPv6 TCP outside of it", tagged().bytes(), Reason::NotVip);
    extension_rows(mine, row);
    let echo = client(|c| world.is_mine(RESOLVE, c, 0, ICMPV6));
    row(
        "T10: an ICMPv6 echo request, own",
        to_vmac(Frame::icmp_echo(echo.into(), VIP6.into(), 1, 1)).bytes(),
        Reason::Mine,
    );
    let gre = client(|c| world.is_mine(RESOLVE, c, 0, 47));
    row(
        "another protocol where it goes by address",
        to_vmac(Frame::ip(gre.into(), VIP6.into(), 47, &[0; 20])).bytes(),
        Reason::Mine,
    );
    icmp_rows(world, row);
    neighbour_rows(world, row);
}

/// T28.
fn extension_rows(mine: Ipv6Addr, row: &mut impl FnMut(&'static str, Vec<u8>, Reason)) {
    let syn = || tcp(mine, VIP6, 80);
    for number in [HOP_BY_HOP, ROUTING, DESTINATION] {
        row("T28: one extension header", syn().extension(number, &PADDED).bytes(), Reason::Mine);
    }
    let several = syn()
        .extension(HOP_BY_HOP, &PADDED)
        .extension(DESTINATION, &[0; 22])
        .extension(ROUTING, &PADDED);
    row("T28: several extension headers", several.bytes(), Reason::Mine);
    let many = |count| (0..count).fold(syn(), |frame, _| frame.extension(DESTINATION, &PADDED));
    row("T28: as many as are walked", many(8).bytes(), Reason::Mine);
    row("T28: one more than are walked", many(9).bytes(), Reason::Malformed);
    row(
        "T28: an extension header beyond what is read",
        syn().extension(DESTINATION, &[0; 254]).bytes(),
        Reason::Malformed,
    );
    let cut = syn().extension(DESTINATION, &PADDED).bytes()[..60].to_vec();
    row("T28: cut in an extension header", cut, Reason::Malformed);
    let whole = syn().extension(44, &[0, 0, 0, 0, 0, 7]).bytes();
    row("T28: an atomic fragment (RFC 6946)", whole, Reason::Mine);
}

/// T9.
fn icmp_rows(world: &World, row: &mut impl FnMut(&'static str, Vec<u8>, Reason)) {
    let router = Ipv6Addr::new(0xfd00, 0xff, 0, 0, 0, 0, 0, 1);
    let error = |kind, quoted: &[u8]| {
        to_vmac(Frame::icmpv6(router, VIP6, [kind, 0, 0, 0, 5, 0], quoted)).bytes()
    };
    let reply = |client: Ipv6Addr| Frame::tcp((VIP6, 80), (client, 4000), ACK);
    let quoted = |client| reply(client).bytes()[14..].to_vec();
    let mine = client(|c| world.is_mine(WEB6, c, 4000, TCP));
    let theirs = client(|c| !world.is_mine(WEB6, c, 4000, TCP));
    row("T9: packet too big about an own flow", error(2, &quoted(mine)), Reason::Mine);
    row("T9: packet too big about a peer's flow", error(2, &quoted(theirs)), Reason::NotMine);
    row("T9: with eight bytes of TCP", error(2, &quoted(mine)[..48]), Reason::Mine);
    row("T9: that ends before the ports", error(2, &quoted(mine)[..42]), Reason::Malformed);
    for kind in [1, 3, 4] {
        row("T9: another ICMPv6 error", error(kind, &quoted(mine)), Reason::Mine);
    }
    row("T9: an unknown ICMPv6 error", error(5, &quoted(mine)), Reason::IcmpType);
    let with_options = reply(mine).extension(DESTINATION, &PADDED).bytes();
    row("T9: that quotes extension headers", error(2, &with_options[14..]), Reason::Mine);
    for (owned, expected) in [(true, Reason::Mine), (false, Reason::NotMine)] {
        let client = client(|c| world.is_mine(RESOLVE, c, 0, ESP) == owned);
        let sent = Frame::ip(VIP6.into(), client.into(), ESP, &[0; 64]).bytes();
        row("T9: about another protocol that is served", error(2, &sent[14..]), expected);
    }
    let foreign = Frame::tcp((other(), 80), (mine, 4000), ACK).bytes();
    row("T9: about a stranger's packet", error(2, &foreign[14..]), Reason::IcmpForeign);
    let sibling = Frame::tcp((VIP6_BY_ADDR, 80), (mine, 4000), ACK).bytes();
    row("T9: about another VIP's packet", error(2, &sibling[14..]), Reason::IcmpForeign);
}

/// T4 to T7.
fn neighbour_rows(world: &World, row: &mut impl FnMut(&'static str, Vec<u8>, Reason)) {
    let mine = client(|c| world.is_mine(RESOLVE, c, 0, ARP));
    let theirs = client(|c| !world.is_mine(RESOLVE, c, 0, ARP));
    let asks = |client| Frame::solicitation(CLIENT, client, VIP6);
    row("T7: a neighbour solicitation, own", asks(mine).bytes(), Reason::Mine);
    row("T7: a neighbour solicitation, a peer's", asks(theirs).bytes(), Reason::NotMine);
    let unicast = |client: Ipv6Addr| {
        let body = [&VIP6.octets()[..], &[1, 1], &CLIENT.0].concat();
        to_vmac(Frame::icmpv6(client, VIP6, [135, 0, 0, 0, 0, 0], &body)).hops(255)
    };
    row("T7: a unicast one to the VMAC, own", unicast(mine).bytes(), Reason::Mine);
    row("T7: a unicast one to the VMAC, a peer's", unicast(theirs).bytes(), Reason::NotMine);
    row(
        "T7: of a hop limit that a router lowered",
        asks(mine).hops(254).bytes(),
        Reason::Malformed,
    );
    row(
        "a solicitation for another address",
        Frame::solicitation(CLIENT, mine, other()).bytes(),
        Reason::NotVip,
    );
    let body = [&other().octets()[..], &[1, 1], &CLIENT.0].concat();
    let astray = to_vmac(Frame::icmpv6(mine, VIP6, [135, 0, 0, 0, 0, 0], &body)).hops(255);
    row("a solicitation for another address, sent to the VIP", astray.bytes(), Reason::IcmpType);
    let probe = |owned| {
        let macs = (0..=255).map(|i| Mac([2, 0, 0, 0, 3, i]));
        let mac = macs.into_iter().find(|&mac| world.is_mine_by_mac(mac) == owned);
        Frame::solicitation(mac.expect("one of 256"), Ipv6Addr::UNSPECIFIED, VIP6).bytes()
    };
    row("T6: an outsider's probe for duplicates, own", probe(true), Reason::NdProbe);
    row("T6: an outsider's probe for duplicates, a peer's", probe(false), Reason::NotMine);
    let naming = |nonce: Mac, mac| {
        let mut frame = Frame::solicitation(mac, Ipv6Addr::UNSPECIFIED, VIP6).bytes();
        frame[19] += 8;
        frame.extend([&[14, 1], &nonce.0[..]].concat());
        frame
    };
    row("T34: another farm's probe", naming(CLIENT, CLIENT), Reason::NdConflict);
    row("T34: the own farm's probe", naming(PEER, PEER), Reason::NdPeer);
    let mac = (0..=255).map(|i| Mac([2, 0, 0, 0, 3, i])).find(|&mac| world.is_mine_by_mac(mac));
    row("T6: one with a nonce, own", naming(VMAC6, mac.expect("one of 256")), Reason::NdProbe);
    row(
        "T6: a farm node's probe for duplicates",
        Frame::solicitation(PEER, Ipv6Addr::UNSPECIFIED, VIP6).bytes(),
        Reason::NdPeer,
    );
    row(
        "T5: a farm node's solicitation",
        Frame::solicitation(PEER, mine, VIP6).bytes(),
        Reason::NdPeer,
    );
    let all_nodes = "ff02::1".parse().expect("an address");
    let claims = Frame::advertisement(CLIENT, VIP6, all_nodes, 0x20);
    row("a stranger's advertisement of the VIP", claims.bytes(), Reason::NdConflict);
    row(
        "a farm node's advertisement of the VIP",
        Frame::advertisement(PEER, VIP6, all_nodes, 0x20).bytes(),
        Reason::NdPeer,
    );
    row(
        "a stranger that asks as the VIP",
        Frame::solicitation(CLIENT, VIP6, VIP6_BY_ADDR).bytes(),
        Reason::NdConflict,
    );
    let answer = Frame::advertisement(CLIENT, mine, VIP6, 0x60);
    row("a neighbour advertisement to the VIP", to_vmac(answer).bytes(), Reason::NdReply);
    row(
        "a router's advertisement",
        Frame::icmpv6(mine, all_nodes, [134, 0, 64, 0, 0, 0], &[0; 8]).hops(255).bytes(),
        Reason::NotVip,
    );
    row(
        "a multicast datagram",
        Frame::udp((mine, 546), (all_nodes, 547), b"x").bytes(),
        Reason::NotVip,
    );
    row(
        "T30: a unicast solicitation to another station",
        unicast(mine).macs(CLIENT, PEER).bytes(),
        Reason::OtherMac,
    );
}

fn other() -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 0x99)
}

/// The first client address for which that holds.
pub(super) fn client(fits: impl Fn(Ipv6Addr) -> bool) -> Ipv6Addr {
    let mut clients = (1..=u16::MAX).map(|i| Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, i));
    clients.find(|&client| fits(client)).expect("half of the clients fit")
}

fn tcp(client: Ipv6Addr, vip: Ipv6Addr, port: u16) -> Frame {
    to_vmac(Frame::tcp((client, 4000), (vip, port), SYN))
}

fn to_vmac(frame: Frame) -> Frame {
    frame.macs(CLIENT, VMAC6)
}
