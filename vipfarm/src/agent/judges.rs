//! Who judges UDP flows where buckets are in a move, by rules that have them linger: the former owners
//! one after the other, in the order of the nodes, then the owner.
//!
//! A node is taken for a former owner as soon as a view takes a bucket from it, and until its heartbeats
//! say, in that view, what lingers with it. So all who install a view agree on who judges first without
//! having heard of each other; and whatever they believe, one of them at a time has the datagram.

use vipfarm_common::layout::{NOBODY, SEVERAL};

use super::handover::{Handover, Said};
use crate::{
    model::{BUCKETS, Bitmap, NodeId, NodeSet, View},
    placement::Origin,
    plan::Turns,
};

const ALL: Bitmap = Bitmap([u64::MAX; 4]);

/// Sets of nodes, by bucket.
type Nodes = [NodeSet; BUCKETS];

/// Which time it is that this node judges flows, by bucket: see
/// [`Group::tenure`](vipfarm_common::layout::Group::tenure).
pub(super) type Tenures = [u16; BUCKETS];

/// The tenure that an agent begins with.
const FIRST: u16 = 1;

/// Who judges.
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq, Hash))]
pub(super) struct Judges {
    /// Which kernel groups have flows that linger.
    keep: Vec<bool>,
    /// The view installed last, or nothing if this node came from nowhere.
    last: Option<Installed>,
    /// Another view was promised, but not installed yet.
    promised: bool,
    /// Who may have served since the view installed last, by kernel group: its owners, and those of
    /// views that were promised here and may have been installed elsewhere.
    candidates: Vec<Nodes>,
    /// Former owners that have not said yet what lingers with them, by kernel group.
    assumed: Vec<Nodes>,
    /// Who they are is not known, for no view was installed here before, and not all have said.
    unknown: bool,
    /// By kernel group.
    tenures: Vec<Tenures>,
    /// The newest of all groups, so that what is remembered of one group counts in no other.
    newest: u16,
}

#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq, Hash))]
struct Installed {
    own: NodeId,
    alive: NodeSet,
    /// By kernel group.
    owners: Vec<[Option<NodeId>; BUCKETS]>,
}

impl Judges {
    /// Nothing in a move, of kernel groups that have flows that linger, or have not.
    pub(super) fn of(keep: Vec<bool>) -> Self {
        let groups = if keep.contains(&true) { keep.len() } else { 0 };
        let nobody = vec![[NodeSet::EMPTY; BUCKETS]; groups];
        Self {
            keep,
            last: None,
            promised: false,
            candidates: nobody.clone(),
            assumed: nobody,
            unknown: false,
            tenures: vec![[FIRST; BUCKETS]; groups],
            newest: FIRST,
        }
    }

    /// Whether any flows linger.
    fn keep_any(&self) -> bool {
        !self.assumed.is_empty()
    }

    /// A view with those owners by kernel group may be in force soon, at other nodes before it is here.
    pub(super) fn promise(&mut self, owners: impl Fn(usize) -> [Option<NodeId>; BUCKETS]) {
        self.promised = true;
        for (group, candidates) in self.candidates.iter_mut().enumerate() {
            for (nodes, owner) in candidates.iter_mut().zip(owners(group)) {
                *nodes = owner.into_iter().fold(*nodes, NodeSet::with);
            }
        }
    }

    /// The view is in force, with those owners by kernel group.
    pub(super) fn install(
        &mut self,
        own: NodeId,
        view: &View,
        owners: impl Fn(usize) -> [Option<NodeId>; BUCKETS],
    ) {
        self.promised = false;
        if !self.keep_any() {
            return;
        }
        let owners: Vec<_> = (0..self.keep.len()).map(owners).collect();
        let others = view.alive.without(own);
        self.unknown |= self.last.is_none() && !others.is_empty();
        let groups = self.assumed.iter_mut().flatten().zip(self.candidates.iter_mut().flatten());
        for ((assumed, candidates), owner) in groups.zip(owners.iter().flatten()) {
            let owner = owner.iter().copied().collect();
            *assumed = assumed.union(*candidates).intersection(others).difference(owner);
            *candidates = owner;
        }
        self.last = Some(Installed { own, alive: view.alive, owners });
    }

    /// Takes what the other nodes say, of which only those count that do.
    pub(super) fn hear(&mut self, others: &[Said<'_>]) {
        let silent = others.iter().filter(|said| said.lingering.is_none()).map(|said| said.node);
        let silent: NodeSet = silent.collect();
        // Others may hold, but what holds judges nothing.
        let alive = self.last.as_ref().map_or(NodeSet::EMPTY, |last| last.alive);
        let silent = silent.intersection(alive);
        for nodes in self.assumed.iter_mut().flatten() {
            *nodes = nodes.intersection(silent);
        }
        self.unknown &= !silent.is_empty();
    }

    /// Forgets everything: the node serves nothing any more.
    pub(super) fn forget(&mut self) {
        self.let_go(|_| ALL);
        let (tenures, newest) = (std::mem::take(&mut self.tenures), self.newest);
        *self = Self { tenures, newest, ..Self::of(std::mem::take(&mut self.keep)) };
    }

    /// This node judges flows of those buckets, by kernel group, no more: what it remembers of them counts
    /// for nothing from now on, for others may serve them before it judges again.
    pub(super) fn let_go(&mut self, buckets: impl Fn(usize) -> Bitmap) {
        if !self.keep_any() {
            return;
        }
        // In 65,535 times every flow has been idle for too long.
        self.newest = self.newest.checked_add(1).unwrap_or(FIRST);
        for (group, tenures) in self.tenures.iter_mut().enumerate() {
            let gone = buckets(group);
            let tenures = tenures.iter_mut().enumerate();
            tenures.filter(|(it, _)| gone.has(*it)).for_each(|(_, tenure)| *tenure = self.newest);
        }
    }

    /// Which time it is that this node judges each bucket's flows, by kernel group; empty if none linger.
    pub(super) fn tenures(&self) -> &[Tenures] {
        &self.tenures
    }

    /// Whether all have said what lingers with them.
    pub(super) fn know_all(&self) -> bool {
        !self.unknown && self.assumed.iter().flatten().all(|nodes| nodes.is_empty())
    }

    /// Who judges before and after this node, by kernel group, while it accepts those buckets; empty if no
    /// flows linger.
    pub(super) fn turns(&self, handover: &Handover, accept: &[Bitmap]) -> Vec<Turns> {
        let Some(last) = &self.last else { return self.no_turns() };
        let said = handover.said();
        let group = |group: usize| {
            let mut turns = Turns { tenure: self.tenures[group], ..Turns::NONE };
            let lingering = handover.lingering()[group];
            for bucket in (0..BUCKETS).filter(|_| self.keep[group]) {
                let names = |(_, bitmaps): &(NodeId, &[Bitmap])| bitmaps[group].has(bucket);
                let others = said.clone().filter(names).map(|(node, _)| node);
                let owner = last.owners[group][bucket];
                let others = others.fold(self.assumed[group][bucket], NodeSet::with);
                let others = others.intersection(last.alive.without(last.own));
                let others = owner.into_iter().fold(others, NodeSet::without);
                let place = |node: Option<NodeId>| node.map_or(NOBODY, index);
                let (first, next) = if accept[group].has(bucket) {
                    if self.unknown {
                        (SEVERAL, NOBODY)
                    } else {
                        (place(others.iter().next()), place(others.iter().last()))
                    }
                } else if lingering.has(bucket) {
                    let first = others.iter().next().filter(|first| *first < last.own);
                    let after = others.iter().find(|node| *node > last.own);
                    let next = after.or(owner.filter(|owner| *owner != last.own));
                    let next = next.filter(|_| !self.promised && !self.unknown);
                    (place(first), next.map_or(SEVERAL, index))
                } else {
                    (place(others.iter().next()), NOBODY)
                };
                let unsure = self.is_unsure(group, bucket, first != NOBODY, lingering.has(bucket));
                let unsure = unsure && !accept[group].has(bucket);
                turns.first.0[bucket] = if unsure { SEVERAL } else { first };
                turns.next.0[bucket] = next;
            }
            turns
        };
        (0..self.assumed.len()).map(group).collect()
    }

    /// Whether it is better to send no frame of another's bucket to anybody: who was first before may be
    /// the owner by now, or others may take this node for a former owner, and what it sends for judged.
    /// And who does not know the former owners must not take itself for the first.
    fn is_unsure(&self, group: usize, bucket: usize, has_first: bool, lingers: bool) -> bool {
        let moves = self.candidates[group][bucket].len() > 1;
        self.promised && (has_first || moves && !lingers) || self.unknown && lingers
    }

    /// As [`Judges::turns`], of a node that judges nothing.
    pub(super) fn no_turns(&self) -> Vec<Turns> {
        vec![Turns::NONE; self.assumed.len()]
    }

    /// The same with the kernel groups of another configuration. Whoever served before is a former owner of
    /// all that is in other buckets now.
    #[must_use]
    pub(super) fn renumbered(&self, origins: &[Origin], keep: Vec<bool>) -> Self {
        let new = Self::of(keep);
        let groups = 0..new.assumed.len();
        let former = |group: usize| origins[group].group();
        let nodes =
            |nodes: &[Nodes], group| former(group).and_then(|group| nodes.get(group)).copied();
        let alive = self.last.as_ref().map_or(NodeSet::EMPTY, |last| last.alive);
        let candidates = |group| {
            let any = if origins[group] == Origin::Elsewhere { alive } else { NodeSet::EMPTY };
            nodes(&self.candidates, group).unwrap_or([any; BUCKETS])
        };
        let assumed = |group| nodes(&self.assumed, group).unwrap_or([NodeSet::EMPTY; BUCKETS]);
        let owners = |last: &Installed, group| {
            let before = former(group).and_then(|group| last.owners.get(group));
            before.copied().unwrap_or([None; BUCKETS])
        };
        let last = self.last.as_ref().filter(|_| new.keep_any()).map(|last| Installed {
            owners: (0..new.keep.len()).map(|group| owners(last, group)).collect(),
            ..last.clone()
        });
        let newest = self.newest.checked_add(1).unwrap_or(FIRST);
        let tenures = |group| {
            let before = former(group).and_then(|group| self.tenures.get(group));
            before.copied().unwrap_or([newest; BUCKETS])
        };
        Self {
            last,
            promised: self.promised,
            candidates: groups.clone().map(candidates).collect(),
            assumed: groups.map(assumed).collect(),
            unknown: self.unknown,
            tenures: (0..new.tenures.len()).map(tenures).collect(),
            newest,
            ..new
        }
    }
}

fn index(node: NodeId) -> u8 {
    u8::try_from(node.index()).unwrap_or(NOBODY)
}

#[cfg(test)]
mod tests;
