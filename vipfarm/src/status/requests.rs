//! What operators ask an agent to change.

use serde::{Deserialize, Serialize};

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

/// To open or close groups at the node whose agent is asked: the body of `POST /v1/open`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenRequest {
    /// A group's name, or a VIP, which is all groups of its block; absent = all groups.
    pub what: Option<String>,
    /// Whether they are to be served, by the powers of the file; else not at all.
    pub open: bool,
    /// Whether closing is to hold until they are opened, else until the node's agent starts anew.
    #[serde(default)]
    pub persist: bool,
}

/// The answer of `POST /v1/power` and `POST /v1/open`: the change is on its way through the farm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerReply {
    /// [`super::Status::powers_version`] once it is in force.
    pub version: u64,
}

/// The body of `POST /v1/reload`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReloadRequest {
    /// Leave out the nodes that have not read the same file.
    #[serde(default)]
    pub force: bool,
}

/// The body of `POST /v1/upgrade`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpgradeRequest {
    /// For how long the kernel may serve old connections without an agent, in milliseconds: 1 to
    /// 60,000.
    pub hold_ms: u64,
    /// End the process, instead of executing the new program.
    #[serde(default)]
    pub exit: bool,
    /// Also if the file is neither the one in force nor ready to be, and others serve: they are replaced
    /// at the same time. Former agents do not know of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_at_once: bool,
}

/// The answer of `POST /v1/upgrade`: the new program can serve the file, and the agent leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeReply {
    /// What the new program says of itself.
    pub version: String,
}

/// The answer of `POST /v1/reload`: the file has been read, and is in force or waits for the other
/// nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReply {
    /// The file's digest; it is in force when [`super::Status::configuration`] is the same.
    pub configuration: String,
    /// What it changes, in words; empty if it is in force already.
    pub changes: Vec<String>,
}
