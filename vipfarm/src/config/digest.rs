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
            Probe::Unclaimed => self.bytes(&[5]),
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
mod tests;
