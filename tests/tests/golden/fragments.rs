//! T8: packets in parts. The rows are in order: the first fragment leaves its mark.

use vipfarm::model::Mac;
use vipfarm_common::Reason;
use vipfarm_lab::{
    Frame,
    frame::ACK,
    world::{
        CLIENT, DIRECT, DNS, OWN, PEER, RESOLVE, VIP, VIP_BY_ADDR, VIP_DIRECTED, VIP_OF_NODE2,
        VIP6, VMAC, VMAC_OF_NODE2, VMAC6, WEB, WEB6, World,
    },
};

use super::{client, ipv6};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// An extension header's bytes: options that pad.
const PADDED: [u8; 6] = [1, 4, 0, 0, 0, 0];

pub(super) fn rows(world: &World, row: &mut impl FnMut(&'static str, Vec<u8>, Reason)) {
    v4_rows(world, row);
    v6_rows(world, row);
    directed_rows(world, row);
}

fn v4_rows(world: &World, row: &mut impl FnMut(&'static str, Vec<u8>, Reason)) {
    for (mine, id) in [(Reason::Mine, 100), (Reason::NotMine, 101)] {
        let owned = mine == Reason::Mine;
        let from = client(|c| world.is_mine(WEB, c, 4000, TCP) == owned);
        let whole = Frame::tcp((from, 4000), (VIP, 80), ACK).payload(&[0; 64]);
        let parts = whole.identification(id).macs(CLIENT, VMAC).fragments(24);
        row("T8: by port, before the first", parts[1].clone(), Reason::EarlyFragment);
        row("T8: by port, the first", parts[0].clone(), mine);
        row("T8: by port, a later one", parts[1].clone(), mine);
        row("T8: by port, the last", parts[2].clone(), mine);
        row("T8: by port, the first once more", parts[0].clone(), mine);

        let from = client(|c| world.is_mine(DNS, c, id, UDP) == owned);
        let whole = Frame::udp((from, 5353), (VIP, 53), &[0; 64]).identification(id);
        let parts = whole.macs(CLIENT, VMAC).fragments(24);
        row("T8: by IP-ID, the first", parts[0].clone(), mine);
        row("T8: by IP-ID, a later one", parts[2].clone(), mine);

        let from = client(|c| world.is_mine(RESOLVE, c, 0, ICMP) == owned);
        let echo = Frame::icmp_echo(from.into(), VIP.into(), 1, 1).payload(&[0; 64]);
        for part in echo.identification(id).macs(CLIENT, VMAC).fragments(24) {
            row("T8: of an echo request, in any order", part, mine);
        }
    }
    let from = client(|c| world.is_mine(WEB, c, 4000, TCP));
    let strays = Frame::tcp((from, 4000), (VIP, 81), ACK).payload(&[0; 64]).identification(102);
    let parts = strays.macs(CLIENT, VMAC).fragments(24);
    row("T8: to a port without rule, the first", parts[0].clone(), Reason::NoRule);
    row("T8: to a port without rule, a later one", parts[1].clone(), Reason::NoRule);
    // One rule for all TCP of that VIP, but another one for a port of the whole block.
    let parts = Frame::tcp((from, 4000), (VIP_BY_ADDR, 9), ACK).payload(&[0; 64]);
    let part = parts.identification(103).macs(CLIENT, VMAC).fragments(24)[1].clone();
    let mine = world.is_mine(WEB, from, 0, TCP);
    let expected = if mine { Reason::Mine } else { Reason::NotMine };
    row("T8: by address, before the first", part, expected);
    let whole = Frame::ip(from.into(), VIP.into(), 50, &[0; 64]).macs(CLIENT, VMAC);
    row("T8: of another protocol", whole.fragments(24)[1].clone(), Reason::OtherProto);
    let echo = Frame::icmp_echo(from.into(), VIP_OF_NODE2.into(), 1, 1).payload(&[0; 64]);
    let part = echo.macs(CLIENT, VMAC_OF_NODE2).fragments(24)[1].clone();
    row("T8: of an echo request where they are off", part, Reason::EchoDenied);
}

fn v6_rows(world: &World, row: &mut impl FnMut(&'static str, Vec<u8>, Reason)) {
    for (mine, id) in [(Reason::Mine, 200), (Reason::NotMine, 201)] {
        let owned = mine == Reason::Mine;
        let from = ipv6::client(|c| world.is_mine(WEB6, c, 4000, TCP) == owned);
        let whole = Frame::tcp((from, 4000), (VIP6, 80), ACK).payload(&[0; 64]);
        let whole = whole.identification(id).macs(CLIENT, VMAC6);
        let parts = whole.fragments(24);
        row("T8: IPv6 by port, before the first", parts[2].clone(), Reason::EarlyFragment);
        row("T8: IPv6 by port, the first", parts[0].clone(), mine);
        row("T8: IPv6 by port, a later one", parts[1].clone(), mine);
        let parts = whole.clone().extension(60, &PADDED).fragments(24);
        row("T8: IPv6 behind an extension header", parts[1].clone(), mine);
        // Only the first part tells that it is TCP.
        let within = |whole: Frame, id| {
            let whole = whole.identification(id).extension(44, &[]);
            whole.extension(60, &PADDED).macs(CLIENT, VMAC6).fragments(24)
        };
        let parts = within(whole, id + 10);
        row("T8: T28: before the first, which tells more", parts[1].clone(), Reason::EarlyFragment);
        row("T8: T28: the first, an extension header within", parts[0].clone(), mine);
        row("T8: T28: a later one, whose protocol it told", parts[1].clone(), mine);

        let from = ipv6::client(|c| world.is_mine(WEB6, c, 0, UDP) == owned);
        let whole = Frame::udp((from, 4000), (VIP6, 514), &[0; 64]).identification(id);
        for part in whole.macs(CLIENT, VMAC6).fragments(24) {
            row("T8: IPv6 UDP, all of whose rules go by address", part, mine);
        }
        let whole = Frame::udp((from, 4000), (VIP6, 514), &[0; 64]);
        for part in within(whole, id + 20) {
            row("T8: T28: IPv6 UDP by address, an extension header within", part, mine);
        }
        let from = ipv6::client(|c| world.is_mine(RESOLVE, c, 0, ICMPV6) == owned);
        let echo = Frame::icmp_echo(from.into(), VIP6.into(), 1, 1).payload(&[0; 64]);
        for part in within(echo, id + 30) {
            row("T8: T10: T28: of an echo request likewise", part, mine);
        }
    }
}

fn directed_rows(world: &World, row: &mut impl FnMut(&'static str, Vec<u8>, Reason)) {
    let of = |node| {
        let from = client(|c| {
            world.owner(DIRECT, c, 4000, TCP).map(vipfarm::model::NodeId::index) == Some(node)
        });
        let whole = Frame::tcp((from, 4000), (VIP_DIRECTED, 80), ACK).payload(&[0; 64]);
        whole.identification(300).macs(CLIENT, OWN)
    };
    let parts = of(1).fragments(24);
    row("T8: to hand over, before the first", parts[1].clone(), Reason::CopiedFragment);
    row("T8: to hand over, the first", parts[0].clone(), Reason::Forwarded);
    row("T8: to hand over, a later one", parts[1].clone(), Reason::Forwarded);
    let copied = of(1).identification(301).macs(PEER, Mac([0xff; 6])).fragments(24);
    row("T8: that a peer copied", copied[1].clone(), Reason::EarlyFragment);
    let parts = of(1).macs(PEER, OWN).fragments(24);
    row("T17: a later one that was handed over", parts[1].clone(), Reason::HandedOver);
}
