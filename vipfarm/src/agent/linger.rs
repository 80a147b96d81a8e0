//! Counts the TCP connections of the VIPs: the kernel's sockets are all the state there is; and while
//! buckets linger the UDP flows of rules that have them linger, which the filter remembers. What was given
//! away and has none left is let go of.

mod count;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

pub(super) use self::count::used;
use self::count::{Counted, InGroup, Place, find, places};
use super::{
    command::{Command, Commander},
    configurations::{Configuration, Configurations},
    engine::{Latest, Snapshot},
    failover,
    handover::{Handover, Said},
    ports::Port,
    realtime,
};
use crate::{
    datapath::{self, FlowSeen, Flows},
    membership::{BootTime, PeerStatus},
    model::{BUCKETS, Bitmap, Group, NodeId, VipAddr},
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
        let former = self.counted();
        let is_fresh = former.is_younger(now, REFRESH);
        if (none_lingers && (is_fresh || !is_to_count(&config))) || former.is_to_rest(now) {
            return Ok(0);
        }
        let connections = self.count().await?;
        let counted = self.counted();
        if none_lingers || counted.digest != snapshot.digest {
            return Ok(0);
        }
        let buckets = kept([&*former, &*counted], &snapshot, &overdue);
        let digest = snapshot.digest;
        let is_overdue = move |latest: &Snapshot, places: &[Place]| {
            latest.digest == digest && are_overdue(&overdue, latest, places)
        };
        let reset = self.reset_those(&config, connections, is_overdue).await;
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
        let (snapshot, begin) = (self.latest.get(), Instant::now());
        let config = self.configurations.get(snapshot.digest);
        let connections = find(&config).await?;
        let flows = self.find_flows(&snapshot, &config).await?;
        let now = Instant::now();
        let counted = Counted {
            at: Some(now),
            took: now.duration_since(begin),
            digest: snapshot.digest,
            steps: snapshot.steps,
            ..Counted::of(&config, self.hash_key, &connections, &flows)
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
    ) -> anyhow::Result<Vec<Place>> {
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

    /// How many open connections the VIPs have that this node can go on with: not those of a failover VIP
    /// that another node has.
    pub(super) async fn open(&self, own: NodeId) -> anyhow::Result<usize> {
        let snapshot = self.latest.get();
        let config = self.configurations.get(snapshot.digest);
        let elsewhere = failover::held_elsewhere(&config, &snapshot, own);
        let mut open = 0;
        // A list may lack one.
        for _ in 0..2 {
            let found = find(&config).await?;
            open = found.iter().filter(|it| !elsewhere.contains(&it.local.ip())).count();
            if open > 0 {
                break;
            }
        }
        Ok(open)
    }

    /// Ends the connections that are left, so that their clients learn of it at once and connect anew
    /// elsewhere: to be called before the VIPs go, for what comes later reaches nobody.
    pub(super) async fn reset_all(&self) {
        let config = self.configurations.get(self.latest.get().digest);
        let reset = async {
            let connections = find(&config).await?;
            self.reset_those(&config, connections, |_, _| true).await
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
        which: impl Fn(usize) -> bool + Send + 'static,
    ) -> anyhow::Result<usize> {
        let connections = self.count().await?;
        let config = self.configurations.get(self.latest.get().digest);
        let digest = config.digest;
        let given_away = move |latest: &Snapshot, places: &[Place]| {
            latest.digest == digest && are_given_away(&which, latest, places)
        };
        let reset = self.reset_those(&config, connections, given_away).await?;
        self.count().await?;
        Ok(reset)
    }

    /// Resets those of the open connections that are to be by the file, by where they may be; none = no
    /// rule has them. Of each it is looked at anew, for buckets may come back meanwhile.
    async fn reset_those(
        &self,
        config: &Arc<Configuration>,
        connections: Vec<Connection>,
        which: impl Fn(&Snapshot, &[Place]) -> bool + Send + 'static,
    ) -> anyhow::Result<usize> {
        let blocks = config.farm.vips.iter().filter(|block| block.tcp_reset);
        let vips: HashSet<_> =
            blocks.flat_map(|block| &block.addresses).map(|it| it.addr).collect();
        let (latest, config, hash_key) = (self.latest.clone(), Arc::clone(config), self.hash_key);
        tokio::task::spawn_blocking(move || {
            let is_one = |one: &&Connection| {
                vips.contains(&one.local.ip())
                    && which(&latest.get(), &places(&config, hash_key, one))
            };
            let (reset, error) = sockets::reset_each(connections.iter().filter(is_one));
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

/// What of the buckets is to linger on, by kernel group: what one of two counts since the last step has
/// found used, since a list may lack a connection that is there, and is not overdue.
fn kept(counts: [&Counted; 2], snapshot: &Snapshot, overdue: &[Bitmap]) -> Vec<Bitmap> {
    let of_group = |(group, lingering): (usize, &Bitmap)| {
        let used = counts.iter().fold(Bitmap::default(), |used, counted| {
            let is_of_now = (counted.digest, counted.steps) == (snapshot.digest, snapshot.steps);
            let found = counted.groups.get(group).filter(|_| is_of_now);
            // What began to linger meanwhile may have connections that were not seen.
            used.or(found.map_or(ALL, InGroup::used))
        });
        used.without(overdue[group]).or(ALL.without(*lingering))
    };
    snapshot.lingering.iter().enumerate().map(of_group).collect()
}

/// Whether wherever a connection may be its time to linger is over. What came back meanwhile is this
/// node's again.
fn are_overdue(overdue: &[Bitmap], latest: &Snapshot, places: &[Place]) -> bool {
    let has = |of: &[Bitmap], (group, bucket): Place| {
        of.get(group).is_some_and(|bitmap| bitmap.has(bucket.into()))
    };
    let is_over = |&place: &Place| has(overdue, place) && has(&latest.lingering, place);
    !places.is_empty() && places.iter().all(is_over)
}

/// Whether a connection can only be of such kernel groups, in buckets that are others' now.
fn are_given_away(which: impl Fn(usize) -> bool, latest: &Snapshot, places: &[Place]) -> bool {
    let is_own = |(group, bucket): Place| {
        let of_group = latest.accept.iter().filter_map(|accept| accept.get(group));
        of_group.into_iter().any(|bitmap| bitmap.has(bucket.into()))
    };
    !places.is_empty() && places.iter().all(|&place| which(place.0) && !is_own(place))
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

    const NONE: Bitmap = Bitmap([0; 4]);
    const LOW: Bitmap = Bitmap([0xff, 0, 0, 0]);

    /// After the seventh step, with two kernel groups.
    fn snapshot(lingering: Bitmap, accept: Bitmap) -> Snapshot {
        Snapshot {
            steps: 7,
            lingering: vec![NONE, lingering],
            accept: vec![vec![NONE, accept]],
            ..Snapshot::clone(&Latest::new(&[], [0; 16]).get())
        }
    }

    /// After that step, with a connection in each of those buckets of group 1.
    fn counted(steps: u64, buckets: &[usize]) -> Counted {
        let mut group = InGroup { open: [0; BUCKETS], flows: [0; BUCKETS], counted: [0; BUCKETS] };
        for &bucket in buckets {
            group.open[bucket] = 1;
        }
        let groups = vec![group.clone(), group];
        Counted { steps, groups, ..Counted::default() }
    }

    #[test]
    fn a_bucket_is_let_go_of_when_two_counts_since_the_last_step_found_nothing() {
        let lingers = snapshot(LOW, NONE);
        let left = |first: &Counted, second: &Counted, overdue: Bitmap| {
            kept([first, second], &lingers, &[NONE, overdue])[1].and(LOW)
        };
        let one = Bitmap([1, 0, 0, 0]);
        assert_eq!(left(&counted(7, &[]), &counted(7, &[]), NONE), NONE);
        assert_eq!(left(&counted(7, &[0]), &counted(7, &[]), NONE), one, "the second missed it");
        assert_eq!(left(&counted(7, &[]), &counted(7, &[0]), NONE), one, "the first did");
        assert_eq!(left(&counted(6, &[]), &counted(7, &[]), NONE), LOW, "of another step");
        assert_eq!(left(&Counted::default(), &counted(7, &[]), NONE), LOW, "there was none");
        assert_eq!(left(&counted(7, &[0]), &counted(7, &[0]), one), NONE, "its time is over");
        let other = kept([&counted(7, &[]), &counted(7, &[])], &lingers, &[NONE; 2]);
        assert_eq!(other, [ALL, ALL.without(LOW)], "nothing else is touched");
    }

    #[test]
    fn what_came_back_while_connections_were_counted_is_not_reset() {
        let overdue = [NONE, LOW];
        let is_reset = |latest: &Snapshot, places: &[Place]| {
            let given_away = are_given_away(|_| true, latest, places);
            (are_overdue(&overdue, latest, places), given_away)
        };
        let away = snapshot(LOW, NONE);
        assert_eq!(is_reset(&away, &[(1, 3)]), (true, true));
        assert_eq!(is_reset(&snapshot(NONE, LOW), &[(1, 3)]), (false, false), "it came back");
        assert_eq!(is_reset(&snapshot(NONE, NONE), &[(1, 3)]), (false, true), "it was let go of");
        assert_eq!(is_reset(&away, &[]), (false, false), "no rule has it");
        let elsewhere = snapshot(LOW, Bitmap([0, 1, 0, 0]));
        assert_eq!(is_reset(&elsewhere, &[(1, 3), (1, 64)]), (false, false), "or it may be there");
        assert!(!are_given_away(|group| group == 0, &away, &[(1, 3)]), "of another group");
    }

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
