//! The agent: what runs on every node of a farm.
//!
//! - [`site`]: which node this machine is, which interface a VIP lives on.
//! - [`bring_up`]: changes the machine, and takes the changes back.
//! - [`engine`]: the heartbeat thread, the only writer of leases and tables; [`ports`] says what it
//!   accepts, [`links`] are its networks, [`command`] is how it is asked for something, [`realtime`]
//!   what it needs of the system, [`barrier`] times its changes of view, [`batch`] and [`tally`] are
//!   tools of its links.
//! - [`rights`]: the capabilities that are needed, and giving up all others; [`trust`]: who may change
//!   what it acts by.
//! - [`upgrade`]: has the agent replaced by another program; [`hold`] tells that one for how long it may
//!   serve at first.
//! - [`neighbours`]: keeps missing peers reachable without ARP.
//! - [`running`]: what the runtime does meanwhile, until [`stop`]; [`signals`] tell it to.
//! - [`reload`]: takes over a changed file; [`configurations`] are those that can be served.
//! - [`keep`]: the powers that are to outlast restarts, on the disk.
//! - [`control`], [`report`], [`history`], [`explain`]: what the agent tells, on a tokio runtime.
//! - [`trace`]: one client's frames as they are judged; [`slow_log`]: all that the slow path judges.
//! - [`forecast`]: what a change would do, from the file alone.
//! - [`judge`]: the kernel's decision about a frame, on the host and with names.
//! - [`proof`]: whether all that ends in every bucket being accepted once; [`metrics`] for machines.
//! - [`conflicts`]: whether another farm has what is this one's.
//! - [`health`]: whether this node can serve, by the checks of the file; [`program`] runs those that
//!   are programs, [`mend`] says when a VIP that was taken off is put back.
//! - [`alone`]: work that may hang, of which no more than one piece is at work.
//! - [`hooks`]: tells the operator's programs; [`listener`] answers those who ask by HTTP, [`readiness`]
//!   says what of.
//! - [`announce`]: tells clients of directed VIPs whose MAC to send to.
//! - [`failover`]: has the addresses of failover VIPs where they belong.
//! - [`watch`]: whether the machine still has what the farm needs; [`notify`]: what systemd is told.
//!
//! The thread never waits for the runtime: it reports through a bounded channel that may lose a
//! line, and leaves its state where others may look at it.

mod alone;
mod announce;
mod barrier;
mod batch;
mod bring_up;
pub mod command;
mod configurations;
pub mod conflicts;
pub mod control;
pub mod engine;
pub mod explain;
mod failover;
#[cfg(test)]
mod fixture;
pub mod forecast;
pub mod handover;
mod health;
pub mod history;
mod hold;
mod hooks;
pub mod judge;
mod judges;
mod keep;
mod linger;
pub mod links;
mod listener;
mod mend;
pub mod metrics;
mod neighbours;
mod notify;
pub mod options;
pub mod ports;
pub(crate) mod program;
pub mod proof;
mod readiness;
mod realtime;
mod reload;
pub mod report;
pub mod rights;
mod running;
pub mod share;
mod signals;
pub mod site;
mod slow_log;
mod stop;
mod tally;
pub mod trace;
pub(crate) mod trust;
pub mod upgrade;
mod watch;

use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{Arc, atomic::AtomicU64},
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::{sync::mpsc, task::JoinHandle, time};

pub use self::bring_up::{Record, distinct};
use self::{
    announce::Announcer,
    bring_up::Up,
    control::ControlSocket,
    engine::{Latest, Parts},
    failover::Mover,
    health::Health,
    history::{History, Level},
    hooks::Hooks,
    keep::{Keeper, Keeping},
    listener::Listener,
    notify::Notifier,
    options::{AgentOptions, DownOptions},
    reload::Reloader,
    report::Reporter,
    running::Running,
    signals::Signals,
    stop::Stop,
    upgrade::{Program, Upgrade, Upgrader},
    watch::Needs,
};
use crate::{
    config::{self, keys::Keys},
    datapath::{Datapath, LeftOver},
    doctor::{self, Finding, Scope, Severity, facts::RealTime},
    membership::{self, OwnLink},
    model::{Farm, NodeId, Overrides, Timers},
    net::Network,
};

/// How often to look for strangers that claim a VIP.
const CONFLICT_ROUND: Duration = Duration::from_secs(1);

/// Reports waiting for the history: more than a farm of 64 nodes makes in one view change.
const REPORTS: usize = 1024;

/// The part of the time for an upgrade that may pass until programs have been told of it.
const HOLD_FOR_HOOKS: u32 = 4;

/// How long what is still at work when everything is done may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

const PANICKED: &str =
    "the heartbeat thread panicked; the filter stays and refuses: `vipfarm down` clears up";

/// Runs the agent until SIGTERM or SIGINT; the log has been set up.
///
/// Fails with nothing left behind: no VIP, no program, no pin, no changed sysctl.
pub fn run(options: &AgentOptions) -> anyhow::Result<()> {
    let program = Program::of_this_process()?;
    let mut signals = Signals::catch()?;
    rights::hide_memory().context("cannot hide the process's memory")?;
    let history = Arc::new(History::new());
    let mut former = None;
    loop {
        program::reap_inherited();
        let file = &options.place.config;
        let read = reload::read_now(file).and_then(|read| {
            rights::refuse_users(&read.0)?;
            Ok(read)
        });
        let (farm, keys) = match (read, former.take()) {
            (Ok(read), _) => read,
            // What was left in its place is somebody's to go on with, or to take down.
            (Err(error), Some(former)) => {
                let message = format!("the file is not taken over: {error:#}");
                history.push(Level::Warn, "reload_refused", message);
                former
            }
            (Err(error), None) => return Err(error),
        };
        former = Some((farm.clone(), keys.clone()));
        // Before there is a second thread.
        rights::give_up_others(farm.runs_as_others())
            .context("cannot give up rights that are not needed")?;
        let (upgrader, asked) = Upgrader::new(program.clone(), file.clone(), farm.name.clone());
        let serving =
            serve(options, farm, keys, Arc::clone(&history), (upgrader, asked), &mut signals);
        let runtime = runtime()?;
        let served = runtime.block_on(serving);
        // A name that is looked up, or a file on a server that is gone, holds nobody up; and checks that
        // are at work end with it.
        runtime.shutdown_timeout(LAST_WORDS);
        match served? {
            Some(Upgrade { exit, .. }) if signals.hold_back()? => {
                if exit {
                    return Ok(());
                }
                let error = program.execute();
                Signals::let_through()?;
                let message = format!("{error:#}: the former agent goes on");
                history.push(Level::Warn, "upgrade_failed", message);
            }
            // What was left in its place is taken back by one who takes over first.
            Some(_to_stop) => {}
            None => return Ok(()),
        }
    }
}

/// Whether this process's heartbeats would run before all ordinary threads, and what it means for a farm
/// with these timers if not.
pub fn real_time(timers: &Timers) -> RealTime {
    match realtime::probe() {
        Ok(()) => RealTime::Granted,
        Err(refused) => refused.weigh(timers),
    }
}

/// Removes what an agent that could not do so itself left on this node, and says what that was.
/// Idempotent.
pub fn down(options: DownOptions) -> anyhow::Result<Vec<String>> {
    let place = options.place;
    let farm = config::load(&place.config)?;
    runtime()?.block_on(async {
        // Held meanwhile: no agent may start on what is being removed, and none may run.
        let _socket = ControlSocket::open(&place.run_dir, &farm.name)?;
        let network = Network::connect()?;
        let mut undo = Record::read(&place.run_dir, &farm.name)?;
        let present = Network::interfaces().await?;
        let mut interfaces: BTreeSet<(String, u32)> =
            undo.interfaces().map(|(name, index)| (name.to_owned(), index)).collect();
        for block in &farm.vips {
            let Ok(interface) = site::interface_of(block, &present) else { continue };
            interfaces.insert((interface.name.clone(), interface.index));
            undo.add_held(block, interface, &present);
        }
        let interfaces = interfaces.iter().map(|(name, index)| (name.as_str(), *index));
        let left_over = LeftOver::hold(&place.bpf_dir, interfaces)?;
        let removed = undo.changes();
        undo.roll_back(&network).await?;
        let _nobody_comes = hold::take(&place.run_dir, &farm.name);
        let unpinned = left_over.remove()?;
        let unpinned = unpinned.into_iter().map(|interface| format!("the filter on {interface}"));
        Ok(removed.into_iter().chain(unpinned).collect())
    })
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(signals::leave_to_the_first)
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// Serves until told to stop, with nothing left behind; or to be replaced: then everything stays in its
/// place, and what is to be done next is returned.
async fn serve(
    options: &AgentOptions,
    farm: Farm,
    keys: Keys,
    history: Arc<History>,
    (upgrader, asked): (Upgrader, mpsc::Receiver<Upgrade>),
    signals: &mut Signals,
) -> anyhow::Result<Option<Upgrade>> {
    // Before anything is changed: what follows from a refusal may be that the agent must not start.
    let refused = realtime::probe().err();
    let warning = refused.as_ref().map(|refused| refused.bear(&farm.membership.timers));
    let warning = warning.transpose()?.flatten();
    // First of all changes: a second agent must not touch what the first one holds.
    let socket = ControlSocket::open(&options.place.run_dir, &farm.name)?;
    let (commander, commands) = command::channel()?;
    let incarnation = realtime::random()?;
    let keeper = Keeper::open(&options.state_dir, &farm.name)?;
    let overrides = persistent_powers(&keeper, &farm, &history);
    let mut up = bring_up::bring_up(options, farm.clone(), &keys).await?;
    let config = membership_config(&farm, &keys, up.own, up.networks.links.clone(), overrides);
    let ports = std::mem::take(&mut up.ports);
    up.announce(config.digest, &history);
    tell_findings(options, &farm, &history).await;
    if let Some(warning) = warning {
        history.push(Level::Warn, "not_real_time", warning);
    }
    let (undo, network, file) = (up.undo.clone(), up.network.clone(), options.place.config.clone());
    let (keeping, configurations) = (Arc::clone(&keeper.keeping), up.configurations.clone());
    let latest = Latest::new(&ports, config.digest);
    let health = Health::new(&up, &options.place.run_dir, &commander, &history);
    let abstains = health.begin();
    let (reloader, needed) = Reloader::new(file, &keys, &up, commander.clone(), upgrader, health);
    let hooks = Hooks::new(&up, &latest, &history);
    let read = readers(&keys, &mut up, &latest, Arc::clone(&history), reloader, keeping);
    let (reporter, announcer, mover) = match read {
        Ok(readers) => readers,
        Err(error) => {
            bring_up::take_down(&network, &undo, up.datapaths).await?;
            return Err(error);
        }
    };
    let (changes, changed) = mpsc::channel(1);
    let announcing = tokio::spawn(announcer.follow());
    let moving = tokio::spawn(mover.follow());
    let writing = tokio::spawn(keeper.follow(latest.clone(), configurations, history));
    let watching = Needs::watch(needed, changes);
    let (ended, hooking) = hooks.start();
    let (reports, incoming) = mpsc::channel(REPORTS);
    let turns = Arc::new(AtomicU64::new(0));
    let parts = Parts {
        config,
        incarnation,
        abstains,
        links: up.links,
        ports,
        datapaths: up.datapaths,
        networks: up.networks.of,
        reports,
        latest: latest.clone(),
        commands,
        real_time: refused.is_none(),
        turns: Arc::clone(&turns),
    };
    let finished = begin(parts, &network, &undo).await?;
    let answering = socket.serve(Arc::clone(&reporter) as _);
    let reporting = Arc::clone(&reporter);
    let notifier = Arc::new(Notifier::from_environment());
    // By itself, whatever the others are waiting for: the thread's turns are what counts.
    let notifying = tokio::spawn(notify(Arc::clone(&notifier), turns, latest, farm.nodes.len()));
    let running = Running {
        listener: Listener::new(Arc::clone(&reporter)),
        reporter,
        stop: Stop::new(options.stop_timeout),
        prober: up.prober,
        commander,
        notifier: Arc::clone(&notifier),
        incoming,
        changed,
        signals,
        asked,
        why: None,
        upgrade: None,
    };
    let (joined, why, upgrade) = running.supervise(finished, answering, watching).await?;
    // They are told while the rest is taken down.
    let _ = ended.send(());
    writing.abort();
    [announcing, moving, notifying].iter().for_each(JoinHandle::abort);
    let Ok(ended) = joined else {
        notifier.during(hooking).await?;
        bail!(PANICKED);
    };
    if let Some(Upgrade { hold, .. }) = upgrade
        && ended.outcome.is_ok()
    {
        let told = time::timeout(hold / HOLD_FOR_HOOKS, notifier.during(hooking)).await;
        told.unwrap_or(Ok(()))?;
        reporting.health.keep_open(hold);
        hold::keep(&options.place.run_dir, &farm.name, &ended);
        return Ok(upgrade);
    }
    let taken_down = notifier.during(take_down(&reporting, &network, ended.datapaths)).await;
    notifier.during(hooking).await?;
    taken_down?;
    ended.outcome?;
    if let Some(why) = why {
        bail!("{why}: this node has left the farm; start the agent again when that is mended");
    }
    tracing::info!("stopped");
    Ok(None)
}

/// Starts the heartbeat thread; gives how it ends. If it cannot be started, what was changed on this machine
/// is taken back.
async fn begin(
    parts: Parts,
    network: &Network,
    undo: &Record,
) -> anyhow::Result<JoinHandle<thread::Result<engine::Ended>>> {
    match engine::start(parts) {
        Ok(thread) => Ok(tokio::task::spawn_blocking(move || thread.join())),
        Err((error, parts)) => {
            bring_up::take_down(network, undo, parts.datapaths).await?;
            Err(error).context("cannot start the heartbeat thread")
        }
    }
}

/// Tells systemd of the thread's turns and of the node's state.
async fn notify(
    notifier: Arc<Notifier>,
    turns: Arc<AtomicU64>,
    latest: Latest,
    nodes: usize,
) -> Infallible {
    notifier.follow(&turns, || latest.get().summary(nodes)).await
}

/// Ends the connections that are left, and takes back what was changed on this machine.
async fn take_down(
    reporter: &Reporter,
    network: &Network,
    datapaths: Vec<Datapath>,
) -> anyhow::Result<()> {
    reporter.linger.reset_all().await;
    bring_up::take_down(network, &reporter.record().await, datapaths).await
}

/// Has the history say what `vipfarm doctor` would say, but for what it says anyway. That it cannot look is
/// no reason not to serve.
async fn tell_findings(options: &AgentOptions, farm: &Farm, history: &History) {
    let AgentOptions { place, generic, .. } = options;
    let scope = Scope {
        farm: Some((&place.config, farm)),
        node: place.node.as_deref(),
        interface: None,
        run_dir: &place.run_dir,
        bpf_dir: &place.bpf_dir,
        generic: *generic,
        by_agent: true,
    };
    let facts = match doctor::gather(&scope).await {
        Ok(facts) => facts,
        Err(error) => {
            let message = format!("the machine was not looked at: {error:#}");
            return history.push(Level::Warn, "preflight", message);
        }
    };
    let findings = doctor::judge(&facts);
    let told = |it: &&Finding| it.severity >= Severity::Warning && it.check != "real_time";
    for finding in findings.iter().filter(told) {
        history.push(Level::Warn, "preflight", finding.to_string());
    }
}

/// The powers of this node's disk; what the file has no place for is told.
fn persistent_powers(keeper: &Keeper, farm: &Farm, history: &History) -> Overrides {
    let (overrides, forgotten) = keeper.overrides(farm);
    for message in forgotten {
        history.push(Level::Warn, "power_forgotten", message);
    }
    overrides
}

fn membership_config(
    farm: &Farm,
    keys: &Keys,
    own: NodeId,
    links: Vec<OwnLink>,
    overrides: Overrides,
) -> membership::Config {
    membership::Config {
        farm: farm.name.clone(),
        own,
        nodes: farm.nodes.clone(),
        timers: farm.membership.timers,
        keys: keys.heartbeat_keys(),
        digest: config::digest(farm, keys),
        links,
        overrides,
    }
}

/// What reads the kernel's side: its counters, who has asked, and its log.
fn readers(
    keys: &Keys,
    up: &mut Up,
    latest: &Latest,
    history: Arc<History>,
    reloader: Reloader,
    keeping: Arc<Keeping>,
) -> anyhow::Result<(Arc<Reporter>, Announcer, Mover)> {
    slow_log::follow(up)?;
    let announcer = Announcer::new(keys, up, latest.clone(), Arc::clone(&history))?;
    let announcing = Arc::clone(&announcer.announcing);
    let commander = reloader.commander.clone();
    let (told, seen) = (Arc::clone(&announcing), Arc::clone(&history));
    let health = Arc::clone(&reloader.health);
    let mover = Mover::new(up, latest.clone(), commander, seen, health, told)?;
    let reporter = Reporter::new(
        keys,
        up,
        latest.clone(),
        history,
        reloader,
        keeping,
        (announcing, Arc::clone(&mover.holding)),
    )?;
    Ok((Arc::new(reporter), announcer, mover))
}
