//! What an agent tells about itself: the body of the control socket's answers and of `--json`.
//!
//! Field names are part of the interface: scripts read them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{Bitmap, Filter, Mode, Proto};

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
    /// Milliseconds the kernel would go on accepting if the agent stopped now; 0 = fenced.
    pub lease_ms: f64,
    /// Seconds since the agent started.
    pub uptime_s: f64,
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
    /// Heartbeat datagrams by outcome.
    pub heartbeats: BTreeMap<String, u64>,
    /// Lateness of the heartbeat thread.
    pub lateness: Lateness,
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
}

/// One VIP block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipStatus {
    /// Interface.
    pub interface: String,
    /// Mode.
    pub mode: Mode,
    /// Virtual MAC.
    pub vmac: String,
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
    /// Buckets by node name (of 256).
    pub load: BTreeMap<String, usize>,
    /// Owner of each of the 256 buckets as an index into [`Status::nodes`]; `null` = nobody.
    pub owners: Vec<Option<usize>>,
    /// The bitmap in force in this node's kernel.
    pub bitmap: Bitmap,
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

/// How late the heartbeat thread woke up, in milliseconds, since the agent started.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Lateness {
    /// Whether the thread runs under `SCHED_FIFO`.
    pub real_time: bool,
    /// Mean.
    pub mean_ms: f64,
    /// Worst.
    pub max_ms: f64,
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
