//! The farm as the operator described it, checked: nodes, VIPs, groups, rules, powers; and the two
//! things the agent derives from it, the view of who is alive and the bucket table.
//!
//! Nothing here does IO. [`crate::config`] builds it and is the only place that may refuse it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

mod abstention;
mod check;
mod mac;
mod node;
mod overrides;
mod stay;
mod table;
mod timers;
mod view;
mod vip;

pub use self::{
    abstention::{Abstention, Abstentions},
    check::{About, Check, Effect, Hooks, Http, HttpProbe, Probe, Run},
    mac::Mac,
    node::{MAX_NODES, Node, NodeId, NodeSet},
    overrides::{Life, Override, Overrides, TooManyOverrides, Version},
    stay::{Stay, StayKind, VipId},
    table::{BUCKETS, Bitmap, Table},
    timers::{DEFAULT_PORT, Membership, Timers},
    view::View,
    vip::{
        ArpRefresh, Balance, Failover, Filter, Group, IcmpEcho, MAX_POWER, Mode, Open,
        OtherProtocols, Proto, Rule, Vip, VipAddr, VlanTags,
    },
};

/// One farm: what one agent runs and what every node's file must agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farm {
    /// The farm's name, part of every heartbeat's identity.
    pub name: String,
    /// The shared secret; mode 0600.
    pub key_file: PathBuf,
    /// Another secret whose heartbeats are accepted too, while the key is changed.
    pub accept_key_file: Option<PathBuf>,
    /// The secret behind the bucket hash, if it is not that of the heartbeats.
    pub hash_key_file: Option<PathBuf>,
    /// Heartbeat cadence and time-outs.
    pub membership: Membership,
    /// How long an agent that is to stop waits for its node's open connections.
    pub stop_timeout: Duration,
    /// What must be right on a node for it to serve anything.
    pub checks: Vec<Check>,
    /// Programs that are told of what happens.
    pub hooks: Hooks,
    /// Where the agent answers read-only requests.
    pub http: Http,
    /// The nodes, in the order of the file: a [`NodeId`] is an index into this list.
    pub nodes: Vec<Node>,
    /// The VIP blocks, in the order of the file.
    pub vips: Vec<Vip>,
}

impl Farm {
    /// [`Farm::stop_timeout`] of a file that says nothing.
    pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);

    /// The files with keys.
    pub fn key_files(&self) -> impl Iterator<Item = &Path> {
        let others = [&self.accept_key_file, &self.hash_key_file].into_iter().flatten();
        std::iter::once(&self.key_file).chain(others).map(PathBuf::as_path)
    }

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
