//! Which failover VIPs a node is to stay the holder of: pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use crate::{
    assign::floating::Floating,
    model::{NodeId, Overrides, StayKind, VipId},
};

/// Since when a better node has waited for each VIP that this node has.
#[derive(Debug, Default)]
pub(super) struct Staying(BTreeMap<VipId, Instant>);

impl Staying {
    /// Whether this node, which has that VIP, is to stay its holder. `favourite` is who would have it
    /// otherwise.
    pub(super) fn stays(
        &mut self,
        vip: &Floating,
        own: NodeId,
        favourite: impl FnOnce() -> Option<NodeId>,
        now: Instant,
    ) -> bool {
        let failover = vip.failover();
        if !vip.remembers() || !failover.preempt || !failover.stays() {
            return vip.remembers();
        }
        if favourite().is_none_or(|favourite| favourite == own) {
            self.0.remove(&vip.id());
            return true;
        }
        let since = *self.0.entry(vip.id()).or_insert(now);
        now.saturating_duration_since(since) < failover.preempt_delay
    }

    /// Keeps nothing of VIPs that this node does not have.
    pub(super) fn forget_others(&mut self, held: &BTreeSet<VipId>) {
        self.0.retain(|vip, _| held.contains(vip));
    }
}

/// The VIPs that a node stays the holder of by what the farm has agreed on.
pub(super) fn of(overrides: &Overrides, node: NodeId) -> BTreeSet<VipId> {
    let stays = overrides.stays().iter();
    let own = stays.filter(|stay| stay.kind == StayKind::Incumbent && stay.node == node);
    own.map(|stay| stay.vip).collect()
}
