//! Old connections of buckets that move.

use serde::{Deserialize, Serialize};

use super::Status;

/// Old connections of a group, on the agent's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HandoverStatus {
    /// Buckets given away whose old connections this node still serves, of 256.
    pub lingering: usize,
    /// Their open connections, counted within the last second or so; absent just after a change,
    /// until they have been counted.
    pub connections: Option<u64>,
    /// UDP flows of such buckets that still linger, by rules that have them, counted likewise.
    #[serde(default)]
    pub flows: Option<u64>,
    /// Seconds since the first of them was given away; absent if there are none.
    pub since_s: Option<u64>,
    /// Buckets taken over whose old connections another node may still serve, of 256.
    pub inherited: usize,
}

/// What became of the old connections that a node was asked to reset: the answer of
/// `POST /v1/reset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetReply {
    /// Connections reset.
    pub reset: usize,
}

impl Status {
    /// Whether that node has no power in any group.
    pub fn is_drained(&self, node: &str) -> bool {
        self.groups.iter().all(|group| group.powers.get(node).is_none_or(|&power| power == 0))
    }
}
