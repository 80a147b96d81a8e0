//! The desired state of one interface's kernel tables, and how to get there from the present one.
//!
//! Pure: the same plan always makes the same tables. [`crate::datapath`] writes them; `explain` and
//! the tests read them as the kernel would.

mod peers;
mod services;

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use vipfarm_common::layout::{
    Generation, Group, MAC_SLOTS, MAX_GROUPS, MAX_PEERS, MAX_VIPS, NOBODY, RULE_SLOTS, RuleSlot,
    VIP_SLOTS, Vip6Slot, VipRules, VipSlot, mac_index, mac_word,
};

pub use self::{
    peers::Peers,
    services::{HeldVip, OwnAddresses, PlanError, Services},
};
use crate::model::{Bitmap, Mac, NodeId, Table};

/// Everything that the tables of one interface are to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Addresses and rules: they change with the configuration only.
    pub services: Arc<Services>,
    /// The buckets this node accepts, by kernel group; the first is the built-in group's.
    pub bitmaps: Vec<Bitmap>,
    /// The buckets in a move, by kernel group: see [`Group::moving`].
    pub moving: Vec<Bitmap>,
    /// Who served each bucket before, by kernel group; empty where no VIP has nodes hand frames over.
    pub former: Vec<Owners>,
    /// Who owns each bucket, by kernel group; empty where no VIP has nodes hand frames over.
    pub owners: Vec<Owners>,
    /// Who judges flows that linger before and after this node, by kernel group; empty where none do.
    pub turns: Vec<Turns>,
    /// The other nodes on this network.
    pub peers: Peers,
}

/// Who judges a group's flows before a node, and after it, and since when it does, as the kernel reads
/// them: see [`Group::first`] and [`Group::next`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turns {
    /// Before.
    pub first: Owners,
    /// After.
    pub next: Owners,
    /// See [`Group::tenure`].
    pub tenure: [u16; 256],
}

impl Turns {
    /// Nobody judges any.
    pub const NONE: Self = Self { first: Owners::NONE, next: Owners::NONE, tenure: [0; 256] };

    /// Since when, as words of memory.
    pub(crate) fn tenure_words(&self) -> [u64; 64] {
        let four = self.tenure.as_chunks::<4>().0;
        std::array::from_fn(|index| {
            let [a, b, c, d] = four[index].map(u16::to_ne_bytes);
            u64::from_ne_bytes([a[0], a[1], b[0], b[1], c[0], c[1], d[0], d[1]])
        })
    }
}

/// A group's owners as the kernel reads them: a node's index for each bucket, or [`NOBODY`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Owners(pub [u8; 256]);

impl Owners {
    /// The bytes as words of memory.
    pub(crate) fn words(&self) -> [u64; 32] {
        let bytes = self.0.as_chunks::<8>().0;
        std::array::from_fn(|index| u64::from_ne_bytes(bytes[index]))
    }

    /// No bucket has one.
    pub const NONE: Self = Self([NOBODY; 256]);

    /// Those of a table.
    pub fn of(table: &Table) -> Self {
        Self(table.owners().map(Self::index))
    }

    /// A node's index.
    pub(crate) fn index(owner: Option<NodeId>) -> u8 {
        owner.map_or(NOBODY, |node| u8::try_from(node.index()).unwrap_or(NOBODY))
    }
}

impl fmt::Debug for Owners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0[..])
    }
}

/// A step from one plan to another.
#[expect(clippy::large_enum_variant, reason = "few at a time, and none is kept")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Addresses or rules differ: write the idle generation and switch.
    Structure,
    /// One group's bitmap differs: four word stores in place.
    Bitmap {
        /// Kernel group.
        group: usize,
        /// Its new bitmap.
        bitmap: Bitmap,
    },
    /// One group's buckets in a move differ: word stores in place.
    Moving {
        /// Kernel group.
        group: usize,
        /// Its new bitmap.
        bitmap: Bitmap,
    },
    /// One group's former owners differ: word stores in place.
    Former {
        /// Kernel group.
        group: usize,
        /// Its new former owners.
        owners: Owners,
    },
    /// One group's owners differ: word stores in place.
    Owners {
        /// Kernel group.
        group: usize,
        /// Its new owners.
        owners: Owners,
    },
    /// It differs who judges one group's flows: word stores in place.
    Turns {
        /// Kernel group.
        group: usize,
        /// Who now judges them.
        turns: Turns,
    },
    /// One peer's MAC differs: a word store in place.
    Peer {
        /// Its place in [`Generation::peers`].
        index: usize,
        /// The MAC as a word; 0 = the place is free.
        mac: u64,
    },
    /// One slot of the set of peers' MACs differs: a word store in place.
    PeerSlot {
        /// Its place in [`Generation::peer_slots`].
        slot: usize,
        /// The MAC as a word; 0 = the place is free.
        mac: u64,
    },
}

impl Plan {
    /// What to do to get from `old` (`None` = nothing is written yet) to this plan.
    pub fn changes_from(&self, old: Option<&Self>) -> Vec<Change> {
        let same = |old: &&Self| {
            old.services == self.services && old.peers.multiplier == self.peers.multiplier
        };
        let Some(old) = old.filter(same) else {
            return vec![Change::Structure];
        };
        // First what says that there are old connections, then whose the bucket is: in between, a
        // packet of one is dropped at worst.
        let former = changed(&old.former, &self.former);
        let former = former.map(|(group, owners)| Change::Former { group, owners });
        let moving = changed(&old.moving, &self.moving);
        let moving = moving.map(|(group, bitmap)| Change::Moving { group, bitmap });
        // Who is no owner any more may be the first to judge flows, and who is one now must not be.
        let before = |group: usize| old.bitmaps.get(group).copied().unwrap_or_default();
        let kept = |(group, bitmap): (usize, &Bitmap)| (group, before(group).and(*bitmap));
        let kept = self.bitmaps.iter().enumerate().map(kept);
        let shrunk = kept.clone().filter(|&(group, kept)| kept != before(group));
        let grown = kept.filter(|&(group, kept)| kept != self.bitmaps[group]);
        let shrunk = shrunk.map(|(group, bitmap)| Change::Bitmap { group, bitmap });
        let grown = grown.map(|(group, _)| Change::Bitmap { group, bitmap: self.bitmaps[group] });
        let owners = changed(&old.owners, &self.owners);
        let owners = owners.map(|(group, owners)| Change::Owners { group, owners });
        let turns = changed(&old.turns, &self.turns);
        let turns = turns.map(|(group, turns)| Change::Turns { group, turns });
        let mut changes: Vec<Change> =
            former.chain(moving).chain(shrunk).chain(turns).chain(grown).chain(owners).collect();
        if old.peers != self.peers {
            let peers = changed(&old.peers.words(), &self.peers.words())
                .map(|(index, mac)| Change::Peer { index, mac })
                .collect::<Vec<_>>();
            let slots = changed(&old.peers.slots(), &self.peers.slots())
                .map(|(slot, mac)| Change::PeerSlot { slot, mac })
                .collect::<Vec<_>>();
            changes.extend(peers.into_iter().chain(slots));
        }
        changes
    }

    /// The complete tables.
    pub fn generation(&self) -> Box<Generation> {
        let mut tables = empty_generation();
        self.services.place_vips(&mut tables);
        self.services.place_rules(&mut tables);
        for (group, bitmap) in tables.groups.iter_mut().zip(&self.bitmaps) {
            group.mine = bitmap.0;
        }
        for (group, bitmap) in tables.groups.iter_mut().zip(&self.moving) {
            group.moving = bitmap.0;
        }
        for (group, owners) in tables.groups.iter_mut().zip(&self.former) {
            group.former = owners.0;
        }
        for (group, owners) in tables.groups.iter_mut().zip(&self.owners) {
            group.owners = owners.0;
        }
        for (group, turns) in tables.groups.iter_mut().zip(&self.turns) {
            group.first = turns.first.0;
            group.next = turns.next.0;
            group.tenure = turns.tenure;
        }
        tables.peer_multiplier = self.peers.multiplier;
        tables.peers = self.peers.words();
        tables.peer_slots = self.peers.slots();
        tables
    }
}

/// The elements of `new` that are not what they were.
fn changed<T: Copy + PartialEq>(old: &[T], new: &[T]) -> impl Iterator<Item = (usize, T)> {
    let new = new.iter().copied().enumerate();
    new.filter(|(index, value)| old.get(*index) != Some(value))
}

/// An address as the tables hold it: the native integer of its bytes in packet order.
pub fn addr_word(addr: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(addr.octets())
}

/// The same of an IPv6 address, in two halves.
pub fn addr_words(addr: Ipv6Addr) -> [u64; 2] {
    let octets = addr.octets();
    let half = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| octets[at + byte]));
    [half(0), half(8)]
}

/// Tables in which nothing is a VIP.
#[expect(clippy::large_stack_arrays, reason = "60 KB, on their way to the heap")]
pub fn empty_generation() -> Box<Generation> {
    Box::new(Generation {
        vip_multiplier: 1,
        rule_multiplier: 1,
        peer_multiplier: 1,
        vmac_multiplier: 1,
        vips: [VipSlot::default(); VIP_SLOTS],
        vips6: [Vip6Slot::default(); VIP_SLOTS],
        vmacs: [0; 2 * MAX_VIPS],
        vip_rules: [VipRules::default(); 2 * MAX_VIPS],
        rules: [RuleSlot::default(); RULE_SLOTS],
        groups: [Group::NONE; MAX_GROUPS],
        peers: [0; MAX_PEERS],
        peer_slots: [0; MAC_SLOTS],
        vmac_slots: [0; MAC_SLOTS],
        askers: [[0; 2]; 2 * MAX_VIPS],
    })
}

/// MACs, each in its slot of a set; `None` if two share one.
fn mac_set(macs: impl Iterator<Item = Mac>, multiplier: u64) -> Option<[u64; MAC_SLOTS]> {
    let mut slots = [0; MAC_SLOTS];
    for mac in macs {
        let word = mac_word(mac.0);
        let slot = &mut slots[mac_index(word, multiplier)];
        if *slot != 0 && *slot != word {
            return None;
        }
        *slot = word;
    }
    Some(slots)
}

/// Odd 64-bit multipliers in a fixed order (`SplitMix64`), so that equal plans make equal tables. At
/// the limits about one in 3,000 fits; a million tries take well under a second.
fn multipliers() -> impl Iterator<Item = u64> {
    (1u64..1 << 20).map(|n| {
        let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) | 1
    })
}

#[cfg(test)]
mod tests;
