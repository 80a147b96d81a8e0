//! The buckets that a node accepts, and old connections of those in a move: each step of the
//! membership machine changes both, and what heartbeats are to say of them.
//!
//! Pure, so that the simulator takes the steps of the agent.

use std::{sync::Arc, time::Duration};

use super::{
    handover::{Handover, Said},
    judges::Judges,
};
use crate::{
    membership::{BootTime, Membership},
    model::{BUCKETS, Bitmap, NodeId, NodeSet, View},
    placement::Origin,
    plan::{Owners, Turns},
    status::NodeState,
};

const ALL: Bitmap = Bitmap([u64::MAX; 4]);

/// Which rules of a handover hold, so that tests can show what each is for. Outside tests all do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Rules {
    /// What is taken over is inherited until all others have said what lingers with them.
    pub(crate) unsaid: bool,
    /// Who is not in the view has said nothing.
    pub(crate) dead: bool,
    /// What is counted counts until the next step.
    pub(crate) count: bool,
}

impl Rules {
    pub(crate) const ALL: Self = Self { unsaid: true, dead: true, count: true };
}

/// What a node has of the farm's buckets, by kernel group.
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq, Hash))]
pub struct Share {
    accept: Vec<Bitmap>,
    /// Whether old connections of the group stay where they are.
    lingers: Vec<bool>,
    /// The kernel has had a lease since this node last had nothing.
    has_served: bool,
    /// Where connections were found without that lease: a former agent's, which the kernel serves all the
    /// while, and those from before the last lease ended.
    found: Vec<Bitmap>,
    handover: Handover,
    judges: Judges,
    /// Until then a node that has not been there may hold: this agent, which was started meanwhile,
    /// would not have heard so.
    doubt_until: Option<BootTime>,
    /// Who has been there, with this agent.
    met: NodeSet,
    /// How often this node has changed what it has.
    steps: u64,
    #[cfg(test)]
    pub(crate) rules: Rules,
}

impl Share {
    /// Nothing, of kernel groups whose old connections stay where they are, or do not.
    pub fn of(lingers: Vec<bool>) -> Self {
        let groups = lingers.len();
        Self {
            accept: vec![Bitmap::default(); groups],
            lingers,
            has_served: false,
            found: vec![Bitmap::default(); groups],
            handover: Handover::of(groups),
            judges: Judges::of(vec![false; groups]),
            doubt_until: None,
            met: NodeSet::EMPTY,
            steps: 0,
            #[cfg(test)]
            rules: Rules::ALL,
        }
    }

    /// The same of kernel groups that have UDP flows which linger, or have not.
    #[must_use]
    pub fn keeping_flows(self, keep: Vec<bool>) -> Self {
        Self { judges: Judges::of(keep), ..self }
    }

    /// Stops accepting what is not the node's in a view, which is `table` of each group. Accepts
    /// nothing new.
    pub fn release(&mut self, table: impl Fn(usize) -> Bitmap) {
        for group in 0..self.accept.len() {
            let before = self.accept[group];
            self.accept[group] = before.and(table(group));
            if self.lingers[group] {
                let released = before.without(self.accept[group]);
                self.handover.give_away(group, self.served(group, released));
            }
        }
        self.steps += 1;
    }

    /// Accepts exactly what is the node's in that view, which is `table` of each group.
    pub fn acquire(&mut self, own: NodeId, view: &View, table: impl Fn(usize) -> Bitmap) {
        if self.doubt_until.is_some() {
            self.met = self.met.union(view.alive);
        }
        let alone = view.alive.without(own).is_empty() && self.doubt_until.is_none();
        for (group, accept) in self.accept.iter_mut().enumerate() {
            let before = std::mem::replace(accept, table(group));
            // Others may have served meanwhile what was accepted without a lease.
            let before = if self.has_served { before } else { Bitmap::default() };
            if !alone && self.lingers[group] {
                self.handover.take_over(group, accept.without(before));
            }
        }
        if !self.rules().unsaid {
            self.handover.hear_nothing_new();
        }
        self.steps += 1;
    }

    /// Notes who will own what in a view for which was released, by kernel group.
    pub fn foresee(&mut self, owners: impl Fn(usize) -> [Option<NodeId>; BUCKETS]) {
        self.judges.promise(owners);
    }

    /// Notes who owns what in the view that was acquired, by kernel group: with that, flows that linger
    /// are judged one after the other.
    pub fn judge(
        &mut self,
        own: NodeId,
        view: &View,
        owners: impl Fn(usize) -> [Option<NodeId>; BUCKETS],
    ) {
        self.judges.install(own, view, owners);
    }

    /// The kernel has a lease.
    pub fn serve(&mut self) {
        self.has_served = true;
    }

    /// Accepts nothing: the node serves nothing any more. But its stack has the connections that it had, and
    /// with another lease they go on, also those of buckets that are others' by then.
    pub fn clear(&mut self) {
        self.keep_connections(Self::served);
        self.found = self.handover.lingering().to_vec();
        self.handover.forget_others();
        self.judges.forget();
    }

    /// Takes nodes that have not been there for ones that may hold until then, as if they had been heard to.
    pub fn doubt(&mut self, until: BootTime) {
        self.doubt_until = Some(until);
    }

    /// Those buckets have connections of a former agent's, which go on.
    pub fn find(&mut self, used: &[Bitmap]) {
        for (group, found) in self.found.iter_mut().enumerate().filter(|it| self.lingers[it.0]) {
            *found = used.get(group).copied().unwrap_or_default();
            self.handover.give_away(group, *found);
        }
    }

    /// Has the other nodes be told that old connections are served for so long after this node has left.
    pub fn hold(&mut self, hold: Duration) {
        self.handover.hold(hold);
    }

    /// Accepts nothing new, and goes on with old connections.
    pub fn keep_old_connections(&mut self) {
        self.keep_connections(|_, _, accept| accept);
    }

    /// The same of those accepted buckets that may have any.
    fn keep_connections(&mut self, which: impl Fn(&Self, usize, Bitmap) -> Bitmap) {
        for group in 0..self.accept.len() {
            let kept = which(self, group, self.accept[group]);
            self.accept[group] = Bitmap::default();
            if self.lingers[group] {
                self.handover.give_away(group, kept);
            }
        }
        self.has_served = false;
        self.steps += 1;
    }

    /// Those of the group's buckets that the kernel has served while they were accepted.
    fn served(&self, group: usize, buckets: Bitmap) -> Bitmap {
        if self.has_served { buckets } else { buckets.and(self.found[group]) }
    }

    /// Takes what the other nodes of the view in force say, and those that have left it and hold.
    pub fn hear(&mut self, membership: &Membership, now: BootTime) {
        self.doubt_until = self.doubt_until.filter(|&until| now < until);
        let Some(view) = membership.view().filter(|_| !self.is_settled()) else { return };
        let in_doubt = |node| self.doubt_until.is_some() && !self.met.contains(node);
        let peers: Vec<_> = membership.peers(now).collect();
        let said = peers.iter().filter_map(|peer| {
            let counts = view.alive.contains(peer.node) || !self.rules().dead;
            let said = Said::of(peer.node, peer.agrees, &peer.lingering);
            // Who must not serve goes on with nothing, and nobody knows for how long.
            let is_barred = peer.unfit && !peer.leaving && peer.state != NodeState::Up;
            let said = if is_barred { said.as_nothing() } else { said };
            match peer.heard {
                Some(heard) if peer.leaving => said.by_who_leaves(counts, &peer.lingering, heard),
                _ if !counts && in_doubt(peer.node) => Some(Said::nothing_yet(peer.node)),
                _ => counts.then_some(said),
            }
        });
        let said: Vec<_> = said.collect();
        self.take(&said, now);
    }

    /// The same, as it was said.
    pub(super) fn take(&mut self, said: &[Said<'_>], now: BootTime) {
        self.handover.hear(said, now);
        self.judges.hear(said);
    }

    /// No other node has connections left of what it has given away.
    pub fn settle(&mut self) {
        self.take(&[], BootTime::ZERO);
    }

    /// Only those buckets still have connections here, as was counted after that step.
    pub fn keep(&mut self, step: u64, buckets: &[Bitmap]) {
        if step == self.steps || !self.rules().count {
            let before = self.handover.lingering().to_vec();
            self.handover.keep(buckets);
            let after = self.handover.lingering();
            self.judges.let_go(|group| before[group].without(after[group]));
        }
    }

    /// The same with the kernel groups of another configuration. Connections of those that are not what
    /// they were may be in any bucket.
    #[must_use]
    pub fn renumbered(&self, origins: &[Origin], lingers: Vec<bool>, keep: Vec<bool>) -> Self {
        let former = |group: usize| origins[group].group();
        let take = |bitmaps: &[Bitmap]| -> Vec<Bitmap> {
            let bitmap = |group| former(group).map_or(Bitmap::default(), |group| bitmaps[group]);
            (0..origins.len()).map(bitmap).collect()
        };
        let mut handover = self.handover.renumbered(former, origins.len());
        let may_have = |&group: &usize| lingers[group] && origins[group] == Origin::Elsewhere;
        for group in (0..origins.len()).filter(may_have).filter(|_| self.may_have_connections()) {
            handover.give_away(group, ALL);
        }
        Self {
            accept: take(&self.accept),
            lingers,
            has_served: self.has_served,
            found: take(&self.found),
            handover,
            judges: self.judges.renumbered(origins, keep),
            doubt_until: self.doubt_until,
            met: self.met,
            steps: self.steps,
            #[cfg(test)]
            rules: self.rules,
        }
    }

    /// Whether this node may have connections of any bucket.
    fn may_have_connections(&self) -> bool {
        let any = |bitmaps: &[Bitmap]| bitmaps.iter().any(|bitmap| !bitmap.is_empty());
        self.has_served || any(&self.found) || any(self.handover.lingering())
    }

    /// What heartbeats are to say from now on.
    pub fn told(&self) -> Arc<[u8]> {
        self.handover.encode().into()
    }

    /// The bitmaps accepted.
    pub fn accept(&self) -> &[Bitmap] {
        &self.accept
    }

    /// The buckets in a move: of each the kernel asks for the connection.
    pub fn moving(&self) -> Vec<Bitmap> {
        self.handover.moving(&self.accept)
    }

    /// Who has connections of each bucket; until all have said so, those who are likely to.
    pub fn former(&self, likely: &[Owners]) -> Vec<Owners> {
        self.handover.former(likely)
    }

    /// Who judges flows that linger before and after this node, by kernel group; empty if none do.
    pub fn turns(&self) -> Vec<Turns> {
        self.judges.turns(&self.handover, &self.accept)
    }

    /// Which time it is that this node judges each bucket's flows, by kernel group; empty if none linger.
    pub fn tenures(&self) -> &[[u16; BUCKETS]] {
        self.judges.tenures()
    }

    /// The same of a node that judges none.
    pub fn no_turns(&self) -> Vec<Turns> {
        self.judges.no_turns()
    }

    /// The buckets given away whose old connections this node still serves.
    pub fn lingering(&self) -> &[Bitmap] {
        self.handover.lingering()
    }

    /// The buckets taken over whose old connections other nodes may still serve.
    pub fn inherited(&self) -> Vec<Bitmap> {
        self.moving().iter().zip(&self.accept).map(|(moving, accept)| moving.and(*accept)).collect()
    }

    /// How often this node has changed what it has: what is counted then holds until the next step.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether nothing is in a move.
    pub fn is_settled(&self) -> bool {
        self.handover.is_over() && self.judges.know_all()
    }

    #[cfg(test)]
    fn rules(&self) -> Rules {
        self.rules
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests have rules of their own")]
    fn rules(&self) -> Rules {
        Rules::ALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: Bitmap = Bitmap([0xff, 0, 0, 0]);
    const NONE: Bitmap = Bitmap([0; 4]);

    fn node(index: usize) -> NodeId {
        NodeId::new(index).expect("in range")
    }

    fn both() -> View {
        View::of(NodeSet::EMPTY.with(node(0)).with(node(1)))
    }

    /// One that has served the low buckets in a view with another node, which has none of them.
    fn serving() -> Share {
        let mut share = Share::of(vec![true]);
        share.acquire(node(0), &both(), |_| LOW);
        share.settle();
        share.serve();
        share
    }

    #[test]
    fn what_is_taken_over_is_inherited_and_what_a_node_keeps_is_not() {
        let mut share = serving();
        share.release(|_| ALL);
        share.acquire(node(0), &both(), |_| ALL);
        assert_eq!(share.moving(), [ALL.without(LOW)]);
    }

    #[test]
    fn what_a_node_accepted_without_a_lease_is_inherited_in_the_next_view() {
        let mut share = serving();
        // It was frozen for longer than its lease, and installs the view that the others have left.
        share.clear();
        share.acquire(node(0), &both(), |_| LOW);
        share.settle();
        share.release(|_| Bitmap([0x0f, 0, 0, 0]));
        assert_eq!(share.lingering(), [Bitmap([0xf0, 0, 0, 0])], "connections from before");
        share.acquire(node(0), &both(), |_| LOW);
        assert_eq!(share.moving(), [LOW], "the others have served it meanwhile");
    }

    #[test]
    fn what_was_found_goes_on_also_if_it_is_given_away_without_ever_a_lease() {
        let mut share = Share::of(vec![true, false]);
        share.find(&[LOW, LOW]);
        assert_eq!(share.lingering(), [LOW, NONE], "only one has connections");
        share.acquire(node(0), &both(), |_| ALL);
        assert_eq!(share.lingering(), [NONE, NONE]);
        share.release(|_| NONE);
        assert_eq!(share.lingering(), [LOW, NONE]);
        share.clear();
        share.acquire(node(0), &both(), |_| ALL);
        share.release(|_| NONE);
        assert_eq!(share.lingering(), [LOW, NONE], "their sockets are still there");
    }

    #[test]
    fn what_lingers_with_a_node_whose_lease_has_ended_goes_on_with_its_next_one() {
        const LOWEST: Bitmap = Bitmap([0x0f, 0, 0, 0]);
        let mut share = serving();
        share.release(|_| LOWEST);
        share.acquire(node(0), &both(), |_| LOWEST);
        share.clear();
        assert_eq!(
            (share.accept(), share.lingering()),
            (&[NONE][..], &[LOW][..]),
            "said, not served"
        );
        share.release(|_| LOWEST);
        share.acquire(node(0), &both(), |_| LOWEST);
        assert_eq!(
            (share.accept(), share.lingering()),
            (&[LOWEST][..], &[LOW.without(LOWEST)][..])
        );
        // Once more before it has a lease.
        share.clear();
        assert_eq!(share.lingering(), [LOW]);
        let mut other = Share::of(vec![true]);
        other.acquire(node(1), &both(), |_| ALL);
        other.clear();
        assert_eq!(other.lingering(), [NONE], "it has never served");
    }

    #[test]
    fn who_took_over_alone_does_not_know_who_else_holds() {
        let own = View::of(NodeSet::EMPTY.with(node(0)));
        let alone = |doubt: bool| {
            let mut share = Share::of(vec![true]);
            if doubt {
                share.doubt(BootTime::from_nanos(1));
            }
            share.acquire(node(0), &own, |_| ALL);
            share
        };
        assert_eq!(alone(false).inherited(), [NONE]);
        assert_eq!(alone(true).inherited(), [ALL]);
    }

    #[test]
    fn who_holds_goes_on_with_what_it_had() {
        let mut share = serving();
        share.keep_old_connections();
        assert_eq!((share.accept(), share.lingering()), (&[NONE][..], &[LOW][..]));
    }

    #[test]
    fn connections_of_groups_that_are_not_what_they_were_go_on_in_whatever_bucket() {
        let go_over = |share: &Share| {
            let origins = [Origin::Group(0), Origin::Elsewhere, Origin::Elsewhere, Origin::Nowhere];
            let lingers = vec![true, true, false, true];
            let mut next = share.renumbered(&origins, lingers, vec![false; 4]);
            next.release(|_| NONE);
            next
        };
        let mut share = serving();
        let mut next = go_over(&share);
        assert_eq!(next.lingering(), [LOW, ALL, NONE, NONE]);
        next.acquire(node(0), &both(), |_| LOW);
        assert_eq!(next.lingering(), [NONE, ALL.without(LOW), NONE, NONE]);
        assert_eq!(next.inherited()[1], LOW, "others may have some of them");
        assert_eq!(go_over(&Share::of(vec![true])).lingering()[1], NONE, "it has never served");
        share.keep_old_connections();
        assert_eq!(go_over(&share).lingering()[1], ALL, "it has no lease, and goes on");
    }

    #[test]
    fn what_was_counted_before_a_step_does_not_count_after_it() {
        let mut share = serving();
        share.release(|_| Bitmap([0x0f, 0, 0, 0]));
        let step = share.steps();
        share.release(|_| NONE);
        share.keep(step, &[NONE]);
        assert_eq!(share.lingering(), [LOW], "the last ones were not counted");
        let mut careless = share.clone();
        careless.rules.count = false;
        careless.keep(step, &[NONE]);
        assert_eq!(careless.lingering(), [NONE], "what the rule is for");
        share.keep(share.steps(), &[Bitmap([1, 0, 0, 0])]);
        assert_eq!(share.lingering(), [Bitmap([1, 0, 0, 0])]);
    }
}
