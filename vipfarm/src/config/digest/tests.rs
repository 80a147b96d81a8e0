use std::collections::HashMap;

use super::*;
use crate::{
    config,
    model::{Mac, VipAddr},
};

const FARM: &str = r#"
farm: services
key_file: farm.key
nodes:
  - { name: alpha, addresses: [10.1.0.11, 10.2.0.11] }
  - { name: beta, addresses: [10.1.0.12, 10.2.0.12] }
  - { name: gamma, addresses: [10.1.0.13, 10.2.0.13] }
vips:
  - addresses: [10.1.0.100/16, 10.1.0.101/16]
    groups:
      - name: http
        powers: { alpha: 2, beta: 1 }
        rules:
          - { port: 80, proto: tcp, filter: on_port }
          - { port: 443, proto: tcp, filter: on_port }
      - name: dns
        rules: [{ virtual_addr: 10.1.0.101, port: 53, proto: udp, filter: on_ipid }]
      - name: rest
        rules: [{ port: "*", proto: tcp, filter: on_addr }]
"#;

#[test]
fn the_digest_of_a_known_farm_never_changes() {
    let digest = digest(&farm(), &keys(1));
    assert_eq!(u128::from_be_bytes(digest), 66_217_600_226_437_547_777_883_783_529_801_070_338);
}

#[test]
fn the_parts_that_differ_are_named() {
    let parts = |change: fn(&mut Farm)| {
        let mut other = farm();
        change(&mut other);
        differing_parts(digest(&farm(), &keys(1)), digest(&other, &keys(1)))
    };
    assert!(parts(|_| ()).is_empty());
    assert_eq!(parts(|farm| farm.nodes[0].name.push('x')), ["nodes, timers or farm-wide settings"]);
    assert_eq!(parts(|farm| farm.vips[0].addresses[0].prefix = 8), ["VIPs"]);
    assert_eq!(parts(|farm| farm.vips[0].groups[0].rules[0].port = None), ["groups"]);
    let other_key = digest(&farm(), &keys(2));
    assert_eq!(
        differing_parts(digest(&farm(), &keys(1)), other_key),
        ["program version or hash key"]
    );
}

#[test]
fn what_a_node_has_for_itself_does_not_count() {
    let mut other = farm();
    other.key_file = "/elsewhere/farm.key".into();
    other.accept_key_file = Some("/elsewhere/next.key".into());
    other.vips[0].interface = Some("bond0".into());
    assert_eq!(digest(&other, &keys(1)), digest(&farm(), &keys(1)));
}

#[test]
fn another_secret_gives_another_digest() {
    assert_ne!(digest(&farm(), &keys(2)), digest(&farm(), &keys(1)));
}

type Change = (&'static str, fn(&mut Farm));

const CHANGES: &[Change] = &[
    ("nothing", |_| ()),
    ("farm name", |farm| farm.name.push('x')),
    ("period", |farm| farm.membership.timers.period += Duration::from_millis(1)),
    ("suspect", |farm| farm.membership.timers.suspect += Duration::from_millis(1)),
    ("lease", |farm| farm.membership.timers.lease += Duration::from_millis(1)),
    ("fail", |farm| farm.membership.timers.fail += Duration::from_millis(1)),
    ("port", |farm| farm.membership.port += 1),
    ("stop_timeout", |farm| farm.stop_timeout += Duration::from_secs(1)),
    ("node name", |farm| farm.nodes[1].name.push('x')),
    ("node order", |farm| farm.nodes.swap(0, 1)),
    ("node address", |farm| farm.nodes[0].addresses[1] = [10, 2, 0, 99].into()),
    ("node address order", |farm| farm.nodes[0].addresses.swap(0, 1)),
    ("mode", |farm| farm.vips[0].mode = Mode::VmacDirected),
    ("failover", |farm| farm.vips[0].mode = Mode::Failover),
    ("vmac", |farm| farm.vips[0].vmac = Mac([2, 0, 0, 0, 0, 1])),
    ("vip", |farm| farm.vips[0].addresses[0].addr = [10, 1, 0, 102].into()),
    ("vip family", |farm| {
        farm.vips[0].addresses[0].addr = "::10.1.0.100".parse().expect("IPv6");
    }),
    ("vip prefix", |farm| farm.vips[0].addresses[0].prefix = 17),
    ("vip check", |farm| flip(&mut farm.vips[0].addresses[0], |vip| &mut vip.check)),
    ("vip connections", |farm| {
        flip(&mut farm.vips[0].addresses[0], |vip| &mut vip.connections);
    }),
    ("vip order", |farm| farm.vips[0].addresses.swap(0, 1)),
    ("check", |farm| farm.vips[0].check ^= true),
    ("tcp_reset", |farm| farm.vips[0].tcp_reset ^= true),
    ("open", |farm| farm.vips[0].open = Open::Manual),
    ("icmp_echo", |farm| farm.vips[0].icmp_echo = IcmpEcho::Drop),
    ("other", |farm| farm.vips[0].other = OtherProtocols::OnAddr),
    ("arp_refresh", |farm| farm.vips[0].arp_refresh = Some(ArpRefresh::DEFAULT)),
    ("arp_refresh interval", |farm| {
        let interval = Duration::from_secs(10);
        farm.vips[0].arp_refresh = Some(ArpRefresh { interval, ..ArpRefresh::DEFAULT });
    }),
    ("arp_refresh duration", |farm| {
        let duration = Duration::from_mins(10);
        farm.vips[0].arp_refresh = Some(ArpRefresh { duration, ..ArpRefresh::DEFAULT });
    }),
    ("vlan", |farm| farm.vips[0].vlan.inner = 10),
    ("service vlan", |farm| farm.vips[0].vlan.outer = 10),
    ("group name", |farm| farm.vips[0].groups[0].name.push('x')),
    ("handover_timeout", |farm| {
        farm.vips[0].groups[0].handover_timeout += Duration::from_secs(1);
    }),
    ("preempt", |farm| failover(farm, |it| it.preempt = false)),
    ("preempt_delay", |farm| failover(farm, |it| it.preempt_delay += Duration::from_secs(1))),
    ("balance", |farm| failover(farm, |it| it.balance = Balance::Spread)),
    ("group order", |farm| farm.vips[0].groups.swap(0, 1)),
    ("power", |farm| farm.vips[0].groups[0].powers[0] = Some(7)),
    ("power removed", |farm| farm.vips[0].groups[0].powers[0] = None),
    ("power 0 instead of none", |farm| farm.vips[0].groups[0].powers[2] = Some(0)),
    ("rule address", |farm| {
        farm.vips[0].groups[0].rules[0].virtual_addr = Some([10, 1, 0, 100].into());
    }),
    ("rule port", |farm| farm.vips[0].groups[0].rules[0].port = Some(81)),
    ("rule port 0 instead of all", |farm| farm.vips[0].groups[2].rules[0].port = Some(0)),
    ("rule linger", |farm| {
        farm.vips[0].groups[1].rules[0].linger = Some(Duration::from_secs(30));
    }),
    ("rule linger of another length", |farm| {
        farm.vips[0].groups[1].rules[0].linger = Some(Duration::from_secs(31));
    }),
    ("rule proto", |farm| farm.vips[0].groups[0].rules[0].proto = Proto::Udp),
    ("rule filter", |farm| farm.vips[0].groups[0].rules[0].filter = Filter::OnAddr),
    ("rule filter on_ipid", |farm| farm.vips[0].groups[0].rules[0].filter = Filter::OnIpid),
    ("rule order", |farm| farm.vips[0].groups[0].rules.reverse()),
    ("check of all", |farm| farm.checks = vec![check()]),
    ("check of a block", |farm| farm.vips[0].checks = vec![check()]),
    ("check of a group", |farm| farm.vips[0].groups[0].checks = vec![check()]),
    ("check interval", |farm| {
        farm.vips[0].groups[1].checks = vec![Check { interval: Check::TIMEOUT, ..check() }];
    }),
    ("check effect", |farm| {
        farm.vips[0].groups[1].checks = vec![Check { effect: Effect::Leave, ..check() }];
    }),
    ("check by program", |farm| {
        let run = Run { argv: vec!["/bin/true".into()], user: None };
        farm.vips[0].groups[1].checks = vec![Check { probe: Probe::Exec(run), ..check() }];
    }),
    ("hook", |farm| farm.hooks.on_view = Some(vec!["/bin/true".into()])),
    ("another hook", |farm| farm.hooks.on_ready = Some(vec!["/bin/true".into()])),
    ("hook time-out", |farm| farm.hooks.timeout += Duration::from_secs(1)),
    ("http", |farm| farm.http.listen = vec![([10, 1, 0, 11], 9010).into()]),
    ("http module", |farm| farm.http.safekit_module = Some("web".into())),
];

/// Changes that leave the others without their place.
const MOVES: &[Change] = &[
    ("node removed", |farm| drop(farm.nodes.pop())),
    ("address of the next node", |farm| {
        let moved = farm.nodes[1].addresses.remove(0);
        farm.nodes[0].addresses.push(moved);
    }),
    ("rule of the next group", |farm| {
        let moved = farm.vips[0].groups[1].rules.remove(0);
        farm.vips[0].groups[0].rules.push(moved);
    }),
    ("group of another block", |farm| {
        let mut block = farm.vips[0].clone();
        block.groups = farm.vips[0].groups.split_off(1);
        farm.vips.push(block);
    }),
];

#[test]
fn every_change_gives_a_digest_of_its_own() {
    let mut seen = HashMap::new();
    for (name, change) in CHANGES.iter().chain(MOVES) {
        let mut farm = farm();
        change(&mut farm);
        if let Some(other) = seen.insert(digest(&farm, &keys(1)), name) {
            panic!("`{name}` and `{other}` have the same digest");
        }
    }
}

proptest::proptest! {
    #[test]
    fn farms_are_equal_exactly_when_their_digests_are(
        changes in proptest::collection::vec(proptest::sample::select(CHANGES), 0..4),
        others in proptest::collection::vec(proptest::sample::select(CHANGES), 0..4),
    ) {
        let changed = |changes: &[Change]| {
            let mut farm = farm();
            for (_, change) in changes {
                change(&mut farm);
            }
            farm
        };
        let (one, other) = (changed(&changes), changed(&others));
        let same = digest(&one, &keys(1)) == digest(&other, &keys(1));
        proptest::prop_assert_eq!(same, one == other);
    }
}

fn check() -> Check {
    Check {
        probe: Probe::Tcp(([127, 0, 0, 1], 80).into()),
        interval: Check::INTERVAL,
        timeout: Check::TIMEOUT,
        rise: Check::RISE,
        fall: Check::FALL,
        effect: Effect::Drain,
    }
}

fn flip(vip: &mut VipAddr, field: fn(&mut VipAddr) -> &mut bool) {
    *field(vip) ^= true;
}

/// Has the first block be one with failover, and changes how.
fn failover(farm: &mut Farm, change: fn(&mut Failover)) {
    let preempt_delay = Duration::ZERO;
    let failover = Failover { preempt: true, preempt_delay, balance: Balance::Priority };
    farm.vips[0].mode = Mode::Failover;
    let group = &mut farm.vips[0].groups[0];
    change(group.failover.get_or_insert(failover));
}

fn farm() -> Farm {
    config::parse("farm.yaml", FARM).expect("valid")
}

fn keys(byte: u8) -> Keys {
    config::key::Secret::from_bytes([byte; 32]).into()
}
