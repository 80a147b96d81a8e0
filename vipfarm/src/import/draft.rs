//! A farm as a source describes it: there may be gaps.

use std::{net::SocketAddr, time::Duration};

use crate::{
    config::NAME,
    model::{self, Filter, Mac, Mode, Proto},
};

/// What stands where the source says nothing and nothing may be guessed: `vipfarm check` refuses it.
pub(super) const GAP: &str = "FILL-IN";

/// A farm.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// In the order of the source; none when it names none.
    pub(super) nodes: Vec<Node>,
    pub(super) vips: Vec<Vip>,
    /// What a node must have to serve anything.
    pub(super) checks: Vec<Check>,
}

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    /// As the source writes them; none when it has none.
    pub(super) addresses: Vec<String>,
}

/// A VIP block.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "keys of the file, none a state of another")]
pub(super) struct Vip {
    pub(super) interface: Option<String>,
    pub(super) mode: Mode,
    pub(super) vmac: Option<Mac>,
    pub(super) addresses: Vec<Address>,
    pub(super) check: bool,
    pub(super) tcp_reset: bool,
    /// `open: manual`.
    pub(super) manual: bool,
    /// The key's value.
    pub(super) arp_refresh: Option<String>,
    /// Of a failover VIP: whether a better node takes over, and how many seconds it waits.
    pub(super) preempt: bool,
    pub(super) preempt_delay: u64,
    pub(super) checks: Vec<Check>,
    pub(super) groups: Vec<Group>,
}

impl Vip {
    /// A block without addresses and groups.
    pub(super) fn new(interface: Option<String>, mode: Mode) -> Self {
        Self {
            interface,
            mode,
            vmac: None,
            addresses: Vec::new(),
            check: true,
            tcp_reset: true,
            manual: false,
            arp_refresh: None,
            preempt: true,
            preempt_delay: 0,
            checks: Vec::new(),
            groups: Vec::new(),
        }
    }
}

/// A virtual address.
#[derive(Debug, Clone)]
pub(super) struct Address {
    /// An address or a host name.
    pub(super) host: String,
    /// `None`: a gap.
    pub(super) prefix: Option<u8>,
    pub(super) check: bool,
    pub(super) connections: bool,
}

impl Address {
    /// `host/prefix`.
    pub(super) fn text(&self) -> String {
        let prefix = self.prefix.map_or_else(|| GAP.to_owned(), |prefix| prefix.to_string());
        format!("{}/{prefix}", self.host)
    }
}

/// Something that must be right for a node to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) probe: Probe,
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
    pub(super) rise: u16,
    pub(super) fall: u16,
}

impl Check {
    /// A check with the file's defaults.
    pub(super) fn new(probe: Probe) -> Self {
        Self {
            probe,
            interval: model::Check::INTERVAL,
            timeout: model::Check::TIMEOUT,
            rise: model::Check::RISE,
            fall: model::Check::FALL,
        }
    }

    /// Adds it to the checks of a list, unless the same thing is looked at there already.
    pub(super) fn add_to(self, checks: &mut Vec<Self>) {
        if checks.iter().all(|other| other.probe != self.probe) {
            checks.push(self);
        }
    }
}

/// What a check looks at; sources have no other kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Probe {
    Tcp(SocketAddr),
    Exec {
        /// An absolute path, then arguments.
        argv: Vec<String>,
        user: Option<String>,
    },
    Interface(String),
}

/// A group.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) name: String,
    /// By node; none: all nodes, with power 1.
    pub(super) powers: Vec<(String, u16)>,
    pub(super) rules: Vec<Rule>,
}

/// A rule.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) virtual_addr: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) proto: Proto,
    pub(super) filter: Filter,
}

/// The name with the characters that a node's or group's name may have.
pub(super) fn usable_name(name: &str) -> String {
    let usable = |c: char| u8::try_from(c).is_ok_and(NAME.allows);
    let name: String =
        name.chars().take(NAME.longest).map(|c| if usable(c) { c } else { '-' }).collect();
    if name.is_empty() { GAP.to_owned() } else { name }
}
