//! Looks now and then which of the buckets that were given away still have connections here: the
//! kernel's sockets are all the state there is.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use super::{
    command::{Command, Commander},
    configurations::{Configuration, Configurations},
    engine::Latest,
};
use crate::{
    model::Bitmap,
    net::sockets::{self, Connection},
};

/// How long a connection of a bucket that was given away may keep it.
pub(super) const HANDOVER_TIMEOUT: Duration = Duration::from_mins(10);

/// Counts the connections that linger.
pub(super) struct Linger {
    latest: Latest,
    configurations: Configurations,
    commander: Commander,
    hash_key: [u8; 16],
    /// By kernel group: since when something of it lingers.
    since: Mutex<Vec<Option<Instant>>>,
}

impl Linger {
    pub(super) fn new(
        latest: &Latest,
        configurations: &Configurations,
        commander: &Commander,
        hash_key: [u8; 16],
    ) -> Self {
        let (latest, configurations) = (latest.clone(), configurations.clone());
        let commander = commander.clone();
        Self { latest, configurations, commander, hash_key, since: Mutex::default() }
    }

    /// Has the heartbeat thread let go of what has no connection any more, or lingers for too long.
    pub(super) async fn look(&self, now: Instant) -> anyhow::Result<()> {
        let snapshot = self.latest.get();
        let overdue = self.overdue(now, &snapshot.lingering);
        if snapshot.lingering.iter().all(|bitmap| bitmap.is_empty()) {
            return Ok(());
        }
        let config = self.configurations.get(snapshot.digest);
        let vips: HashSet<IpAddr> = config.vips().map(|(_, vip)| vip.addr).collect();
        let found =
            tokio::task::spawn_blocking(move || sockets::connections(|addr| vips.contains(&addr)));
        let mut buckets = used(&config, &found.await??, self.hash_key, snapshot.lingering.len());
        for (group, lingering) in snapshot.lingering.iter().enumerate() {
            if overdue[group] {
                buckets[group] = Bitmap::default();
            }
            // What began to linger meanwhile may have connections that were not seen.
            buckets[group] = buckets[group].or(Bitmap([u64::MAX; 4]).without(*lingering));
        }
        if buckets.iter().zip(&snapshot.lingering).any(|(kept, it)| it.and(*kept) != *it) {
            self.commander.send(Command::KeepLingering { step: snapshot.steps, buckets })?;
        }
        Ok(())
    }

    /// The open connections of VIPs; `to_reset`: of those only that want theirs reset.
    pub(super) async fn open(&self, to_reset: bool) -> anyhow::Result<Vec<Connection>> {
        let config = self.configurations.get(self.latest.get().digest);
        let blocks = config.farm.vips.iter().filter(|block| block.tcp_reset || !to_reset);
        let vips: HashSet<IpAddr> =
            blocks.flat_map(|block| &block.addresses).map(|vip| vip.addr).collect();
        let found =
            tokio::task::spawn_blocking(move || sockets::connections(|addr| vips.contains(&addr)));
        let mut found = found.await??;
        found.retain(|connection| connection.is_open);
        Ok(found)
    }

    /// Ends the connections that are left, so that their clients learn of it at once and connect anew
    /// elsewhere: to be called before the VIPs go, for what comes later reaches nobody.
    pub(super) async fn reset_all(&self) {
        match self.reset().await {
            Ok(0) => {}
            Ok(reset) => tracing::info!("{reset} TCP connections were reset"),
            Err(error) => tracing::warn!("open connections were not reset: {error:#}"),
        }
    }

    async fn reset(&self) -> anyhow::Result<usize> {
        let open = self.open(true).await?;
        let reset = tokio::task::spawn_blocking(move || {
            open.iter().try_for_each(sockets::reset).map(|()| open.len())
        });
        Ok(reset.await??)
    }

    fn overdue(&self, now: Instant, lingering: &[Bitmap]) -> Vec<bool> {
        let mut since = self.since.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        since.resize(lingering.len(), None);
        let judge = |(since, bitmap): (&mut Option<Instant>, &Bitmap)| {
            *since = (!bitmap.is_empty()).then(|| since.unwrap_or(now));
            since.is_some_and(|since| now.duration_since(since) > HANDOVER_TIMEOUT)
        };
        since.iter_mut().zip(lingering).map(judge).collect()
    }
}

/// The buckets that have connections, by kernel group.
fn used(
    config: &Configuration,
    connections: &[Connection],
    hash_key: [u8; 16],
    groups: usize,
) -> Vec<Bitmap> {
    let mut buckets = vec![Bitmap::default(); groups];
    for connection in connections.iter().filter(|connection| connection.is_open) {
        let bucket = |port: &super::ports::Port| {
            port.services().bucket_of(hash_key, connection.remote, connection.local)
        };
        if let Some((group, bucket)) = config.ports.iter().find_map(bucket)
            && let Some(bitmap) = buckets.get_mut(group)
        {
            bitmap.add(bucket);
        }
    }
    buckets
}
