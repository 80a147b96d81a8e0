//! What is told of failover VIPs, and how they are moved.

use serde::{Deserialize, Serialize};

pub use crate::assign::floating::Why;
use crate::model::Balance;

/// Who has a failover VIP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverStatus {
    /// The name of its group: the first address, and its VLAN if it is in one.
    pub name: String,
    /// The node; absent if none can have it.
    pub holder: Option<String>,
    /// Why it is that one.
    pub why: Option<Why>,
    /// Whether what an operator has moved stays moved when agents start anew.
    #[serde(default)]
    pub persist: bool,
    /// For how many seconds it has been that one, as seen from this node.
    pub since_s: Option<u64>,
    /// Who would have it if no node stayed only because it has it: another one waits, or may not take
    /// over.
    pub favourite: Option<String>,
    /// Whether a better node takes over.
    pub preempt: bool,
    /// How long it waits for that, in milliseconds.
    pub preempt_delay_ms: u64,
    /// Who is the better one.
    pub balance: Balance,
}

/// The body of `POST /v1/move`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveRequest {
    /// An address of the failover VIP, or the name of its group.
    pub vip: String,
    /// The node that is to have it; absent = whoever has it by the file.
    pub node: Option<String>,
    /// Whether it is to stay there until it is taken back, else until the node's agent starts anew.
    #[serde(default)]
    pub persist: bool,
}
