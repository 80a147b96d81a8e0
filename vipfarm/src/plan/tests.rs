use std::net::IpAddr;

use proptest::prelude::*;
use vipfarm_common::{
    Reason,
    layout::{key_v4, mac_index, mac_word, mix, rule_key, vip_index},
};

use super::*;
use crate::{
    host::HostTables,
    model::{
        Filter, Group, IcmpEcho, Mac, Mode, Open, OtherProtocols, Proto, Rule, Vip, VipAddr,
        VlanTags,
    },
};

const ONE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
const TWO: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 101);

fn block(addresses: &[Ipv4Addr], groups: &[&[Rule]]) -> Vip {
    let address = |&addr: &Ipv4Addr| VipAddr {
        addr: addr.into(),
        prefix: 24,
        check: true,
        connections: false,
    };
    Vip {
        interface: None,
        mode: Mode::VmacInvisible,
        vmac: Mac::of_vip(addresses[0]),
        addresses: addresses.iter().map(address).collect(),
        check: true,
        tcp_reset: true,
        open: Open::Auto,
        icmp_echo: IcmpEcho::OnAddr,
        arp_refresh: None,
        checks: Vec::new(),
        other: OtherProtocols::Drop,
        vlan: VlanTags::default(),
        groups: groups
            .iter()
            .map(|rules| Group {
                name: "g".into(),
                powers: vec![],
                rules: rules.to_vec(),
                handover_timeout: Group::HANDOVER_TIMEOUT,
                checks: Vec::new(),
                failover: None,
            })
            .collect(),
    }
}

fn rule(only: Option<Ipv4Addr>, port: Option<u16>) -> Rule {
    let virtual_addr = only.map(IpAddr::V4);
    Rule { virtual_addr, port, proto: Proto::Tcp, filter: Filter::OnAddr, linger: None }
}

fn plan(blocks: &[Vip], here: impl Fn(usize) -> bool) -> Plan {
    let services = Services::new(blocks, here).expect("it fits");
    let bitmaps = vec![Bitmap([u64::MAX; 4]); services.groups()];
    Plan {
        services: Arc::new(services),
        bitmaps,
        moving: Vec::new(),
        former: Vec::new(),
        owners: Vec::new(),
        turns: Vec::new(),
        peers: Peers::unknown(2),
    }
}

/// The kernel group that judges a SYN to that service; `None` when no rule covers it.
fn group_of(plan: &Plan, vip: Ipv4Addr, port: u16) -> Option<u32> {
    let tables = HostTables::new(plan, [1; 16], Mac([2; 6]));
    let mut frame = [0; 60];
    frame[..6].copy_from_slice(&[2; 6]);
    frame[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
    frame[23] = 6;
    frame[30..34].copy_from_slice(&vip.octets());
    frame[36..38].copy_from_slice(&port.to_be_bytes());
    match tables.decide(&mut frame) {
        Reason::Mine => tables.observed().map(|(group, _)| group),
        Reason::NoRule => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_most_specific_rule_wins_by_address_then_by_port() {
    let blocks = [block(
        &[ONE, TWO],
        &[
            &[rule(None, None)],
            &[rule(None, Some(80))],
            &[rule(Some(TWO), None)],
            &[rule(Some(TWO), Some(443))],
        ],
    )];
    let plan = plan(&blocks, |_| true);
    assert_eq!(group_of(&plan, ONE, 22), Some(1), "only the general rule");
    assert_eq!(group_of(&plan, ONE, 80), Some(2), "a port beats all ports");
    assert_eq!(group_of(&plan, TWO, 80), Some(3), "an address beats a port");
    assert_eq!(group_of(&plan, TWO, 443), Some(4), "address and port beat the address");
}

#[test]
fn what_no_rule_covers_has_no_group() {
    let blocks = [block(&[ONE, TWO], &[&[rule(Some(ONE), Some(80))]])];
    let plan = plan(&blocks, |_| true);
    assert_eq!(group_of(&plan, ONE, 80), Some(1));
    assert_eq!(group_of(&plan, ONE, 81), None);
    assert_eq!(group_of(&plan, TWO, 80), None);
}

#[test]
fn groups_are_numbered_alike_on_every_node_whatever_interfaces_it_has() {
    let any = [rule(None, None)];
    let blocks = [block(&[ONE], &[&any, &any, &any]), block(&[TWO], &[&any])];
    let both = plan(&blocks, |_| true);
    let second_only = plan(&blocks, |block| block == 1);
    assert_eq!(group_of(&both, TWO, 80), Some(4));
    assert_eq!(group_of(&second_only, TWO, 80), Some(4));
}

#[test]
fn equal_services_change_by_words_only() {
    let blocks = [block(&[ONE], &[&[rule(None, None)]])];
    let old = plan(&blocks, |_| true);
    assert_eq!(old.changes_from(None), [Change::Structure]);
    assert_eq!(old.changes_from(Some(&old)), []);
    let mut new = old.clone();
    new.bitmaps[1] = Bitmap([1, 2, 3, 4]);
    new.peers.learn(1, Mac([2, 0, 0, 0, 0, 9]));
    let mac = mac_word([2, 0, 0, 0, 0, 9]);
    assert_eq!(
        new.changes_from(Some(&old)),
        [
            Change::Bitmap { group: 1, bitmap: Bitmap([1, 2, 3, 4]) },
            Change::Peer { index: 1, mac },
            Change::PeerSlot { slot: mac_index(mac, 1), mac },
        ]
    );
    assert_eq!(
        old.changes_from(Some(&new))[1..],
        [Change::Peer { index: 1, mac: 0 }, Change::PeerSlot { slot: mac_index(mac, 1), mac: 0 }],
        "a peer that is gone is cleared"
    );
    let other = plan(&[block(&[TWO], &[&[rule(None, None)]])], |_| true);
    assert_eq!(other.changes_from(Some(&old)), [Change::Structure]);
}

/// Who gives a bucket away may be the first to judge its flows, and who gets it must not be.
#[test]
fn who_judges_first_is_stored_between_what_is_lost_and_what_is_gained() {
    let old = plan(&[block(&[ONE], &[&[rule(None, None)]])], |_| true);
    let old = Plan { turns: vec![Turns::NONE; 2], ..old };
    let mut new = old.clone();
    new.turns[1].next.0[0] = 1;
    let (few, others) = (Bitmap([0xff, 0, 0, 0]), Bitmap([0xf0f, 0, 0, 0]));
    let turns = Change::Turns { group: 1, turns: new.turns[1] };
    let stored = |bitmap| Change::Bitmap { group: 1, bitmap };
    let steps = |from, to| {
        let with = |plan: &Plan, bitmap| {
            let mut plan = plan.clone();
            plan.bitmaps[1] = bitmap;
            plan
        };
        with(&new, to).changes_from(Some(&with(&old, from)))
    };
    assert_eq!(steps(few, Bitmap::default()), [stored(Bitmap::default()), turns]);
    assert_eq!(steps(Bitmap::default(), few), [turns, stored(few)]);
    assert_eq!(steps(few, others), [stored(few.and(others)), turns, stored(others)]);
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers() {
    let many: Vec<Ipv4Addr> = (0..65).map(|i| Ipv4Addr::from(0x0a00_0001 + i)).collect();
    let error = Services::new(&[block(&many, &[])], |_| true).expect_err("too many");
    assert_eq!(
        error.to_string(),
        "65 virtual addresses but the kernel tables of an interface hold 64"
    );
    let rules: Vec<Rule> = (1..=257).map(|port| rule(None, Some(port))).collect();
    assert!(Services::new(&[block(&[ONE], &[&rules])], |_| true).is_err());
    let groups = vec![&[][..]; 32];
    assert!(Services::new(&[block(&[ONE], &groups)], |_| true).is_err());
}

#[test]
fn the_fullest_tables_are_built() {
    let addresses: Vec<Ipv4Addr> = (0..64).map(|i| Ipv4Addr::from(0x0a00_0001 + i * 77)).collect();
    let rules: Vec<Rule> = [80, 443, 22, 25].map(|port| rule(None, Some(port))).to_vec();
    let plan = plan(&[block(&addresses, &[&rules])], |_| true);
    let tables = plan.generation();
    assert_eq!(tables.vips.iter().filter(|slot| slot.vip != 0).count(), 64);
    assert_eq!(tables.rules.iter().filter(|slot| slot.key != 0).count(), 256);
    assert_eq!(group_of(&plan, addresses[63], 25), Some(1));
}

/// What counts connections must agree with what judges packets.
#[test]
fn a_connection_is_counted_in_the_bucket_that_its_packets_are_judged_by() {
    let on_port = Rule { filter: Filter::OnPort, ..rule(None, Some(80)) };
    let plan = plan(&[block(&[ONE, TWO], &[&[on_port, rule(None, None)]])], |_| true);
    for (vip, port, client_port) in [(ONE, 80, 4000), (TWO, 80, 4001), (ONE, 9, 4000)] {
        let tables = HostTables::new(&plan, [1; 16], Mac([2; 6]));
        let mut frame = [0; 60];
        frame[..6].copy_from_slice(&[2; 6]);
        frame[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
        frame[23] = 6;
        frame[26..30].copy_from_slice(&[10, 1, 2, 3]);
        frame[30..34].copy_from_slice(&vip.octets());
        frame[34..36].copy_from_slice(&u16::to_be_bytes(client_port));
        frame[36..38].copy_from_slice(&u16::to_be_bytes(port));
        tables.decide(&mut frame);
        let client = ([10, 1, 2, 3], client_port).into();
        let counted: Vec<_> =
            plan.services.buckets_of([1; 16], client, (vip, port).into()).collect();
        let judged = tables.observed().map(|(group, bucket)| (group as usize, bucket));
        assert_eq!(counted, judged.as_slice(), "{vip}:{port}");
        assert_eq!(counted.len(), 1);
    }
    let (client, stranger) = (([10, 1, 2, 3], 1).into(), ([9, 9, 9, 9], 80).into());
    assert_eq!(plan.services.buckets_of([1; 16], client, stranger).count(), 0);
}

/// A socket does not tell its VLAN: what is said of the one bucket must not hold for the other.
#[test]
fn a_connection_to_one_address_in_two_vlans_is_counted_in_the_buckets_of_both() {
    let on = |filter| Rule { filter, ..rule(None, Some(80)) };
    let tagged = |inner, filter| {
        let vlan = VlanTags { outer: 0, inner };
        Vip { vlan, ..block(&[ONE], &[&[on(filter)]]) }
    };
    let blocks = [tagged(0, Filter::OnAddr), tagged(10, Filter::OnPort), block(&[TWO], &[])];
    let plan = plan(&blocks, |_| true);
    let client: std::net::SocketAddr = ([10, 1, 2, 3], 4000).into();
    let counted: Vec<_> = plan.services.buckets_of([1; 16], client, (ONE, 80).into()).collect();
    let groups: Vec<_> = counted.iter().map(|(group, _)| *group).collect();
    assert_eq!(groups, [1, 2], "{counted:?}");
}

#[test]
fn flows_to_one_address_in_two_vlans_are_two() {
    let linger = Some(std::time::Duration::from_secs(10));
    let rule = Rule { proto: Proto::Udp, linger, ..rule(None, Some(80)) };
    let tagged = |inner| {
        let vlan = VlanTags { outer: 0, inner };
        Vip { vlan, ..block(&[ONE], &[std::slice::from_ref(&rule)]) }
    };
    let plan = plan(&[tagged(10), tagged(20)], |_| true);
    let tables = HostTables::new(&plan, [1; 16], Mac([2; 6]));
    let client = [10, 1, 2, 3];
    for (vlan, group) in [(10, 1), (20, 2)] {
        let ip = [0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0];
        let tag = [0x81, 0, 0, vlan, 8, 0];
        let mut frame = [&[2; 6][..], &[4; 6], &tag, &ip, &client, &ONE.octets()].concat();
        frame.extend([0x0f, 0xa0, 0, 80, 0, 8, 0, 0]);
        assert_eq!(tables.decide(&mut frame), Reason::Mine);
        let judged = tables.observed().map(|(group, bucket)| (group as usize, bucket));
        let found = plan.services.lingering_flow(
            [1; 16],
            (client, 4000).into(),
            (ONE, 80).into(),
            vlan.into(),
        );
        assert_eq!(found.map(|(place, _)| place), judged);
        assert_eq!(judged.map(|(group, _)| group), Some(group), "VLAN {vlan}");
    }
    assert_eq!(tables.flows().len(), 2);
}

#[test]
fn rule_keys_tell_addresses_protocols_and_ports_apart() {
    let mut keys = std::collections::HashSet::new();
    for vip in 1..=64 {
        for udp in [false, true] {
            for port in [0, 1, 80, u16::MAX] {
                let key = rule_key(vip, udp, port);
                assert!(key != 0 && keys.insert(key), "{vip} {udp} {port}");
            }
        }
    }
}

proptest! {
    /// Whatever is configured, each configured address is found in its slot and no other one is.
    #[test]
    fn every_address_is_found_and_no_other(
        addresses in proptest::collection::hash_set(any::<u32>(), 1..=64),
        others in proptest::collection::vec(any::<u32>(), 100),
    ) {
        let list: Vec<Ipv4Addr> = addresses.iter().copied().map(Ipv4Addr::from).collect();
        let plan = plan(&[block(&list, &[&[rule(None, None)]])], |_| true);
        let tables = plan.generation();
        let found = |addr: Ipv4Addr| {
            let key = key_v4(addr_word(addr), 0);
            let slot = &tables.vips[vip_index(mix(key, tables.vip_multiplier))];
            slot.vip != 0 && slot.key == key
        };
        for &addr in &list {
            prop_assert!(found(addr));
        }
        for other in others.into_iter().filter(|other| !addresses.contains(other)) {
            prop_assert!(!found(other.into()));
        }
    }
}
