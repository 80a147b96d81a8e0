//! Whether every bucket is accepted by exactly one node's kernel.

use serde::{Deserialize, Serialize};

/// What an agent knows of who accepts what: of its own kernel, whose tables it reads back, and of
/// the other members by what each has last said to have read back from its own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProofStatus {
    /// The outcome.
    pub verdict: Verdict,
    /// Number of the view that it is about; 0 = none is in force here.
    pub epoch: u64,
    /// The built-in group `(resolve)`, which answers ARP and echo, then those of the file in their
    /// order. Empty with [`Verdict::Unknown`].
    pub groups: Vec<GroupProof>,
    /// Nodes that are on the way to what the view asks of them.
    pub waiting_for: Vec<String>,
    /// What is wrong; empty but with [`Verdict::Wrong`].
    pub faults: Vec<Fault>,
}

/// The outcome of the proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every bucket of every group is accepted by exactly one node.
    OwnedOnce,
    /// Some nodes are on the way to that, and not late yet.
    Changing,
    /// It is not so; [`ProofStatus::faults`] say why.
    Wrong,
    /// This node cannot tell: it has no view in force, or no lease.
    #[default]
    Unknown,
}

/// The 256 buckets of a group by who accepts them; the four counts make 256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupProof {
    /// Its name.
    pub name: String,
    /// Accepted by one node, as far as known.
    pub once: usize,
    /// Accepted by more than one.
    pub twice: usize,
    /// Accepted by nobody.
    pub nobody: usize,
    /// Their owner has not shown what it accepts, or this node accepts them on some interfaces only.
    pub unknown: usize,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The node that does wrong; absent if none does.
    pub node: Option<String>,
    /// The group that has no owner; absent with all other kinds.
    pub group: Option<String>,
    /// One word for scripts.
    pub kind: FaultKind,
    /// The sentence for people: what is wrong, and what to do.
    pub message: String,
}

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The node's kernel accepts something else than the view says.
    Tables,
    /// The member owns buckets and serves none.
    NotServing,
    /// The member has not been heard for longer than a lease.
    Silent,
    /// The node serves by another view.
    OtherView,
    /// The member has not shown what it accepts.
    Unproven,
    /// No member of the view may own the group's buckets.
    NoOwner,
}

impl FaultKind {
    /// The word of JSON and of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tables => "tables",
            Self::NotServing => "not_serving",
            Self::Silent => "silent",
            Self::OtherView => "other_view",
            Self::Unproven => "unproven",
            Self::NoOwner => "no_owner",
        }
    }
}
