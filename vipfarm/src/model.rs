//! The farm as the operator described it, checked: nodes, VIPs, groups, rules, powers; and the two
//! things the agent derives from it, the view of who is alive and the bucket table.
//!
//! Nothing here does IO. [`crate::config`] builds it and is the only place that may refuse it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

mod overrides;

pub use self::overrides::{Life, Override, Overrides, TooManyOverrides, Version};

/// Buckets of a group: the values of one hash byte.
pub const BUCKETS: usize = 256;

/// Nodes of a farm at most: alive sets are 64-bit words.
pub const MAX_NODES: usize = 64;

/// The largest power a node may be given; 0 means "no traffic".
pub const MAX_POWER: u16 = 1000;

/// One farm: what one agent runs and what every node's file must agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farm {
    /// The farm's name, part of every heartbeat's identity.
    pub name: String,
    /// The shared secret; mode 0600.
    pub key_file: PathBuf,
    /// Heartbeat cadence and time-outs.
    pub membership: Membership,
    /// The nodes, in the order of the file: a [`NodeId`] is an index into this list.
    pub nodes: Vec<Node>,
    /// The VIP blocks, in the order of the file.
    pub vips: Vec<Vip>,
}

impl Farm {
    /// The node of that name.
    pub fn node_named(&self, name: &str) -> Option<NodeId> {
        let index = self.nodes.iter().position(|node| node.name == name)?;
        NodeId::new(index)
    }

    /// The node with that identity; `None` only for an identity of another farm.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.index())
    }

    /// All identities, in order.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> {
        (0..self.nodes.len()).filter_map(NodeId::new)
    }
}

/// A node's place in the configuration, `0..MAX_NODES`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct NodeId(u8);

impl NodeId {
    /// The identity with that index; `None` beyond [`MAX_NODES`].
    pub fn new(index: usize) -> Option<Self> {
        u8::try_from(index).ok().filter(|_| index < MAX_NODES).map(Self)
    }

    /// The index into [`Farm::nodes`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A set of nodes, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeSet(u64);

impl NodeSet {
    /// The empty set.
    pub const EMPTY: Self = Self(0);

    /// The set whose members are the one bits of `bits`.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The members as one bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether `node` is a member.
    pub fn contains(self, node: NodeId) -> bool {
        self.0 >> node.0 & 1 == 1
    }

    /// The set with `node` added.
    #[must_use]
    pub fn with(self, node: NodeId) -> Self {
        Self(self.0 | 1 << node.0)
    }

    /// The set with `node` removed.
    #[must_use]
    pub fn without(self, node: NodeId) -> Self {
        Self(self.0 & !(1 << node.0))
    }

    /// How many members.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The nodes in either.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The nodes in both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The nodes that are not in `other`.
    #[must_use]
    pub fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of them are in `other`.
    pub fn is_subset(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// The members in ascending order.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        (0..MAX_NODES).filter_map(NodeId::new).filter(move |&node| self.contains(node))
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        nodes.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(NodeId::index)).finish()
    }
}

/// One node of the farm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Unique in the farm; placement depends on it, so renaming a node moves buckets.
    pub name: String,
    /// Heartbeat addresses: the first is on the VIP's own network.
    pub addresses: Vec<IpAddr>,
}

/// Heartbeat timing and transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    /// The timers, from a profile or given one by one.
    pub timers: Timers,
    /// UDP port of the heartbeats, the same on every node.
    pub port: u16,
}

/// UDP port of the heartbeats when the file names none.
pub const DEFAULT_PORT: u16 = 4895;

/// Membership timers. See [`Timers::check`] for what must hold between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// Time between two heartbeats.
    pub period: Duration,
    /// Silence after which a peer no longer counts as the basis of this node's lease.
    pub suspect: Duration,
    /// How long the kernel may go on accepting after the agent's last renewal.
    pub lease: Duration,
    /// Silence after which a peer is out of the view.
    pub fail: Duration,
}

impl Timers {
    /// 20/120 ms: needs a real-time heartbeat thread.
    pub const FAST: Self = Self::from_millis(20, 45, 80, 120);
    /// 50/250 ms, the default.
    pub const BALANCED: Self = Self::from_millis(50, 110, 170, 250);
    /// 100/600 ms, for busy shared machines.
    pub const RELAXED: Self = Self::from_millis(100, 230, 420, 600);

    const fn from_millis(period: u64, suspect: u64, lease: u64, fail: u64) -> Self {
        Self {
            period: Duration::from_millis(period),
            suspect: Duration::from_millis(suspect),
            lease: Duration::from_millis(lease),
            fail: Duration::from_millis(fail),
        }
    }

    /// What a clock may drift and a datagram may take between two nodes: 4 % of [`Timers::fail`],
    /// at least 2 ms.
    pub fn margin(&self) -> Duration {
        (self.fail / 25).max(Duration::from_millis(2))
    }

    /// Whether a thread that runs late does harm sooner than with `other`: a shorter period alone
    /// makes no difference.
    pub fn are_stricter_than(&self, other: &Self) -> bool {
        self.suspect < other.suspect || self.lease < other.lease || self.fail < other.fail
    }

    /// Whether the timers can work together; the error says what does not hold and why it must.
    ///
    /// - `fail > lease + margin`: a node that stopped renewing has stopped accepting before a peer
    ///   takes its buckets.
    /// - `fail > suspect + 2 * period + 2 * margin`: one crash does not let every lease lapse. A
    ///   lease ends `fail - margin` after the newest heartbeat that the crashed node has
    ///   acknowledged; that one is up to two periods and a round trip (the second margin) older
    ///   than the crash, and the crashed node counts until it has been silent for `suspect`.
    /// - `suspect > 2 * period`: one lost heartbeat is no reason to leave a peer out of account.
    /// - `lease > 2 * period`: one late turn does not fence a healthy node.
    pub fn check(&self) -> Result<(), String> {
        let Self { period, suspect, lease, fail } = *self;
        let margin = self.margin();
        if period.is_zero() {
            return Err("the period must not be zero".into());
        }
        if lease <= 2 * period {
            return Err(format!(
                "lease {lease:?} must be longer than two periods ({:?}), or one late heartbeat stops a healthy node",
                2 * period
            ));
        }
        if fail <= lease + margin {
            return Err(format!(
                "fail {fail:?} must be longer than lease + margin ({:?}), or peers take a node's buckets while it still serves them",
                lease + margin
            ));
        }
        if suspect <= 2 * period {
            return Err(format!(
                "suspect {suspect:?} must be longer than two periods ({:?}), or one lost heartbeat makes a healthy peer suspect",
                2 * period
            ));
        }
        let crash = suspect + 2 * period + 2 * margin;
        if fail <= crash {
            return Err(format!(
                "fail {fail:?} must be longer than suspect + two periods + two margins ({crash:?}), or one crash stops every node for an instant",
            ));
        }
        Ok(())
    }
}

/// One VIP block: addresses that share an interface, a mode and rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vip {
    /// The interface, or `None` to find it from the addresses' subnet.
    pub interface: Option<String>,
    /// How the farm receives the traffic.
    pub mode: Mode,
    /// The virtual MAC that ARP answers carry; never an Ethernet source.
    pub vmac: Mac,
    /// The virtual addresses, at least one.
    pub addresses: Vec<VipAddr>,
    /// Leave the farm for this VIP when its interface or address is lost.
    pub check: bool,
    /// Reset the remaining connections before the VIP is removed.
    pub tcp_reset: bool,
    /// Whether traffic is accepted as soon as the node is ready.
    pub open: Open,
    /// What becomes of ICMP echo requests.
    pub icmp_echo: IcmpEcho,
    /// The load-balancing groups.
    pub groups: Vec<Group>,
}

impl Vip {
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

/// A load-balancing group: rules that share one bitmap and its powers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Unique in the file; placement depends on it.
    pub name: String,
    /// Power by node index; `None` = the node is not in this group.
    pub powers: Vec<Option<u16>>,
    /// The rules.
    pub rules: Vec<Rule>,
}

impl Group {
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

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// `SafeKit`'s default VMAC: `5A:FE` and the address in hexadecimal.
    pub fn of_vip(addr: Ipv4Addr) -> Self {
        let [a, b, c, d] = addr.octets();
        Self([0x5a, 0xfe, a, b, c, d])
    }

    /// Whether the group bit is set: such an address cannot be a station's.
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            *octet = parts
                .next()
                .filter(|part| part.len() == 2)
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(|| {
                    format!("`{text}` is not a MAC address such as 5a:fe:c0:a8:01:de")
                })?;
        }
        match parts.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(format!("`{text}` has more than six octets")),
        }
    }
}

/// What the nodes have agreed on: together with a configuration it determines every table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct View {
    /// Rises with every view this node installs.
    pub epoch: u64,
    /// The node that proposed it.
    pub coordinator: NodeId,
    /// The members.
    pub alive: NodeSet,
    /// The members that own nothing: they leave, are drained in all groups, or are unfit.
    pub idle: NodeSet,
    /// Powers changed at run time.
    pub powers: Arc<Overrides>,
    /// Which configuration is in force.
    pub digest: [u8; 16],
}

impl View {
    /// The view of the file alone, with those nodes alive.
    pub fn of(alive: NodeSet) -> Self {
        Self { alive, ..Self::default() }
    }

    /// The nodes that may own buckets.
    pub fn owners(&self) -> NodeSet {
        self.alive.difference(self.idle)
    }
}

/// Bucket → owner.
#[derive(Clone, PartialEq, Eq)]
pub struct Table([Option<NodeId>; BUCKETS]);

impl Table {
    /// A table with that owner in each bucket.
    pub fn new(owners: [Option<NodeId>; BUCKETS]) -> Self {
        Self(owners)
    }

    /// The bucket's owner; `None` when no node with power is alive.
    pub fn owner(&self, bucket: u8) -> Option<NodeId> {
        self.0[usize::from(bucket)]
    }

    /// All owners, by bucket.
    pub fn owners(&self) -> &[Option<NodeId>; BUCKETS] {
        &self.0
    }

    /// How many buckets the node owns.
    pub fn load(&self, node: NodeId) -> usize {
        self.0.iter().filter(|&&owner| owner == Some(node)).count()
    }

    /// The buckets the node owns: bit `b & 63` of word `b >> 6`.
    pub fn bitmap(&self, node: NodeId) -> Bitmap {
        let mut bitmap = Bitmap::default();
        for (bucket, &owner) in self.0.iter().enumerate() {
            if owner == Some(node) {
                bitmap.0[bucket >> 6] |= 1 << (bucket & 63);
            }
        }
        bitmap
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row =
            |owner: &Option<NodeId>| owner.map_or_else(|| "-".into(), |n| n.index().to_string());
        f.write_str(&self.0.iter().map(row).collect::<Vec<_>>().join(" "))
    }
}

/// 256 bits, one a bucket: bit `b & 63` of word `b >> 6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bitmap(pub [u64; 4]);

impl Bitmap {
    /// The buckets in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    /// How many buckets.
    pub fn len(self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether it has none.
    pub fn is_empty(self) -> bool {
        self.0 == [0; 4]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_keeps_its_inequalities() {
        for timers in [Timers::FAST, Timers::BALANCED, Timers::RELAXED] {
            timers.check().expect("a shipped profile must be valid");
        }
    }

    #[test]
    fn each_timer_but_the_period_can_make_the_difference() {
        let millis = Duration::from_millis;
        let balanced = Timers::BALANCED;
        for timers in [
            Timers { suspect: millis(109), ..balanced },
            Timers { lease: millis(169), ..balanced },
            Timers { fail: millis(249), ..Timers::RELAXED },
        ] {
            assert!(timers.are_stricter_than(&balanced), "{timers:?}");
        }
        for timers in [balanced, Timers { period: millis(5), ..balanced }, Timers::RELAXED] {
            assert!(!timers.are_stricter_than(&balanced), "{timers:?}");
        }
    }

    #[test]
    fn timers_down_to_five_milliseconds_are_legal() {
        Timers::from_millis(5, 11, 20, 30).check().expect("5/30 ms");
    }

    #[test]
    fn timers_under_which_one_crash_stops_all_are_refused() {
        let timers = Timers { suspect: Duration::from_millis(130), ..Timers::BALANCED };
        assert!(timers.check().expect_err("too late").contains("one crash stops every node"));
        let timers = Timers { suspect: Duration::from_millis(100), ..Timers::BALANCED };
        assert!(timers.check().expect_err("too early").contains("makes a healthy peer suspect"));
    }

    #[test]
    fn a_lease_as_long_as_the_failure_time_is_refused() {
        let timers = Timers { lease: Timers::BALANCED.fail, ..Timers::BALANCED };
        assert!(timers.check().expect_err("overlap").contains("while it still serves them"));
    }

    #[test]
    fn the_default_vmac_is_safekits() {
        assert_eq!(Mac::of_vip(Ipv4Addr::new(192, 168, 1, 222)).to_string(), "5a:fe:c0:a8:01:de");
    }

    #[test]
    fn mac_parses_what_it_prints() {
        let mac = Mac([0x5a, 0xfe, 0, 1, 2, 0xff]);
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for bad in [
            "",
            "5a:fe",
            "5a:fe:00:01:02:03:04",
            "5a-fe-00-01-02-03",
            "5a:fe:0:01:02:03",
            "zz:fe:00:01:02:03",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bitmap_has_the_tables_buckets() {
        let one = NodeId::new(1);
        let table =
            Table::new(std::array::from_fn(|bucket| if bucket % 2 == 1 { one } else { None }));
        let bitmap = table.bitmap(one.expect("in range"));
        assert_eq!(bitmap, Bitmap([0xaaaa_aaaa_aaaa_aaaa; 4]));
        assert_eq!(bitmap.len(), 128);
    }
}
