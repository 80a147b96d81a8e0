//! VIP blocks: addresses, how their traffic comes, and the groups and rules that share it out.

use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Check, Mac, NodeId};

/// The largest power a node may be given; 0 means "no traffic".
pub const MAX_POWER: u16 = 1000;

/// One VIP block: addresses that share an interface, a mode and rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vip {
    /// The interface, or `None` to find it from the addresses' subnet.
    pub interface: Option<String>,
    /// The VLAN that the addresses live in, by the tags of frames as XDP sees them.
    pub vlan: VlanTags,
    /// How the farm receives the traffic.
    pub mode: Mode,
    /// The virtual MAC that ARP answers carry; never an Ethernet source.
    pub vmac: Mac,
    /// The virtual addresses, at least one.
    pub addresses: Vec<VipAddr>,
    /// Watch the block's interfaces, and its addresses unless they say otherwise.
    pub check: bool,
    /// Reset the remaining connections before the VIP is removed.
    pub tcp_reset: bool,
    /// Whether traffic is accepted as soon as the node is ready.
    pub open: Open,
    /// What becomes of ICMP echo requests.
    pub icmp_echo: IcmpEcho,
    /// What becomes of protocols that no rule can name.
    pub other: OtherProtocols,
    /// How clients' ARP entries are kept right; `None` = they are not.
    pub arp_refresh: Option<ArpRefresh>,
    /// What must be right on a node for it to serve this block.
    pub checks: Vec<Check>,
    /// The load-balancing groups.
    pub groups: Vec<Group>,
}

impl Vip {
    /// The virtual MAC; `None` where nodes answer with their own.
    pub fn virtual_mac(&self) -> Option<Mac> {
        (self.mode == Mode::VmacInvisible).then_some(self.vmac)
    }

    /// The rule for a service of one of the block's addresses, and the index of its group: the most
    /// specific one, by address, then by port. `port: None` asks for ports that no rule names.
    pub fn rule_for(
        &self,
        addr: IpAddr,
        proto: Proto,
        port: Option<u16>,
    ) -> Option<(usize, &Rule)> {
        let rules = self.groups.iter().enumerate();
        rules
            .flat_map(|(index, group)| group.rules.iter().map(move |rule| (index, rule)))
            .filter(|(_, rule)| rule.proto == proto)
            .filter(|(_, rule)| rule.virtual_addr.is_none_or(|only| only == addr))
            .filter(|(_, rule)| rule.port.is_none_or(|only| Some(only) == port))
            .max_by_key(|(_, rule)| (rule.virtual_addr.is_some(), rule.port.is_some()))
    }
}

/// IEEE 802.1Q and 802.1ad VLAN identifiers, 1 to 4094; 0 = no tag. One tag is the inner one. As text
/// `10`, `20.10` (the outer one first), or `0` for none.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct VlanTags {
    /// The service tag.
    pub outer: u16,
    /// The tag next to the packet.
    pub inner: u16,
}

impl VlanTags {
    /// The identifiers of the tags that there are, the outer one first.
    pub fn ids(self) -> Vec<u16> {
        [self.outer, self.inner].into_iter().filter(|&id| id != 0).collect()
    }
}

impl FromStr for VlanTags {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let id = |text: &str| text.parse().ok().filter(|id| (1..=4094).contains(id));
        let tags = match text.split_once('.') {
            None if text == "0" => Some(Self::default()),
            None => id(text).map(|inner| Self { outer: 0, inner }),
            Some((outer, inner)) => {
                id(outer).zip(id(inner)).map(|(outer, inner)| Self { outer, inner })
            }
        };
        tags.ok_or_else(|| {
            format!("`{text}` is not a VLAN such as 10, 20.10 (the outer tag first), or 0 for none")
        })
    }
}

impl fmt::Display for VlanTags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.outer {
            0 => self.inner.fmt(f),
            outer => write!(f, "{outer}.{}", self.inner),
        }
    }
}

impl TryFrom<String> for VlanTags {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<VlanTags> for String {
    fn from(tags: VlanTags) -> Self {
        tags.to_string()
    }
}

/// One virtual address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VipAddr {
    /// The address.
    pub addr: IpAddr,
    /// Prefix length of the subnet it lives in.
    pub prefix: u8,
    /// Watch the address for removal and conflict.
    pub check: bool,
    /// Count its connections.
    pub connections: bool,
}

/// Which clients are told now and then where their frames go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ArpRefresh {
    /// How often each is told.
    pub interval: Duration,
    /// For how long after it has asked.
    pub duration: Duration,
}

impl ArpRefresh {
    /// `SafeKit`'s.
    pub const DEFAULT: Self =
        Self { interval: Duration::from_mins(1), duration: Duration::from_mins(20) };
}

/// How the farm receives a VIP's traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// A MAC that no switch ever learns: every frame is flooded to every node.
    VmacInvisible,
    /// Nodes answer with their own MAC and hand frames to the owner.
    VmacDirected,
    /// One node owns the whole VIP at a time.
    Failover,
}

/// Whether the VIP opens by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Open {
    /// As soon as the node is ready.
    Auto,
    /// On `vipfarm open` (`SafeKit`: `scriptcontrol`).
    Manual,
}

/// What becomes of ICMP echo requests to a VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IcmpEcho {
    /// One node answers, chosen by the client's address.
    OnAddr,
    /// Nobody answers.
    Drop,
}

/// What becomes of packets to a VIP that are neither TCP, UDP nor ICMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OtherProtocols {
    /// Nobody gets them.
    Drop,
    /// One node does, chosen by the client's address.
    OnAddr,
}

/// A load-balancing group: rules that share one bitmap and its powers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Unique in the file; placement depends on it.
    pub name: String,
    /// Power by node index; `None` = the node is not in this group.
    pub powers: Vec<Option<u16>>,
    /// The rules.
    pub rules: Vec<Rule>,
    /// How long the connections of a bucket that moves may stay where they are.
    pub handover_timeout: Duration,
    /// What must be right on a node for it to serve this group.
    pub checks: Vec<Check>,
    /// Of the only group of a `failover` block: its powers are priorities, and one node has all buckets.
    pub failover: Option<Failover>,
}

/// How the holder of a failover VIP is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failover {
    /// Whether a node that would be the better holder takes over from one that lives.
    pub preempt: bool,
    /// How long it waits for that.
    pub preempt_delay: Duration,
    /// Who would be the better holder.
    pub balance: Balance,
}

impl Failover {
    /// Whether the holder stays it for a while, or for good, when a better one comes.
    pub fn stays(&self) -> bool {
        !self.preempt || !self.preempt_delay.is_zero()
    }
}

/// Which node is to hold a failover VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// The one with the highest priority.
    Priority,
    /// One with fewest of the VIPs that are balanced so.
    Spread,
}

impl Group {
    /// [`Group::handover_timeout`] of a file that says nothing.
    pub const HANDOVER_TIMEOUT: Duration = Duration::from_mins(10);

    /// Whether it has connections that stay where they are when their bucket moves. Those of a failover
    /// VIP cannot: their address goes.
    pub fn lingers(&self) -> bool {
        let stays = |rule: &Rule| rule.proto == Proto::Tcp || rule.linger.is_some();
        self.failover.is_none() && self.rules.iter().any(stays)
    }

    /// Whether some of them are flows of UDP.
    pub fn keeps_flows(&self) -> bool {
        self.failover.is_none() && self.rules.iter().any(|rule| rule.linger.is_some())
    }

    /// The node's power: 0 when it is not in the group.
    pub fn power(&self, node: NodeId) -> u16 {
        self.powers.get(node.index()).copied().flatten().unwrap_or(0)
    }
}

/// Which packets belong to a group, and what of them is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// One VIP address, or `None` for all of the block.
    pub virtual_addr: Option<IpAddr>,
    /// Destination port, or `None` for all.
    pub port: Option<u16>,
    /// The protocol.
    pub proto: Proto,
    /// The hash input.
    pub filter: Filter,
    /// UDP: for how long an idle flow still belongs to the node that has served it, whole seconds; `None`
    /// = it moves with its bucket.
    pub linger: Option<Duration>,
}

/// The protocol of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Address resolution: ARP for IPv4, Neighbor Discovery for IPv6.
    Arp,
}

/// The client's fields that choose the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Client address.
    OnAddr,
    /// Client address and source port.
    OnPort,
    /// Client address and IPv4 identification (UDP over IPv4 only).
    OnIpid,
}
