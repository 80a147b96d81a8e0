//! What a change of view means for those who answer: pure.

use crate::model::{NodeId, Table, View};

/// The answerers of one VIP before and after a change, as one node sees it.
pub(super) struct Shares<'v> {
    own: NodeId,
    /// `None`: this node has served by no view yet.
    before: Option<(&'v View, Table)>,
    after: (&'v View, Table),
}

impl<'v> Shares<'v> {
    pub(super) fn new(
        own: NodeId,
        before: Option<(&'v View, Table)>,
        after: (&'v View, Table),
    ) -> Self {
        Self { own, before, after }
    }

    /// Whether clients may have the MAC of a node that is gone. A node that begins to serve alone
    /// cannot know, so it takes it for granted.
    pub(super) fn is_from_the_dead(&self) -> bool {
        self.before.as_ref().map_or_else(
            || self.after.0.alive.iter().eq([self.own]),
            |(_, before)| before.owners().iter().flatten().any(|owner| self.is_gone(*owner)),
        )
    }

    /// Whether this node is one of those who take over from a node that is gone.
    pub(super) fn take_over(&self) -> bool {
        if !self.is_from_the_dead() {
            return false;
        }
        let own = |owner: &Option<NodeId>| *owner == Some(self.own);
        let after = self.after.1.owners();
        self.before.as_ref().map_or_else(
            || after.iter().any(own),
            |(_, before)| {
                let mut both = before.owners().iter().zip(after);
                both.any(|(before, after)| own(after) && before.is_some_and(|it| self.is_gone(it)))
            },
        )
    }

    /// The node that clients of that bucket are to send to, if they must be told and this node is the
    /// one to tell them: it must know them, so it has served before. That is the new owner, or the
    /// former one where the new one has just come.
    pub(super) fn to_tell(&self, bucket: u8) -> Option<NodeId> {
        let owner = self.after.1.owner(bucket)?;
        let Some((view, table)) = &self.before else {
            return (owner == self.own).then_some(owner);
        };
        let former = table.owner(bucket);
        // After broadcasts everybody's entry is wrong.
        if former == Some(owner) && !self.is_from_the_dead() {
            return None;
        }
        let knows = if view.alive.contains(owner) {
            owner
        } else {
            former.filter(|&former| !self.is_gone(former)).unwrap_or(owner)
        };
        (knows == self.own).then_some(owner)
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
            Shares::new(node(own), before, (after, table(after)))
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
}
