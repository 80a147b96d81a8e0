//! The MACs of the other nodes, as a list and as a set that one probe answers.

use vipfarm_common::layout::{MAC_SLOTS, MAX_PEERS, mac_word};

use super::{mac_set, multipliers};
use crate::model::Mac;

/// The MACs of the other nodes on a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peers {
    /// By node; `None` = own, or not known yet.
    macs: Vec<Option<Mac>>,
    /// Of their set.
    pub(super) multiplier: u64,
}

impl Peers {
    /// So many, none of them known.
    pub fn unknown(nodes: usize) -> Self {
        Self { macs: vec![None; nodes.min(MAX_PEERS)], multiplier: 1 }
    }

    /// Notes a node's MAC, be it that of a node which only another configuration has.
    pub fn learn(&mut self, node: usize, mac: Mac) {
        if node >= MAX_PEERS {
            return;
        }
        if self.macs.len() <= node {
            self.macs.resize(node + 1, None);
        }
        self.macs[node] = Some(mac);
        if self.set(self.multiplier).is_none() {
            // Of 64 MACs one multiplier in 3,000 spreads all.
            let found = multipliers().find(|&multiplier| self.set(multiplier).is_some());
            self.multiplier = found.unwrap_or(self.multiplier);
        }
    }

    /// The MACs, by node.
    pub fn macs(&self) -> &[Option<Mac>] {
        &self.macs
    }

    pub(super) fn words(&self) -> [u64; MAX_PEERS] {
        let word = |index: usize| self.macs.get(index).copied().flatten();
        std::array::from_fn(|index| word(index).map_or(0, |mac| mac_word(mac.0)))
    }

    pub(super) fn slots(&self) -> [u64; MAC_SLOTS] {
        self.set(self.multiplier).unwrap_or([0; MAC_SLOTS])
    }

    fn set(&self, multiplier: u64) -> Option<[u64; MAC_SLOTS]> {
        mac_set(self.macs.iter().flatten().copied(), multiplier)
    }
}
