//! Who is alive. A state machine without clock, socket, thread or logger: datagrams and the time
//! come in as arguments, [`Output`]s come out of a queue.
//!
//! # How nodes agree
//! Every node sends a heartbeat each period and at once when it has news. The members, as one node
//! sees them, are itself and every peer heard within [`Timers::fail`] that runs the same
//! configuration and is not leaving. When members or their lives change, a node *promises* the new
//! view: it first releases the buckets that are not its own in it, then says so. When every member
//! has promised the very same view, each *installs* it: it acquires its buckets, which everybody
//! else has released by then. So a joiner serves nothing before all peers have made room, and
//! survivors take over one round trip after they have missed a node.
//!
//! What keeps an absent node from serving is its kernel's lease: it ends before any peer's silence
//! clock does (`lease.rs`). A node whose lease ended, serving or not, begins a new *life*: what
//! peers promised to the old one is void, so nothing that lay in a socket queue meanwhile can make
//! it serve.
//!
//! A node installs its first view only if somebody in it has listened long enough to know that
//! nobody else serves: itself, for `fail` and two periods, or a member that serves.
//!
//! # What the driver does
//! ```text
//! loop {
//!     wait until next_deadline() or a socket is readable
//!     read every socket until it is empty
//!     now = CLOCK_BOOTTIME
//!     handle_datagram(now, ..) for each
//!     if now >= next_deadline() { handle_timeout(now) }
//!     while let Some(output) = poll_output() { carry it out, completely, in order }
//! }
//! ```
//! The clock is read after the sockets, so that no peer seems silent for longer than it was, and
//! before the outputs, so that no lease is counted from later than its heartbeat. Sockets are
//! drained before time is judged, or an agent that was frozen takes all peers for dead: therefore
//! datagrams are only noted, and decided upon in `handle_timeout`.
//!
//! # Limits of this protocol
//! - The lease follows from what a node sent, not from what peers have acknowledged: one lost
//!   heartbeat before a freeze or crash is safe, more lost in a row may let two nodes serve one
//!   bucket until the lease ends; a one-way cut may do so for as long as it lasts.
//! - Nobody coordinates: while two members disagree about a third (an asymmetric cut), no view is
//!   installed, and buckets released on the way have no owner.
//! - A graceful leave has a gap of about a round trip: the leaver stops, then tells. The other
//!   order would have two owners.
//! - A recording of a peer's heartbeats can, for as long as it lasts, pass for its life to an
//!   agent that started after they were made. It can stop views, but cannot make a bucket served
//!   twice: a view counts only with the hash of the agent's own life.
//! - One network: a copy that comes over a second one counts as [`Dropped::Stale`]. A socket that
//!   overflowed is not yet taken for a stall.

mod agree;
mod counters;
mod event;
mod lease;
mod peer;
mod time;
mod view;
mod wire;

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, net::IpAddr, time::Duration};

pub use self::{
    counters::{Counters, Dropped},
    event::{Event, Level},
    peer::PeerStatus,
    time::BootTime,
};
use self::{
    lease::Lease,
    peer::Peer,
    view::{Life, Promise},
    wire::{Activity, FarmId, Heartbeat},
};
use crate::{
    model::{Mac, Node, NodeId, NodeSet, Timers, View},
    status::NodeState,
};

/// The least time between two events that anybody on the network can cause.
const NUISANCE_INTERVAL: Duration = Duration::from_secs(10);

/// What the machine must know of the farm.
#[derive(Clone)]
pub struct Config {
    /// The farm's name.
    pub farm: String,
    /// This node.
    pub own: NodeId,
    /// All nodes, by index: their addresses tell who may send, their names go into events.
    pub nodes: Vec<Node>,
    /// Cadence and time-outs, which [`Timers::check`] has passed.
    pub timers: Timers,
    /// Key of the heartbeats' tags.
    pub key: [u8; 32],
    /// Digest of all that the nodes' files must have in common.
    pub digest: [u8; 16],
    /// This node's MAC on the VIP's network.
    pub mac: Mac,
}

/// What the driver has to do, in order; own(view) are the buckets this node owns in that view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Kernel: accept := accept ∩ own(view). It must be in force before the next output.
    Release(View),
    /// Kernel: accept := own(view).
    Acquire(View),
    /// Kernel: lease := 0 and accept := empty.
    Fence,
    /// Kernel: accept until then; always a later time than before.
    Lease(BootTime),
    /// Send this datagram to all peers.
    Broadcast(Vec<u8>),
    /// A peer's MAC is known, or another one than before.
    Peer(NodeId, Mac),
    /// Tell the operators.
    Event(Event),
}

/// The membership of one node. See the [module](self) for what drives it.
pub struct Membership {
    config: Config,
    farm: FarmId,
    life: Life,
    sequence: u64,
    state: NodeState,
    /// By node index; the own entry stays empty.
    peers: Vec<Peer>,
    /// The members when membership was last judged, this node included.
    members: NodeSet,
    promise: Promise,
    /// The promise whose buckets are acquired; `None` while nothing is served.
    installed: Option<Promise>,
    lease: Lease,
    armed: BootTime,
    /// Until when nobody's silence proves anything.
    listen_until: BootTime,
    next_heartbeat: BootTime,
    /// There is news: send a heartbeat in the next turn.
    announce: bool,
    /// A datagram asks for judgement.
    wake: Option<BootTime>,
    last_turn: BootTime,
    held_back_by: Option<NodeId>,
    /// Until when peers are waited for to let go of this node, which leaves.
    leave_by: Option<BootTime>,
    left: bool,
    /// The newest heartbeat could not be sent.
    mute: bool,
    counters: Counters,
    /// When a heartbeat of this farm with another key last came from a node's address.
    stranger_heard: Option<BootTime>,
    last_duplicate: Option<BootTime>,
    last_bad_tag: Option<BootTime>,
    outputs: VecDeque<Output>,
}

impl Membership {
    /// A node that has just started at `now`. `incarnation` is random, never used before. The
    /// first output fences: a former agent may have left its buckets in the kernel.
    pub fn new(config: Config, incarnation: u64, now: BootTime) -> Self {
        let timers = config.timers;
        Self {
            farm: wire::farm_id(&config.farm),
            life: Life { incarnation, number: 0 },
            sequence: 0,
            state: NodeState::Joining,
            peers: config.nodes.iter().map(|_| Peer::default()).collect(),
            members: NodeSet::EMPTY.with(config.own),
            promise: Promise::default(),
            installed: None,
            lease: Lease::new(&timers),
            armed: BootTime::ZERO,
            listen_until: now + listening(&timers),
            next_heartbeat: now,
            announce: true,
            wake: None,
            last_turn: now,
            held_back_by: None,
            leave_by: None,
            left: false,
            mute: false,
            counters: Counters::default(),
            stranger_heard: None,
            last_duplicate: None,
            last_bad_tag: None,
            outputs: VecDeque::from([Output::Fence]),
            config,
        }
    }

    /// Takes one datagram as the socket gave it, with the address it came from. What does not
    /// count is dropped by a [`Dropped`] reason; no input does harm.
    pub fn handle_datagram(&mut self, now: BootTime, source: IpAddr, bytes: &[u8]) {
        self.begin_turn(now);
        match self.authenticate(source, bytes).and_then(|heartbeat| self.note(now, heartbeat)) {
            Ok(()) => self.counters.accepted += 1,
            Err(reason) => self.drop_datagram(now, source, reason),
        }
    }

    /// Decides on all that was heard and on time itself. To be called, with all sockets drained,
    /// as soon as [`Self::next_deadline`] has come; earlier calls do no harm.
    pub fn handle_timeout(&mut self, now: BootTime) {
        self.begin_turn(now);
        self.wake = None;
        self.assess_peers(now);
        if self.leave_by.is_some() {
            self.finish_leaving(now);
        } else {
            self.promise_what_is_heard();
            self.yield_to_other_configuration(now);
            self.install_what_is_agreed(now);
        }
        if self.announce || now >= self.next_heartbeat {
            self.send_heartbeat(now);
        }
        self.renew_lease();
    }

    /// When to call [`Self::handle_timeout`] next; may be in the past.
    pub fn next_deadline(&self) -> BootTime {
        if let Some(wake) = self.wake {
            return wake;
        }
        if self.announce {
            return self.last_turn;
        }
        let fail = self.config.timers.fail;
        let heard = self.member_peers().filter_map(|(_, peer)| peer.heard_at());
        let listened = (self.state != NodeState::Up && self.listen_until > self.last_turn)
            .then_some(self.listen_until);
        heard.map(|heard| heard + fail).chain(listened).fold(self.next_heartbeat, BootTime::min)
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// To be told of each [`Output::Broadcast`] before the next output: whether it could be sent to
    /// anybody. A node that cannot speak must not go on as if it were heard: its lease runs out,
    /// and it does not take the peers' silence for their death.
    pub fn heartbeat_sent(&mut self, now: BootTime, sent: bool) {
        if !sent {
            self.lease.heartbeat_failed();
            self.outputs.retain(|output| !matches!(output, Output::Lease(_)));
            if self.state == NodeState::Up {
                self.armed = self.lease.deadline().unwrap_or(BootTime::ZERO);
            } else {
                self.listen_until = now + listening(&self.config.timers);
            }
            if !self.mute {
                self.event(Event::CannotSend);
            }
        }
        self.mute = !sent;
    }

    /// Leaves for good: serves nothing from the next output on, and tells the peers, which take
    /// over at once. Go on driving until [`Self::has_left`].
    pub fn leave(&mut self, now: BootTime) {
        if self.leave_by.is_none() {
            self.leave_by = Some(now + self.config.timers.fail);
            self.stop_serving(NodeState::Fenced);
            self.event(Event::Leaving);
        }
    }

    /// Whether every peer has let go of this node, or has had the time to miss it.
    pub fn has_left(&self) -> bool {
        self.left
    }

    /// What this node does.
    pub fn state(&self) -> NodeState {
        self.state
    }

    /// The view in force; `None` while nothing is served.
    pub fn view(&self) -> Option<View> {
        self.installed.map(Promise::view)
    }

    /// The view this node has promised last, installed or not.
    pub fn promised_view(&self) -> View {
        self.promise.view()
    }

    /// Whether all members have agreed on what this node sees: nothing is released that its new
    /// owner has not acquired.
    pub fn is_converged(&self) -> bool {
        self.installed == Some(self.promise)
    }

    /// Until when the kernel may accept; [`BootTime::ZERO`] while fenced.
    pub fn lease(&self) -> BootTime {
        self.armed
    }

    /// This agent's incarnation.
    pub fn incarnation(&self) -> u64 {
        self.life.incarnation
    }

    /// The peers as heard, in the order of the configuration.
    pub fn peers(&self, now: BootTime) -> impl Iterator<Item = PeerStatus> {
        let Config { own, digest, timers, .. } = self.config;
        let nodes = self.peers.iter().enumerate();
        nodes
            .filter_map(|(index, peer)| Some((NodeId::new(index)?, peer)))
            .filter(move |&(node, _)| node != own)
            .map(move |(node, peer)| peer.status(node, now, timers.fail, digest))
    }

    /// Heartbeats by outcome.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Judges this agent itself: what it missed while it was not run.
    fn begin_turn(&mut self, now: BootTime) {
        let timers = self.config.timers;
        let late = now.saturating_since(self.next_deadline().max(self.last_turn));
        self.last_turn = self.last_turn.max(now);
        if late > timers.suspect {
            for peer in self.peers.iter_mut().filter(|peer| peer.member.is_some()) {
                peer.excuse_silence(now);
            }
            // A joint freeze: whoever serves was perhaps as silent as this node was deaf.
            if self.state == NodeState::Joining {
                self.listen_until = now + listening(&timers);
            }
            self.event(Event::Stall { late });
        }
        if self.lease.has_lapsed(now) && self.leave_by.is_none() {
            if self.state == NodeState::Up {
                let ago = now.saturating_since(self.armed);
                self.event(Event::LeaseLapsed { ago });
            }
            self.begin_new_life(now);
        }
    }

    /// Serves nothing, and makes void what peers have promised so far.
    fn begin_new_life(&mut self, now: BootTime) {
        let state = match self.state {
            NodeState::Joining => NodeState::Joining,
            _ => NodeState::Fenced,
        };
        self.stop_serving(state);
        self.life.number = self.life.number.wrapping_add(1);
        self.lease.begin_life();
        // Peers that came meanwhile: an agent that replaced another is taken after `suspect`.
        let Timers { period, suspect, .. } = self.config.timers;
        self.listen_until = self.listen_until.max(now + suspect + 2 * period);
    }

    fn stop_serving(&mut self, state: NodeState) {
        if self.state == NodeState::Up {
            self.outputs.push_back(Output::Fence);
        }
        self.state = state;
        self.installed = None;
        self.armed = BootTime::ZERO;
        self.announce = true;
    }

    fn authenticate(&self, source: IpAddr, bytes: &[u8]) -> Result<Heartbeat, Dropped> {
        let source = source.to_canonical();
        let is_of = |node: &Node| node.addresses.contains(&source);
        let datagram = wire::screen(bytes, self.farm)?;
        if !self.config.nodes.iter().any(is_of) {
            return Err(Dropped::Source);
        }
        let heartbeat = wire::open(datagram, &self.config.key)?;
        let node = self.config.nodes.get(heartbeat.source.index()).ok_or(Dropped::Malformed)?;
        if !is_of(node) {
            return Err(Dropped::Source);
        }
        if heartbeat.source != self.config.own {
            Ok(heartbeat)
        } else if heartbeat.life.incarnation == self.life.incarnation {
            Err(Dropped::Own)
        } else {
            Err(Dropped::Duplicate)
        }
    }

    fn note(&mut self, now: BootTime, heartbeat: Heartbeat) -> Result<(), Dropped> {
        let node = heartbeat.source;
        let peer = &mut self.peers[node.index()];
        let change = peer.absorb(now, self.config.timers.suspect, heartbeat)?;
        if change.any || peer.member.is_none() {
            self.wake = self.wake.or(Some(now));
        }
        if change.mac {
            self.outputs.push_back(Output::Peer(node, heartbeat.mac));
        }
        if change.config && heartbeat.digest != self.config.digest {
            let node = self.name(node);
            self.event(Event::ConfigMismatch { node });
        }
        Ok(())
    }

    fn drop_datagram(&mut self, now: BootTime, source: IpAddr, reason: Dropped) {
        self.counters.drop_for(reason);
        let (last, event) = match reason {
            Dropped::Duplicate => {
                let address = source.to_canonical();
                let node = self.config.nodes.iter().find(|node| node.addresses.contains(&address));
                let node = node.map_or_else(String::new, |node| node.name.clone());
                (&mut self.last_duplicate, Event::DuplicateNode { node, source })
            }
            Dropped::Tag => {
                self.stranger_heard = Some(now);
                (&mut self.last_bad_tag, Event::BadTag { source })
            }
            _ => return,
        };
        if last.is_none_or(|last| now >= last + NUISANCE_INTERVAL) {
            *last = Some(now);
            self.event(event);
        }
    }

    fn finish_leaving(&mut self, now: BootTime) {
        let own = self.config.own;
        let forgotten = self
            .member_peers()
            .all(|(_, peer)| peer.promise().is_some_and(|promise| !promise.alive.contains(own)));
        self.left |= forgotten || self.leave_by.is_some_and(|deadline| now >= deadline);
    }

    fn send_heartbeat(&mut self, now: BootTime) {
        let activity = match self.state {
            _ if self.leave_by.is_some() => Activity::Leaving,
            NodeState::Up => Activity::Serving,
            NodeState::Joining => Activity::Joining,
            NodeState::Fenced | NodeState::Down => Activity::Fenced,
        };
        self.sequence += 1;
        let heartbeat = Heartbeat {
            source: self.config.own,
            activity,
            life: self.life,
            sequence: self.sequence,
            digest: self.config.digest,
            promise: self.promise,
            mac: self.config.mac,
        };
        let datagram = wire::seal(&heartbeat, self.farm, &self.config.key);
        self.outputs.push_back(Output::Broadcast(datagram));
        self.counters.sent += 1;
        self.lease.heartbeat_sent(now);
        self.next_heartbeat = now + self.config.timers.period;
        self.announce = false;
    }

    /// After the heartbeat of the same turn, so that no lease is longer than what was said.
    fn renew_lease(&mut self) {
        if self.state == NodeState::Up
            && let Some(deadline) = self.lease.deadline()
            && deadline != self.armed
        {
            self.armed = deadline;
            self.outputs.push_back(Output::Lease(deadline));
        }
    }

    fn member_peers(&self) -> impl Iterator<Item = (usize, &Peer)> {
        self.peers.iter().enumerate().filter(|(_, peer)| peer.member.is_some())
    }

    fn name(&self, node: NodeId) -> String {
        self.config.nodes.get(node.index()).map_or_else(String::new, |node| node.name.clone())
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }
}

/// How long a new agent listens: a node that serves has been heard by then, or its lease is over.
fn listening(timers: &Timers) -> Duration {
    timers.fail + 2 * timers.period
}
