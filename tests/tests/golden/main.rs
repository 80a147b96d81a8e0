//! Golden frames: what the decision must say, on the host and in the kernel alike.
//!
//! Add a row for every bug found.

mod directed;
mod failover;
mod fragments;
mod ipv6;

use std::net::{IpAddr, Ipv4Addr};

use vipfarm::{datapath::manual::Entry, model::Mac};
use vipfarm_common::Reason;
use vipfarm_lab::{
    Frame,
    frame::{ACK, SYN},
    pcap, require, skip,
    world::{
        CLIENT, DNS, OWN, PEER, RESOLVE, TAGGED, TAGGED_TWICE, VIP, VIP_BY_ADDR, VIP_CLOSED,
        VIP_OF_NODE2, VIP_TAGGED, VIP_TAGGED_TWICE, VMAC, VMAC_CLOSED, VMAC_OF_NODE2, VMAC_TAGGED,
        VMAC_TAGGED_TWICE, VMAC6, WEB, World,
    },
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
/// A protocol without ports.
const ESP: u8 = 50;

/// One row: a frame, and what must become of it.
struct Golden {
    name: &'static str,
    frame: Vec<u8>,
    reason: Reason,
}

#[test]
fn the_host_decides_every_golden_frame_as_written() {
    let host = World::new().host();
    for Golden { name, frame, reason } in golden(&World::new()) {
        let mut after = frame.clone();
        assert_eq!(host.decide(&mut after), reason, "{name}");
        assert_eq!(after, expected_bytes(&frame, reason), "{name}: bytes");
    }
}

#[test]
fn the_kernel_decides_every_golden_frame_as_written() {
    require!(skip::bpf());
    let world = World::new();
    for lease in ["valid", "near its end"] {
        // Each time anew: fragments leave a mark.
        for (flavour, mut kernel) in world.kernels() {
            kernel.lease(std::time::Duration::from_mins(1)).expect("a lease");
            if lease == "near its end" {
                kernel.force_slow();
            }
            let table = golden(&world);
            for (number, Golden { name, frame, reason }) in (1..).zip(&table) {
                let run = kernel.run(Entry::Filter, frame).expect("it runs");
                let alike = run.reasons == [*reason]
                    && run.action == reason.action()
                    && run.frame == expected_bytes(frame, *reason);
                let frames = || table.iter().map(|row| &row.frame[..]);
                assert!(
                    alike,
                    "{name}, {flavour}, lease {lease}: {run:?} and not {reason:?}; frame {number} of those {}",
                    pcap::of_failure(env!("CARGO_TARGET_TMPDIR"), "golden", frames())
                );
            }
        }
    }
}

#[test]
fn a_fenced_node_refuses_what_it_would_accept_and_passes_what_is_not_the_farms() {
    require!(skip::bpf());
    let world = World::new();
    let host = world.host().fenced();
    let mut kernel = world.kernel();
    kernel.fence();
    for Golden { name, frame, reason, .. } in golden(&world) {
        let fenced = match reason {
            Reason::NotIp
            | Reason::NotVip
            | Reason::ArpReply
            | Reason::OtherMac
            | Reason::ArpPeer
            | Reason::ArpConflict
            | Reason::NdReply
            | Reason::NdPeer
            | Reason::NdConflict => reason,
            // What no node that serves would look at any closer.
            Reason::Malformed if name.contains("hop limit") => reason,
            Reason::IcmpType if name.contains("solicitation") => reason,
            _ => Reason::Fenced,
        };
        assert_eq!(host.decide(&mut frame.clone()), fenced, "{name}");
        let run = kernel.run(Entry::Filter, &frame).expect("it runs");
        assert_eq!(run.reasons, [fenced], "{name}");
    }
}

/// Whatever is judged as the farm's and came to a VMAC leaves addressed to this node, and what is
/// handed over to the owner. Nothing else changes: no checksum needs to (T25).
fn expected_bytes(frame: &[u8], reason: Reason) -> Vec<u8> {
    let vmacs = [VMAC, VMAC_OF_NODE2, VMAC_CLOSED, VMAC6, VMAC_TAGGED, VMAC_TAGGED_TWICE];
    let to_vmac = vmacs.iter().any(|vmac| frame.starts_with(&vmac.0));
    let not_ours = [Reason::NotIp, Reason::NotVip, Reason::OtherMac, Reason::ArpConflict];
    let mut frame = frame.to_vec();
    if to_vmac && !not_ours.contains(&reason) {
        frame[..6].copy_from_slice(&OWN.0);
    }
    if reason == Reason::Forwarded {
        frame[..6].copy_from_slice(&PEER.0);
        frame[6..12].copy_from_slice(&OWN.0);
    }
    if [Reason::CopiedFragment, Reason::CopiedIcmp].contains(&reason) {
        // How TC ingress knows it: the node's own MAC with the bit of groups.
        frame[6..12].copy_from_slice(&OWN.0);
        frame[6] |= 1;
    }
    frame
}

fn golden(world: &World) -> Vec<Golden> {
    let mut table = Vec::new();
    let mut row = |name, frame: Vec<u8>, reason| {
        table.push(Golden { name, frame, reason });
    };
    let mine = client(|c| world.is_mine(WEB, c, 4000, TCP));
    let theirs = client(|c| !world.is_mine(WEB, c, 4000, TCP));

    row("TCP of an own bucket", tcp(mine, VIP, 80).bytes(), Reason::Mine);
    row("TCP of a peer's bucket", tcp(theirs, VIP, 80).bytes(), Reason::NotMine);
    row("TCP to a port without rule", tcp(mine, VIP, 81).bytes(), Reason::NoRule);
    row(
        "TCP to a closed VIP",
        tcp(mine, VIP_CLOSED, 80).macs(CLIENT, VMAC_CLOSED).bytes(),
        Reason::Closed,
    );
    row(
        "TCP addressed to the node's own MAC",
        tcp(mine, VIP, 80).macs(CLIENT, OWN).bytes(),
        Reason::Mine,
    );
    row(
        "T30: TCP that the switch flooded for another host",
        tcp(mine, VIP, 80).macs(CLIENT, PEER).bytes(),
        Reason::OtherMac,
    );
    row(
        "TCP in an Ethernet broadcast",
        tcp(theirs, VIP, 80).macs(CLIENT, Mac([0xff; 6])).bytes(),
        Reason::NotMine,
    );
    row(
        "TCP to another address",
        tcp(mine, Ipv4Addr::new(10, 9, 0, 99), 80).bytes(),
        Reason::NotVip,
    );
    row("TCP in a priority tag", tcp(mine, VIP, 80).vlan(0).bytes(), Reason::Mine);
    row("TCP in a VLAN", tcp(mine, VIP, 80).vlan(10).bytes(), Reason::NotVip);
    row("TCP in two tags", tcp(mine, VIP, 80).service_vlan(5).vlan(10).bytes(), Reason::NotVip);
    row(
        "TCP in a priority tag within a priority tag",
        tcp(mine, VIP, 80).vlan(0).vlan(0).bytes(),
        Reason::Mine,
    );
    row("TCP in three tags", tcp(mine, VIP, 80).vlan(0).vlan(0).vlan(0).bytes(), Reason::NotVip);
    row("TCP behind IP options", tcp(mine, VIP, 80).ip_options(&[1; 8]).bytes(), Reason::Mine);
    row(
        "a later segment",
        to_vmac(Frame::tcp(at(mine, 4000), at(VIP, 80), ACK)).bytes(),
        Reason::Mine,
    );

    rule_rows(world, mine, &mut row);
    udp_rows(world, &mut row);
    icmp_rows(world, &mut row);
    arp_rows(world, &mut row);
    damaged_rows(mine, &mut row);
    tagged_rows(world, &mut row);
    ipv6::rows(world, &mut row);
    fragments::rows(world, &mut row);
    directed::rows(world, &mut row);
    failover::rows(&mut row);
    table
}

fn rule_rows(world: &World, mine: Ipv4Addr, row: &mut impl FnMut(&'static str, Vec<u8>, Reason)) {
    // A rule for one address beats one for a port of all addresses: 80 goes by address there.
    let by_addr = client(|c| world.is_mine(WEB, c, 0, TCP) && !world.is_mine(WEB, c, 4000, TCP));
    row(
        "a rule of the address beats a port's",
        tcp(by_addr, VIP_BY_ADDR, 80).bytes(),
        Reason::Mine,
    );
    row("a rule of the address for all ports", tcp(by_addr, VIP_BY_ADDR, 9).bytes(), Reason::Mine);
    row(
        "a group without this node",
        to_vmac_of_node2(Frame::tcp(at(mine, 4000), at(VIP_OF_NODE2, 22), SYN)).bytes(),
        Reason::NotMine,
    );
}

/// T23: an address in a VLAN is another one than the same address elsewhere.
fn tagged_rows(world: &World, row: &mut impl FnMut(&'static str, Vec<u8>, Reason)) {
    let mine = client(|c| world.is_mine(TAGGED, c, 4000, TCP));
    let theirs = client(|c| !world.is_mine(TAGGED, c, 4000, TCP));
    let syn = |client, vip, vmac| Frame::tcp(at(client, 4000), at(vip, 80), SYN).macs(CLIENT, vmac);
    let tagged = |client| syn(client, VIP_TAGGED, VMAC_TAGGED);
    row("T23: TCP in the VIP's VLAN, own", tagged(mine).vlan(10).bytes(), Reason::Mine);
    row("T23: TCP in the VIP's VLAN, a peer's", tagged(theirs).vlan(10).bytes(), Reason::NotMine);
    row("T23: TCP in another VLAN", tagged(mine).vlan(11).bytes(), Reason::NotVip);
    row(
        "T23: TCP to the same address in a VLAN where it is another node's",
        tagged(mine).vlan(30).bytes(),
        Reason::NotMine,
    );
    row("T23: TCP without the tag", tagged(mine).bytes(), Reason::NotVip);
    row(
        "T23: TCP in the VLAN within a priority tag",
        tagged(mine).vlan(0).vlan(10).bytes(),
        Reason::Mine,
    );
    row(
        "T23: TCP in the VLAN around a priority tag",
        tagged(mine).vlan(10).vlan(0).bytes(),
        Reason::Mine,
    );
    row(
        "T23: TCP in the VLAN within a service VLAN",
        tagged(mine).service_vlan(20).vlan(10).bytes(),
        Reason::NotVip,
    );
    let twice = client(|c| world.is_mine(TAGGED_TWICE, c, 4000, TCP));
    let twice = || syn(twice, VIP_TAGGED_TWICE, VMAC_TAGGED_TWICE);
    row("T23: TCP in both VLANs", twice().service_vlan(20).vlan(10).bytes(), Reason::Mine);
    row("T23: TCP in the inner one only", twice().vlan(10).bytes(), Reason::NotVip);
    row("T23: TCP in both, swapped", twice().vlan(10).vlan(20).bytes(), Reason::NotVip);
    let asks = client(|c| world.is_mine(RESOLVE, c, 0, hash_arp()));
    let asks = |vip| Frame::arp_request(CLIENT, asks, vip);
    row("T23: ARP in the VLAN", asks(VIP_TAGGED).vlan(10).bytes(), Reason::Mine);
    row("T23: ARP outside of it", asks(VIP_TAGGED).bytes(), Reason::NotVip);
    row(
        "T23: ARP in two VLANs",
        asks(VIP_TAGGED_TWICE).service_vlan(20).vlan(10).bytes(),
        Reason::Mine,
    );
}

fn damaged_rows(mine: Ipv4Addr, row: &mut impl FnMut(&'static str, Vec<u8>, Reason)) {
    row(
        "another protocol",
        to_vmac(Frame::ip(mine.into(), VIP.into(), 50, &[0; 20])).bytes(),
        Reason::OtherProto,
    );
    row("TCP cut in its ports", tcp(mine, VIP, 80).bytes()[..36].to_vec(), Reason::Malformed);
    row("IPv4 cut in its header", tcp(mine, VIP, 80).bytes()[..30].to_vec(), Reason::NotVip);
    let mut short_ihl = tcp(mine, VIP, 80).bytes();
    short_ihl[14] = 0x44;
    row("a header length below five words", short_ihl, Reason::Malformed);
    row(
        "a header length below five words, of another version",
        {
            let mut frame = tcp(mine, VIP, 80).bytes();
            frame[14] = 0x65;
            frame
        },
        Reason::Malformed,
    );
    row("an unknown ethertype", [&[0xff; 12][..], &[0x88, 0xb5], &[0; 46]].concat(), Reason::NotIp);
}

fn udp_rows(world: &World, row: &mut impl FnMut(&'static str, Vec<u8>, Reason)) {
    let client = client(|c| world.is_mine(DNS, c, 7, UDP) && !world.is_mine(DNS, c, 8, UDP));
    let dns =
        |id| to_vmac(Frame::udp(at(client, 5353), at(VIP, 53), b"?")).identification(id).bytes();
    row("UDP by IP-ID, own", dns(7), Reason::Mine);
    row("UDP by IP-ID, a peer's", dns(8), Reason::NotMine);
    let any = |port| to_vmac(Frame::udp(at(client, port), at(VIP, 9999), b"?")).bytes();
    row("UDP to any other port, by port, own", any(7), Reason::Mine);
    row("UDP to any other port, by port, a peer's", any(8), Reason::NotMine);
    let syslog = to_vmac(Frame::udp(at(client, 7), at(VIP, 514), b"x")).bytes();
    let expected = if world.is_mine(DNS, client, 0, UDP) { Reason::Mine } else { Reason::NotMine };
    row("UDP by address", syslog, expected);
}

fn icmp_rows(world: &World, row: &mut impl FnMut(&'static str, Vec<u8>, Reason)) {
    let echo = |client: Ipv4Addr, vip: Ipv4Addr| Frame::icmp_echo(client.into(), vip.into(), 1, 1);
    let mine = client(|c| world.is_mine(RESOLVE, c, 0, ICMP));
    let theirs = client(|c| !world.is_mine(RESOLVE, c, 0, ICMP));
    row("an echo request, own", to_vmac(echo(mine, VIP)).bytes(), Reason::Mine);
    row("an echo request, a peer's", to_vmac(echo(theirs, VIP)).bytes(), Reason::NotMine);
    row(
        "an echo request where they are off",
        to_vmac_of_node2(echo(mine, VIP_OF_NODE2)).bytes(),
        Reason::EchoDenied,
    );
    let icmp = |body: &[u8]| {
        to_vmac(Frame::ip(Ipv4Addr::new(10, 1, 1, 1).into(), VIP.into(), ICMP, body)).bytes()
    };
    row("an echo reply", icmp(&[0, 0, 0, 0, 0, 1, 0, 1]), Reason::IcmpType);
    row("an ICMP message cut short", icmp(&[8, 0, 0, 0]), Reason::Malformed);

    // T9: a router between VIP and client says that a reply was too big. Its own address must not
    // matter; the client of the quoted packet does.
    let error = |quoted: &[u8]| icmp(&[&[3, 4, 0, 0, 0, 0, 5, 0], quoted].concat());
    let reply =
        |client: Ipv4Addr| Frame::tcp(at(VIP, 80), at(client, 4000), ACK).bytes()[14..].to_vec();
    let web_mine = client(|c| world.is_mine(WEB, c, 4000, TCP));
    let web_theirs = client(|c| !world.is_mine(WEB, c, 4000, TCP));
    row("an ICMP error about an own flow", error(&reply(web_mine)), Reason::Mine);
    row("an ICMP error about a peer's flow", error(&reply(web_theirs)), Reason::NotMine);
    row("an ICMP error with eight bytes of TCP", error(&reply(web_mine)[..28]), Reason::Mine);
    row(
        "an ICMP error that ends before the ports",
        error(&reply(web_mine)[..22]),
        Reason::Malformed,
    );
    let about = |vip: Ipv4Addr, client: Ipv4Addr| {
        let sent = Frame::ip(vip.into(), client.into(), ESP, &[0; 64]).bytes();
        let body = [&[3, 4, 0, 0, 0, 0, 5, 0], &sent[14..]].concat();
        Frame::ip(Ipv4Addr::new(10, 1, 1, 1).into(), vip.into(), ICMP, &body)
    };
    for (owned, expected) in [(true, Reason::Mine), (false, Reason::NotMine)] {
        let client = client(|c| world.is_mine(RESOLVE, c, 0, ESP) == owned);
        let error = to_vmac_of_node2(about(VIP_OF_NODE2, client)).bytes();
        row("T9: an error about another protocol that is served", error, expected);
    }
    row(
        "T9: an error about another protocol",
        to_vmac(about(VIP, mine)).bytes(),
        Reason::IcmpForeign,
    );
    let stranger = Frame::tcp(at(Ipv4Addr::new(10, 2, 2, 2), 80), at(mine, 4000), ACK).bytes();
    row("an ICMP error about a stranger's packet", error(&stranger[14..]), Reason::IcmpForeign);
    let with_options = Frame::tcp(at(VIP, 80), at(web_mine, 4000), ACK).ip_options(&[1; 4]).bytes();
    row("an ICMP error that quotes IP options", error(&with_options[14..]), Reason::Mine);
    // Which node sent it depends on the request's IP-ID, which nobody knows any more.
    for client in [web_mine, web_theirs] {
        let answer = Frame::udp(at(VIP, 53), at(client, 5353), b"!").bytes();
        row("T9: an error about an answer by IP-ID", error(&answer[14..]), Reason::IcmpShared);
    }
}

fn arp_rows(world: &World, row: &mut impl FnMut(&'static str, Vec<u8>, Reason)) {
    const BROADCAST: Mac = Mac([0xff; 6]);
    let mine = client(|c| world.is_mine(RESOLVE, c, 0, hash_arp()));
    let theirs = client(|c| !world.is_mine(RESOLVE, c, 0, hash_arp()));
    row("an ARP request, own", Frame::arp_request(CLIENT, mine, VIP).bytes(), Reason::Mine);
    row(
        "an ARP request, a peer's",
        Frame::arp_request(CLIENT, theirs, VIP).bytes(),
        Reason::NotMine,
    );
    row(
        "a unicast ARP request to the VMAC",
        Frame::arp_request(CLIENT, mine, VIP).macs(CLIENT, VMAC).bytes(),
        Reason::Mine,
    );
    row(
        "T30: a unicast ARP request to another station",
        Frame::arp_request(CLIENT, mine, VIP).macs(CLIENT, PEER).bytes(),
        Reason::OtherMac,
    );
    row(
        "an ARP request for another address",
        Frame::arp_request(CLIENT, mine, Ipv4Addr::new(10, 9, 0, 99)).bytes(),
        Reason::NotVip,
    );
    let none = Ipv4Addr::UNSPECIFIED;
    let probe = |owned: bool| {
        let mac = (0..=255).map(|i| Mac([2, 0, 0, 0, 3, i]));
        let mac = mac.into_iter().find(|&mac| world.is_mine_by_mac(mac) == owned);
        Frame::arp_request(mac.expect("one of 256"), none, VIP).bytes()
    };
    row("T5: an ARP probe, own (RFC 5227)", probe(true), Reason::ArpProbe);
    row("T5: an ARP probe, a peer's", probe(false), Reason::NotMine);
    row("a farm node's ARP probe", Frame::arp_request(PEER, none, VIP).bytes(), Reason::ArpPeer);
    row("a farm node's ARP request", Frame::arp_request(PEER, mine, VIP).bytes(), Reason::ArpPeer);
    row(
        "a farm node's announcement, as its guard lets it out",
        Frame::arp_request(VMAC, VIP, VIP).macs(PEER, BROADCAST).bytes(),
        Reason::ArpPeer,
    );
    let naming = |vmac: Mac, mac, vip| {
        let mut frame = Frame::arp_request(mac, none, vip).bytes();
        frame[32..38].copy_from_slice(&vmac.0);
        frame
    };
    let (unknown, elsewhere) = (Mac([0x5a, 0xfe, 9, 9, 9, 9]), Ipv4Addr::new(10, 9, 0, 99));
    row("T34: another farm's probe", naming(VMAC, CLIENT, VIP), Reason::ArpConflict);
    row("T34: with another VMAC", naming(unknown, CLIENT, VIP), Reason::ArpConflict);
    row("T34: for a closed VIP", naming(unknown, CLIENT, VIP_CLOSED), Reason::ArpConflict);
    row(
        "T34: another farm's probe for another VIP with a VMAC of this farm",
        naming(VMAC_OF_NODE2, CLIENT, elsewhere),
        Reason::ArpConflict,
    );
    row("T34: with nothing of this farm", naming(unknown, CLIENT, elsewhere), Reason::NotVip);
    row("T34: the own farm's probe", naming(VMAC, PEER, VIP), Reason::ArpPeer);
    let mac = (0..=255).map(|i| Mac([2, 0, 0, 0, 3, i])).find(|&mac| world.is_mine_by_mac(mac));
    let mac = mac.expect("one of 256");
    row("T5: a probe by `arping -D`, own", naming(BROADCAST, mac, VIP), Reason::ArpProbe);
    row(
        "a stranger's announcement of the VIP",
        Frame::arp_request(CLIENT, VIP, VIP).bytes(),
        Reason::ArpConflict,
    );
    row(
        "a stranger's reply that claims the VIP",
        Frame::arp_reply((CLIENT, VIP), (OWN, mine)).bytes(),
        Reason::ArpConflict,
    );
    row(
        "an ARP reply to the VIP",
        Frame::arp_reply((CLIENT, mine), (VMAC, VIP)).bytes(),
        Reason::ArpReply,
    );
    row(
        "an ARP reply to the second block's VIP",
        Frame::arp_reply((CLIENT, mine), (VMAC_OF_NODE2, VIP_OF_NODE2)).bytes(),
        Reason::ArpReply,
    );
    row(
        "an ARP packet cut short",
        Frame::arp_request(CLIENT, mine, VIP).bytes()[..40].to_vec(),
        Reason::NotVip,
    );
}

fn hash_arp() -> u8 {
    vipfarm_common::hash::ARP
}

/// The first client address for which that holds.
fn client(fits: impl Fn(Ipv4Addr) -> bool) -> Ipv4Addr {
    let mut clients = (1..=u16::MAX).map(|i| Ipv4Addr::from(0x0a01_0000 + u32::from(i)));
    clients.find(|&client| fits(client)).expect("half of the clients fit")
}

fn at(addr: Ipv4Addr, port: u16) -> std::net::SocketAddr {
    (IpAddr::V4(addr), port).into()
}

fn tcp(client: Ipv4Addr, vip: Ipv4Addr, port: u16) -> Frame {
    to_vmac(Frame::tcp(at(client, 4000), at(vip, port), SYN))
}

fn to_vmac(frame: Frame) -> Frame {
    frame.macs(CLIENT, VMAC)
}

fn to_vmac_of_node2(frame: Frame) -> Frame {
    frame.macs(CLIENT, VMAC_OF_NODE2)
}
