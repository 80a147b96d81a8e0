//! The heartbeat thread: owns the socket, the membership machine, the leases and the kernel tables,
//! and does nothing else. What it reports it never waits for.
//!
//! A turn: wait for a datagram, a deadline or a command; read *all* datagrams; then judge time-outs
//! (a thawed agent must read what waited before it calls anybody dead); then do what the machine
//! says, in its order: a release is in the kernel before the heartbeat that announces it leaves.

mod old;
mod snapshot;

use std::{
    io,
    os::fd::AsFd,
    sync::{
        self, Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags},
    sys::time::{TimeSpec, TimeValLike},
};
use tokio::sync::mpsc;

pub use self::snapshot::{Latest, Snapshot};
use super::{
    barrier::Barrier,
    command::{Command, Commands, Servable},
    links::Links,
    ports::{Port, Route},
    proof, realtime,
    share::Share,
    tally::Tally,
};
use crate::{
    datapath::{self, Datapath},
    membership::{self, BootTime, Membership, Output, Proof},
    model::{Abstention, Bitmap, NodeId, View},
    status::Lateness,
};

/// One interface: what it is to accept, and the kernel side that does.
struct Wired {
    port: Port,
    datapath: Datapath,
    /// The link by which its peers are known.
    link: u8,
}

impl Wired {
    /// Brings the kernel to what the port says, or as much of that as is for old connections; gives its
    /// refusal.
    fn apply(&mut self, unowned: bool) -> Option<datapath::Error> {
        let port = &self.port;
        let plan = if unowned { port.plan_of_old_connections() } else { port.plan() };
        self.datapath.apply(plan).err()
    }
}

/// What the thread starts from.
pub struct Parts {
    /// For the membership machine.
    pub config: membership::Config,
    /// Random, never used before.
    pub incarnation: u64,
    /// What this node does not serve at first, by configuration.
    pub abstains: Arc<[([u8; 16], Abstention)]>,
    /// The heartbeat sockets.
    pub links: Links,
    /// The interfaces' desired states.
    pub ports: Vec<Port>,
    /// The interfaces' kernel sides, in the same order.
    pub datapaths: Vec<Datapath>,
    /// The links by which their peers are known, in the same order.
    pub networks: Vec<u8>,
    /// Told what happened; a full channel loses the report, not the time.
    pub reports: mpsc::Sender<Report>,
    /// Shows the present state.
    pub latest: Latest,
    /// What others ask for; [`Command::Leave`] ends the thread.
    pub commands: Commands,
    /// Whether real-time scheduling is to be had.
    pub real_time: bool,
    /// Rises with each turn: whoever finds that it stands still knows that the thread hangs.
    pub turns: Arc<AtomicU64>,
}

/// The kernel sides, and whether the thread could go on until it was told to stop.
pub struct Ended {
    /// The kernel sides, by interface.
    pub datapaths: Vec<Datapath>,
    /// Where frames go that are others', likewise.
    pub routes: Vec<Route>,
    /// Of the configuration served last.
    pub digest: [u8; 16],
    /// Why it ended.
    pub outcome: io::Result<()>,
}

/// Starts the thread; gives how it ends. Without it the parts are given back.
pub fn start(parts: Parts) -> Result<thread::JoinHandle<Ended>, (io::Error, Box<Parts>)> {
    let (hand_over, handed_over) = sync::mpsc::sync_channel(1);
    let named = thread::Builder::new().name("heartbeat".into());
    let run = move || run(handed_over.recv().expect("a thread that was started has its parts"));
    match named.spawn(run) {
        Ok(thread) => {
            // It waits for them.
            let _ = hand_over.send(parts);
            Ok(thread)
        }
        Err(error) => Err((error, Box::new(parts))),
    }
}

/// Runs the thread until told to stop and out of the farm; gives the kernel sides back, whatever
/// happened.
fn run(parts: Parts) -> Ended {
    let real_time = prepare_thread(parts.real_time, &parts.reports);
    // Only now: what preparing took must not look like a stall.
    let now = realtime::now();
    let mut membership = Membership::new(parts.config.clone(), parts.incarnation, now);
    membership.abstain(now, parts.abstains);
    let wired = parts.ports.into_iter().zip(parts.datapaths).zip(parts.networks);
    let wired = wired.map(|((port, datapath), link)| Wired { port, datapath, link });
    let mut engine = Engine {
        own: parts.config.own,
        digest: parts.config.digest,
        others: Vec::new(),
        membership,
        links: parts.links,
        wired: wired.collect(),
        reports: parts.reports,
        latest: parts.latest,
        commands: parts.commands,
        turns: parts.turns,
        last_error: None,
        real_time,
        lateness: Tally::default(),
        barrier: Barrier::default(),
        unowned: false,
        began: now,
        hold: None,
        left_at: None,
        followed: None,
    };
    engine.take_over();
    let outcome = engine.turns();
    Ended {
        routes: engine.wired.iter().map(|wired| wired.port.route()).collect(),
        datapaths: engine.wired.into_iter().map(|wired| wired.datapath).collect(),
        digest: engine.digest,
        outcome,
    }
}

struct Engine {
    own: NodeId,
    /// Of the configuration that the ports serve.
    digest: [u8; 16],
    /// The other configurations that may be served.
    others: Vec<Servable>,
    membership: Membership,
    links: Links,
    wired: Vec<Wired>,
    reports: mpsc::Sender<Report>,
    latest: Latest,
    commands: Commands,
    turns: Arc<AtomicU64>,
    /// The kernel's last refusal, so that one that goes on is told once.
    last_error: Option<String>,
    real_time: bool,
    /// Of waking up.
    lateness: Tally,
    barrier: Barrier,
    /// The kernel's lease is not the machine's: it lets in what belongs to old connections of this node,
    /// whoever owns their buckets, and nothing else.
    unowned: bool,
    /// Since when it runs.
    began: BootTime,
    /// For how long old connections are to be served when the thread has ended.
    hold: Option<Duration>,
    /// When the machine was out of the farm.
    left_at: Option<BootTime>,
    /// By which view of others frames are handed over, while this node is in none.
    followed: Option<View>,
}

/// Something for the history.
#[derive(Debug, Clone)]
pub enum Report {
    /// Of the machine.
    Membership(membership::Event),
    /// A view was installed: what this node now serves is worth a line.
    Load(View),
    /// A view was installed, and the present state shows it.
    Installed,
    /// The kernel refused a change.
    Kernel(String),
    /// The thread runs as an ordinary one, although another had been granted more.
    NotRealTime(String),
    /// Memory could not be locked.
    NotLocked(String),
}

impl Engine {
    fn turns(&mut self) -> io::Result<()> {
        let sources = self.links.sockets().chain([self.commands.as_fd()]);
        // Duplicates: the list outlives the turns, which change what the originals belong to.
        let sources = sources.map(|source| source.try_clone_to_owned());
        let sources = sources.collect::<io::Result<Vec<_>>>()?;
        let mut sources: Vec<_> =
            sources.iter().map(|source| PollFd::new(source.as_fd(), PollFlags::POLLIN)).collect();
        loop {
            self.act();
            self.turns.fetch_add(1, Ordering::Relaxed);
            if self.has_ended() {
                return Ok(());
            }
            let due = self.membership.next_deadline();
            wait(&mut sources, due)?;
            self.commands.quiet();
            while let Some(command) = self.commands.next() {
                self.obey(command);
            }
            let heard = self.receive();
            self.hear_of_handovers();
            self.follow_others();
            let now = realtime::now();
            if !heard {
                self.lateness.add(now.saturating_since(due));
            }
            if now >= self.membership.next_deadline() {
                self.membership.handle_timeout(now);
            }
        }
    }

    /// Passes a command on. Whoever does not wait for the answer any more needs none.
    fn obey(&mut self, command: Command) {
        let now = realtime::now();
        match command {
            Command::SetPower { group, node, power, persist, reply } => {
                let _ = reply.send(self.membership.set_power(now, group, node, power, persist));
            }
            Command::Move { vip, node, persist, reply } => {
                let _ = reply.send(self.membership.move_vip(now, vip, node, persist));
            }
            Command::Stay(vips) => self.membership.stay(now, &vips),
            Command::SetFit { fit, reply } => {
                self.membership.set_fit(now, fit);
                // In force before the answer.
                self.act();
                let _ = reply.send(());
            }
            Command::Abstain { abstains } => self.membership.abstain(now, abstains),
            Command::Know { configurations, reply } => {
                self.know(configurations);
                let _ = reply.send(());
            }
            Command::Servable { reply } => {
                let _ = reply.send(self.membership.servable().collect());
            }
            Command::Stage { keys, nodes, digest, force, reply } => {
                self.membership.reconfigure(now, keys, &nodes);
                self.links.know(self.own, self.membership.nodes());
                self.membership.stage(now, digest, force);
                let _ = reply.send(());
            }
            Command::KeepLingering { step, buckets } => {
                self.change(|port| port.keep(step, &buckets));
                self.tell_of_handovers();
            }
            Command::Detour(detour) => {
                self.wired.iter_mut().for_each(|wired| wired.datapath.detour(detour));
            }
            Command::Leave => self.membership.leave(now),
            Command::Hold(hold) => self.begin_hold(hold),
        }
    }

    /// Keeps those configurations besides the one in force, of which only what it closes is taken.
    fn know(&mut self, configurations: Vec<Servable>) {
        let (current, others): (Vec<_>, _) =
            configurations.into_iter().partition(|known| known.digest == self.digest);
        self.others = others;
        for known in current {
            for (wired, port) in self.wired.iter_mut().zip(&known.ports) {
                wired.port.close_like(port);
            }
            self.change(|_| ());
        }
    }

    /// Has the ports serve the configuration that the view is about.
    fn go_over(&mut self, view: &View) {
        if view.digest == self.digest {
            return;
        }
        let next = self.others.iter_mut().find(|other| other.digest == view.digest);
        let next = next.expect("a node promises no view of a configuration that it does not know");
        std::mem::swap(&mut next.digest, &mut self.digest);
        for (wired, port) in self.wired.iter_mut().zip(&mut next.ports) {
            port.follow(&wired.port);
            std::mem::swap(port, &mut wired.port);
        }
    }

    /// Reads what waits; says whether anything did.
    fn receive(&mut self) -> bool {
        let membership = &mut self.membership;
        let received = self.links.receive(|link, source, datagram| {
            membership.handle_datagram(realtime::now(), link, source, datagram);
        });
        if received.lost {
            membership.datagrams_lost(realtime::now());
        }
        received.any
    }

    /// Does what the machine says, in its order, and shows the result.
    fn act(&mut self) {
        let (mut acted, mut installed) = (false, false);
        while let Some(output) = self.membership.poll_output() {
            acted = true;
            match output {
                Output::Send { link, datagram } => {
                    let sent = self.links.send(link, &datagram);
                    self.membership.heartbeat_sent(realtime::now(), link, sent);
                }
                Output::SendTo { address, datagram } => self.links.send_to(address, &datagram),
                Output::Release(view) => {
                    if self.is_serving() {
                        self.barrier.release(realtime::now());
                    }
                    let own = self.own;
                    self.go_over(&view);
                    self.change(|port| port.release(own, &view));
                    self.tell_of_handovers();
                }
                Output::Acquire(view) => {
                    let own = self.own;
                    let before = self.accept();
                    self.go_over(&view);
                    self.change(|port| port.acquire(own, &view));
                    self.tell_of_handovers();
                    self.barrier.acquire(realtime::now(), view.epoch);
                    installed = true;
                    if self.accept() != before {
                        self.report(Report::Load(view));
                    }
                }
                Output::Lease(until) => {
                    self.wired.iter_mut().for_each(|wired| wired.port.serve());
                    self.extend_lease(until);
                    // Only now: the other lease was longer.
                    if std::mem::take(&mut self.unowned) {
                        self.change(|_| ());
                    }
                }
                Output::Fence => self.fence(),
                Output::Peer(node, link, mac) => {
                    self.change_on(|wired| wired.link == link, |port| port.learn(node, mac));
                }
                Output::Event(event) => self.report(Report::Membership(event)),
            }
        }
        if acted {
            self.publish();
        }
        if installed {
            self.hear_of_handovers();
            self.report(Report::Installed);
        }
    }

    /// Changes what the ports accept, and brings the kernel there.
    fn change(&mut self, change: impl Fn(&mut Port)) {
        self.change_on(|_| true, change);
    }

    /// The same of some.
    fn change_on(&mut self, which: impl Fn(&Wired) -> bool, change: impl Fn(&mut Port)) {
        let unowned = self.unowned;
        let apply = |wired: &mut Wired| {
            change(&mut wired.port);
            wired.apply(unowned)
        };
        let wired = self.wired.iter_mut().filter(|wired| which(wired));
        let errors = wired.filter_map(apply).collect();
        self.report_kernel(errors);
    }

    fn report_kernel(&mut self, errors: Vec<datapath::Error>) {
        for error in errors {
            let error = error.to_string();
            if self.last_error.as_ref() != Some(&error) {
                self.report(Report::Kernel(error.clone()));
                self.last_error = Some(error);
            }
        }
    }

    fn report(&self, report: Report) {
        // The history is slower than the farm: better a line less than a heartbeat late.
        let _ = self.reports.try_send(report);
    }

    fn accept(&self) -> Vec<Vec<Bitmap>> {
        self.wired.iter().map(|wired| wired.port.accept().to_vec()).collect()
    }

    /// Whether any bucket is accepted.
    fn is_serving(&self) -> bool {
        let accepts = |wired: &Wired| wired.port.accept().iter().any(|bitmap| !bitmap.is_empty());
        self.wired.iter().any(accepts)
    }

    fn lateness(&self) -> Lateness {
        let waits = self.links.waits();
        Lateness {
            real_time: self.real_time,
            mean_ms: self.lateness.mean_ms(),
            max_ms: self.lateness.max_ms(),
            wait_mean_ms: waits.mean_ms(),
            wait_max_ms: waits.max_ms(),
        }
    }

    /// Shows the state, and what the kernel has made of it.
    fn publish(&mut self) {
        let at = realtime::now();
        let view = self.membership.view().unwrap_or_default();
        let converged = self.membership.is_converged();
        let leases = self.wired.iter().map(|wired| wired.datapath.lease());
        let deadline = BootTime::from_nanos(leases.min().unwrap_or_default());
        let accept: Vec<_> = self.wired.iter().map(|wired| wired.datapath.bitmaps()).collect();
        let is_proven = converged && deadline > at;
        let proof = if is_proven { proof::of(&view, &accept) } else { Proof::default() };
        self.membership.publish(proof);
        // All ports have the groups of the whole farm.
        let share = self.wired.first().map(|wired| wired.port.share());
        self.latest.set(Snapshot {
            at,
            view,
            powers: Arc::clone(self.membership.overrides()),
            digest: self.digest,
            staged: self.membership.configurations().1,
            state: self.membership.state(),
            converged,
            deadline,
            detour: deadline > at && self.wired.iter().any(|wired| wired.datapath.is_detoured()),
            peers: self.membership.peers(at).collect(),
            accept,
            lingering: share.map_or_else(Vec::new, |share| share.lingering().to_vec()),
            inherited: share.map_or_else(Vec::new, Share::inherited),
            tenures: share.map_or_else(Vec::new, |share| share.tenures().to_vec()),
            steps: share.map_or(0, Share::steps),
            heartbeats: self.membership.counters().by_word().collect(),
            lateness: self.lateness(),
            view_change: self.barrier.last(),
        });
    }
}

/// Waits until a source is readable, or that time has come.
fn wait(sources: &mut [PollFd<'_>], until: BootTime) -> io::Result<()> {
    let time = until.saturating_since(realtime::now());
    let time = TimeSpec::nanoseconds(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX));
    match nix::poll::ppoll(sources, Some(time), None) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Asks for resident memory and, if it is to be had, real-time scheduling; says whether the latter
/// was granted.
fn prepare_thread(real_time: bool, reports: &mpsc::Sender<Report>) -> bool {
    if let Err(error) = realtime::lock_memory() {
        let _ = reports.try_send(Report::NotLocked(error.to_string()));
    }
    let granted = real_time.then(realtime::become_real_time);
    if let Some(Err(error)) = &granted {
        let _ = reports.try_send(Report::NotRealTime(error.to_string()));
    }
    matches!(granted, Some(Ok(())))
}
