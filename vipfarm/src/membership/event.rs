//! What operators are told.

use std::{fmt, net::IpAddr, time::Duration};

/// Something worth a line in the farm's history. Nodes are named as in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A peer is heard and may take part.
    NodeJoined {
        /// The peer.
        node: String,
    },
    /// A peer's agent started anew before it was missed.
    NodeRestarted {
        /// The peer.
        node: String,
    },
    /// A peer is no longer heard.
    NodeLost {
        /// The peer.
        node: String,
        /// How long it has been silent.
        silence: Duration,
    },
    /// A peer is no longer heard on the VIP's network, but on another one: it runs.
    NetworkLost {
        /// The peer.
        node: String,
        /// How long it has been silent there.
        silence: Duration,
    },
    /// This node has lost a network with VIPs, on which others hear each other.
    CutOff {
        /// One of them.
        from: String,
        /// Index of its address there.
        link: usize,
    },
    /// A peer is no longer heard on an extra network.
    LinkLost {
        /// The peer.
        node: String,
        /// Index of its address there.
        link: usize,
    },
    /// A peer is heard on an extra network.
    LinkRestored {
        /// The peer.
        node: String,
        /// Index of its address there.
        link: usize,
    },
    /// A peer has stopped serving and said so.
    NodeLeft {
        /// The peer.
        node: String,
    },
    /// All members have agreed; buckets are accepted accordingly.
    ViewInstalled {
        /// Number of the view.
        epoch: u64,
        /// The members.
        members: Vec<String>,
    },
    /// The kernel stopped accepting because peers have not acknowledged this node's heartbeats.
    LeaseLapsed {
        /// How long ago.
        ago: Duration,
    },
    /// A peer runs another configuration.
    ConfigMismatch {
        /// The peer.
        node: String,
    },
    /// This node serves nothing because a node with another configuration serves already, or goes
    /// first by its place in the file.
    HeldBack {
        /// The other node.
        by: String,
    },
    /// A node of this farm is not in this node's file.
    Newcomer {
        /// Where its heartbeats come from.
        source: IpAddr,
    },
    /// This node hears its farm but cannot take part, so it does not serve alone.
    Unknown,
    /// Two agents claim to be one node, this one or a peer.
    DuplicateNode {
        /// The node.
        node: String,
        /// Where a heartbeat of one of them came from.
        source: IpAddr,
    },
    /// A heartbeat is not authentic.
    BadTag {
        /// Where it came from.
        source: IpAddr,
    },
    /// This agent was not run in time, so its silence clocks started anew.
    Stall {
        /// By how much it was late.
        late: Duration,
    },
    /// No heartbeat can be sent to any peer.
    CannotSend,
    /// A peer names a view that no healthy node would propose.
    WildEpoch {
        /// The peer.
        node: String,
    },
    /// This node hands its buckets over to its peers.
    Leaving,
    /// This node cannot serve.
    Unfit,
    /// This node can serve again.
    Fit,
    /// Another configuration is ready here and waits for the other nodes.
    ConfigStaged,
    /// The farm has gone over to the staged configuration.
    ConfigActivated,
}

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The farm at work.
    Info,
    /// Somebody should look at it.
    Warn,
}

impl Level {
    /// `info` or `warn`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
        }
    }
}

impl Event {
    /// One word for scripts.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NodeJoined { .. } => "node_joined",
            Self::NodeRestarted { .. } => "node_restarted",
            Self::NodeLost { .. } => "node_lost",
            Self::NetworkLost { .. } => "network_lost",
            Self::CutOff { .. } => "cut_off",
            Self::LinkLost { .. } => "link_lost",
            Self::LinkRestored { .. } => "link_restored",
            Self::NodeLeft { .. } => "node_left",
            Self::ViewInstalled { .. } => "view_installed",
            Self::LeaseLapsed { .. } => "lease_lapsed",
            Self::ConfigMismatch { .. } => "config_mismatch",
            Self::HeldBack { .. } => "held_back",
            Self::Newcomer { .. } => "newcomer",
            Self::Unknown => "unknown",
            Self::DuplicateNode { .. } => "duplicate_node",
            Self::BadTag { .. } => "bad_tag",
            Self::Stall { .. } => "stall",
            Self::CannotSend => "cannot_send",
            Self::WildEpoch { .. } => "wild_epoch",
            Self::Leaving => "leaving",
            Self::Unfit => "unfit",
            Self::Fit => "fit",
            Self::ConfigStaged => "config_staged",
            Self::ConfigActivated => "config_activated",
        }
    }

    /// How much it matters.
    pub fn level(&self) -> Level {
        match self {
            Self::NodeJoined { .. }
            | Self::NodeLeft { .. }
            | Self::ViewInstalled { .. }
            | Self::LinkRestored { .. }
            | Self::Fit
            | Self::ConfigStaged
            | Self::ConfigActivated
            | Self::Leaving => Level::Info,
            Self::NodeRestarted { .. }
            | Self::NodeLost { .. }
            | Self::NetworkLost { .. }
            | Self::CutOff { .. }
            | Self::LinkLost { .. }
            | Self::WildEpoch { .. }
            | Self::Unfit
            | Self::LeaseLapsed { .. }
            | Self::ConfigMismatch { .. }
            | Self::HeldBack { .. }
            | Self::Newcomer { .. }
            | Self::Unknown
            | Self::DuplicateNode { .. }
            | Self::BadTag { .. }
            | Self::CannotSend
            | Self::Stall { .. } => Level::Warn,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeJoined { node } => write!(f, "{node} is heard"),
            Self::NodeRestarted { node } => {
                write!(f, "{node} has started anew and serves nothing yet")
            }
            Self::NodeLost { node, silence } => {
                write!(f, "{node} is lost: not heard for {} ms", silence.as_millis())
            }
            Self::NetworkLost { node, silence } => write!(
                f,
                "{node} is lost on the VIP's network: not heard there for {} ms, but on another one; look at its interface and switch port",
                silence.as_millis()
            ),
            Self::CutOff { from, link } => {
                let network = match link {
                    0 => "the VIP's network".to_owned(),
                    _ => format!("the network of its address number {}", link + 1),
                };
                write!(
                    f,
                    "this node is cut off from {network}: {from} and others hear each other there; it serves nothing until it hears them there too; look at its interface and switch port"
                )
            }
            Self::LinkLost { node, link } => {
                write!(f, "{node} is no longer heard on its address number {}", link + 1)
            }
            Self::LinkRestored { node, link } => {
                write!(f, "{node} is heard on its address number {}", link + 1)
            }
            Self::NodeLeft { node } => write!(f, "{node} has left the farm"),
            Self::ViewInstalled { epoch, members } => {
                write!(f, "farm membership: {} (view {epoch})", members.join(" "))
            }
            Self::LeaseLapsed { ago } => write!(
                f,
                "the lease lapsed {} ms ago, because this agent was late or its peers do not hear it: it serves nothing until the farm has agreed anew",
                ago.as_millis()
            ),
            Self::ConfigMismatch { node } => write!(
                f,
                "{node} runs another configuration and cannot be a member: give all nodes the same file"
            ),
            Self::HeldBack { by } => write!(
                f,
                "this node serves nothing while {by} runs another configuration: give all nodes the same file"
            ),
            Self::Newcomer { source } => write!(
                f,
                "{source} is a node of this farm by its key, and not in this node's file: run `vipfarm reload` here, or stop the agent there"
            ),
            Self::Unknown => f.write_str(
                "nodes of this farm are heard that do not take this one for a member: it waits, and does not serve alone; give all nodes the same key and file, and run `vipfarm reload` there",
            ),
            Self::DuplicateNode { node, source } => write!(
                f,
                "two agents claim to be {node}, from {source}: stop one of the two; clients may be served twice"
            ),
            Self::BadTag { source } => write!(
                f,
                "a heartbeat from {source} does not carry this farm's key: give all nodes the same key file; one that hears no other serves nothing"
            ),
            Self::Stall { late } => write!(
                f,
                "this agent ran {} ms late: it judges its peers' silence anew",
                late.as_millis()
            ),
            Self::CannotSend => f.write_str(
                "no heartbeat can be sent to any node: this node stops serving unless that ends within its lease; check its address, routes and packet filters",
            ),
            Self::WildEpoch { node } => write!(
                f,
                "{node} names a view number beyond reason: it is not listened to; restart its agent"
            ),
            Self::Leaving => f.write_str("this node leaves the farm"),
            Self::Unfit => f.write_str("this node cannot serve: its peers take over"),
            Self::Fit => f.write_str("this node can serve again"),
            Self::ConfigStaged => {
                f.write_str("another configuration is ready: it waits for the other nodes")
            }
            Self::ConfigActivated => f.write_str("the farm has gone over to the new configuration"),
        }
    }
}
