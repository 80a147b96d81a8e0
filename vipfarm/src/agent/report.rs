//! What the control socket tells: the snapshot of the heartbeat thread, the kernel's counters and
//! the history, in the words of [`crate::status`].

mod groups;
mod health;
mod powers;
mod stop;
mod traced;
mod vips;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex as Lock, atomic::Ordering},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use tokio::sync::{Mutex, watch};

use super::{
    announce::Announcing,
    bring_up::{Record, Up},
    command::Commander,
    configurations::Configurations,
    conflicts::{self, Conflicts, Prober},
    control::Source,
    engine::{Latest, Report, Snapshot},
    explain::{self, Asked, Viewpoint},
    failover::Holding,
    health::Health,
    history::{History, Level},
    keep::Keeping,
    linger::{self, Linger},
    mend::Mender,
    neighbours,
    proof::{News, Prover},
    realtime,
    reload::{self, Reloader},
    trace::{self, Tracer},
    upgrade::{Others, Upgrader},
};
use crate::{
    config::keys::Keys,
    datapath::{self, Counters, Datapath, XdpMode},
    model::{BUCKETS, Farm, Mac, NodeId},
    status::{
        ChangedPowers, EventRecord, ExplainQuery, Explanation, GroupStatus, MoveRequest, NodeState,
        NodeStatus, OpenRequest, PowerReply, PowerRequest, ProofStatus, ReloadReply, ReloadRequest,
        ResetReply, Status, TraceQuery, TraceReply, UpgradeReply, UpgradeRequest,
    },
};

/// One interface as the reporter knows it.
struct Watched {
    interface: String,
    mode: XdpMode,
    jumbo: bool,
    counters: Counters,
    conflicts: Conflicts,
}

/// Answers for the agent.
pub struct Reporter {
    configurations: Configurations,
    own: NodeId,
    /// By link.
    own_macs: Vec<Mac>,
    hash_key: [u8; 16],
    watched: Vec<Watched>,
    latest: Latest,
    history: Arc<History>,
    /// Asks the heartbeat thread.
    commander: Commander,
    reloader: Mutex<Reloader>,
    /// Held while the file is read and taken over.
    reading: Mutex<()>,
    /// Held while this node is opened or closed by hand.
    opening: Mutex<()>,
    upgrader: Upgrader,
    prover: Prover,
    keeping: Arc<Keeping>,
    announcing: Arc<Announcing>,
    pub(super) tracer: Tracer,
    holding: Arc<Holding>,
    pub(super) linger: Linger,
    pub(super) health: Arc<Health>,
    mender: Lock<Mender>,
    started: Instant,
}

impl Reporter {
    /// A reporter on what was brought up.
    pub(super) fn new(
        keys: &Keys,
        up: &mut Up,
        latest: Latest,
        history: Arc<History>,
        reloader: Reloader,
        keeping: Arc<Keeping>,
        (announcing, holding): (Arc<Announcing>, Arc<Holding>),
    ) -> Result<Self, datapath::Error> {
        let watch = |datapath: &mut Datapath| {
            let counters = datapath.take_counters()?;
            Ok::<_, datapath::Error>(Watched {
                interface: datapath.interface().to_owned(),
                mode: datapath.xdp_mode(),
                jumbo: datapath.has_frags(),
                conflicts: Conflicts::since(conflicts::among(&counters.packets()?)),
                counters,
            })
        };
        let hash_key = keys.bucket_key();
        let flows: Result<_, datapath::Error> =
            up.datapaths.iter_mut().map(Datapath::take_flows).collect();
        Ok(Self {
            own: up.own,
            own_macs: up.networks.links.iter().map(|link| link.mac).collect(),
            hash_key,
            health: Arc::clone(&reloader.health),
            watched: up.datapaths.iter_mut().map(watch).collect::<Result<_, _>>()?,
            linger: Linger::new(&latest, &up.configurations, &reloader.commander, hash_key, flows?),
            tracer: Tracer::new(&mut up.datapaths, &reloader.commander, &history)?,
            configurations: up.configurations.clone(),
            latest,
            history,
            commander: reloader.commander.clone(),
            upgrader: reloader.upgrader.clone(),
            reloader: Mutex::new(reloader),
            reading: Mutex::default(),
            opening: Mutex::default(),
            prover: Prover::new(up.own),
            keeping,
            announcing,
            mender: Lock::new(Mender::new()),
            holding,
            started: Instant::now(),
        })
    }

    /// Writes a report of the heartbeat thread into the history.
    pub async fn note(&self, report: Report) {
        match report {
            Report::Membership(event) => {
                self.history.push(event.level(), event.kind(), event.to_string());
            }
            Report::Load(view) => {
                let config = self.configurations.get(view.digest);
                for (kernel_group, vip, group) in config.kernel_groups() {
                    let port = config.port_of(vip);
                    let load = port.table(kernel_group, &view).load(self.own);
                    let message = format!("farm load: {load}/{BUCKETS} (group {})", group.name);
                    self.history.push(Level::Info, "farm_load", message);
                }
            }
            Report::Installed => {
                self.holding.installed.notify_one();
                self.leave_what_fails().await;
                self.keeping.installed.notify_one();
                self.announcing.installed.notify_one();
                if let Err(error) = self.linger.look_anew().await {
                    self.not_counted(&error);
                }
            }
            Report::Kernel(error) => self.history.push(Level::Warn, "kernel_refused", error),
            Report::NotRealTime(error) => self.history.push(
                Level::Warn,
                "not_real_time",
                format!("no real-time scheduling any more ({error}): under load this node may fence itself; start the agent again to learn what is missing"),
            ),
            Report::NotLocked(error) => self.history.push(
                Level::Warn,
                "memory_not_locked",
                format!("memory is not locked ({error}): under memory pressure this node may fence itself; grant CAP_IPC_LOCK"),
            ),
        }
    }

    /// Reads the file anew and makes it the next one; the history tells what came of it.
    pub async fn read_anew(&self, force: bool) -> Result<ReloadReply, String> {
        // The file that is read last is to be taken over last; what else needs the reloader does not wait
        // for names.
        let _turn = self.reading.lock().await;
        let file = self.reloader.lock().await.file();
        let taken = match reload::read(file).await {
            Ok(read) => self.reloader.lock().await.take_over(read, force).await,
            Err(error) => Err(error),
        };
        match taken {
            Ok(read) if read.changes.is_empty() => {
                self.info("file_read", "the file has been read: nothing in it has changed".into());
                Ok(ReloadReply { configuration: hex(read.digest), changes: read.changes })
            }
            Ok(read) => {
                let changes = read.changes.join(", ");
                self.info("file_read", format!("the file has been read: {changes}"));
                Ok(ReloadReply { configuration: hex(read.digest), changes: read.changes })
            }
            Err(error) => {
                let reason = format!("{error:#}");
                self.warn("reload_refused", format!("the file is not taken over: {reason}"));
                Err(reason)
            }
        }
    }

    /// Clears up when the farm has gone over to another configuration.
    pub async fn tidy(&self) {
        if let Err(error) = self.reloader.lock().await.tidy().await {
            self.warn("reload_not_cleared", format!("what the former file needed: {error:#}"));
        }
    }

    /// Keeps the missing peers' MACs known, so that they are heard as soon as a cut heals.
    pub async fn keep_neighbours(&self) {
        let snapshot = self.latest.get();
        let config = self.configurations.get(snapshot.digest);
        let reloader = self.reloader.lock().await;
        let (network, interfaces) = (&reloader.network, &reloader.interfaces);
        let now = realtime::now();
        let kept =
            neighbours::keep(network, interfaces, &config.farm, self.own, &snapshot, now).await;
        if let Err(error) = kept {
            tracing::debug!("{error}");
        }
    }

    /// What is to be taken back in the end.
    pub async fn record(&self) -> Record {
        self.reloader.lock().await.undo.clone()
    }

    /// Writes good news into the history.
    pub fn info(&self, kind: &str, message: String) {
        self.history.push(Level::Info, kind, message);
    }

    /// Writes a warning into the history.
    pub fn warn(&self, kind: &str, message: String) {
        self.history.push(Level::Warn, kind, message);
    }

    /// Tells of strangers and other farms that have claimed a VIP or its MAC since the last time.
    pub fn note_conflicts(&self) {
        let snapshot = self.latest.get();
        if snapshot.state == NodeState::Joining {
            return; // The members' MACs may not be known yet.
        }
        let peers = || snapshot.peers.iter().flat_map(|peer| peer.macs.iter().flatten());
        let is_member = |mac| self.own_macs.iter().chain(peers()).any(|member| *member == mac);
        let config = self.configurations.get(snapshot.digest);
        for (Watched { counters, conflicts, .. }, port) in self.watched.iter().zip(&config.ports) {
            let (Ok(packets), Ok(Some(claim))) = (counters.packets(), counters.claim()) else {
                continue;
            };
            let count = conflicts::among(&packets);
            let stranger = !is_member(Mac(claim.mac));
            if let Some(count) = conflicts.untold(Instant::now(), count, stranger) {
                let vip = port.plan().services.vip(claim.vip).map(|(_, vip)| vip);
                let message = conflicts::words(claim, vip, count);
                if let Some(vip) = vip {
                    self.health.note_claim(vip, message.clone());
                }
                self.history.push(Level::Warn, "address_conflict", message);
            }
        }
    }

    /// Asks whether somebody else has the farm's VIPs, if that is this node's part.
    pub async fn probe(&self, prober: &Prober) {
        let snapshot = self.latest.get();
        let first = snapshot.view.owners().iter().next();
        if snapshot.state == NodeState::Up && first == Some(self.own) {
            let config = self.configurations.get(snapshot.digest);
            let interfaces = &self.reloader.lock().await.interfaces;
            prober.probe(config.vips().map(|(at, vip)| (&interfaces[at], vip)));
        }
    }

    /// Counts connections if it is time to, and lets go of what has none left.
    pub(super) async fn count_connections(&self) {
        match self.linger.look(Instant::now()).await {
            Ok(0) => {}
            Ok(reset) => self.info("handover_timeout", format!(
                "{reset} TCP connections of buckets given away have not ended in time and were reset"
            )),
            Err(error) => self.not_counted(&error),
        }
    }

    fn not_counted(&self, error: &anyhow::Error) {
        self.warn("not_counted", format!("the open connections: {error:#}"));
    }

    /// How often the nodes tell each other what they do; no reload changes it.
    pub fn period(&self) -> Duration {
        self.configurations.get(self.latest.get().digest).farm.membership.timers.period
    }

    /// Tells when a bucket is no longer accepted by exactly one node, and when each is again.
    pub fn note_proof(&self) {
        let status = self.prove(&self.latest.get());
        if let Some(News { level, kind, message }) = self.prover.news(realtime::now(), &status) {
            self.history.push(level, kind, message);
        }
    }

    fn prove(&self, snapshot: &Snapshot) -> ProofStatus {
        let config = self.configurations.get(snapshot.view.digest);
        let check = |port| self.prover.check(realtime::now(), snapshot, &config.farm, port);
        config.ports.first().map(check).unwrap_or_default()
    }
}

impl Source for Reporter {
    fn status(&self) -> Status {
        let snapshot = self.latest.get();
        let config = self.configurations.get(snapshot.digest);
        let groups = groups::of(&config, &snapshot, &self.linger);
        let lease = snapshot.deadline.saturating_since(realtime::now());
        Status {
            farm: config.farm.name.clone(),
            node: config.farm.nodes[self.own.index()].name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            state: snapshot.state,
            epoch: snapshot.view.epoch,
            converged: snapshot.converged,
            powers_version: snapshot.view.powers.version().counter,
            powers_saved: self.keeping.saved.load(Ordering::Relaxed),
            lease_ms: lease.as_secs_f64() * 1e3,
            detour: snapshot.detour,
            uptime_s: self.started.elapsed().as_secs_f64(),
            configuration: hex(snapshot.digest),
            staged: snapshot.staged.map(hex),
            nodes: self.nodes(&config.farm, &snapshot, &groups),
            vips: self.vips(&config, &snapshot),
            groups,
            packets: sum(self
                .watched
                .iter()
                .filter_map(|w| w.counters.packets().ok())
                .flatten()
                .map(|(reason, count)| (reason.as_str(), count))),
            guard: sum(self.watched.iter().filter_map(|w| w.counters.guard().ok()).flatten()),
            announcements: self.announcing.by_word(),
            heartbeats: snapshot.heartbeats.iter().cloned().collect(),
            lateness: snapshot.lateness,
            proof: self.prove(&snapshot),
            abstention_agreed: self
                .health
                .is_agreed(snapshot.view.digest, snapshot.view.abstentions.of(self.own)),
            checks: self.health.statuses(&config.farm),
            last_view_change: snapshot.view_change,
        }
    }

    fn events_since(&self, seq: u64) -> Vec<EventRecord> {
        self.history.since(seq)
    }

    fn newest_event(&self) -> watch::Receiver<u64> {
        self.history.newest()
    }

    fn explain(&self, query: &ExplainQuery) -> Result<Explanation, String> {
        let snapshot = self.latest.get();
        let config = self.configurations.get(snapshot.digest);
        let (block, _) = explain::block_of(&config.farm, query)?;
        let interface = config.interface_of[block];
        Viewpoint {
            farm: &config.farm,
            node: self.own,
            asked: Asked::Agent,
            view: &snapshot.view,
            hash_key: self.hash_key,
            port: &config.ports[interface],
            accept: &snapshot.accept[interface],
            fenced: snapshot.deadline <= realtime::now(),
        }
        .explain(query)
    }

    fn trace(&self, query: TraceQuery) -> BoxFuture<'_, Result<TraceReply, String>> {
        Box::pin(self.traced(query))
    }

    fn set_power<'a>(
        &'a self,
        request: &'a PowerRequest,
    ) -> BoxFuture<'a, Result<PowerReply, String>> {
        Box::pin(self.change_power(request))
    }

    fn set_open<'a>(
        &'a self,
        request: &'a OpenRequest,
    ) -> BoxFuture<'a, Result<PowerReply, String>> {
        Box::pin(self.open_or_close(request))
    }

    fn move_vip<'a>(
        &'a self,
        request: &'a MoveRequest,
    ) -> BoxFuture<'a, Result<PowerReply, String>> {
        Box::pin(self.move_failover(request))
    }

    fn reload(&self, request: ReloadRequest) -> BoxFuture<'_, Result<ReloadReply, String>> {
        Box::pin(self.read_anew(request.force))
    }

    fn upgrade(&self, request: UpgradeRequest) -> BoxFuture<'_, Result<UpgradeReply, String>> {
        let others = Others::of(self.own, &self.latest, &self.configurations);
        Box::pin(self.upgrader.begin(request, others))
    }

    fn reset_given_away(&self) -> BoxFuture<'_, Result<ResetReply, String>> {
        Box::pin(async move {
            if !self.is_drained() {
                return Err("this node is not drained: its connections are not reset".into());
            }
            let reset = self.linger.reset_given_away(|_| true).await;
            let reset =
                reset.map_err(|error| format!("the connections were not reset: {error:#}"))?;
            if reset > 0 {
                let message = format!("{reset} TCP connections of buckets given away were reset");
                self.info("connections_reset", message);
            }
            Ok(ResetReply { reset })
        })
    }
}

impl Reporter {
    fn nodes(&self, farm: &Farm, snapshot: &Snapshot, groups: &[GroupStatus]) -> Vec<NodeStatus> {
        let now = realtime::now();
        let status = |(id, node): (NodeId, &crate::model::Node)| {
            let own = id == self.own;
            let peer = snapshot.peers.iter().find(|peer| peer.node == id);
            let told = || peer?.macs.first().copied().flatten();
            let mac = if own { self.own_macs.first().copied() } else { told() };
            NodeStatus {
                name: node.name.clone(),
                addresses: node.addresses.iter().map(ToString::to_string).collect(),
                own,
                state: if own {
                    snapshot.state
                } else {
                    peer.map_or(NodeState::Down, |peer| peer.state)
                },
                alive: snapshot.view.alive.contains(id),
                heard_ms: peer
                    .and_then(|peer| peer.heard)
                    .map(|heard| now.saturating_since(heard).as_secs_f64() * 1e3),
                mac: mac.map(|mac| mac.to_string()),
                load: groups.iter().filter_map(|group| group.load.get(&node.name)).sum(),
                lingering: if own {
                    Some(groups.iter().map(|group| group.handover.lingering).sum())
                } else {
                    peer.and_then(|peer| linger::lingering_at(peer, snapshot))
                },
                changed_powers: ChangedPowers::of(&node.name, groups),
                configuration: if own {
                    Some(hex(snapshot.digest))
                } else {
                    peer.and_then(|peer| peer.digest).map(hex)
                },
                staged: if own {
                    snapshot.staged.map(hex)
                } else {
                    peer.and_then(|peer| peer.staged).map(hex)
                },
                config_differs: peer.map_or_else(Vec::new, |peer| {
                    peer.config_differs.iter().map(ToString::to_string).collect()
                }),
            }
        };
        farm.node_ids().zip(&farm.nodes).map(status).collect()
    }
}

fn sum<'w>(counts: impl Iterator<Item = (&'w str, u64)>) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (word, count) in counts {
        *sums.entry(word.to_owned()).or_insert(0) += count;
    }
    sums
}

fn hex(digest: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(digest))
}
