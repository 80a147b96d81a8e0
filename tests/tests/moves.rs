//! T12, T26: whose a packet is while its bucket is in a move, by what this node's stack has of its
//! connection.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use vipfarm::{
    datapath::manual::Entry,
    host::HostTables,
    model::{Bitmap, Mac},
    plan::{Owners, Plan, Turns},
};
use vipfarm_common::{
    Reason,
    layout::{NOBODY, SEVERAL},
    packet::Connection,
};
use vipfarm_lab::{
    Frame,
    frame::{ACK, FIN, RST, SYN},
    require, skip,
    world::{
        CLIENT, DIRECT, DNS, OWN, PEER, VIP, VIP_BY_ADDR, VIP_DIRECTED, VIP6, VIP6_BY_ADDR,
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

/// A client whose bucket is in a move, for each kind of VIP, for buckets of this and another node, for
/// those that one or several have had before, and for those that were this node's.
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
    let kinds = [(true, 1), (true, SEVERAL), (false, 1), (false, SEVERAL), (false, NOBODY)];
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
        // Another's with a former owner is about to be this node's.
        let of_another = match (mine, directed) {
            (true, false) => Reason::Inherited,
            (_, true) if former == SEVERAL => Reason::CopiedBack,
            (_, true) if former != NOBODY => Reason::HandedBack,
            (_, _) => owner,
        };
        let begun = has(Connection::Begun);
        for tables in [&without, &begun, &after] {
            assert_eq!(judge(tables, SYN), owner, "a new connection, {here}");
        }
        let again = if directed && !mine { Reason::Lingering } else { owner };
        assert_eq!(judge(&with, SYN), again, "the port of one of this node, {here}");
        for flags in [ACK, ACK | FIN, RST] {
            assert_eq!(judge(&without, flags), of_another, "of another node, {here}");
            let own = if mine { Reason::Mine } else { Reason::Lingering };
            assert_eq!(judge(&with, flags), own, "of this node, {here}");
            assert_eq!(judge(&begun, flags), own, "that begins at this node, {here}");
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
        let mut again = frame(case, SYN);
        again[6..12].copy_from_slice(&PEER.0);
        let has_one =
            world.host().with_connection(case.client, (case.vip, 80).into(), Connection::Own);
        let owners = if case.mine { Reason::Mine } else { Reason::HandedOver };
        assert_eq!(has_one.decide(&mut again), owners, "a SYN that others have had");
        let mut marked = OWN.0;
        marked[0] |= 1;
        let (reason, to, from) = match (case.mine, case.former) {
            (_, SEVERAL) => (Reason::CopiedBack, ALL, marked),
            (true, _) => (Reason::HandedBack, PEER.0, OWN.0),
            // What is about to be this node's is his still who sent it.
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

/// A rule whose flows linger for 30 s, of each kind of VIP.
const LINGERS: u16 = 4433;
const LINGER: Duration = Duration::from_secs(30);
const TENURE: u16 = 7;

/// What a node remembers of a flow.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Seen {
    Never,
    /// In this tenure.
    Lately,
    /// In this tenure, and for too long ago.
    Idle,
    /// In a former tenure.
    Before,
}

/// What becomes of a datagram of a flow that lingers.
struct Row {
    mine: bool,
    /// Who judges before, and after.
    first: &'static [u8],
    next: &'static [u8],
    from: Mac,
    seen: &'static [Seen],
    /// Where all nodes get it, and where one does.
    by_all: Reason,
    by_one: Reason,
}

const ANYBODY: &[u8] = &[NOBODY, 1, UNKNOWN, SEVERAL];
/// Its MAC is not known.
const UNKNOWN: u8 = 2;
/// No frame can be sent to these.
const LOST: &[u8] = &[UNKNOWN, SEVERAL];
const ALWAYS: &[Seen] = &[Seen::Never, Seen::Lately, Seen::Idle, Seen::Before];
const STRANGE: &[Seen] = &[Seen::Never, Seen::Idle, Seen::Before];
const KNOWN: &[Seen] = &[Seen::Lately];

#[rustfmt::skip]
const ROWS: [Row; 21] = {
    use Reason::{Forwarded, HandedBack, HandedOver, Inherited, Lingering, Mine, NoNextHop, NotMine};
    const NONE: &[u8] = &[NOBODY];
    const NODE2: &[u8] = &[1];
    const OTHERS: &[u8] = &[NOBODY, UNKNOWN, SEVERAL];
    const JUDGES: &[u8] = &[1, UNKNOWN, SEVERAL];
    [
        // The owner takes what nobody else judges first, and what those send who do.
        Row { mine: true, first: NONE, next: ANYBODY, from: CLIENT, seen: ALWAYS, by_all: Mine, by_one: Mine },
        Row { mine: true, first: NONE, next: ANYBODY, from: PEER, seen: ALWAYS, by_all: HandedOver, by_one: Mine },
        Row { mine: true, first: NODE2, next: ANYBODY, from: CLIENT, seen: ALWAYS, by_all: Inherited, by_one: HandedBack },
        Row { mine: true, first: LOST, next: ANYBODY, from: CLIENT, seen: ALWAYS, by_all: Inherited, by_one: NoNextHop },
        Row { mine: true, first: NODE2, next: ANYBODY, from: PEER, seen: ALWAYS, by_all: Mine, by_one: Mine },
        Row { mine: true, first: LOST, next: NODE2, from: PEER, seen: ALWAYS, by_all: Mine, by_one: Mine },
        Row { mine: true, first: LOST, next: OTHERS, from: PEER, seen: ALWAYS, by_all: Inherited, by_one: Inherited },
        // The first former owner takes what it remembers, and hands on the rest.
        Row { mine: false, first: NONE, next: JUDGES, from: CLIENT, seen: KNOWN, by_all: Lingering, by_one: Lingering },
        Row { mine: false, first: NONE, next: NODE2, from: CLIENT, seen: STRANGE, by_all: Forwarded, by_one: Forwarded },
        Row { mine: false, first: NONE, next: LOST, from: CLIENT, seen: STRANGE, by_all: NoNextHop, by_one: NoNextHop },
        Row { mine: false, first: NONE, next: JUDGES, from: PEER, seen: KNOWN, by_all: HandedOver, by_one: Lingering },
        Row { mine: false, first: NONE, next: NODE2, from: PEER, seen: STRANGE, by_all: HandedOver, by_one: Forwarded },
        Row { mine: false, first: NONE, next: LOST, from: PEER, seen: STRANGE, by_all: HandedOver, by_one: NoNextHop },
        // A later one does with what it is sent, which is lost rather than going back.
        Row { mine: false, first: NODE2, next: ANYBODY, from: CLIENT, seen: ALWAYS, by_all: NotMine, by_one: HandedBack },
        Row { mine: false, first: LOST, next: ANYBODY, from: CLIENT, seen: ALWAYS, by_all: NotMine, by_one: NoNextHop },
        Row { mine: false, first: JUDGES, next: JUDGES, from: PEER, seen: KNOWN, by_all: Lingering, by_one: Lingering },
        Row { mine: false, first: JUDGES, next: NODE2, from: PEER, seen: STRANGE, by_all: Inherited, by_one: Inherited },
        Row { mine: false, first: JUDGES, next: LOST, from: PEER, seen: STRANGE, by_all: NoNextHop, by_one: NoNextHop },
        // Whoever judges none leaves it to the owner, which is node2.
        Row { mine: false, first: NONE, next: NONE, from: CLIENT, seen: ALWAYS, by_all: NotMine, by_one: Forwarded },
        Row { mine: false, first: NONE, next: NONE, from: PEER, seen: ALWAYS, by_all: HandedOver, by_one: HandedOver },
        Row { mine: false, first: JUDGES, next: NONE, from: PEER, seen: ALWAYS, by_all: NotMine, by_one: HandedOver },
    ]
};

/// Each case of each row, for each kind of VIP, with a flow of its own: its words, how node1's tables are when
/// the flow is seen for the first time, and then, and what becomes of its datagram.
fn datagrams(mut check: impl FnMut(&str, [&Plan; 2], &[u8], &[u8], (Seen, Reason))) {
    const ALL: Bitmap = Bitmap([u64::MAX; 4]);
    let vips = [
        (IpAddr::from(VIP), DNS, VMAC),
        (VIP6.into(), WEB6, VMAC6),
        (VIP_DIRECTED.into(), DIRECT, OWN),
        (VIP6_DIRECTED.into(), DIRECT, OWN),
    ];
    let world = World::new().in_a_move();
    for (vip, group, target) in vips {
        let plan = |mine: bool, first: u8, next: u8, tenure: u16| {
            let mut plan = world.plan();
            plan.bitmaps[group] = if mine { ALL } else { Bitmap::default() };
            plan.owners[group] = Owners([u8::from(!mine); 256]);
            plan.turns[group] = Turns {
                first: Owners([first; 256]),
                next: Owners([next; 256]),
                tenure: [tenure; 256],
            };
            plan
        };
        let mut port = 20_000;
        for row in &ROWS {
            for (&first, &next) in
                row.first.iter().flat_map(|first| row.next.iter().map(move |next| (first, next)))
            {
                for &seen in row.seen {
                    port += 1;
                    let client: SocketAddr = match vip {
                        IpAddr::V4(_) => ([10, 1, 0, 1], port).into(),
                        IpAddr::V6(_) => ([0xfd00, 1, 0, 0, 0, 0, 0, 1], port).into(),
                    };
                    let frame =
                        |from| Frame::udp(client, (vip, LINGERS), b"x").macs(from, target).bytes();
                    let (first_seen, later) = (frame(CLIENT), frame(row.from));
                    let tenure = if seen == Seen::Before { TENURE - 1 } else { TENURE };
                    let before = plan(true, NOBODY, NOBODY, tenure);
                    let now = plan(row.mine, first, next, TENURE);
                    let reason = if target == OWN { row.by_one } else { row.by_all };
                    let Row { mine, from, .. } = row;
                    let here = format!(
                        "{client} to {vip}, mine: {mine}, first: {first}, next: {next}, from {from}, seen: {seen:?}"
                    );
                    check(&here, [&before, &now], &first_seen, &later, (seen, reason));
                }
            }
        }
    }
}

#[test]
fn every_case_of_a_flow_that_lingers_is_in_one_row() {
    for (mine, &first, &next) in [true, false].into_iter().flat_map(|mine| {
        ANYBODY.iter().flat_map(move |first| ANYBODY.iter().map(move |next| (mine, first, next)))
    }) {
        for (from, seen) in
            [CLIENT, PEER].iter().flat_map(|from| ALWAYS.iter().map(move |seen| (from, seen)))
        {
            let fits = |row: &&Row| {
                row.mine == mine
                    && row.from == *from
                    && row.first.contains(&first)
                    && row.next.contains(&next)
                    && row.seen.contains(seen)
            };
            assert_eq!(
                ROWS.iter().filter(fits).count(),
                1,
                "{mine} {first} {next} {from} {seen:?}"
            );
        }
    }
}

#[test]
fn t12_flows_that_linger_are_judged_by_one_node_after_the_other_on_the_host() {
    let mut tables = World::new().host();
    datagrams(|here, [before, now], first, later, (seen, reason)| {
        tables.apply(before);
        if seen != Seen::Never {
            assert_eq!(tables.decide(&mut first.to_vec()), Reason::Mine, "{here}");
        }
        if seen == Seen::Idle {
            tables.pass(LINGER + Duration::from_secs(1));
        }
        tables.apply(now);
        assert_eq!(tables.decide(&mut later.to_vec()), reason, "{here}");
    });
}

/// But for those that were idle for too long: the kernel's clock is not to be moved.
#[test]
fn t12_flows_that_linger_are_judged_by_one_node_after_the_other_in_the_kernel() {
    require!(skip::bpf());
    let mut kernel = World::new().kernel();
    kernel.lease(Duration::from_mins(10)).expect("a lease");
    let mut run = |plan: &Plan, frame: &[u8]| {
        kernel.apply(plan.clone()).expect("tables");
        kernel.run(Entry::Filter, frame).expect("it runs").reasons
    };
    datagrams(|here, [before, now], first, later, (seen, reason)| {
        if seen == Seen::Idle {
            return;
        }
        if seen != Seen::Never {
            assert_eq!(run(before, first), [Reason::Mine], "{here}");
        }
        assert_eq!(run(now, later), [reason], "{here}");
    });
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
