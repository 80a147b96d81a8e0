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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Balance, Failover};

    fn vip(preempt: bool, delay: u64, balance: Balance) -> Floating {
        let preempt_delay = Duration::from_secs(delay);
        let failover = Failover { preempt, preempt_delay, balance };
        Floating::new("10.0.0.100", failover, ["node1", "node2"].into_iter())
    }

    fn node(index: usize) -> NodeId {
        NodeId::new(index).expect("in range")
    }

    #[test]
    fn a_holder_is_remembered_where_it_matters_only() {
        let (own, now) = (node(1), Instant::now());
        let stays = |vip: &Floating| Staying::default().stays(vip, own, || Some(node(0)), now);
        assert!(!stays(&vip(true, 0, Balance::Priority)), "the better one has it at once");
        assert!(stays(&vip(true, 0, Balance::Spread)), "so that no other VIP moves");
        assert!(stays(&vip(false, 0, Balance::Priority)));
        assert!(stays(&vip(true, 30, Balance::Priority)));
    }

    #[test]
    fn a_better_node_waits_for_the_delay_from_when_it_came_on() {
        let (own, begin, vip) = (node(1), Instant::now(), vip(true, 30, Balance::Priority));
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut staying = Staying::default();
        let mut stays = |favourite, seconds| staying.stays(&vip, own, || favourite, at(seconds));
        assert!(stays(Some(own), 0));
        assert!(stays(Some(node(0)), 10));
        assert!(stays(Some(node(0)), 39));
        assert!(stays(None, 39), "it is gone again");
        assert!(stays(Some(node(0)), 41));
        assert!(stays(Some(node(0)), 70));
        assert!(!stays(Some(node(0)), 71));
        assert!(!stays(Some(node(0)), 72), "until the farm has agreed");
        staying.forget_others(&BTreeSet::new());
        assert!(staying.stays(&vip, own, || Some(node(0)), at(100)), "it has it once more");
    }
}
