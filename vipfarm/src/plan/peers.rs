//! The MACs of the other nodes, as a list and as a set that one probe answers.

use vipfarm_common::layout::{MAX_PEERS, PEER_SLOTS, mac_word, peer_index};

use super::multipliers;
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
        if !self.fits(self.multiplier) {
            // Of 64 MACs one multiplier in 3,000 spreads all.
            let found = multipliers().find(|&multiplier| self.fits(multiplier));
            self.multiplier = found.unwrap_or(self.multiplier);
        }
    }

    /// The MACs, by node.
    pub fn macs(&self) -> &[Option<Mac>] {
        &self.macs
    }

    /// Whether no two MACs share a slot.
    fn fits(&self, multiplier: u64) -> bool {
        let mut slots = [0; PEER_SLOTS];
        self.macs.iter().flatten().all(|mac| {
            let word = mac_word(mac.0);
            let slot = &mut slots[peer_index(word, multiplier)];
            let free = *slot == 0 || *slot == word;
            *slot = word;
            free
        })
    }

    pub(super) fn words(&self) -> [u64; MAX_PEERS] {
        let word = |index: usize| self.macs.get(index).copied().flatten();
        std::array::from_fn(|index| word(index).map_or(0, |mac| mac_word(mac.0)))
    }

    pub(super) fn slots(&self) -> [u64; PEER_SLOTS] {
        let mut slots = [0; PEER_SLOTS];
        for mac in self.macs.iter().flatten() {
            let word = mac_word(mac.0);
            slots[peer_index(word, self.multiplier)] = word;
        }
        slots
    }
}
