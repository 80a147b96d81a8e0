//! What was changed at run time: powers, and who is to hold failover VIPs.

use serde::{Deserialize, Serialize};

use super::{MAX_POWER, NodeId, Stay, StayKind, VipId};

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

/// Which agent of a node: the low half of its incarnation, enough to tell one from the next.
pub type Life = u32;

/// One power that differs from the file's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Override {
    /// Whose power.
    pub node: NodeId,
    /// In which group, by index in file order over all blocks; `None` = in all groups, the built-in
    /// one included.
    pub group: Option<u8>,
    /// `0..=`[`MAX_POWER`].
    pub power: u16,
    /// The agent of the node that it ends with; `None` = it is persistent, and holds until it is
    /// taken back.
    pub life: Option<Life>,
}

impl Override {
    /// A power that holds until it is taken back.
    pub fn persistent(node: NodeId, group: Option<u8>, power: u16) -> Self {
        Self { node, group, power, life: None }
    }
}

/// The powers that operators changed at run time, over those of the file, and the nodes that are to hold
/// failover VIPs. The whole set has one version: of two, every node takes the higher.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Overrides {
    version: Version,
    /// Ascending by node and group, each pair once.
    entries: Vec<Override>,
    /// Ascending by VIP and kind, each pair once.
    stays: Vec<Stay>,
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
    /// The same of [`Overrides::stays`]: two for each group of a file, and as many of another file's.
    pub const MAX_STAYS: usize = 128;

    /// The set of those entries; of two for one node and group the last counts. `None` if they are
    /// too many or a power is out of range.
    pub fn new(version: Version, entries: impl IntoIterator<Item = Override>) -> Option<Self> {
        let mut overrides = Self { version, ..Self::default() };
        for entry in entries {
            if entry.power > MAX_POWER || overrides.put(entry).is_err() {
                return None;
            }
        }
        Some(overrides)
    }

    /// The same set, with those nodes to hold failover VIPs; of two of one kind for a VIP the last
    /// counts. `None` if they are too many.
    pub fn and(mut self, stays: impl IntoIterator<Item = Stay>) -> Option<Self> {
        stays.into_iter().all(|stay| self.put_stay(stay).is_ok()).then_some(self)
    }

    /// Which change this is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The entries, ascending by node and group.
    pub fn entries(&self) -> &[Override] {
        &self.entries
    }

    /// The nodes that are to hold failover VIPs, ascending by VIP and kind.
    pub fn stays(&self) -> &[Stay] {
        &self.stays
    }

    /// The one of that kind for a VIP.
    pub fn stay(&self, vip: VipId, kind: StayKind) -> Option<&Stay> {
        self.stays.iter().find(|stay| (stay.vip, stay.kind) == (vip, kind))
    }

    /// The node's power in a group; `None` = the file's.
    pub fn power(&self, group: u8, node: NodeId) -> Option<u16> {
        self.in_force(group, node).map(|entry| entry.power)
    }

    /// The entry that decides the node's power in a group: the one for the group goes before the one
    /// for all groups.
    pub fn in_force(&self, group: u8, node: NodeId) -> Option<&Override> {
        self.entry(Some(group), node).or_else(|| self.entry(None, node))
    }

    /// The entry for exactly that group, or for all groups.
    pub fn entry(&self, group: Option<u8>, node: NodeId) -> Option<&Override> {
        self.entries.iter().find(|entry| entry.group == group && entry.node == node)
    }

    /// Whether the node owns nothing whatever the file says: power 0 in all groups.
    pub fn is_drained(&self, node: NodeId) -> bool {
        let mut entries = self.entries.iter().filter(|entry| entry.node == node);
        self.entry(None, node).is_some() && entries.all(|entry| entry.power == 0)
    }

    /// The set after one more change by `author`. An entry for all groups replaces those of the node
    /// for single ones; a power beyond [`MAX_POWER`] counts as that.
    pub fn with(&self, author: NodeId, entry: Override) -> Result<Self, TooManyOverrides> {
        let mut changed = self.without(author, entry.group, entry.node);
        changed.put(Override { power: entry.power.min(MAX_POWER), ..entry })?;
        Ok(changed)
    }

    /// The set after `author` has given the node its power of the file back in that group; `None` =
    /// in all groups, also where it was set for one alone.
    #[must_use]
    pub fn without(&self, author: NodeId, group: Option<u8>, node: NodeId) -> Self {
        let stays =
            |entry: &Override| entry.node != node || (group.is_some() && entry.group != group);
        self.only(author, stays, |_| true)
    }

    /// The set after `author` has said who is to hold a failover VIP.
    pub fn with_stay(&self, author: NodeId, stay: Stay) -> Result<Self, TooManyOverrides> {
        let mut changed = self.only(author, |_| true, |_| true);
        changed.put_stay(stay)?;
        Ok(changed)
    }

    /// The set after `author` has taken that back for some.
    #[must_use]
    pub fn without_stays(&self, author: NodeId, which: impl Fn(&Stay) -> bool) -> Self {
        self.only(author, |_| true, |stay| !which(stay))
    }

    /// The set by `author` without what ended with an agent: `present` tells which agent of a node is
    /// there now, if any. `None` if all stays.
    pub fn without_former(
        &self,
        author: NodeId,
        present: impl Fn(NodeId) -> Option<Life>,
    ) -> Option<Self> {
        let lasts = |node, life| match (life, present(node)) {
            (Some(life), Some(present)) => life == present,
            _ => true,
        };
        let entries = |entry: &Override| lasts(entry.node, entry.life);
        let stays = |stay: &Stay| lasts(stay.node, stay.life);
        let all = self.entries.iter().all(entries) && self.stays.iter().all(stays);
        (!all).then(|| self.only(author, entries, stays))
    }

    /// The set by `author` for another file, in which groups have other indices: only what was set
    /// for all groups stays, and who is to hold failover VIPs.
    #[must_use]
    pub fn for_another_file(&self, author: NodeId) -> Self {
        self.only(author, |entry| entry.group.is_none(), |_| true)
    }

    fn only(
        &self,
        author: NodeId,
        entries: impl Fn(&Override) -> bool,
        stays: impl Fn(&Stay) -> bool,
    ) -> Self {
        Self {
            version: self.next_version(author),
            entries: self.entries.iter().filter(|entry| entries(entry)).copied().collect(),
            stays: self.stays.iter().filter(|stay| stays(stay)).copied().collect(),
        }
    }

    fn next_version(&self, author: NodeId) -> Version {
        let author = u8::try_from(author.index()).unwrap_or(u8::MAX);
        Version { counter: self.version.counter.saturating_add(1), author }
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

    fn put_stay(&mut self, stay: Stay) -> Result<(), TooManyOverrides> {
        let key = |stay: &Stay| (stay.vip, stay.kind);
        match self.stays.binary_search_by_key(&key(&stay), key) {
            Ok(at) => self.stays[at] = stay,
            Err(_) if self.stays.len() == Self::MAX_STAYS => return Err(TooManyOverrides),
            Err(at) => self.stays.insert(at, stay),
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

    fn entry(of: usize, group: Option<u8>, power: u16) -> Override {
        Override::persistent(node(of), group, power)
    }

    #[test]
    fn a_group_goes_before_all_groups_and_both_before_the_file() {
        let all = Overrides::default().with(node(0), entry(1, None, 0)).expect("room");
        assert_eq!((all.power(3, node(1)), all.power(3, node(2))), (Some(0), None));
        assert!(all.is_drained(node(1)) && !all.is_drained(node(2)));
        let one = all.with(node(2), entry(1, Some(3), 7)).expect("room");
        assert_eq!((one.power(3, node(1)), one.power(4, node(1))), (Some(7), Some(0)));
        assert!(!one.is_drained(node(1)));
        assert_eq!(one.version(), Version { counter: 2, author: 2 });
        let back = one.without(node(0), None, node(1));
        assert_eq!(back.entries(), []);
        assert!(back.version() > one.version());
    }

    #[test]
    fn another_file_keeps_what_was_said_of_all_groups_for_as_long_as_it_was_said() {
        let drained = Override { life: Some(9), ..entry(1, None, 0) };
        let set = Overrides::default()
            .with(node(0), drained)
            .and_then(|set| set.with(node(0), entry(2, Some(1), 5)))
            .expect("room");
        let kept = set.for_another_file(node(0));
        assert_eq!(kept.entries(), [drained]);
        assert!(kept.is_drained(node(1)) && kept.version() > set.version());
    }

    #[test]
    fn what_was_said_of_an_agent_ends_with_it_and_what_is_persistent_does_not() {
        let set = Overrides::default()
            .with(node(0), Override { life: Some(9), ..entry(1, Some(0), 0) })
            .and_then(|set| set.with(node(0), Override { life: Some(9), ..entry(2, None, 3) }))
            .and_then(|set| set.with(node(0), entry(1, Some(1), 0)))
            .expect("room");
        assert_eq!(set.without_former(node(0), |_| None), None, "nobody is there");
        assert_eq!(set.without_former(node(0), |_| Some(9)), None, "the same are there");
        let left = set.without_former(node(2), |of| (of == node(1)).then_some(8)).expect("changed");
        assert_eq!(left.version(), Version { counter: 4, author: 2 });
        assert_eq!((left.power(0, node(1)), left.power(1, node(1))), (None, Some(0)));
        assert_eq!(left.power(0, node(2)), Some(3));
    }

    #[test]
    fn who_is_to_hold_a_vip_is_kept_until_it_is_taken_back_or_its_agent_ends() {
        let stay = |vip, kind, of, life| Stay { vip: VipId(vip), kind, node: node(of), life };
        let pinned = stay(1, StayKind::Pinned, 1, None);
        let incumbent = stay(1, StayKind::Incumbent, 2, Some(9));
        let set = Overrides::default()
            .with_stay(node(0), pinned)
            .and_then(|set| set.with_stay(node(0), incumbent))
            .and_then(|set| set.with(node(0), entry(1, Some(0), 3)))
            .expect("room");
        assert_eq!(set.stays(), [incumbent, pinned]);
        assert_eq!(set.for_another_file(node(0)).stays(), [incumbent, pinned]);
        assert_eq!(set.without(node(0), None, node(1)).stays(), [incumbent, pinned]);
        assert_eq!(set.without_former(node(0), |_| None), None, "nobody is there");
        let left = set.without_former(node(0), |_| Some(8)).expect("its agent has ended");
        assert_eq!((left.stays(), left.entries().len()), (&[pinned][..], 1));
        let other = stay(1, StayKind::Pinned, 2, None);
        let moved = set.with_stay(node(0), other).expect("in its place");
        assert_eq!(moved.stays(), [incumbent, other]);
        assert!(moved.version() > set.version());
        let none = moved.without_stays(node(0), |stay| stay.node == node(2));
        assert_eq!((none.stays(), none.entries().len()), (&[][..], 1));
    }

    #[test]
    fn the_set_is_bounded() {
        let mut set = Overrides::default();
        for group in 0..=255 {
            set = set.with(node(0), entry(1, Some(group), 1)).expect("room");
        }
        assert_eq!(set.with(node(0), entry(2, Some(0), 1)), Err(TooManyOverrides));
        set.with(node(0), entry(1, Some(0), 2)).expect("a change of an entry needs no room");
        set.with(node(0), entry(1, None, 2)).expect("replaces all");
    }
}
