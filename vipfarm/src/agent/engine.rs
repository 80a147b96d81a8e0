//! The heartbeat thread: owns the socket, the membership machine, the leases and the kernel tables,
//! and does nothing else. Reports through bounded channels that it never waits for.
//!
//! A turn: wait for a datagram, a deadline or a stop; read *all* datagrams; then judge time-outs
//! (a thawed agent must read what waited before it calls anybody dead); then do what the machine
//! says, in its order: a release is in the kernel before the heartbeat that announces it leaves.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags},
    sys::{
        eventfd::EventFd,
        time::{TimeSpec, TimeValLike},
    },
};
use tokio::sync::{mpsc, watch};

use super::{
    bring_up::{self, Up},
    ports::Port,
    realtime,
};
use crate::{
    config::{self, key::Secret},
    datapath::Datapath,
    membership::{self, BootTime, Membership, Output, PeerStatus},
    model::{Bitmap, Farm, NodeId, NodeSet, View},
    status::{Lateness, NodeState},
};

/// Datagrams read in one turn at most: more than a socket's buffer holds, so that all that waited
/// are read, and a flood cannot keep the thread from its time-outs.
const DATAGRAMS_PER_TURN: usize = 4096;

/// Longer than any heartbeat; a longer datagram is cut, and refused for its size.
const DATAGRAM_BYTES: usize = 2048;

/// What is in force before the first view.
const NO_VIEW: View = View { epoch: 0, alive: NodeSet::EMPTY };

/// One interface: what it is to accept, and the kernel side that does.
struct Wired {
    port: Port,
    datapath: Datapath,
}

/// What the thread needs.
pub struct Engine {
    own: NodeId,
    membership: Membership,
    socket: UdpSocket,
    /// Where the other nodes are.
    peers: Vec<SocketAddr>,
    wired: Vec<Wired>,
    reports: mpsc::Sender<Report>,
    snapshot: watch::Sender<Snapshot>,
    /// Becomes readable when the agent is to leave the farm.
    stop: Arc<EventFd>,
}

/// Something for the history.
#[derive(Debug, Clone)]
pub enum Report {
    /// Of the machine.
    Membership(membership::Event),
    /// A view was installed: what this node now serves is worth a line.
    Load(View),
    /// The kernel refused a change.
    Kernel(String),
    /// The thread runs as an ordinary one.
    NotRealTime(String),
    /// Memory could not be locked.
    NotLocked(String),
}

/// The state after a turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The installed view.
    pub view: View,
    /// What the node is doing.
    pub state: NodeState,
    /// Whether everything owned is accepted.
    pub converged: bool,
    /// Until when the kernel accepts; zero = fenced.
    pub deadline: BootTime,
    /// The peers.
    pub peers: Vec<PeerStatus>,
    /// The bitmaps in force, by interface and kernel group.
    pub accept: Vec<Vec<Bitmap>>,
    /// Heartbeats by outcome.
    pub heartbeats: Vec<(String, u64)>,
    /// How late the thread woke.
    pub lateness: Lateness,
}

impl Snapshot {
    /// The state before the thread has run.
    pub fn before_the_first_turn(ports: &[Port]) -> Self {
        Self {
            view: NO_VIEW,
            state: NodeState::Joining,
            converged: false,
            deadline: BootTime::ZERO,
            peers: Vec::new(),
            accept: ports.iter().map(|port| port.accept().to_vec()).collect(),
            heartbeats: Vec::new(),
            lateness: Lateness::default(),
        }
    }
}

impl Engine {
    /// A thread's worth of state; nothing happens before [`Engine::run`].
    ///
    /// A full `reports` channel loses the report, not the time.
    pub fn new(
        farm: &Farm,
        secret: &Secret,
        up: Up,
        reports: mpsc::Sender<Report>,
        snapshot: watch::Sender<Snapshot>,
        stop: Arc<EventFd>,
    ) -> io::Result<Self> {
        let config = membership::Config {
            farm: farm.name.clone(),
            own: up.own,
            nodes: farm.nodes.clone(),
            timers: farm.membership.timers,
            key: secret.membership_key(),
            digest: config::digest(farm, secret),
            mac: up.mac,
        };
        let others = farm.node_ids().filter(|&node| node != up.own);
        let wired = up.ports.into_iter().zip(up.datapaths);
        Ok(Self {
            own: up.own,
            membership: Membership::new(config, realtime::random()?, realtime::now()),
            socket: up.socket,
            peers: others.filter_map(|node| bring_up::heartbeat_address(farm, node)).collect(),
            wired: wired.map(|(port, datapath)| Wired { port, datapath }).collect(),
            reports,
            snapshot,
            stop,
        })
    }

    /// Runs until told to stop and out of the farm; gives the kernel sides back, whatever happened.
    pub fn run(mut self) -> (Vec<Datapath>, io::Result<()>) {
        let outcome = self.turns();
        (self.wired.into_iter().map(|wired| wired.datapath).collect(), outcome)
    }

    fn turns(&mut self) -> io::Result<()> {
        let mut lateness = Sampler { real_time: self.prepare_thread(), ..Sampler::default() };
        let mut leaving = false;
        let mut buffer = [0; DATAGRAM_BYTES];
        loop {
            self.act();
            self.publish(lateness.lateness());
            if leaving && self.membership.has_left() {
                return Ok(());
            }
            self.wait(self.membership.next_deadline(), leaving)?;
            let now = realtime::now();
            if !leaving && self.stop.read().is_ok() {
                leaving = true;
                self.membership.leave(now);
            }
            self.receive(&mut buffer);
            let now = realtime::now();
            let due = self.membership.next_deadline();
            if now >= due {
                lateness.add(now.saturating_since(due));
                self.membership.handle_timeout(now);
            }
        }
    }

    /// Asks for real-time scheduling; says whether it was granted.
    fn prepare_thread(&self) -> bool {
        if let Err(error) = realtime::lock_memory() {
            self.report(Report::NotLocked(error.to_string()));
        }
        let granted = realtime::become_real_time();
        if let Err(error) = &granted {
            self.report(Report::NotRealTime(error.to_string()));
        }
        granted.is_ok()
    }

    fn wait(&self, until: BootTime, leaving: bool) -> io::Result<()> {
        let time = until.saturating_since(realtime::now());
        let time = TimeSpec::nanoseconds(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX));
        let mut sources = vec![PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        if !leaving {
            sources.push(PollFd::new(self.stop.as_fd(), PollFlags::POLLIN));
        }
        match nix::poll::ppoll(&mut sources, Some(time), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) {
        for _ in 0..DATAGRAMS_PER_TURN {
            match self.socket.recv_from(buffer) {
                Ok((length, source)) => {
                    let datagram = &buffer[..length];
                    self.membership.handle_datagram(realtime::now(), source.ip(), datagram);
                }
                // Nothing waits, or an ICMP error about a peer that is down: both mean "go on".
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {}
            }
        }
    }

    /// Does what the machine says, in its order.
    fn act(&mut self) {
        while let Some(output) = self.membership.poll_output() {
            match output {
                Output::Broadcast(datagram) => self.broadcast(&datagram),
                Output::Release(view) => {
                    let own = self.own;
                    self.change(|port| port.release(own, view.alive));
                }
                Output::Acquire(view) => {
                    let own = self.own;
                    self.change(|port| port.acquire(own, view.alive));
                    self.report(Report::Load(view));
                }
                Output::Lease(until) => {
                    let extended: Vec<_> = self
                        .wired
                        .iter_mut()
                        .filter_map(|wired| wired.datapath.extend_lease(until.as_nanos()).err())
                        .collect();
                    for error in extended {
                        self.report(Report::Kernel(error.to_string()));
                    }
                }
                Output::Fence => {
                    for wired in &mut self.wired {
                        wired.datapath.fence();
                    }
                    self.change(Port::clear);
                }
                Output::Peer(node, mac) => self.change(|port| port.learn(node, mac)),
                Output::Event(event) => self.report(Report::Membership(event)),
            }
        }
    }

    /// Changes what the ports accept, and brings the kernel there.
    fn change(&mut self, change: impl Fn(&mut Port)) {
        let mut errors = Vec::new();
        for wired in &mut self.wired {
            change(&mut wired.port);
            errors.extend(wired.datapath.apply(wired.port.plan()).err());
        }
        for error in errors {
            self.report(Report::Kernel(error.to_string()));
        }
    }

    fn broadcast(&self, datagram: &[u8]) {
        for peer in &self.peers {
            // A peer that cannot be reached now is the membership's business, not an error.
            let _ = self.socket.send_to(datagram, peer);
        }
    }

    fn report(&self, report: Report) {
        // The history is slower than the farm: better a line less than a heartbeat late.
        let _ = self.reports.try_send(report);
    }

    fn publish(&self, lateness: Lateness) {
        self.snapshot.send_replace(Snapshot {
            view: self.membership.view().unwrap_or(NO_VIEW),
            state: self.membership.state(),
            converged: self.membership.is_converged(),
            deadline: self.membership.lease(),
            peers: self.membership.peers(realtime::now()).collect(),
            accept: self.wired.iter().map(|wired| wired.port.accept().to_vec()).collect(),
            heartbeats: self.membership.counters().by_word().collect(),
            lateness,
        });
    }
}

/// Gathers how late the thread wakes.
#[derive(Debug, Clone, Copy, Default)]
struct Sampler {
    real_time: bool,
    turns: u64,
    total: Duration,
    worst: Duration,
}

impl Sampler {
    fn add(&mut self, late: Duration) {
        self.turns += 1;
        self.total += late;
        self.worst = self.worst.max(late);
    }

    fn lateness(&self) -> Lateness {
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        Lateness {
            real_time: self.real_time,
            mean_ms: millis(self.total) / self.turns.max(1) as f64,
            max_ms: millis(self.worst),
        }
    }
}
