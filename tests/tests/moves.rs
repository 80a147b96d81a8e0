//! T12, T26: whose a packet is while its bucket is in a move, by what this node's stack has of its
//! connection.

use std::net::{IpAddr, SocketAddr};

use vipfarm::host::HostTables;
use vipfarm_common::{Reason, layout::SEVERAL, packet::Connection};
use vipfarm_lab::{
    Frame,
    frame::{ACK, FIN, RST, SYN},
    world::{
        CLIENT, DIRECT, OWN, PEER, VIP, VIP_BY_ADDR, VIP_DIRECTED, VIP6, VIP6_BY_ADDR,
        VIP6_DIRECTED, VMAC, VMAC6, WEB, WEB6, World,
    },
};

const TCP: u8 = 6;

struct Case {
    vip: IpAddr,
    group: usize,
    directed: bool,
    client: SocketAddr,
    mine: bool,
    /// Who had the bucket before.
    former: u8,
}

/// A client whose bucket is in a move, for each kind of VIP, for buckets of this and another node, and
/// for those that one or several have had before.
fn cases(world: &World) -> Vec<Case> {
    let vips = [
        (IpAddr::from(VIP), WEB, false),
        (VIP6.into(), WEB6, false),
        (VIP_DIRECTED.into(), DIRECT, true),
        (VIP6_DIRECTED.into(), DIRECT, true),
    ];
    let case = |(vip, group, directed): (IpAddr, usize, bool), mine: bool, former: u8| {
        let address = |number: u16| -> IpAddr {
            let [high, low] = number.to_be_bytes();
            match vip {
                IpAddr::V4(_) => [10, 1, high, low].into(),
                IpAddr::V6(_) => [0xfd00, 1, 0, 0, 0, 0, 0, number].into(),
            }
        };
        let owner = |client: IpAddr| {
            world.owner(group, client, 4000, TCP).map(vipfarm::model::NodeId::index)
        };
        let client = (1..=u16::MAX).map(address).find(|&client| {
            // Node3's MAC is not known.
            let fits = if mine { owner(client) == Some(0) } else { owner(client) == Some(1) };
            fits && world.former(group, client, 4000, TCP) == Some(former)
        });
        let client = (client.expect("some client fits"), 4000).into();
        Case { vip, group, directed, client, mine, former }
    };
    let kinds = [(true, 1), (true, SEVERAL), (false, 1), (false, SEVERAL)];
    let of = |vip| kinds.map(|(mine, former)| case(vip, mine, former));
    vips.into_iter().flat_map(of).collect()
}

fn frame(case: &Case, flags: u8) -> Vec<u8> {
    let frame = Frame::tcp(case.client, SocketAddr::from((case.vip, 80)), flags);
    let vmac = if case.vip.is_ipv4() { VMAC } else { VMAC6 };
    frame.macs(CLIENT, if case.directed { OWN } else { vmac }).bytes()
}

#[test]
fn t12_new_connections_are_the_owners_and_old_ones_stay_where_they_are() {
    let world = World::new().in_a_move();
    for case in cases(&world) {
        let Case { vip, group, directed, client, mine, former } = case;
        let here = format!("{client} to {vip} (group {group}), mine: {mine}, former: {former}");
        let without = world.host();
        let has = |what| world.host().with_connection(client, (vip, 80).into(), what);
        let (with, after) = (has(Connection::Own), has(Connection::Ended));
        let judge = |tables: &HostTables, flags| tables.decide(&mut frame(&case, flags));
        let owner = match (mine, directed) {
            (true, _) => Reason::Mine,
            (false, false) => Reason::NotMine,
            (false, true) => Reason::Forwarded,
        };
        let of_another = match (mine, directed) {
            (true, false) => Reason::Inherited,
            (true, true) if former == SEVERAL => Reason::CopiedBack,
            (true, true) => Reason::HandedBack,
            (false, _) => owner,
        };
        for tables in [&without, &with, &after] {
            assert_eq!(judge(tables, SYN), owner, "a new connection, {here}");
        }
        for flags in [ACK, ACK | FIN, RST] {
            assert_eq!(judge(&without, flags), of_another, "of another node, {here}");
            let own = if mine { Reason::Mine } else { Reason::Lingering };
            assert_eq!(judge(&with, flags), own, "of this node, {here}");
            let last = if flags & FIN != 0 { own } else { of_another };
            assert_eq!(judge(&after, flags), last, "after one of this node, {here}");
        }
    }
}

#[test]
fn t17_what_was_handed_over_is_handed_back_once_and_no_further() {
    const ALL: [u8; 6] = [0xff; 6];
    let world = World::new().in_a_move();
    for case in cases(&world).iter().filter(|case| case.directed) {
        let mut from_peer = frame(case, ACK);
        from_peer[6..12].copy_from_slice(&PEER.0);
        let mut marked = OWN.0;
        marked[0] |= 1;
        let (reason, to, from) = match (case.mine, case.former) {
            (true, SEVERAL) => (Reason::CopiedBack, ALL, marked),
            (true, _) => (Reason::HandedBack, PEER.0, OWN.0),
            (false, _) => (Reason::HandedOver, OWN.0, PEER.0),
        };
        let mut after = from_peer.clone();
        assert_eq!(world.host().decide(&mut after), reason);
        assert_eq!((&after[..6], &after[6..12]), (&to[..], &from[..]));

        // A copy to all is nobody's to hand on, and of who has the connection.
        from_peer[..6].copy_from_slice(&ALL);
        let last = if case.mine { Reason::Inherited } else { Reason::NotMine };
        assert_eq!(world.host().decide(&mut from_peer.clone()), last);
        let ends = (case.client, (case.vip, 80).into());
        let tables = world.host().with_connection(ends.0, ends.1, Connection::Own);
        let own = if case.mine { Reason::Mine } else { Reason::Lingering };
        assert_eq!(tables.decide(&mut from_peer), own);
        assert!(case.mine || from_peer[..6] == OWN.0, "its stack refuses what is for all");
    }
}

#[test]
fn t8_t12_parts_of_a_connection_in_a_move_go_where_the_first_does_also_by_address() {
    let world = World::new().in_a_move();
    let vips = [(IpAddr::from(VIP_BY_ADDR), WEB, VMAC), (VIP6_BY_ADDR.into(), WEB6, VMAC6)];
    for ((vip, group, vmac), mine) in vips.into_iter().flat_map(|vip| [(vip, true), (vip, false)]) {
        let address = |number: u16| -> IpAddr {
            let [high, low] = number.to_be_bytes();
            match vip {
                IpAddr::V4(_) => [10, 1, high, low].into(),
                IpAddr::V6(_) => [0xfd00, 1, 0, 0, 0, 0, 0, number].into(),
            }
        };
        let client = (1..=u16::MAX).map(address).find(|&client| {
            let moves = world.former(group, client, 0, TCP) == Some(1);
            moves && world.is_mine(group, client, 0, TCP) == mine
        });
        let ends = (SocketAddr::from((client.expect("some client fits"), 4000)), (vip, 9).into());
        let whole = Frame::tcp(ends.0, SocketAddr::from((vip, 9)), ACK).payload(&[0; 64]);
        let parts = whole.macs(CLIENT, vmac).fragments(24);
        let with = world.host().with_connection(ends.0, ends.1, Connection::Own);
        let own = if mine { Reason::Mine } else { Reason::Lingering };
        let of_another = if mine { Reason::Inherited } else { Reason::NotMine };
        for (tables, expected) in [(with, own), (world.host(), of_another)] {
            let judge = |part: usize| tables.decide(&mut parts[part].clone());
            assert_eq!(judge(1), Reason::EarlyFragment, "{ends:?}");
            assert_eq!([0, 1, 2].map(judge), [expected; 3], "{ends:?}, mine: {mine}");
        }
    }
}
