//! A node, its identity, and sets of nodes.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

/// Nodes of a farm at most: alive sets are 64-bit words.
pub const MAX_NODES: usize = 64;

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

    /// The index into [`Farm::nodes`](super::Farm::nodes).
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
    /// Heartbeat addresses, one a network: the first is on the network of a VIP, and so may others be.
    pub addresses: Vec<IpAddr>,
}
