//! Counts the TCP connections of the VIPs: the kernel's sockets are all the state there is; and while
//! buckets linger the UDP flows of rules that have them linger, which the filter remembers. What was given
//! away and has none left is let go of.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    command::{Command, Commander},
    configurations::{Configuration, Configurations},
    engine::{Latest, Snapshot},
    handover::{Handover, Said},
    ports::Port,
    realtime,
};
use crate::{
    datapath::{self, FlowSeen, Flows},
    membership::{BootTime, PeerStatus},
    model::{BUCKETS, Bitmap, Group, VipAddr},
    net::sockets::{self, Connection},
    status::HandoverStatus,
};

/// How old the numbers of connections are at most, less [`super::CONFLICT_ROUND`], where no bucket is in
/// a move: each count lists all sockets.
const REFRESH: Duration = Duration::from_secs(5);

const ALL: Bitmap = Bitmap([u64::MAX; 4]);

/// Counts connections, and ends those that are not to go on.
pub(super) struct Linger {
    latest: Latest,
    configurations: Configurations,
    commander: Commander,
    hash_key: [u8; 16],
    /// By interface.
    flows: Arc<[Flows]>,
    counted: Mutex<Arc<Counted>>,
    since: Mutex<Since>,
}

/// The open connections as they were counted.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// When; `None` = not yet.
    at: Option<Instant>,
    /// The configuration that numbers the groups.
    digest: [u8; 16],
    /// [`Snapshot::steps`] before.
    steps: u64,
    /// By kernel group.
    groups: Vec<InGroup>,
    /// By own address.
    vips: HashMap<IpAddr, u64>,
}

#[derive(Debug, Clone)]
struct InGroup {
    /// By bucket.
    open: [u32; BUCKETS],
    /// UDP flows that were not idle for longer than they linger, by bucket.
    flows: [u32; BUCKETS],
    /// The same of VIPs whose connections are to be counted.
    counted: [u32; BUCKETS],
}

/// Since when what lingers does so, by kernel group and bucket, in that configuration.
#[derive(Debug, Default)]
struct Since {
    digest: [u8; 16],
    groups: Vec<[Option<Instant>; BUCKETS]>,
}

impl Linger {
    pub(super) fn new(
        latest: &Latest,
        configurations: &Configurations,
        commander: &Commander,
        hash_key: [u8; 16],
        flows: Vec<Flows>,
    ) -> Self {
        Self {
            latest: latest.clone(),
            configurations: configurations.clone(),
            commander: commander.clone(),
            hash_key,
            flows: flows.into(),
            counted: Mutex::default(),
            since: Mutex::default(),
        }
    }

    /// Counts if it is time to, and has the heartbeat thread let go of what has no connection any more
    /// or lingers for too long: how many connections were reset for that.
    pub(super) async fn look(&self, now: Instant) -> anyhow::Result<usize> {
        let snapshot = self.latest.get();
        let config = self.configurations.get(snapshot.digest);
        let overdue = self.overdue(now, &snapshot, &config);
        let none_lingers = snapshot.lingering.iter().all(|bitmap| bitmap.is_empty());
        let at = self.counted().at;
        let is_fresh = at.is_some_and(|at| now.duration_since(at) < REFRESH);
        if none_lingers && (is_fresh || !is_to_count(&config)) {
            return Ok(0);
        }
        let connections = self.count().await?;
        let counted = self.counted();
        if none_lingers || counted.digest != snapshot.digest {
            return Ok(0);
        }
        let is_overdue = |place: Option<(usize, u8)>| {
            place.is_some_and(|(group, bucket)| overdue[group].has(bucket.into()))
        };
        let reset = self.reset_those(&config, connections, is_overdue).await;
        let kept = |(group, lingering): (usize, &Bitmap)| {
            let used = counted.groups.get(group).map_or(ALL, InGroup::used);
            // What began to linger meanwhile may have connections that were not seen.
            used.without(overdue[group]).or(ALL.without(*lingering))
        };
        let buckets: Vec<_> = snapshot.lingering.iter().enumerate().map(kept).collect();
        if buckets.iter().zip(&snapshot.lingering).any(|(kept, it)| it.and(*kept) != *it) {
            self.commander.send(Command::KeepLingering { step: snapshot.steps, buckets })?;
        }
        reset
    }

    /// Counts if somebody may ask for the numbers: to be called when buckets have moved.
    pub(super) async fn look_anew(&self) -> anyhow::Result<()> {
        let snapshot = self.latest.get();
        let config = self.configurations.get(snapshot.digest);
        let lingers = snapshot.lingering.iter().any(|bitmap| !bitmap.is_empty());
        // From now on their time runs.
        self.overdue(Instant::now(), &snapshot, &config);
        if lingers || is_to_count(&config) {
            self.count().await?;
        }
        Ok(())
    }

    /// Counts the connections of all VIPs, and gives them.
    async fn count(&self) -> anyhow::Result<Vec<Connection>> {
        let snapshot = self.latest.get();
        let config = self.configurations.get(snapshot.digest);
        let connections = find(&config).await?;
        let flows = self.find_flows(&snapshot, &config).await?;
        let counted = Counted {
            at: Some(Instant::now()),
            digest: snapshot.digest,
            steps: snapshot.steps,
            ..Counted::of(&config, &connections, &flows, |one| place(&config, self.hash_key, one))
        };
        let mut latest = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        // Two counts may have run at once.
        if counted.at >= latest.at {
            *latest = Arc::new(counted);
        }
        Ok(connections)
    }

    /// Where UDP flows are that linger, if they may in what was given away.
    async fn find_flows(
        &self,
        snapshot: &Snapshot,
        config: &Arc<Configuration>,
    ) -> anyhow::Result<Vec<(usize, u8)>> {
        let lingers = |group: usize| snapshot.lingering.get(group).is_some_and(|it| !it.is_empty());
        if !config.kernel_groups().any(|(number, _, group)| group.keeps_flows() && lingers(number))
        {
            return Ok(Vec::new());
        }
        let (flows, config, hash_key) =
            (Arc::clone(&self.flows), Arc::clone(config), self.hash_key);
        let tenures = snapshot.tenures.clone();
        let walk = move || {
            let now = realtime::now();
            let place = |port: &Port, flow: &FlowSeen| {
                let &FlowSeen { client, vip, vlans, at_ns, tenure } = flow;
                let (place, linger) =
                    port.services().lingering_flow(hash_key, client, vip, vlans)?;
                let is_of_now = tenures.get(place.0)?[usize::from(place.1)] == tenure;
                let idle = now.saturating_since(BootTime::from_nanos(at_ns));
                (is_of_now && idle <= linger).then_some(place)
            };
            let mut places = Vec::new();
            for (port, flows) in config.ports.iter().zip(flows.iter()) {
                places.extend(flows.all()?.iter().filter_map(|flow| place(port, flow)));
            }
            Ok::<_, datapath::Error>(places)
        };
        Ok(tokio::task::spawn_blocking(walk).await??)
    }

    fn counted(&self) -> Arc<Counted> {
        Arc::clone(&self.counted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many open connections the VIPs have.
    pub(super) async fn open(&self) -> anyhow::Result<usize> {
        let config = self.configurations.get(self.latest.get().digest);
        let found = find(&config).await?;
        Ok(found.len())
    }

    /// Ends the connections that are left, so that their clients learn of it at once and connect anew
    /// elsewhere: to be called before the VIPs go, for what comes later reaches nobody.
    pub(super) async fn reset_all(&self) {
        let config = self.configurations.get(self.latest.get().digest);
        let reset = async {
            let connections = find(&config).await?;
            self.reset_those(&config, connections, |_| true).await
        };
        match reset.await {
            Ok(0) => {}
            Ok(reset) => tracing::info!("{reset} TCP connections were reset"),
            Err(error) => tracing::warn!("open connections were not reset: {error:#}"),
        }
    }

    /// Ends the connections of all buckets that are not this node's any more, of such kernel groups: how
    /// many.
    pub(super) async fn reset_given_away(
        &self,
        which: impl Fn(usize) -> bool,
    ) -> anyhow::Result<usize> {
        let snapshot = self.latest.get();
        let config = self.configurations.get(snapshot.digest);
        let connections = self.count().await?;
        let given_away = |place: Option<(usize, u8)>| {
            place.is_some_and(|(group, bucket)| {
                which(group)
                    && !snapshot.accept.iter().any(|accept| accept[group].has(bucket.into()))
            })
        };
        let reset = self.reset_those(&config, connections, given_away).await?;
        self.count().await?;
        Ok(reset)
    }

    /// Resets those of the open connections that are to be by the file, of such kernel groups and
    /// buckets; `None` = of no rule.
    async fn reset_those(
        &self,
        config: &Configuration,
        mut connections: Vec<Connection>,
        which: impl Fn(Option<(usize, u8)>) -> bool,
    ) -> anyhow::Result<usize> {
        let blocks = config.farm.vips.iter().filter(|block| block.tcp_reset);
        let vips: HashSet<_> =
            blocks.flat_map(|block| &block.addresses).map(|it| it.addr).collect();
        connections.retain(|one| {
            vips.contains(&one.local.ip()) && which(place(config, self.hash_key, one))
        });
        tokio::task::spawn_blocking(move || {
            let (reset, error) = sockets::reset_each(connections.iter());
            match error {
                Some(error) if reset == 0 => Err(error.into()),
                Some(error) => {
                    tracing::warn!("some open connections were not reset: {error}");
                    Ok(reset)
                }
                None => Ok(reset),
            }
        })
        .await?
    }

    /// The buckets that linger for longer than they may, by kernel group.
    fn overdue(&self, now: Instant, snapshot: &Snapshot, config: &Configuration) -> Vec<Bitmap> {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.digest != snapshot.digest {
            // Numbered anew.
            *since = Since { digest: snapshot.digest, groups: Vec::new() };
        }
        since.groups.resize(snapshot.lingering.len(), [None; BUCKETS]);
        let mut timeouts = vec![Group::HANDOVER_TIMEOUT; snapshot.lingering.len()];
        for (kernel_group, _, group) in config.kernel_groups() {
            timeouts.get_mut(kernel_group).into_iter().for_each(|it| *it = group.handover_timeout);
        }
        let groups = since.groups.iter_mut().zip(&snapshot.lingering).zip(timeouts);
        groups
            .map(|((since, lingering), timeout)| note_lingering(now, since, *lingering, timeout))
            .collect()
    }

    /// What became of a kernel group's old connections.
    pub(super) fn handover(&self, snapshot: &Snapshot, group: usize) -> HandoverStatus {
        let bitmap = |of: &[Bitmap]| of.get(group).copied().unwrap_or_default();
        let (lingering, inherited) = (bitmap(&snapshot.lingering), bitmap(&snapshot.inherited));
        let counted = self.counted();
        let is_of_now = (counted.digest, counted.steps) == (snapshot.digest, snapshot.steps);
        let in_buckets = |open: &[u32; BUCKETS]| -> u64 {
            (0..BUCKETS).filter(|&it| lingering.has(it)).map(|it| u64::from(open[it])).sum()
        };
        let counted = counted.groups.get(group).filter(|_| is_of_now);
        let count = |of: fn(&InGroup) -> &[u32; BUCKETS]| {
            if lingering.is_empty() { Some(0) } else { counted.map(|group| in_buckets(of(group))) }
        };
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let first = since.groups.get(group).and_then(|group| group.iter().flatten().min());
        HandoverStatus {
            lingering: lingering.len(),
            connections: count(|group| &group.open),
            flows: count(|group| &group.flows),
            since_s: first.filter(|_| !lingering.is_empty()).map(|first| first.elapsed().as_secs()),
            inherited: inherited.len(),
        }
    }

    /// The connections by bucket of a kernel group, if they are to be counted and have been.
    pub(super) fn by_bucket(&self, config: &Configuration, group: usize) -> Option<Vec<u32>> {
        let counted = self.counted();
        let (_, block, _) = config.kernel_groups().find(|(number, ..)| *number == group)?;
        let wanted = config.farm.vips[block].addresses.iter().any(|vip| vip.connections);
        let of_group = counted.groups.get(group).filter(|_| counted.digest == config.digest)?;
        wanted.then(|| of_group.counted.to_vec())
    }

    /// The open connections of a VIP, if they are to be counted and have been.
    pub(super) fn of_vip(&self, vip: &VipAddr) -> Option<u64> {
        let counted = self.counted();
        let found = counted.at.map(|_| counted.vips.get(&vip.addr).copied().unwrap_or_default());
        found.filter(|_| vip.connections)
    }
}

/// The buckets that have open connections to the VIPs, by kernel group.
pub(super) async fn used(
    config: &Configuration,
    hash_key: [u8; 16],
) -> anyhow::Result<Vec<Bitmap>> {
    let connections = find(config).await?;
    let counted = Counted::of(config, &connections, &[], |one| place(config, hash_key, one));
    Ok(counted.groups.iter().map(InGroup::used).collect())
}

/// The open connections of all VIPs. What is only remembered counts for nothing.
async fn find(config: &Configuration) -> anyhow::Result<Vec<Connection>> {
    let addresses = config.farm.vips.iter().flat_map(|block| &block.addresses);
    let vips: HashSet<_> = addresses.map(|vip| vip.addr).collect();
    let found =
        tokio::task::spawn_blocking(move || sockets::connections(|addr| vips.contains(&addr)));
    let mut found = found.await??;
    found.retain(|connection| connection.is_open);
    Ok(found)
}

/// The kernel group and the bucket of a connection; `None` if no rule has it.
fn place(config: &Configuration, hash_key: [u8; 16], one: &Connection) -> Option<(usize, u8)> {
    let place = |port: &Port| port.services().bucket_of(hash_key, one.remote, one.local);
    config.ports.iter().find_map(place)
}

impl InGroup {
    /// The buckets that have connections or flows.
    fn used(&self) -> Bitmap {
        let mut used = Bitmap::default();
        let counts = self.open.iter().zip(&self.flows).map(|(open, flows)| open + flows);
        let buckets = (0u8..=u8::MAX).zip(counts).filter(|(_, count)| *count > 0);
        buckets.for_each(|(bucket, _)| used.add(bucket));
        used
    }
}

impl Counted {
    /// What these connections come to, and flows by kernel group and bucket.
    fn of(
        config: &Configuration,
        connections: &[Connection],
        flows: &[(usize, u8)],
        place: impl Fn(&Connection) -> Option<(usize, u8)>,
    ) -> Self {
        let none = InGroup { open: [0; BUCKETS], flows: [0; BUCKETS], counted: [0; BUCKETS] };
        let mut groups = vec![none; config.kernel_groups().count() + 1];
        let addresses = config.farm.vips.iter().flat_map(|block| &block.addresses);
        let wanted: HashSet<_> =
            addresses.filter(|vip| vip.connections).map(|vip| vip.addr).collect();
        let mut vips = HashMap::new();
        for one in connections {
            *vips.entry(one.local.ip()).or_default() += 1;
            let Some((group, bucket)) = place(one) else { continue };
            let Some(group) = groups.get_mut(group) else { continue };
            group.open[usize::from(bucket)] += 1;
            if wanted.contains(&one.local.ip()) {
                group.counted[usize::from(bucket)] += 1;
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

fn is_to_count(config: &Configuration) -> bool {
    config.farm.vips.iter().flat_map(|block| &block.addresses).any(|vip| vip.connections)
}

/// Notes what lingers from `now` on, and gives what has for longer than `timeout`.
fn note_lingering(
    now: Instant,
    since: &mut [Option<Instant>; BUCKETS],
    lingering: Bitmap,
    timeout: Duration,
) -> Bitmap {
    let mut overdue = Bitmap::default();
    for (bucket, since) in (0u8..=u8::MAX).zip(since) {
        *since = lingering.has(bucket.into()).then(|| since.unwrap_or(now));
        if since.is_some_and(|since| now.duration_since(since) > timeout) {
            overdue.add(bucket);
        }
    }
    overdue
}

/// Buckets, over all groups, that a peer still serves old connections of; `None` while it has not said
/// so in this view.
pub(super) fn lingering_at(peer: &PeerStatus, snapshot: &Snapshot) -> Option<usize> {
    let said = Said::of(peer.node, peer.agrees, &peer.lingering);
    said.lingering?;
    let everything = vec![ALL; snapshot.lingering.len()];
    let mut theirs = Handover::of(everything.len());
    theirs.hear(&[said], BootTime::ZERO);
    Some(theirs.moving(&everything).iter().map(|bitmap| bitmap.len()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bucket_has_its_own_time_to_linger() {
        let (now, timeout) = (Instant::now(), Duration::from_secs(10));
        let mut since = [None; BUCKETS];
        let (first, both) = (Bitmap([1, 0, 0, 0]), Bitmap([1, 0, 0, 1 << 63]));
        let mut look = |after: u64, lingering| {
            note_lingering(now + Duration::from_secs(after), &mut since, lingering, timeout)
        };
        assert_eq!(look(0, first), Bitmap::default());
        assert_eq!(look(9, both), Bitmap::default());
        assert_eq!(look(11, both), first, "the other one has begun nine seconds later");
        assert_eq!(look(12, both.without(first)), Bitmap::default());
        assert_eq!(look(13, both), Bitmap::default(), "it was taken back meanwhile");
        assert_eq!(look(20, both), both.without(first));
    }
}
