//! What an agent tells about itself: the body of the control socket's answers and of `--json`.
//!
//! Field names are part of the interface: scripts read them.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    net::{AddrParseError, IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

pub use self::proof::{Fault, FaultKind, GroupProof, ProofStatus, Verdict};
use crate::model::{Bitmap, Filter, Mode, Proto};

mod proof;

/// The answer of `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Farm name.
    pub farm: String,
    /// This node's name.
    pub node: String,
    /// Agent version.
    pub version: String,
    /// What the node is doing.
    pub state: NodeState,
    /// Number of the installed view; 0 before the first.
    pub epoch: u64,
    /// Whether the owned buckets of all groups are in force here: nothing released that has not
    /// yet been acquired by its new owner.
    pub converged: bool,
    /// Number of the powers in force: rises with every change at run time, 0 = those of the file.
    #[serde(default)]
    pub powers_version: u64,
    /// The same number of the powers on this node's disk: those of them that are persistent are
    /// known after a restart.
    #[serde(default)]
    pub powers_saved: u64,
    /// Milliseconds the kernel would go on accepting if the agent stopped now; 0 = fenced.
    pub lease_ms: f64,
    /// Seconds since the agent started.
    pub uptime_s: f64,
    /// Digest of the configuration in force, in hexadecimal.
    #[serde(default)]
    pub configuration: String,
    /// Digest of the configuration that is to be next, when all nodes have read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<String>,
    /// All nodes, in the order of the configuration.
    pub nodes: Vec<NodeStatus>,
    /// The VIP blocks, in the order of the configuration.
    pub vips: Vec<VipStatus>,
    /// All groups, in the order of the configuration.
    pub groups: Vec<GroupStatus>,
    /// Packets by reason, all interfaces; the words of `explain`.
    pub packets: BTreeMap<String, u64>,
    /// Frames the egress guard corrected or let pass, by word.
    pub guard: BTreeMap<String, u64>,
    /// What clients of directed VIPs were told, by occasion: `broadcast` to all after another node's
    /// end, by name when their node changed (`moved`), and now and then (`refreshed`).
    #[serde(default)]
    pub announcements: BTreeMap<String, u64>,
    /// Heartbeat datagrams by outcome.
    pub heartbeats: BTreeMap<String, u64>,
    /// Lateness of the heartbeat thread.
    pub lateness: Lateness,
    /// Whether every bucket is accepted by exactly one node's kernel.
    #[serde(default)]
    pub proof: ProofStatus,
    /// The last change of view; absent before the first.
    #[serde(default)]
    pub last_view_change: Option<ViewChange>,
}

/// The body of `POST /v1/reload`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReloadRequest {
    /// Leave out the nodes that have not read the same file.
    #[serde(default)]
    pub force: bool,
}

/// The answer of `POST /v1/reload`: the file has been read, and is in force or waits for the other
/// nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReply {
    /// The file's digest; it is in force when [`Status::configuration`] is the same.
    pub configuration: String,
    /// What it changes, in words; empty if it is in force already.
    pub changes: Vec<String>,
}

/// What a node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Serves nothing yet: listens for the others, or waits for their agreement.
    Joining,
    /// Serves its buckets.
    Up,
    /// Accepts nothing: its lease has lapsed.
    Fenced,
    /// Not heard (only said of peers).
    Down,
}

impl NodeState {
    /// The word used everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Up => "up",
            Self::Fenced => "fenced",
            Self::Down => "down",
        }
    }
}

/// One node as this agent sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Name.
    pub name: String,
    /// Heartbeat addresses.
    pub addresses: Vec<String>,
    /// Whether it is the agent's own node.
    pub own: bool,
    /// Its state as heard.
    pub state: NodeState,
    /// Whether it is in the installed view.
    pub alive: bool,
    /// Milliseconds since it was last heard; absent for the own node and for one never heard.
    pub heard_ms: Option<f64>,
    /// Its MAC on the VIP's network, once known.
    pub mac: Option<String>,
    /// Buckets it owns, summed over the groups.
    pub load: usize,
    /// What became of its powers at run time; absent if all are those of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_powers: Option<ChangedPowers>,
    /// Digest of the configuration that it has in force; absent while it has not been heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
    /// Digest of the configuration that it has read and that is to be next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<String>,
    /// In which parts its heartbeats name another configuration than this node's, none if it is the
    /// same: else it is kept out of the view until the files agree.
    #[serde(default)]
    pub config_differs: Vec<String>,
}

/// One VIP block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipStatus {
    /// Interface.
    pub interface: String,
    /// Mode.
    pub mode: Mode,
    /// Virtual MAC; absent where nodes answer with their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmac: Option<String>,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<String>,
    /// How XDP is attached: `native` or `generic`.
    pub xdp: String,
    /// Whether traffic is accepted.
    pub open: bool,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Name.
    pub name: String,
    /// Index of its VIP block in [`Status::vips`].
    pub vip: usize,
    /// Rules, most specific first.
    pub rules: Vec<RuleStatus>,
    /// Power by node name; a node that is not in the group is absent.
    pub powers: BTreeMap<String, u16>,
    /// By node name, the powers that are others than the file's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub changed: BTreeMap<String, ChangedPower>,
    /// Buckets by node name (of 256).
    pub load: BTreeMap<String, usize>,
    /// Owner of each of the 256 buckets as an index into [`Status::nodes`]; `null` = nobody.
    pub owners: Vec<Option<usize>>,
    /// The bitmap in this node's kernel, as read back from there; in force while the lease runs.
    pub bitmap: Bitmap,
}

/// A power that is another than the file's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedPower {
    /// The file's; 0 if the node is not in the group.
    pub file: u16,
    /// Whether it holds until it is taken back; else until the node's agent starts anew.
    pub persist: bool,
}

impl fmt::Display for ChangedPower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file: {}, {}", self.file, how_long(self.persist))
    }
}

/// What became of a node's powers, over all groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedPowers {
    /// Whether it has no power left in any group.
    pub closed: bool,
    /// Whether all of its changed powers hold until they are taken back.
    pub persist: bool,
}

impl ChangedPowers {
    /// Of that node; `None` if it has the file's in all groups.
    pub fn of(node: &str, groups: &[GroupStatus]) -> Option<Self> {
        let mut changed = groups.iter().filter_map(|group| group.changed.get(node)).peekable();
        changed.peek()?;
        let mut powers = groups.iter().filter_map(|group| group.powers.get(node));
        let closed = powers.all(|&power| power == 0);
        Some(Self { closed, persist: changed.all(|changed| changed.persist) })
    }
}

impl fmt::Display for ChangedPowers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.closed { "closed" } else { "powers changed" };
        write!(f, "{what}, {}", how_long(self.persist))
    }
}

fn how_long(persist: bool) -> &'static str {
    if persist { "persistent" } else { "until restart" }
}

/// One rule of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleStatus {
    /// Virtual address, or `*`.
    pub virtual_addr: String,
    /// Port, or `*`.
    pub port: String,
    /// Protocol.
    pub proto: Proto,
    /// Filter.
    pub filter: Filter,
}

/// How late the heartbeat thread was, in milliseconds, since the agent started.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Lateness {
    /// Whether the thread runs under `SCHED_FIFO`.
    pub real_time: bool,
    /// From when it was due to when it woke up: mean.
    pub mean_ms: f64,
    /// The same: worst.
    pub max_ms: f64,
    /// How long datagrams waited between their arrival in the kernel and their reading: mean.
    /// Unlike the time of waking it counts what the thread does between.
    #[serde(default)]
    pub wait_mean_ms: f64,
    /// The same: worst.
    #[serde(default)]
    pub wait_max_ms: f64,
}

/// When a node changed over to a view, in microseconds of its boot clock. Between the two times what
/// it gave up may have had no owner. Only nodes on one machine have a clock in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewChange {
    /// Number of the view.
    pub epoch: u64,
    /// Just before the node began to make room for it; absent if it served nothing then.
    pub released_us: Option<u64>,
    /// Just after its buckets were in force in the kernel.
    pub acquired_us: u64,
}

/// One line of the farm's history: `GET /v1/events?since=N`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Rises by one with every event of this agent.
    pub seq: u64,
    /// Wall clock, RFC 3339 in UTC with milliseconds.
    pub time: String,
    /// `info` or `warn`.
    pub level: String,
    /// One word for scripts, such as `node_lost`.
    pub kind: String,
    /// The sentence for people.
    pub message: String,
}

/// A change of powers at run time: the body of `POST /v1/power`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerRequest {
    /// The group; absent = all groups.
    pub group: Option<String>,
    /// The node.
    pub node: String,
    /// Its power, 0 to [`crate::model::MAX_POWER`]; absent = that of the file again.
    pub power: Option<u16>,
    /// Whether it is to hold until it is taken back, else until the node's agent starts anew. To go
    /// back to the file's power needs it not.
    #[serde(default)]
    pub persist: bool,
}

/// The answer of `POST /v1/power`: the change is on its way through the farm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerReply {
    /// [`Status::powers_version`] once it is in force.
    pub version: u64,
}

/// One client's packet: the parameters of `GET /v1/explain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainQuery {
    /// Client address, of the VIP's family.
    pub client: IpAddr,
    /// Client port; TCP and UDP only, needed where the rule's filter is `on_port`.
    pub client_port: Option<u16>,
    /// VIP.
    pub vip: IpAddr,
    /// Destination port; TCP and UDP need it, the others have none.
    pub vip_port: Option<u16>,
    /// Protocol.
    pub proto: ExplainProto,
    /// IPv4 identification; UDP only, needed where the rule's filter is `on_ipid`.
    pub ip_id: Option<u16>,
}

impl ExplainQuery {
    /// Whether such a packet can exist; the error says what is wrong or missing.
    pub fn check(&self) -> Result<(), String> {
        let Self { client, client_port, vip, vip_port, proto, ip_id } = *self;
        if client.is_ipv4() != vip.is_ipv4() {
            return Err(format!(
                "client {client} and VIP {vip} are of different families: no packet can go from one to the other"
            ));
        }
        if proto.has_ports() && vip_port.is_none() {
            return Err(format!(
                "{proto} needs the VIP's port: write {}",
                HostPort { addr: vip, port: Some(80) }
            ));
        }
        if !proto.has_ports() && client_port.or(vip_port).is_some() {
            return Err(format!("{proto} has no ports: leave them out"));
        }
        if ip_id.is_some() && !(proto == ExplainProto::Udp && vip.is_ipv4()) {
            return Err("the IP identification matters for UDP over IPv4 only: leave it out".into());
        }
        Ok(())
    }

    /// The query as the part of a URL after `?`; every character in it may stand there unescaped.
    pub fn to_url_query(&self) -> String {
        let Self { client, client_port, vip, vip_port, proto, ip_id } = self;
        let mut query = format!("client={client}&vip={vip}&proto={proto}");
        for (key, value) in [("client_port", client_port), ("vip_port", vip_port), ("ip_id", ip_id)]
        {
            if let Some(value) = value {
                write!(query, "&{key}={value}").expect("a String takes every write");
            }
        }
        query
    }
}

/// The protocols whose packets can be explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ExplainProto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP echo request, of IPv4 or IPv6.
    Icmp,
    /// ARP request, or the neighbour solicitation of IPv6.
    Arp,
}

impl ExplainProto {
    /// The word of the command line and of [`Explanation::proto`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Arp => "arp",
        }
    }

    /// Whether its packets carry ports.
    pub fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }
}

impl fmt::Display for ExplainProto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An address with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`,
/// `[2001:db8::1]:80`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPort {
    /// The address.
    pub addr: IpAddr,
    /// The port, when one is given.
    pub port: Option<u16>,
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(addr) = text.parse() {
            return Ok(Self { addr, port: None });
        }
        let socket: SocketAddr = text.parse().map_err(|_source: AddrParseError| {
            "not an address such as 192.0.2.1, 192.0.2.1:80, 2001:db8::1 or [2001:db8::1]:80"
                .to_owned()
        })?;
        Ok(Self { addr: socket.ip(), port: Some(socket.port()) })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.addr, port).fmt(f),
            None => self.addr.fmt(f),
        }
    }
}

/// The answer of `GET /v1/explain`: what becomes of one client's packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Client address.
    pub client: String,
    /// Client port; absent when it does not matter.
    pub client_port: Option<u16>,
    /// VIP.
    pub vip: String,
    /// Destination port; absent for protocols without.
    pub vip_port: Option<u16>,
    /// `tcp`, `udp`, `icmp` or `arp`.
    pub proto: String,
    /// The group whose rule matched.
    pub group: Option<String>,
    /// The rule that matched, as in the file.
    pub rule: Option<String>,
    /// The bucket.
    pub bucket: Option<u8>,
    /// The owner's name.
    pub owner: Option<String>,
    /// The node whose point of view this is.
    pub node: String,
    /// `pass`, `accept` or `drop`, at `node`.
    pub verdict: String,
    /// The reason, one of the words of `packets`.
    pub reason: String,
    /// The sentence for people.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(proto: ExplainProto) -> ExplainQuery {
        ExplainQuery {
            client: [192, 0, 2, 1].into(),
            client_port: None,
            vip: [192, 168, 1, 222].into(),
            vip_port: proto.has_ports().then_some(80),
            proto,
            ip_id: None,
        }
    }

    #[test]
    fn a_packet_of_each_protocol_can_exist() {
        for proto in [ExplainProto::Tcp, ExplainProto::Udp, ExplainProto::Icmp, ExplainProto::Arp] {
            assert_eq!(query(proto).check(), Ok(()), "{proto}");
        }
    }

    #[test]
    fn an_impossible_packet_is_refused_with_the_reason() {
        let tcp = query(ExplainProto::Tcp);
        let icmp = query(ExplainProto::Icmp);
        let v6 = "2001:db8::1".parse().expect("an address");
        for (query, reason) in [
            (ExplainQuery { client: v6, ..tcp }, "different families"),
            (ExplainQuery { vip_port: None, ..tcp }, "write 192.168.1.222:80"),
            (ExplainQuery { vip_port: None, client: v6, vip: v6, ..tcp }, "[2001:db8::1]:80"),
            (ExplainQuery { client_port: Some(1), ..icmp }, "icmp has no ports"),
            (ExplainQuery { ip_id: Some(1), ..tcp }, "UDP over IPv4 only"),
        ] {
            let error = query.check().expect_err(reason);
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn an_address_with_or_without_port_parses_to_what_it_prints() {
        for text in ["192.0.2.1", "192.0.2.1:80", "2001:db8::1", "[2001:db8::1]:80"] {
            assert_eq!(text.parse::<HostPort>().expect(text).to_string(), text);
        }
        for text in ["", "web", "192.0.2.1:", "192.0.2.1:65536", "192.0.2.256", "[2001:db8::1]"] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }
}
