//! Where the kernel's sockets are: the open connections of the VIPs by kernel group and bucket.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::{
    agent::{configurations::Configuration, ports::Port, stop::PAUSE},
    model::{BUCKETS, Bitmap},
    net::sockets::{self, Connection},
};

/// A kernel group, and a bucket of it.
pub(super) type Place = (usize, u8);

/// The open connections as they were counted.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// When; `None` = not yet.
    pub(super) at: Option<Instant>,
    /// How long it took.
    pub(super) took: Duration,
    /// The configuration that numbers the groups.
    pub(super) digest: [u8; 16],
    /// [`Snapshot::steps`](crate::agent::engine::Snapshot::steps) before.
    pub(super) steps: u64,
    /// By kernel group.
    pub(super) groups: Vec<InGroup>,
    /// By own address.
    pub(super) vips: HashMap<IpAddr, u64>,
}

/// Of one kernel group.
#[derive(Debug, Clone)]
pub(super) struct InGroup {
    /// By bucket.
    pub(super) open: [u32; BUCKETS],
    /// UDP flows that were not idle for longer than they linger, by bucket.
    pub(super) flows: [u32; BUCKETS],
    /// The same of VIPs whose connections are to be counted.
    pub(super) counted: [u32; BUCKETS],
}

/// The buckets that have open connections to the VIPs, by kernel group.
pub(in crate::agent) async fn used(
    config: &Configuration,
    hash_key: [u8; 16],
) -> anyhow::Result<Vec<Bitmap>> {
    let mut used = vec![Bitmap::default(); config.kernel_groups().count() + 1];
    // A list may lack one.
    for _ in 0..2 {
        let connections = find(config).await?;
        let counted = Counted::of(config, hash_key, &connections, &[]);
        for (used, group) in used.iter_mut().zip(&counted.groups) {
            *used = used.or(group.used());
        }
    }
    Ok(used)
}

/// The open connections of all VIPs. What is only remembered counts for nothing.
pub(super) async fn find(config: &Configuration) -> anyhow::Result<Vec<Connection>> {
    let addresses = config.farm.vips.iter().flat_map(|block| &block.addresses);
    let vips: HashSet<_> = addresses.map(|vip| vip.addr).collect();
    let found =
        tokio::task::spawn_blocking(move || sockets::connections(|addr| vips.contains(&addr)));
    let mut found = found.await??;
    found.retain(|connection| connection.is_open);
    Ok(found)
}

/// Where a connection may be: a socket does not tell its VLAN, and one address may be a VIP in several.
/// Nowhere if no rule has it.
pub(super) fn places(config: &Configuration, hash_key: [u8; 16], one: &Connection) -> Vec<Place> {
    let places = |port| Port::services(port).buckets_of(hash_key, one.remote, one.local);
    config.ports.iter().flat_map(places).collect()
}

impl InGroup {
    /// The buckets that have connections or flows.
    pub(super) fn used(&self) -> Bitmap {
        let mut used = Bitmap::default();
        let counts = self.open.iter().zip(&self.flows).map(|(open, flows)| open + flows);
        let buckets = (0u8..=u8::MAX).zip(counts).filter(|(_, count)| *count > 0);
        buckets.for_each(|(bucket, _)| used.add(bucket));
        used
    }
}

impl Counted {
    /// Whether it was made less than so long ago.
    pub(super) fn is_younger(&self, now: Instant, age: Duration) -> bool {
        self.at.is_some_and(|at| now.duration_since(at) < age)
    }

    /// Whether it is too early for another one.
    pub(super) fn is_to_rest(&self, now: Instant) -> bool {
        self.is_younger(now, PAUSE * self.took)
    }

    /// What these connections come to, and flows by kernel group and bucket. One that may be in several
    /// places counts in each: its bucket then lingers for too long at worst.
    pub(super) fn of(
        config: &Configuration,
        hash_key: [u8; 16],
        connections: &[Connection],
        flows: &[Place],
    ) -> Self {
        let none = InGroup { open: [0; BUCKETS], flows: [0; BUCKETS], counted: [0; BUCKETS] };
        let mut groups = vec![none; config.kernel_groups().count() + 1];
        let addresses = config.farm.vips.iter().flat_map(|block| &block.addresses);
        let wanted: HashSet<_> =
            addresses.filter(|vip| vip.connections).map(|vip| vip.addr).collect();
        let mut vips = HashMap::new();
        for one in connections {
            *vips.entry(one.local.ip()).or_default() += 1;
            for (group, bucket) in places(config, hash_key, one) {
                let Some(group) = groups.get_mut(group) else { continue };
                group.open[usize::from(bucket)] += 1;
                if wanted.contains(&one.local.ip()) {
                    group.counted[usize::from(bucket)] += 1;
                }
            }
        }
        for &(group, bucket) in flows {
            if let Some(group) = groups.get_mut(group) {
                group.flows[usize::from(bucket)] += 1;
            }
        }
        Self { groups, vips, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_took_long_is_not_repeated_at_once() {
        let at = Instant::now();
        let counted =
            Counted { at: Some(at), took: Duration::from_millis(50), ..Counted::default() };
        assert!(counted.is_to_rest(at + Duration::from_millis(499)));
        assert!(!counted.is_to_rest(at + Duration::from_millis(500)));
        assert!(!Counted::default().is_to_rest(at));
    }
}
