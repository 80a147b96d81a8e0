//! What all nodes must agree on, as 16 bytes.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use vipfarm_common::hash::HASH_VERSION;

use crate::assign::TABLE_VERSION;
use crate::model::{
    ArpRefresh, Balance, Check, Effect, Failover, Farm, Filter, Group, Hooks, Http, HttpProbe,
    IcmpEcho, Membership, Mode, Node, Open, OtherProtocols, Probe, Proto, Rule, Run, Vip, VlanTags,
};

use super::keys::Keys;

/// The parts of a [`digest`], in its order: what to look at where two nodes' digests differ.
const PARTS: [&str; 4] =
    ["program version or hash key", "nodes, timers or farm-wide settings", "VIPs", "groups"];

/// A digest of everything that the nodes of a farm must agree on: names, order, addresses, VIPs,
/// groups, rules, powers, timers and time-outs, port, the identity of the secret behind the bucket hash, the
/// versions of table and hash. `interface` is each node's own, and so are the heartbeats' keys: during
/// a rotation nodes differ in them.
///
/// Four BLAKE3 hashes of 32 bits, one for each part of the configuration, so that two nodes can
/// tell what differs. Peers are authenticated: this guards against mistakes, not against forgers.
pub fn digest(farm: &Farm, keys: &Keys) -> [u8; 16] {
    let [program, nodes, vips, groups] = [
        part(|encoder| {
            encoder.bytes(&[TABLE_VERSION, HASH_VERSION]);
            encoder.bytes(&keys.hash_id());
            encoder.text(&farm.name);
        }),
        part(|encoder| {
            encoder.membership(farm.membership);
            encoder.duration(farm.stop_timeout);
            encoder.list(&farm.nodes, Encoder::node);
            encoder.list(&farm.checks, Encoder::check);
            encoder.hooks(&farm.hooks);
            encoder.http(&farm.http);
        }),
        part(|encoder| encoder.list(&farm.vips, Encoder::vip)),
        part(|encoder| {
            encoder.list(&farm.vips, |encoder, vip| encoder.list(&vip.groups, Encoder::group));
        }),
    ];
    let mut digest = [0; 16];
    for (bytes, part) in digest.chunks_exact_mut(4).zip([program, nodes, vips, groups]) {
        bytes.copy_from_slice(&part);
    }
    digest
}

/// The parts of the configuration in which two digests differ, in words.
pub fn differing_parts(one: [u8; 16], other: [u8; 16]) -> Vec<&'static str> {
    let parts = one.chunks_exact(4).zip(other.chunks_exact(4)).zip(PARTS);
    parts.filter(|((one, other), _)| one != other).map(|(_, part)| part).collect()
}

fn part(encode: impl FnOnce(&mut Encoder)) -> [u8; 4] {
    let mut encoder = Encoder(blake3::Hasher::new_derive_key("vipfarm 1 configuration"));
    encode(&mut encoder);
    let mut part = [0; 4];
    encoder.0.finalize_xof().fill(&mut part);
    part
}

/// A canonical encoding: numbers little-endian, lengths before what varies in length, options and
/// address families marked by a byte; so two different farms never give the same bytes.
struct Encoder(blake3::Hasher);

impl Encoder {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn list<T>(&mut self, items: &[T], encode: fn(&mut Self, &T)) {
        self.bytes(&(items.len() as u64).to_le_bytes());
        for item in items {
            encode(self, item);
        }
    }

    fn option<T>(&mut self, value: Option<T>, encode: fn(&mut Self, T)) {
        self.bytes(&[u8::from(value.is_some())]);
        if let Some(value) = value {
            encode(self, value);
        }
    }

    fn text(&mut self, text: &str) {
        self.bytes(&(text.len() as u64).to_le_bytes());
        self.bytes(text.as_bytes());
    }

    fn number(&mut self, number: u16) {
        self.bytes(&number.to_le_bytes());
    }

    fn duration(&mut self, duration: Duration) {
        self.bytes(&duration.as_nanos().to_le_bytes());
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => {
                self.bytes(&[4]);
                self.bytes(&v4.octets());
            }
            IpAddr::V6(v6) => {
                self.bytes(&[6]);
                self.bytes(&v6.octets());
            }
        }
    }

    fn membership(&mut self, Membership { timers, port }: Membership) {
        for timer in [timers.period, timers.suspect, timers.lease, timers.fail] {
            self.duration(timer);
        }
        self.number(port);
    }

    fn node(&mut self, Node { name, addresses }: &Node) {
        self.text(name);
        self.list(addresses, |encoder, &address| encoder.address(address));
    }

    // Patterns without `..`: a new field of the model must find its place here.
    fn vip(&mut self, vip: &Vip) {
        // The groups are a part of their own.
        let Vip {
            interface: _,
            vlan: VlanTags { outer, inner },
            mode,
            vmac,
            addresses,
            check,
            tcp_reset,
            open,
            icmp_echo,
            other,
            arp_refresh,
            checks,
            groups: _,
        } = vip;
        let mode = match mode {
            Mode::VmacInvisible => 0,
            Mode::VmacDirected => 1,
            Mode::Failover => 2,
        };
        let open = match open {
            Open::Auto => 0,
            Open::Manual => 1,
        };
        let icmp_echo = match icmp_echo {
            IcmpEcho::OnAddr => 0,
            IcmpEcho::Drop => 1,
        };
        let other = match other {
            OtherProtocols::Drop => 0,
            OtherProtocols::OnAddr => 1,
        };
        self.bytes(&vmac.0);
        self.bytes(&[mode, u8::from(*check), u8::from(*tcp_reset), open, icmp_echo, other]);
        self.number(*outer);
        self.number(*inner);
        self.option(*arp_refresh, |encoder, ArpRefresh { interval, duration }| {
            encoder.duration(interval);
            encoder.duration(duration);
        });
        self.list(addresses, |encoder, address| {
            encoder.address(address.addr);
            encoder.bytes(&[
                address.prefix,
                u8::from(address.check),
                u8::from(address.connections),
            ]);
        });
        self.list(checks, Self::check);
    }

    fn group(&mut self, group: &Group) {
        let Group { name, powers, rules, handover_timeout, checks, failover } = group;
        self.text(name);
        self.duration(*handover_timeout);
        self.list(powers, |encoder, &power| encoder.option(power, Self::number));
        self.list(rules, Self::rule);
        self.list(checks, Self::check);
        // The block's mode tells whether there is one.
        if let Some(Failover { preempt, preempt_delay, balance }) = failover {
            let balance = match balance {
                Balance::Priority => 0,
                Balance::Spread => 1,
            };
            self.bytes(&[u8::from(*preempt), balance]);
            self.duration(*preempt_delay);
        }
    }

    fn check(&mut self, Check { probe, interval, timeout, rise, fall, effect }: &Check) {
        match probe {
            Probe::Tcp(address) => {
                self.bytes(&[0]);
                self.socket(address);
            }
            Probe::Http(HttpProbe { tls, host, port, path, status, verify }) => {
                self.bytes(&[1, u8::from(*tls), u8::from(*verify)]);
                self.text(host);
                self.number(*port);
                self.text(path);
                self.list(status, |encoder, &code| encoder.number(code));
            }
            Probe::Exec(Run { argv, user }) => {
                self.bytes(&[2]);
                self.argv(argv);
                self.option(user.as_deref(), Self::text);
            }
            Probe::File { path, present } => {
                self.bytes(&[3, u8::from(*present)]);
                self.text(&path.to_string_lossy());
            }
            Probe::Interface(name) => {
                self.bytes(&[4]);
                self.text(name);
            }
        }
        self.duration(*interval);
        self.duration(*timeout);
        self.number(*rise);
        self.number(*fall);
        self.bytes(&[match effect {
            Effect::Drain => 0,
            Effect::Leave => 1,
        }]);
    }

    fn hooks(&mut self, Hooks { on_view, on_ready, on_closed, timeout, user }: &Hooks) {
        for hook in [on_view, on_ready, on_closed] {
            self.option(hook.as_deref(), Self::argv);
        }
        self.duration(*timeout);
        self.option(user.as_deref(), Self::text);
    }

    fn http(&mut self, Http { listen, safekit_module }: &Http) {
        self.list(listen, Self::socket);
        self.option(safekit_module.as_deref(), Self::text);
    }

    fn argv(&mut self, argv: &[String]) {
        self.list(argv, |encoder, argument| encoder.text(argument));
    }

    fn socket(&mut self, address: &SocketAddr) {
        self.address(address.ip());
        self.number(address.port());
    }

    fn rule(&mut self, Rule { virtual_addr, port, proto, filter, linger }: &Rule) {
        let proto = match proto {
            Proto::Tcp => 0,
            Proto::Udp if linger.is_none() => 1,
            Proto::Arp => 2,
            // Followed by how long.
            Proto::Udp => 3,
        };
        let filter = match filter {
            Filter::OnAddr => 0,
            Filter::OnPort => 1,
            Filter::OnIpid => 2,
        };
        self.option(*virtual_addr, Self::address);
        self.option(*port, Self::number);
        self.bytes(&[proto, filter]);
        if let Some(linger) = *linger {
            self.duration(linger);
        }
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(
            parts(|farm| farm.nodes[0].name.push('x')),
            ["nodes, timers or farm-wide settings"]
        );
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
}
