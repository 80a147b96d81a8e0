//! The agent: what runs on every node of a farm.
//!
//! - [`site`]: which node this machine is, which interface a VIP lives on.
//! - [`bring_up`]: changes the machine, and takes the changes back.
//! - [`engine`]: the heartbeat thread, the only writer of leases and tables; [`ports`] says what it
//!   accepts, [`realtime`] is what it needs of the system.
//! - [`control`], [`report`], [`history`], [`explain`]: what the agent tells, on a tokio runtime.
//!
//! The thread and the runtime meet in bounded channels only, which the thread never waits for.

mod bring_up;
pub mod control;
pub mod engine;
pub mod explain;
pub mod history;
pub mod options;
pub mod ports;
mod realtime;
pub mod report;
pub mod site;

use std::{collections::BTreeSet, os::fd::AsFd, sync::Arc, thread};

use anyhow::{Context, bail};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use self::{
    bring_up::Up,
    control::ControlSocket,
    engine::{Engine, Snapshot},
    history::{History, Level},
    options::{AgentOptions, DownOptions},
    report::Reporter,
};
use crate::{
    config::{self, key::Secret},
    datapath::{self, Trace},
    model::Farm,
    net::Network,
};

/// Reports waiting for the history: more than a farm of 64 nodes makes in one view change.
const REPORTS: usize = 1024;

/// Runs the agent until SIGTERM or SIGINT; the log has been set up.
///
/// Fails with nothing left behind: no VIP, no program, no pin, no changed sysctl.
pub fn run(options: AgentOptions) -> anyhow::Result<()> {
    let (farm, secret) = config::load_with_key(&options.place.config)?;
    runtime()?.block_on(serve(options, farm, secret))
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
        let undo = bring_up::Record::read(&place.run_dir, &farm.name)?;
        let present = network.interfaces().await?;
        let mut interfaces: BTreeSet<String> = undo.interfaces().map(str::to_owned).collect();
        let named = farm.vips.iter().filter_map(|block| site::interface_of(block, &present).ok());
        interfaces.extend(named.map(|interface| interface.name.clone()));
        let removed = undo.changes();
        undo.roll_back(&network).await?;
        let unpinned = datapath::remove_left_over(&place.bpf_dir, interfaces.iter())?;
        let unpinned = unpinned.into_iter().map(|interface| format!("the filter on {interface}"));
        Ok(removed.into_iter().chain(unpinned).collect())
    })
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

async fn serve(options: AgentOptions, farm: Farm, secret: Secret) -> anyhow::Result<()> {
    // First of all: a second agent must not touch what the first one holds.
    let socket = ControlSocket::open(&options.place.run_dir, &farm.name)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let history = Arc::new(History::new());
    let mut up = bring_up::bring_up(&options, &farm, &secret).await?;
    let (undo, network) = (up.undo.clone(), up.network.clone());
    announce(&farm, &up, &history);

    for datapath in &mut up.datapaths {
        if let Some(trace) = datapath.take_trace()? {
            thread::Builder::new().name("trace".into()).spawn(move || follow(trace))?;
        }
    }
    let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
    let (reports, mut incoming) = mpsc::channel(REPORTS);
    let (snapshot, latest) = watch::channel(Snapshot::before_the_first_turn(&up.ports));
    let reporter = Arc::new(Reporter::new(farm, &secret, &mut up, latest, Arc::clone(&history))?);
    let engine = Engine::new(&reporter.farm, &secret, up, reports, snapshot, Arc::clone(&stop))?;
    let thread = thread::Builder::new().name("heartbeat".into()).spawn(move || engine.run())?;
    let mut finished = tokio::task::spawn_blocking(move || thread.join());

    let answering = socket.serve(Arc::clone(&reporter) as _);
    tokio::pin!(answering);
    let joined = loop {
        tokio::select! {
            Some(report) = incoming.recv() => reporter.note(report),
            joined = &mut finished => break joined,
            Err(error) = &mut answering => {
                history.push(Level::Warn, "control_lost", format!("the control socket: {error}"));
                stop.write(1)?;
            }
            _ = terminate.recv() => stop.write(1).map(drop)?,
            _ = interrupt.recv() => stop.write(1).map(drop)?,
        }
    };
    while let Ok(report) = incoming.try_recv() {
        reporter.note(report);
    }
    let Ok((datapaths, outcome)) = joined? else {
        bail!(
            "the heartbeat thread panicked; the filter stays and refuses: `vipfarm down` clears up"
        );
    };
    bring_up::take_down(&network, &undo, datapaths).await?;
    outcome?;
    tracing::info!("stopped");
    Ok(())
}

/// Logs what the slow path says, until the agent ends.
fn follow(mut trace: Trace) {
    loop {
        let mut readable = [PollFd::new(trace.as_fd(), PollFlags::POLLIN)];
        match poll(&mut readable, PollTimeout::NONE) {
            Ok(_) => trace.flush(),
            Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// Says what the agent found, and what it will not do.
fn announce(farm: &Farm, up: &Up, history: &History) {
    let name = &farm.nodes[up.own.index()].name;
    for (block, &interface) in farm.vips.iter().zip(&up.interface_of) {
        let addresses: Vec<String> =
            block.addresses.iter().map(|address| address.addr.to_string()).collect();
        let (datapath, vmac) = (&up.datapaths[interface], block.vmac);
        let message = format!(
            "{name} holds {} on {} (virtual MAC {vmac}, {} XDP)",
            addresses.join(" "),
            datapath.interface(),
            datapath.xdp_mode().as_str(),
        );
        history.push(Level::Info, "vip_held", message);
    }
    for datapath in up.datapaths.iter().filter(|d| d.fell_back()) {
        let message = format!(
            "the driver of {} has no native XDP: the filter runs in generic mode, which costs several times more per packet",
            datapath.interface()
        );
        history.push(Level::Warn, "generic_xdp", message);
    }
    if farm.nodes.iter().any(|node| node.addresses.len() > 1) {
        let message = "heartbeats run on the nodes' first addresses only: this version does not use the others";
        history.push(Level::Warn, "single_link", message);
    }
}
