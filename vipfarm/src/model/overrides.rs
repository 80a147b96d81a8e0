//! Powers changed at run time.

use serde::{Deserialize, Serialize};

use super::{MAX_POWER, NodeId};

/// Which of two sets of overrides is the newer one: the higher counter, then the higher author. A
/// Lamport clock: an author counts on from the highest version it has seen.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Version {
    /// Changes so far, over all authors.
    pub counter: u64,
    /// Index of the node that made the last one.
    pub author: u8,
}

/// One power that differs from the file's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Override {
    /// Whose power.
    pub node: NodeId,
    /// In which group, by index in file order over all blocks; `None` = in all groups, the built-in
    /// one included.
    pub group: Option<u8>,
    /// `0..=`[`MAX_POWER`].
    pub power: u16,
}

/// The powers that operators changed at run time, over those of the file. The whole set has one
/// version: of two, every node takes the higher.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Overrides {
    version: Version,
    /// Ascending by node and group, each pair once.
    entries: Vec<Override>,
}

/// There is no room for another power that differs from the file's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} powers differ from the file already, and a view has no room for more: write them into the file, or set one power for all groups",
    Overrides::MAX
)]
pub struct TooManyOverrides;

impl Overrides {
    /// Entries at most: a heartbeat has to carry them.
    pub const MAX: usize = 256;

    /// The set of those entries; of two for one node and group the last counts. `None` if they are
    /// too many or a power is out of range.
    pub fn new(version: Version, entries: impl IntoIterator<Item = Override>) -> Option<Self> {
        let mut overrides = Self { version, entries: Vec::new() };
        for entry in entries {
            if entry.power > MAX_POWER || overrides.put(entry).is_err() {
                return None;
            }
        }
        Some(overrides)
    }

    /// Which change this is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The entries, ascending by node and group.
    pub fn entries(&self) -> &[Override] {
        &self.entries
    }

    /// The node's power in a group; `None` = the file's. An entry for the group goes before one for
    /// all groups.
    pub fn power(&self, group: u8, node: NodeId) -> Option<u16> {
        self.entry(Some(group), node).or_else(|| self.entry(None, node))
    }

    /// Whether the node owns nothing whatever the file says: power 0 in all groups.
    pub fn is_drained(&self, node: NodeId) -> bool {
        let mut others = self.entries.iter().filter(|entry| entry.node == node);
        self.entry(None, node) == Some(0) && others.all(|entry| entry.power == 0)
    }

    /// The set after one more change by `author`: the node's power in that group (`None` = all
    /// groups, which forgets those set one by one); `None` = back to the file's. `power` beyond
    /// [`MAX_POWER`] counts as that.
    pub fn with(
        &self,
        author: NodeId,
        group: Option<u8>,
        node: NodeId,
        power: Option<u16>,
    ) -> Result<Self, TooManyOverrides> {
        let mut changed = self.clone();
        changed
            .entries
            .retain(|entry| entry.node != node || (group.is_some() && entry.group != group));
        if let Some(power) = power {
            changed.put(Override { node, group, power: power.min(MAX_POWER) })?;
        }
        changed.version = self.next_version(author);
        Ok(changed)
    }

    /// The set by `author` for another file, in which groups have other indices: only what was set
    /// for all groups stays.
    #[must_use]
    pub fn for_another_file(&self, author: NodeId) -> Self {
        let entries = self.entries.iter().filter(|entry| entry.group.is_none()).copied();
        Self { version: self.next_version(author), entries: entries.collect() }
    }

    fn next_version(&self, author: NodeId) -> Version {
        let author = u8::try_from(author.index()).unwrap_or(u8::MAX);
        Version { counter: self.version.counter.saturating_add(1), author }
    }

    fn entry(&self, group: Option<u8>, node: NodeId) -> Option<u16> {
        let found = self.entries.iter().find(|entry| entry.group == group && entry.node == node);
        found.map(|entry| entry.power)
    }

    fn put(&mut self, entry: Override) -> Result<(), TooManyOverrides> {
        let key = |entry: &Override| (entry.node, entry.group);
        match self.entries.binary_search_by_key(&key(&entry), key) {
            Ok(at) => self.entries[at] = entry,
            Err(_) if self.entries.len() == Self::MAX => return Err(TooManyOverrides),
            Err(at) => self.entries.insert(at, entry),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(index: usize) -> NodeId {
        NodeId::new(index).expect("in range")
    }

    #[test]
    fn a_group_goes_before_all_groups_and_both_before_the_file() {
        let all = Overrides::default().with(node(0), None, node(1), Some(0)).expect("room");
        assert_eq!((all.power(3, node(1)), all.power(3, node(2))), (Some(0), None));
        assert!(all.is_drained(node(1)) && !all.is_drained(node(2)));
        let one = all.with(node(2), Some(3), node(1), Some(7)).expect("room");
        assert_eq!((one.power(3, node(1)), one.power(4, node(1))), (Some(7), Some(0)));
        assert!(!one.is_drained(node(1)));
        assert_eq!(one.version(), Version { counter: 2, author: 2 });
        let back = one.with(node(0), None, node(1), None).expect("room");
        assert_eq!(back.entries(), []);
        assert!(back.version() > one.version());
    }

    #[test]
    fn another_file_keeps_what_was_said_of_all_groups() {
        let set = Overrides::default()
            .with(node(0), None, node(1), Some(0))
            .and_then(|set| set.with(node(0), Some(1), node(2), Some(5)))
            .expect("room");
        let kept = set.for_another_file(node(0));
        assert!(kept.is_drained(node(1)) && kept.power(1, node(2)).is_none());
        assert!(kept.version() > set.version());
    }

    #[test]
    fn the_set_is_bounded() {
        let mut set = Overrides::default();
        for group in 0..=255 {
            set = set.with(node(0), Some(group), node(1), Some(1)).expect("room");
        }
        assert_eq!(set.with(node(0), Some(0), node(2), Some(1)), Err(TooManyOverrides));
        set.with(node(0), Some(0), node(1), Some(2)).expect("a change of an entry needs no room");
        set.with(node(0), None, node(1), Some(2)).expect("replaces all");
    }
}
