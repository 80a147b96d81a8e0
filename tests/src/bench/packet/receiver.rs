//! Who a flood meets: a node of the lab with one filter, which drops all of it or a half, or with none;
//! and how many frames its kernel says met that fate.

use std::{fs, net::UdpSocket};

use anyhow::{Context, Result, anyhow, ensure};
use aya::{Ebpf, programs::SocketFilter};
use nix::{
    net::if_::if_nametoindex,
    time::{ClockId, clock_gettime},
};
use vipfarm::{
    datapath::{Buffers, Counters, Datapath, Options, XdpMode},
    model::{Mac, NodeId},
};
use vipfarm_common::Reason;

use crate::{
    host::{Host, INTERFACE},
    iproute,
    lab::Lab,
    skip,
    world::{VIP, VMAC, World},
};

/// What a receiver filters by: a hash of who sent the frame, by which all but the first and the last
/// drop every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: the frame goes through the network stack, up to a socket that takes nothing.
    None,
    /// The agent's programs, when all buckets belong to other nodes.
    Vipfarm,
    /// nftables at the device's ingress: jhash of client address and port, and a map of 256 verdicts.
    NftJhash,
    /// `xt_cluster`, by iptables: jhash of the client address that connection tracking found.
    XtCluster,
    /// The agent's programs, when every other bucket is the node's: the frames of those go where all go
    /// without a filter.
    HalfVipfarm,
}

impl Kind {
    pub(super) const ALL: [Self; 5] =
        [Self::None, Self::Vipfarm, Self::NftJhash, Self::XtCluster, Self::HalfVipfarm];

    /// For people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "no filter",
            Self::Vipfarm => "vipfarm",
            Self::NftJhash => "nft jhash",
            Self::XtCluster => "xt_cluster",
            Self::HalfVipfarm => "vipfarm, half of it served",
        }
    }
}

/// The port that the flood is for, which has a rule of its own: its flows do not linger.
pub(super) const PORT: u16 = 7000;

/// The nodes of iptables' cluster; the rule drops the packets of each.
const CLUSTER: u32 = 2;

/// How long the agent's programs may accept, in nanoseconds: longer than any bench takes.
const LEASE: u64 = 24 * 3600 * 1_000_000_000;

/// A node, ready to be flooded.
pub(super) struct Receiver<'a> {
    host: &'a Host,
    filter: Filter,
}

enum Filter {
    /// Its filter lives as long as it.
    Socket {
        _socket: UdpSocket,
    },
    /// Its programs are pinned in the lab's directory.
    Vipfarm(Box<Counters>),
    NftJhash,
    XtCluster,
    HalfVipfarm {
        counters: Box<Counters>,
        _socket: UdpSocket,
    },
}

/// What a receiver has counted so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    /// Frames that its interface has received.
    pub(super) arrived: u64,
    /// Frames that came to the end that the filter stands for.
    pub(super) ended: u64,
}

impl<'a> Receiver<'a> {
    /// Sets the filter up. An error where a program or the kernel cannot.
    pub(super) fn new(kind: Kind, lab: &Lab, host: &'a Host) -> Result<Self> {
        let filter = match kind {
            Kind::Vipfarm => Filter::Vipfarm(vipfarm(lab, host, &[1, 2])?),
            Kind::None => Filter::Socket { _socket: deaf_socket(host)? },
            Kind::NftJhash => nft_jhash(lab, host)?,
            Kind::XtCluster => xt_cluster(host)?,
            Kind::HalfVipfarm => Filter::HalfVipfarm {
                _socket: deaf_socket(host)?,
                counters: vipfarm(lab, host, &[0, 1])?,
            },
        };
        if !matches!(kind, Kind::Vipfarm | Kind::HalfVipfarm) {
            // An end of a veth pair without an XDP program polls its queue only for this.
            host.run(&format!("ethtool -K {INTERFACE} gro on"))?;
        }
        Ok(Self { host, filter })
    }

    pub(super) fn host(&self) -> &'a Host {
        self.host
    }

    /// Where frames for it must be addressed to.
    pub(super) fn mac(&self) -> Mac {
        match self.filter {
            Filter::Vipfarm(_) | Filter::HalfVipfarm { .. } => VMAC,
            _ => self.host.mac(),
        }
    }

    pub(super) fn tally(&self) -> Result<Tally> {
        // `/proc/net` would be that of the process's first thread.
        let read =
            |list| self.host.in_ns(|| fs::read_to_string(format!("/proc/thread-self/net/{list}")));
        let (devices, snmp) = (read("dev")?, read("snmp")?);
        let arrived = received(&devices, INTERFACE)?;
        let ended = match &self.filter {
            Filter::Socket { .. } => snmp_counter(&snmp, "Udp", "InErrors")?,
            Filter::Vipfarm(counters) => counters.packets()?[&Reason::NotMine],
            // The verdicts of a map do not count: what was not dropped here comes to IP.
            Filter::NftJhash => arrived - snmp_counter(&snmp, "Ip", "InReceives")?.min(arrived),
            Filter::XtCluster => dropped_by(&self.host.run(LIST_RULES)?, "cluster")?,
            Filter::HalfVipfarm { counters, .. } => {
                let (served, reasons) =
                    (snmp_counter(&snmp, "Udp", "InErrors")?, counters.packets()?);
                let (mine, others) = (reasons[&Reason::Mine], reasons[&Reason::NotMine]);
                ensure!(
                    mine == served,
                    "{mine} frames were accepted, and {served} came to the socket"
                );
                ensure!(mine.abs_diff(others) <= arrived / 10, "{mine} of {arrived} are no half");
                mine + others
            }
        };
        Ok(Tally { arrived, ended })
    }
}

/// The agent's programs with a lease, as node1 has them when those nodes are alive, by their places in
/// the file.
fn vipfarm(lab: &Lab, host: &Host, alive: &[usize]) -> Result<Box<Counters>> {
    let alive = alive.iter().copied().filter_map(NodeId::new).collect();
    let plan = World::new().with_alive(alive).plan();
    let attach = || {
        let options = Options {
            interface: INTERFACE.into(),
            index: if_nametoindex(INTERFACE)?,
            mac: host.mac(),
            hash_key: [0; 16],
            bpf_dir: lab.bpf_directory(),
            generic: false,
            clsact: false,
            trace: false,
            buffers: Buffers::Several,
        };
        let mut datapath = Datapath::load(&options)?.attach(plan)?;
        datapath.extend_lease(boot_ns()? + LEASE)?;
        let counters = datapath.take_counters()?;
        ensure!(datapath.xdp_mode() == XdpMode::Native, "the filter is not in the driver");
        Ok(Box::new(counters))
    };
    host.in_ns(attach)
}

fn boot_ns() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
    Ok(u64::try_from(now.tv_sec())? * 1_000_000_000 + u64::try_from(now.tv_nsec())?)
}

/// A socket that a reader would have to empty would be full soon, and then cost less.
fn deaf_socket(host: &Host) -> Result<UdpSocket> {
    host.add_address(VIP.into(), 32)?;
    let socket = host.in_ns(|| UdpSocket::bind((VIP, PORT)))?;
    let object = skip::lab_object().map_err(|reason| anyhow!(reason))?;
    let mut programs = Ebpf::load_file(object)?;
    let deaf = programs.program_mut("deaf").context("the lab object has no program deaf")?;
    let deaf: &mut SocketFilter = deaf.try_into()?;
    deaf.load()?;
    deaf.attach(&socket)?;
    Ok(socket)
}

fn nft_jhash(lab: &Lab, host: &Host) -> Result<Filter> {
    tool("nft", "nftables")?;
    let file = lab.directory().join("jhash.nft");
    fs::write(&file, nft_rules())?;
    host.run(&format!("nft -f {}", file.display()))?;
    Ok(Filter::NftJhash)
}

/// A file for nft.
fn nft_rules() -> String {
    let verdicts: Vec<_> = (0..256).map(|bucket| format!("{bucket} : drop")).collect();
    format!(
        "table netdev bench {{
    chain ingress {{
        type filter hook ingress device \"{INTERFACE}\" priority 0; policy accept;
        jhash ip saddr . udp sport mod 256 vmap {{ {} }}
    }}
}}
",
        verdicts.join(", ")
    )
}

const LIST_RULES: &str = "iptables -t mangle -vnxL PREROUTING";

fn xt_cluster(host: &Host) -> Result<Filter> {
    tool("iptables", "iptables")?;
    let all_nodes = (1 << CLUSTER) - 1;
    host.run(&format!(
        "iptables -t mangle -A PREROUTING -i {INTERFACE} -m cluster --cluster-total-nodes {CLUSTER} \
         --cluster-local-nodemask {all_nodes} --cluster-hash-seed 0xdeadbeef -j DROP"
    ))?;
    Ok(Filter::XtCluster)
}

fn tool(name: &str, package: &str) -> Result<()> {
    let missing = || format!("the program is not installed (Debian: apt-get install {package})");
    iproute::run(name, &["--version"]).map(drop).with_context(missing)
}

/// Packets received, in the kernel's list of devices.
fn received(devices: &str, interface: &str) -> Result<u64> {
    let prefix = format!("{interface}:");
    let line = devices.lines().find_map(|line| line.trim_start().strip_prefix(&prefix));
    let packets = line.and_then(|counts| counts.split_whitespace().nth(1)?.parse().ok());
    packets.with_context(|| format!("no count of {interface} in: {devices}"))
}

/// A counter in the kernel's list: a line of names, then one of numbers, both after the protocol.
fn snmp_counter(list: &str, protocol: &str, name: &str) -> Result<u64> {
    let prefix = format!("{protocol}: ");
    let mut lines = list.lines().filter_map(|line| line.strip_prefix(&prefix));
    let (names, counts) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let counter = names.split(' ').zip(counts.split(' ')).find(|(known, _)| *known == name);
    let count = counter.and_then(|(_, count)| count.parse().ok());
    count.with_context(|| format!("no counter {protocol} {name} in: {list}"))
}

/// The packets of the rule with that word, in the list of iptables.
fn dropped_by(rules: &str, word: &str) -> Result<u64> {
    let rule = rules.lines().find(|line| line.split_whitespace().any(|part| part == word));
    let count = rule.and_then(|rule| rule.split_whitespace().next()?.parse().ok());
    count.with_context(|| format!("no rule `{word}` in: {rules}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_packets_are_the_second_figure_of_the_devices_line() {
        let list =
            "Inter-|   Receive\n face |bytes    packets errs\n  eth0: 640 10 0 0\n eth01:1 2 3\n";
        assert_eq!(received(list, "eth0").unwrap(), 10);
        assert_eq!(received(list, "eth01").unwrap(), 2);
        assert!(received(list, "eth").is_err());
    }

    #[test]
    fn a_counter_is_under_its_name() {
        let list = "Ip: Forwarding InReceives\nIp: 2 77\nUdp: InErrors\nUdp: 5\n";
        assert_eq!(snmp_counter(list, "Ip", "InReceives").unwrap(), 77);
        assert_eq!(snmp_counter(list, "Udp", "InErrors").unwrap(), 5);
        assert!(snmp_counter(list, "Udp", "InReceives").is_err());
    }

    #[test]
    fn a_rules_packets_are_its_first_figure() {
        let list = "Chain PREROUTING (policy ACCEPT 3 packets, 9 bytes)\n  pkts bytes target\n    \
                    41 2624 DROP udp -- eth0 * 0.0.0.0/0 0.0.0.0/0 cluster node_mask=0x3\n";
        assert_eq!(dropped_by(list, "cluster").unwrap(), 41);
        assert!(dropped_by(list, "mark").is_err());
    }
}
