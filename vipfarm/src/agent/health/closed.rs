//! What `vipfarm close` has taken from this node, for `open` to give back exactly that: pure.
//!
//! A drain and a power of 0 look as a close does, but are somebody else's word: `open` leaves them alone.

use std::collections::BTreeMap;

use crate::model::{NodeId, Override, Overrides};

/// A change of this node's power: as in [`crate::agent::command::Command::SetPower`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::agent) struct Change {
    pub(in crate::agent) group: Option<u8>,
    pub(in crate::agent) power: Option<u16>,
    pub(in crate::agent) persist: bool,
}

/// What keeps this node from serving, although it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::agent) enum Kept {
    /// It is drained.
    Drained,
    /// It has no power in that group, which nobody has named.
    NoPower(u8),
}

/// What this node was closed for, by the group's index; `None` = for all groups.
#[derive(Debug, Default)]
pub(in crate::agent) struct Closed {
    /// The configuration in which the groups have these indices.
    digest: [u8; 16],
    taken: BTreeMap<Option<u8>, Taken>,
}

/// What was in the place of a close.
#[derive(Debug)]
struct Taken {
    /// Whether the close is to outlast the agent.
    persist: bool,
    before: Vec<Override>,
}

impl Closed {
    /// Goes on with that configuration: in another one a group's power of the former is forgotten by the
    /// farm, too.
    pub(in crate::agent) fn follow(&mut self, digest: [u8; 16]) {
        if std::mem::replace(&mut self.digest, digest) != digest {
            self.taken.retain(|group, _| group.is_none());
            let all = self.taken.values_mut();
            all.for_each(|taken| taken.before.retain(|entry| entry.group.is_none()));
        }
    }

    /// An operator has said something else of a group, or of all: what was closed then is no close of ours.
    pub(in crate::agent) fn forget(&mut self, group: Option<u8>) {
        self.taken.retain(|taken, _| group.is_some() && *taken != group);
    }

    /// Forgets what somebody else has opened meanwhile, by the powers that are known.
    pub(in crate::agent) fn heed(&mut self, known: &Overrides, own: NodeId) {
        self.taken.retain(|&group, taken| taken.is_closed(known, own, group));
    }

    /// What closes the node for those groups, by the powers that are known.
    pub(in crate::agent) fn close(
        &mut self,
        known: &Overrides,
        own: NodeId,
        groups: &[Option<u8>],
        persist: bool,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for &group in groups {
            let lasts = |entry: Option<&Override>| {
                entry.is_some_and(|entry| entry.power == 0 && (!persist || entry.life.is_none()))
            };
            let is_closed = match group {
                None => known.is_drained(own) && lasts(known.entry(None, own)),
                Some(index) => lasts(known.in_force(index, own)),
            };
            if is_closed {
                continue;
            }
            if let Some(taken) = self.own_close(known, own, group) {
                taken.persist = persist;
            } else if known.entry(group, own).is_none_or(|entry| entry.power != 0) {
                let replaced = |entry: &&Override| {
                    entry.node == own && (group.is_none() || entry.group == group)
                };
                let before = known.entries().iter().filter(replaced).copied().collect();
                self.taken.insert(group, Taken { persist, before });
            }
            changes.push(Change { group, power: Some(0), persist });
        }
        changes
    }

    /// What opens it again, and what it is kept from nevertheless. A group that has no power by another
    /// word than `close` has to be named (`named`). To be asked again until there is nothing to change.
    pub(in crate::agent) fn open(
        &mut self,
        known: &Overrides,
        own: NodeId,
        groups: &[u8],
        named: bool,
        file: impl Fn(u8) -> u16,
    ) -> (Vec<Change>, Option<Kept>) {
        let mut changes = Vec::new();
        let all = known.entry(None, own);
        if all.is_some_and(|all| all.power == 0) {
            let Some(taken) = self.own_close(known, own, None) else {
                return (changes, Some(Kept::Drained));
            };
            if !named {
                changes.push(Change { group: None, power: None, persist: taken.persist });
                changes.extend(taken.before.iter().map(back));
                return (changes, None);
            }
            let persist = taken.persist;
            for &group in groups.iter().filter(|&&group| known.power(group, own) == Some(0)) {
                let of = |wanted| taken.before.iter().find(|entry| entry.group == wanted);
                let power = of(Some(group)).or_else(|| of(None)).map(|entry| entry.power);
                let power = Some(power.unwrap_or_else(|| file(group)));
                changes.push(Change { group: Some(group), power, persist });
            }
            return (changes, None);
        }
        self.taken.remove(&None);
        let mut kept = None;
        for &group in groups {
            let entry = known.entry(Some(group), own).filter(|entry| entry.power == 0);
            let taken = self.own_close(known, own, Some(group));
            match (entry, taken) {
                (Some(_), Some(taken)) => {
                    let nothing =
                        Change { group: Some(group), power: None, persist: taken.persist };
                    changes.push(taken.before.first().map_or(nothing, back));
                }
                (Some(entry), None) if named => {
                    let persist = entry.life.is_none();
                    changes.push(Change { group: Some(group), power: None, persist });
                }
                (Some(_), None) => kept = kept.or(Some(Kept::NoPower(group))),
                (None, _) => drop(self.taken.remove(&Some(group))),
            }
        }
        (changes, kept)
    }

    /// What was there before, if what is there now is what `close` has written.
    fn own_close(
        &mut self,
        known: &Overrides,
        own: NodeId,
        group: Option<u8>,
    ) -> Option<&mut Taken> {
        self.taken.get_mut(&group).filter(|taken| taken.is_closed(known, own, group))
    }
}

impl Taken {
    /// Whether what is there now is what the close has written.
    fn is_closed(&self, known: &Overrides, own: NodeId, group: Option<u8>) -> bool {
        let entry = known.entry(group, own).filter(|entry| entry.power == 0);
        entry.is_some_and(|entry| self.persist == entry.life.is_none())
    }
}

/// What puts an entry in its place again.
fn back(entry: &Override) -> Change {
    Change { group: entry.group, power: Some(entry.power), persist: entry.life.is_none() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Life;

    const LIFE: Option<Life> = Some(9);
    /// The groups of the file, and the node's power in each.
    const GROUPS: [u8; 2] = [0, 1];
    const FILE: u16 = 1;

    /// A node and what its farm knows.
    #[derive(Default)]
    struct Node {
        known: Overrides,
        closed: Closed,
    }

    fn own() -> NodeId {
        NodeId::new(1).expect("in range")
    }

    impl Node {
        fn set(&mut self, group: Option<u8>, power: Option<u16>, persist: bool) {
            let changed = match power {
                Some(power) => {
                    let life = LIFE.filter(|_| !persist);
                    self.known.with(own(), Override { node: own(), group, power, life })
                }
                None => Ok(self.known.without(own(), group, own())),
            };
            self.known = changed.expect("room");
        }

        fn close(&mut self, group: Option<u8>, persist: bool) {
            for change in self.closed.close(&self.known, own(), &[group], persist) {
                self.set(change.group, change.power, change.persist);
            }
        }

        fn open(&mut self, group: Option<u8>) -> Option<Kept> {
            let groups = group.map_or(GROUPS.to_vec(), |group| vec![group]);
            loop {
                let named = group.is_some();
                let opened = self.closed.open(&self.known, own(), &groups, named, |_| FILE);
                let (changes, kept) = opened;
                if changes.is_empty() {
                    return kept;
                }
                for change in changes {
                    self.set(change.group, change.power, change.persist);
                }
            }
        }

        fn powers(&self) -> [u16; 2] {
            GROUPS.map(|group| self.known.power(group, own()).unwrap_or(FILE))
        }
    }

    #[test]
    fn what_was_closed_has_what_it_had_before() {
        for (group, persist) in [(None, false), (None, true), (Some(1), false), (Some(1), true)] {
            let mut node = Node::default();
            node.set(None, Some(3), true);
            node.set(Some(1), Some(7), false);
            let before = node.known.entries().to_vec();
            for _ in 0..2 {
                node.close(group, persist);
                assert_eq!(node.powers(), if group.is_none() { [0, 0] } else { [3, 0] });
                node.close(group, persist);
                assert_eq!(node.open(group), None);
                assert_eq!(node.known.entries(), before, "{group:?}, {persist}");
            }
        }
    }

    #[test]
    fn a_drain_is_not_opened_whenever_it_came() {
        for persist in [false, true] {
            let mut node = Node::default();
            node.set(None, Some(0), persist);
            assert_eq!(node.open(None), Some(Kept::Drained));
            assert_eq!(node.open(Some(1)), Some(Kept::Drained));
            // A service's script in the maintenance.
            node.close(None, false);
            node.close(Some(1), false);
            assert_eq!(
                (node.open(None), node.open(Some(1))),
                (Some(Kept::Drained), Some(Kept::Drained))
            );
            assert_eq!(
                node.known.entries(),
                [Override { node: own(), group: None, power: 0, life: LIFE.filter(|_| !persist) }]
            );
        }
        let mut node = Node::default();
        node.close(None, false);
        node.set(None, Some(0), true);
        assert_eq!(node.open(None), Some(Kept::Drained), "it came while the node was closed");
        let mut node = Node::default();
        node.close(None, false);
        assert_eq!(node.open(None), None);
        node.set(None, Some(0), false);
        assert_eq!(node.open(None), Some(Kept::Drained), "it came after the node was open again");
    }

    #[test]
    fn a_drain_of_a_closed_node_is_no_close_any_more() {
        for persist in [false, true] {
            let mut node = Node::default();
            node.close(None, persist);
            // The same entry again, by an operator.
            node.closed.forget(None);
            assert_eq!(node.open(None), Some(Kept::Drained));

            let mut node = Node::default();
            node.close(None, persist);
            node.close(Some(1), persist);
            node.set(None, None, persist);
            node.closed.heed(&node.known, own());
            node.set(None, Some(0), persist);
            assert_eq!(node.open(None), Some(Kept::Drained), "undrained and drained elsewhere");
        }
        let mut node = Node::default();
        node.close(Some(0), false);
        node.close(Some(1), false);
        node.closed.forget(Some(1));
        assert_eq!((node.open(None), node.powers()), (Some(Kept::NoPower(1)), [FILE, 0]));
        node.closed.heed(&node.known, own());
        node.close(Some(0), false);
        node.closed.heed(&node.known, own());
        assert_eq!(node.powers(), [0, 0]);
        assert_eq!((node.open(None), node.powers()), (Some(Kept::NoPower(1)), [FILE, 0]));
    }

    #[test]
    fn one_group_of_a_closed_node_is_opened_with_its_power_and_the_others_stay_closed() {
        let mut node = Node::default();
        node.set(Some(0), Some(5), false);
        node.close(None, false);
        assert_eq!((node.open(Some(0)), node.powers()), (None, [5, 0]));
        assert_eq!((node.open(Some(1)), node.powers()), (None, [5, FILE]));
        node.close(None, false);
        assert_eq!((node.open(None), node.powers()), (None, [5, FILE]));
    }

    #[test]
    fn a_group_without_power_by_another_word_has_to_be_named() {
        let mut node = Node::default();
        node.set(Some(1), Some(0), true);
        node.close(Some(0), false);
        assert_eq!((node.open(None), node.powers()), (Some(Kept::NoPower(1)), [FILE, 0]));
        assert_eq!((node.open(Some(1)), node.powers()), (None, [FILE, FILE]));
    }

    #[test]
    fn another_file_forgets_the_powers_of_groups_as_the_farm_does() {
        let mut node = Node::default();
        node.set(None, Some(3), true);
        node.set(Some(1), Some(7), false);
        node.close(None, false);
        node.closed.follow([7; 16]);
        assert_eq!((node.open(None), node.powers()), (None, [3, 3]));
    }
}
