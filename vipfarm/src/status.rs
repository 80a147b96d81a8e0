//! What an agent tells about itself: the body of the control socket's answers and of `--json`.
//!
//! Field names are part of the interface: scripts read them.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

pub use self::{
    checks::{CheckState, CheckStatus},
    explain::{ExplainProto, ExplainQuery, Explanation, HostPort},
    failover::{FailoverStatus, MoveRequest, Why},
    handover::{HandoverStatus, ResetReply},
    proof::{Fault, FaultKind, GroupProof, ProofStatus, Verdict},
    requests::{
        OpenRequest, PowerReply, PowerRequest, ReloadReply, ReloadRequest, UpgradeReply,
        UpgradeRequest,
    },
    trace::{TraceQuery, TraceReply, TracedFrame},
};
use crate::model::{Bitmap, Filter, Mode, Proto};

mod checks;
mod explain;
mod failover;
mod handover;
mod proof;
mod requests;
mod trace;

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
    /// Whether all that is for a VIP takes the slow path here: one client's packets are traced, or the
    /// lease is too short for the hot path's clock.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detour: bool,
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
    /// Frames that the egress guard corrected or refused, by word.
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
    /// Whether the view has what this node serves nothing of by its own word, and nothing else: what
    /// checks have come to, and what was opened, is in force.
    #[serde(default = "is_so")]
    pub abstention_agreed: bool,
    /// What must be right on this node for it to serve, and whether it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckStatus>,
    /// The last change of view; absent before the first.
    #[serde(default)]
    pub last_view_change: Option<ViewChange>,
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
    /// Its MAC on the first network, once known.
    pub mac: Option<String>,
    /// Buckets it owns, summed over the groups.
    pub load: usize,
    /// Buckets that it has given away and still serves old connections of, summed over the groups;
    /// absent while it has not said so in this view.
    #[serde(default)]
    pub lingering: Option<usize>,
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
    /// Identifiers of its VLAN's tags, the outer one first; none if it is in no VLAN.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vlan: Vec<u16>,
    /// Mode.
    pub mode: Mode,
    /// Virtual MAC; absent where nodes answer with their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmac: Option<String>,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<String>,
    /// Open TCP connections at this node by address, of the addresses with `connections: true`;
    /// counted every few seconds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub connections: BTreeMap<String, u64>,
    /// How XDP is attached: `native` or `generic`.
    pub xdp: String,
    /// Whether the filter takes frames in several buffers: then the interface may have the MTU of
    /// jumbo frames.
    #[serde(default)]
    pub jumbo: bool,
    /// Whether traffic is accepted.
    pub open: bool,
    /// Who has it, where one node at a time does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<FailoverStatus>,
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
    /// The nodes that serve nothing of it for now by their own word: a check fails there, or the VIP has
    /// not been opened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub abstaining: Vec<String>,
    /// Buckets by node name (of 256).
    pub load: BTreeMap<String, usize>,
    /// Owner of each of the 256 buckets as an index into [`Status::nodes`]; `null` = nobody.
    pub owners: Vec<Option<usize>>,
    /// The bitmap in this node's kernel, as read back from there; in force while the lease runs.
    pub bitmap: Bitmap,
    /// Old connections of buckets that move.
    #[serde(default)]
    pub handover: HandoverStatus,
    /// Open TCP connections at this node in each of the 256 buckets, to addresses with
    /// `connections: true`; absent if its block has none, or none has been counted yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<Vec<u32>>,
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

/// Of an agent that has no such word.
fn is_so() -> bool {
    true
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
