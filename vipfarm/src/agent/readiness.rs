//! What of this node's services is ready for clients, for whoever asks by HTTP and for hooks.

use std::net::IpAddr;

use super::{configurations::Configuration, engine::Snapshot, realtime};
use crate::{model::Group, status::NodeState};

/// The groups whose traffic this node's kernel accepts now, as it was after the thread's last turn.
pub(super) fn served<'c>(
    config: &'c Configuration,
    snapshot: &Snapshot,
) -> impl Iterator<Item = (usize, &'c Group)> {
    let in_force = snapshot.state == NodeState::Up && snapshot.deadline > realtime::now();
    let accepts = |kernel_group: usize, block: usize| {
        let of_interface = snapshot.accept.get(config.interface_of[block]);
        let bitmap = of_interface.and_then(|groups| groups.get(kernel_group));
        bitmap.is_some_and(|bitmap| !bitmap.is_empty())
    };
    let groups = config.kernel_groups();
    groups.filter_map(move |(kernel_group, block, group)| {
        let is_served = in_force && accepts(kernel_group, block);
        is_served.then_some((block, group))
    })
}

/// Whether this node serves anything; `None` if nothing has that name or address. `what` is a group, a
/// VIP, or nothing in particular.
pub(super) fn is_ready(
    config: &Configuration,
    snapshot: &Snapshot,
    what: Option<&str>,
) -> Option<bool> {
    let mut served = served(config, snapshot);
    let Some(what) = what else { return Some(served.next().is_some()) };
    if config.kernel_groups().any(|(.., group)| group.name == what) {
        return Some(served.any(|(_, group)| group.name == what));
    }
    let vip: IpAddr = what.parse().ok()?;
    let has = |block: usize| config.farm.vips[block].addresses.iter().any(|it| it.addr == vip);
    let known = (0..config.farm.vips.len()).any(has);
    known.then(|| served.any(|(block, _)| has(block)))
}
