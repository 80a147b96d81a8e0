//! What is wrong, and what to do, in words for people.

use std::{iter, time::Duration};

use super::{LATE, due::Due};
use crate::{
    agent::engine::Snapshot,
    model::{Bitmap, Farm, NodeId},
    placement::RESOLVE_GROUP,
    status::FaultKind,
};

/// The names of the kernel groups.
pub(super) fn groups(farm: &Farm) -> impl Iterator<Item = &str> {
    let groups = farm.vips.iter().flat_map(|block| &block.groups);
    iter::once(RESOLVE_GROUP).chain(groups.map(|group| group.name.as_str()))
}

/// Finds words for faults.
pub(super) struct Words<'a> {
    pub(super) farm: &'a Farm,
    pub(super) due: &'a Due,
    pub(super) own: NodeId,
    pub(super) snapshot: &'a Snapshot,
    /// How long a silent node may go on.
    pub(super) lease: Duration,
}

impl Words<'_> {
    pub(super) fn name(&self, node: NodeId) -> String {
        self.farm.node(node).map_or_else(String::new, |node| node.name.clone())
    }

    pub(super) fn fault(&self, node: NodeId, kind: FaultKind) -> String {
        let (name, epoch, lease) = (self.name(node), self.due.view.epoch, self.lease);
        let is_own = node == self.own;
        match kind {
            FaultKind::Tables if is_own => format!(
                "{name}, this node: its kernel accepts other buckets than view {epoch} gives it ({}): another program has changed its tables, or the kernel refused a change (see `vipfarm events`); restart this agent",
                self.differences()
            ),
            FaultKind::Tables => format!(
                "{name}: its kernel accepts other buckets than view {epoch} gives it: look at `vipfarm bitmap` there, and restart its agent"
            ),
            FaultKind::NotServing => format!(
                "{name} serves nothing, so nobody serves its buckets ({}): look at `vipfarm status` there",
                self.buckets(node)
            ),
            FaultKind::Silent => format!(
                "{name} has not been heard for longer than a lease ({lease:?}): nobody may be serving its buckets ({}) until the others take over",
                self.buckets(node)
            ),
            FaultKind::OtherView => format!(
                "{name} has been in view {}, and this node in view {epoch}, for longer than {LATE:?}: compare `vipfarm status` of both",
                self.epoch_of(node)
            ),
            FaultKind::Unproven if is_own => format!(
                "{name}, this node, has been between view {epoch} and the next for longer than {LATE:?}: look at `vipfarm status` of the other nodes"
            ),
            FaultKind::Unproven => format!(
                "{name} has not shown for longer than {LATE:?} what its kernel accepts in view {epoch}: look at `vipfarm status` there"
            ),
            FaultKind::NoOwner => unreachable!("it is no node's fault"),
        }
    }

    pub(super) fn no_owner(&self, group: usize) -> String {
        let (name, epoch) = (self.group(group), self.due.view.epoch);
        format!("nobody serves group {name}: no node of view {epoch} has power in it")
    }

    pub(super) fn group(&self, group: usize) -> &str {
        groups(self.farm).nth(group).unwrap_or_default()
    }

    fn epoch_of(&self, node: NodeId) -> u64 {
        let peer = self.snapshot.peers.iter().find(|peer| peer.node == node);
        peer.map_or(0, |peer| peer.epoch)
    }

    /// How many the node has of each group, such as `64 of web, 86 of rest`.
    fn buckets(&self, node: NodeId) -> String {
        let load = |group: usize| (self.due.tables[group].load(node), self.group(group));
        let loads = (0..self.due.tables.len()).map(load).filter(|(load, _)| *load > 0);
        loads.map(|(load, group)| format!("{load} of {group}")).collect::<Vec<_>>().join(", ")
    }

    /// In which groups this node's kernel is not as it must be.
    fn differences(&self) -> String {
        let mut found = Vec::new();
        for group in 0..self.due.tables.len() {
            let due = self.due.bitmap(group, self.own);
            let here = |interface: &Vec<Bitmap>| interface.get(group).copied().unwrap_or_default();
            let here = self.snapshot.accept.iter().map(here);
            let (more, less) = here.fold((0, 0), |(more, less), here| {
                let both = here.and(due).len();
                (more + here.len() - both, less + due.len() - both)
            });
            if more + less > 0 {
                found.push(format!("{}: {more} too many, {less} missing", self.group(group)));
            }
        }
        found.join("; ")
    }
}
