//! Keeps the MACs of missing peers known to the kernel.
//!
//! The kernel asks for an unknown neighbour once a second and holds the heartbeats back meanwhile.
//! When a cut heals, the two sides would serve the same clients until that answer comes. So while a
//! peer is missing its entry stays valid, and the first heartbeat after the heal gets through.

use std::time::Duration;

use super::engine::Snapshot;
use crate::{
    membership::BootTime,
    model::{Farm, NodeId},
    net::{self, Interface, Network},
};

/// For how long: a machine that comes back later may have another network card.
const KEPT: Duration = Duration::from_mins(5);

/// Renews the entries of the peers that are missing. To be done every second.
pub(super) async fn keep(
    network: &Network,
    interfaces: &[Interface],
    farm: &Farm,
    own: NodeId,
    snapshot: &Snapshot,
    now: BootTime,
) -> Result<(), net::Error> {
    let address_of = |node| farm.node(node).and_then(|node| node.addresses.first().copied());
    let has = |interface: &&Interface, address| {
        interface.addresses.iter().any(|net| Some(net.addr()) == address)
    };
    let Some(interface) = interfaces.iter().find(|it| has(it, address_of(own))) else {
        // Heartbeats run on an interface without a filter, or through a router.
        return Ok(());
    };
    let fail = farm.membership.timers.fail;
    for peer in &snapshot.peers {
        let silence = peer.heard.map(|heard| now.saturating_since(heard));
        let is_missing = silence.is_some_and(|silence| silence > fail && silence < KEPT);
        let mac = peer.macs.first().copied().flatten();
        if let (true, Some(mac), Some(address)) = (is_missing, mac, address_of(peer.node)) {
            network.keep_neighbour(interface, address, mac).await?;
        }
    }
    Ok(())
}
