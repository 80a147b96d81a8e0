//! Who owns which bucket: a pure function of a group's powers and the nodes alive.
//!
//! Each node has a *home*: the buckets it owns while every configured node is alive. Loads follow
//! the powers exactly (the floor or the ceiling of the exact share), and a change moves as little
//! as that allows: an alive node keeps its home, and only the buckets of absent nodes, the
//! *orphans*, are spread over the others. Which bucket prefers which node is decided by weighted
//! rendezvous hashing of names, so two agents with the same file agree without talking, whatever
//! happened before, and a node appended to the file moves little more than its share.
//!
//! When one node fails out of the full farm, the survivors keep all they have. One exception is
//! inherent in exact quotas (the apportionment paradox): beside one giant, many equal dwarfs that
//! own a bucket by rounding up can see the giant's exact share grow by a whole bucket when a
//! dwarf without one fails; then one dwarf gives its bucket to the giant.
//!
//! Integer arithmetic only: the tables are the same on every machine. They are frozen by
//! [`TABLE_VERSION`] and `assign/golden.txt`.

pub mod floating;

use std::{array, cmp::Reverse};

use crate::model::{BUCKETS, MAX_NODES, NodeId, NodeSet, Table};

/// Version of the placement. Nodes of different versions must not share a farm, so it belongs in
/// the configuration digest; it rises with any change that alters a table of `golden.txt`.
pub const TABLE_VERSION: u8 = 1;

/// Spreads bucket and draw over 64 bits before they meet a node's key: the golden ratio, odd.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// A number of buckets for each node, by index.
type Counts = [usize; MAX_NODES];

/// The placement of one group, ready to give the table of any alive set.
#[derive(Debug, Clone)]
pub struct Assigner {
    /// What decides the last tie of a quota.
    keys: Vec<u64>,
    /// By node index.
    powers: Vec<u16>,
    /// How many buckets each node owns at home.
    home: Counts,
    /// All (bucket, node with power) pairs, the strongest preference first.
    preferences: Vec<Preference>,
}

/// One entry of the order in which buckets are given out.
#[derive(Debug, Clone, Copy)]
struct Preference {
    bucket: u8,
    node: NodeId,
    /// Whether the bucket is part of the node's home.
    home: bool,
}

impl Assigner {
    /// The placement of the group named `group` over `members`, name and power by node index; a
    /// node that is not in the group has power 0. Members beyond [`MAX_NODES`] own nothing.
    ///
    /// Hashes up to 65536 scores: about a millisecond, so keep the result.
    pub fn new(group: &str, members: &[(&str, u16)]) -> Self {
        let members = &members[..members.len().min(MAX_NODES)];
        let keys: Vec<u64> = members.iter().map(|(name, _)| key(group, name)).collect();
        let powers: Vec<u16> = members.iter().map(|&(_, power)| power).collect();
        let mut assigner = Self { keys, powers, home: [0; MAX_NODES], preferences: Vec::new() };
        let everybody = (0..members.len()).filter_map(NodeId::new).collect();
        assigner.home = assigner.quotas(everybody);
        assigner.preferences = assigner.ordered_preferences(everybody);
        assigner.mark_home();
        assigner
    }

    /// The table while exactly the nodes `alive` are: depends on nothing that happened before.
    ///
    /// Every bucket has an owner if any alive node has power, otherwise none has.
    pub fn table(&self, alive: NodeSet) -> Table {
        let mut room = self.quotas(alive);
        let mut owners = [None; BUCKETS];
        give_out(self.preferences.iter().filter(|entry| entry.home), &mut room, &mut owners);
        give_out(self.preferences.iter(), &mut room, &mut owners);
        Table::new(owners)
    }

    /// How many of the buckets each node gets: the floor of its exact share, and the seats that
    /// remain by largest remainder, but first to those who would otherwise lose a home bucket.
    fn quotas(&self, alive: NodeSet) -> Counts {
        let power = |node: NodeId| self.powers.get(node.index()).map_or(0, |&p| usize::from(p));
        let total: usize = alive.iter().map(power).sum();
        let mut quotas = [0; MAX_NODES];
        if total == 0 {
            return quotas;
        }
        let mut claims: Vec<_> = alive.iter().filter(|&node| power(node) > 0).collect();
        let mut seats = BUCKETS;
        for &node in &claims {
            let floor = BUCKETS * power(node) / total;
            quotas[node.index()] = floor;
            seats -= floor;
        }
        claims.sort_by_key(|&node| {
            let index = node.index();
            let loses_home = self.home[index] > quotas[index];
            Reverse((loses_home, BUCKETS * power(node) % total, self.keys[index]))
        });
        for node in claims.iter().take(seats) {
            quotas[node.index()] += 1;
        }
        quotas
    }

    fn ordered_preferences(&self, everybody: NodeSet) -> Vec<Preference> {
        let mut scored: Vec<(u64, u8, NodeId)> = everybody
            .iter()
            .filter(|node| self.powers[node.index()] > 0)
            .flat_map(|node| {
                // A node too weak for a bucket at home still takes part when others are absent.
                let draws = self.home[node.index()].max(1);
                let key = self.keys[node.index()];
                (0..=u8::MAX).map(move |bucket| (score(key, bucket, draws), bucket, node))
            })
            .collect();
        scored.sort_unstable_by_key(|&entry| Reverse(entry));
        let unmarked = |(_, bucket, node)| Preference { bucket, node, home: false };
        scored.into_iter().map(unmarked).collect()
    }

    fn mark_home(&mut self) {
        let mut owners = [None; BUCKETS];
        give_out(self.preferences.iter(), &mut self.home.clone(), &mut owners);
        for preference in &mut self.preferences {
            preference.home = owners[usize::from(preference.bucket)] == Some(preference.node);
        }
    }
}

/// Gives each free bucket to the first node in line that has room.
fn give_out<'a>(
    line: impl Iterator<Item = &'a Preference>,
    room: &mut Counts,
    owners: &mut [Option<NodeId>; BUCKETS],
) {
    for preference in line {
        let room = &mut room[preference.node.index()];
        let owner = &mut owners[usize::from(preference.bucket)];
        if owner.is_none() && *room > 0 {
            *owner = Some(preference.node);
            *room -= 1;
        }
    }
}

/// The node's place in the hash space of the group: names, not indices, so that a node inserted
/// into the file does not move the others.
fn key(group: &str, node: &str) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("vipfarm 1 table");
    // The length keeps ("ab", "c") and ("a", "bc") apart.
    hasher.update(&(group.len() as u64).to_le_bytes()).update(group.as_bytes());
    let hash = hasher.update(node.as_bytes()).finalize();
    u64::from_le_bytes(array::from_fn(|byte| hash.as_bytes()[byte]))
}

/// How much the bucket prefers the node: the best of as many draws as the node has buckets at
/// home, which is what weighs rendezvous hashing without a logarithm.
fn score(key: u64, bucket: u8, draws: usize) -> u64 {
    let draw = |n| fmix64(key ^ (u64::from(bucket) << 32 | n as u64).wrapping_mul(SPREAD));
    (0..draws).map(draw).max().unwrap_or(0)
}

/// The finalizer of `MurmurHash3` (64 bits): every input bit reaches every output bit.
fn fmix64(mut word: u64) -> u64 {
    word = (word ^ word >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    word = (word ^ word >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ word >> 33
}

#[cfg(test)]
mod tests;
