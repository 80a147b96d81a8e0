//! What a change of view means for those who answer: pure.

use crate::model::{NodeId, Table, View};

/// The answerers of one VIP before and after a change, as one node sees it.
pub(super) struct Shares<'v> {
    own: NodeId,
    /// None: this node has served by no view yet. Several: nobody knows by which of them a client goes, for
    /// a further view came before all had been told.
    before: Vec<(&'v View, Table)>,
    after: (&'v View, Table),
}

impl<'v> Shares<'v> {
    pub(super) fn new(
        own: NodeId,
        before: Vec<(&'v View, Table)>,
        after: (&'v View, Table),
    ) -> Self {
        Self { own, before, after }
    }

    /// Whether clients may have the MAC of a node that is gone. A node that begins to serve alone
    /// cannot know, so it takes it for granted.
    pub(super) fn is_from_the_dead(&self) -> bool {
        if self.before.is_empty() {
            return self.after.0.alive.iter().eq([self.own]);
        }
        let mut before = self.before.iter().flat_map(|(_, before)| before.owners());
        before.any(|owner| owner.is_some_and(|owner| self.is_gone(owner)))
    }

    /// Whether this node is one of those who take over from a node that is gone.
    pub(super) fn take_over(&self) -> bool {
        if !self.is_from_the_dead() {
            return false;
        }
        let own = |owner: &Option<NodeId>| *owner == Some(self.own);
        let after = self.after.1.owners();
        if self.before.is_empty() {
            return after.iter().any(own);
        }
        let taken = |(_, before): &(_, Table)| {
            let mut both = before.owners().iter().zip(after);
            both.any(|(before, after)| own(after) && before.is_some_and(|it| self.is_gone(it)))
        };
        self.before.iter().any(taken)
    }

    /// The node that clients of that bucket are to send to, if they must be told and this node is the
    /// one to tell them: it must know them, so it has served before. That is the new owner, or the
    /// former one where the new one has just come.
    pub(super) fn to_tell(&self, bucket: u8) -> Option<NodeId> {
        let owner = self.after.1.owner(bucket)?;
        if self.before.is_empty() {
            return (owner == self.own).then_some(owner);
        }
        let tells = |(view, table): &(&View, Table)| {
            let former = table.owner(bucket);
            // After broadcasts everybody's entry is wrong.
            if former == Some(owner) && !self.is_from_the_dead() {
                return false;
            }
            let knows = if view.alive.contains(owner) {
                owner
            } else {
                former.filter(|&former| !self.is_gone(former)).unwrap_or(owner)
            };
            knows == self.own
        };
        self.before.iter().any(tells).then_some(owner)
    }

    fn is_gone(&self, node: NodeId) -> bool {
        !self.after.0.alive.contains(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{assign::Assigner, model::NodeSet};

    const NAMES: [(&str, u16); 3] = [("node1", 1), ("node2", 1), ("node3", 1)];

    fn node(index: usize) -> NodeId {
        NodeId::new(index).expect("in range")
    }

    fn view(alive: &[usize], idle: &[usize]) -> View {
        let set = |nodes: &[usize]| nodes.iter().map(|&index| node(index)).collect::<NodeSet>();
        View { idle: set(idle), ..View::of(set(alive)) }
    }

    fn table(view: &View) -> Table {
        Assigner::new("g", &NAMES).table(view.owners())
    }

    /// Who broadcasts, and for each bucket who tells of whom.
    fn change(before: &View, after: &View) -> (Vec<usize>, Vec<Vec<(usize, NodeId)>>) {
        let members = || (0..3).filter(|&index| after.alive.contains(node(index)));
        let shares = |own| {
            let before = before.alive.contains(node(own)).then(|| (before, table(before)));
            Shares::new(node(own), Vec::from_iter(before), (after, table(after)))
        };
        let broadcasting = members().filter(|&own| shares(own).take_over()).collect();
        let told = |bucket| {
            let tells = |own| Some((own, shares(own).to_tell(bucket)?));
            members().filter_map(tells).collect()
        };
        (broadcasting, (0..=255).map(told).collect())
    }

    #[test]
    fn when_a_node_dies_those_who_take_over_tell_all_and_then_each_owner_its_own() {
        let (before, after) = (view(&[0, 1, 2], &[]), view(&[0, 2], &[]));
        let (broadcasting, told) = change(&before, &after);
        assert_eq!(broadcasting, [0, 2]);
        for (bucket, owner) in table(&after).owners().iter().enumerate() {
            let owner = owner.expect("somebody lives");
            assert_eq!(told[bucket], [(owner.index(), owner)], "bucket {bucket}");
        }
    }

    #[test]
    fn a_node_that_comes_knows_nobody_so_the_former_owners_send_its_clients_to_it() {
        let (before, after) = (view(&[0, 2], &[]), view(&[0, 1, 2], &[]));
        let (broadcasting, told) = change(&before, &after);
        assert_eq!(broadcasting, [0; 0]);
        for (bucket, former) in table(&before).owners().iter().enumerate() {
            let (former, owner) = (former.expect("alive"), table(&after).owners()[bucket]);
            // The new node has served by no view before: of what it is asked for it tells.
            let by_others: Vec<_> = told[bucket].iter().filter(|told| told.0 != 1).collect();
            let expected = (owner == Some(node(1))).then_some((former.index(), node(1)));
            assert_eq!(by_others, expected.iter().collect::<Vec<_>>(), "bucket {bucket}");
        }
    }

    #[test]
    fn a_drained_node_lives_so_only_its_clients_are_told_by_their_new_nodes() {
        let (before, after) = (view(&[0, 1, 2], &[]), view(&[0, 1, 2], &[1]));
        for (before, after) in [(&before, &after), (&after, &before)] {
            let (broadcasting, told) = change(before, after);
            assert_eq!(broadcasting, [0; 0]);
            let (former, now) = (table(before), table(after));
            for bucket in 0..=255 {
                let owner = now.owner(bucket).expect("alive");
                let moved = former.owner(bucket) != Some(owner);
                let expected = moved.then_some((owner.index(), owner));
                assert_eq!(told[usize::from(bucket)], Vec::from_iter(expected), "bucket {bucket}");
            }
        }
    }

    #[test]
    fn a_node_that_begins_alone_tells_all_and_one_that_joins_tells_nobody_by_broadcast() {
        let nobody = view(&[], &[]);
        assert_eq!(change(&nobody, &view(&[1], &[])).0, [1]);
        assert_eq!(change(&nobody, &view(&[0, 1], &[])).0, [0; 0]);
    }

    #[test]
    fn who_was_told_of_a_change_that_did_not_last_is_told_again() {
        let (all, drained) = (view(&[0, 1, 2], &[]), view(&[0, 1, 2], &[1]));
        let (former, between) = (table(&all), table(&drained));
        let moved = (0..=255).filter(|&bucket| former.owner(bucket) != between.owner(bucket));
        let shares = |own| {
            let before = vec![(&all, table(&all)), (&drained, table(&drained))];
            Shares::new(node(own), before, (&all, table(&all)))
        };
        for bucket in moved {
            assert_eq!(former.owner(bucket), Some(node(1)));
            let told = [0, 1, 2].map(|own| shares(own).to_tell(bucket));
            assert_eq!(told, [None, Some(node(1)), None], "bucket {bucket}");
        }
    }
}
