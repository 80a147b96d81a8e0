//! Who is alive and who owns what. A state machine without clock, socket, thread or logger:
//! datagrams and the time come in as arguments, [`Output`]s come out of a queue.
//!
//! # How nodes agree
//! Every node sends a heartbeat each period and at once when it has news: all of its state, so that
//! loss, repetition and reordering do no harm. It *hears* a peer for [`Timers::fail`] after each
//! heartbeat, and tells whom it hears; nodes that hear each other are *linked*, and nodes connected
//! by links come to one *view*: who is alive, who of them is idle, the powers changed at run time,
//! the groups that members abstain from, and the configuration in force.
//!
//! 1. **Propose** (`propose.rs`): the coordinator, the first of the connected nodes that serve,
//!    proposes a view when the last one is not what it should be. Views are ordered by epoch,
//!    coordinator and the coordinator's incarnation; a proposal's epoch is higher than all seen.
//! 2. **Promise** (`agree.rs`): a node takes a higher view that contains it, unless that leaves out
//!    a member that it hears (it *vouches* for it). It first releases the buckets that are not its
//!    own in the view, then says that it is *ready*.
//! 3. **Install**: when all members are known to be ready, each acquires its buckets. No
//!    coordinator is needed for that; if it dies before, the next one proposes another view.
//! 4. **Lease** (`lease.rs`): the kernel accepts until [`Timers::fail`], less a margin, after this
//!    node sent the newest heartbeat that its peers have acknowledged: the worst of those heard
//!    within [`Timers::suspect`], the best of all if none is. No longer than [`Timers::lease`] from
//!    now. Alone, or beside idle members only, that long.
//! 5. **Lapse**: when the lease has ended the node is fenced, and stays so until it has installed
//!    another view. Its first lease in a view needs that all members heard within `fail`, idle
//!    ones too, have installed the same one and promised no other since, and that whoever else is
//!    linked with it or may still be served by a kernel stands back.
//! 6. **Stall**: datagrams are only noted, and decided upon in [`Membership::handle_timeout`], when
//!    the sockets have been drained. A node that was not run for longer than `suspect` starts its
//!    silence clocks anew.
//! 7. **Start**: the first output fences. A node that serves nothing and is connected with nobody
//!    who does proposes no view before it has listened for `fail` and two periods, unless it hears
//!    every node of the farm. Until then it owns nothing in a view without one of them either.
//!    And a node on whose acknowledgements a serving peer's lease did not depend, a joiner or an
//!    idle one, takes over from it only `fail` and another `lease` after it was heard.
//! 8. **Damping**: a joiner is made a member when it has been heard for ten periods, twice as long
//!    after each time it was lost soon after it had joined. Sides that both serve merge at once.
//! 9. **Configurations** (`configs.rs`): what all have staged is activated by a view. Of several in
//!    force one wins, and the nodes that do not have it stand back, before those that do begin.
//!
//! A peer that has not been heard for `fail` counts as alive only when it acknowledges what this
//! very agent has sent since, so recorded traffic proves nothing. Within an incarnation and link
//! sequence numbers only rise: since a heartbeat carries all of its sender's state, one that was
//! overtaken is worth nothing, and no window for such is needed.
//!
//! Link 0 is the VIP's own network and alone decides who is heard and acknowledged: a split of the
//! farm is a split of its clients. What comes by other links is news like any other (proposals,
//! readiness, that a node is unfit or leaves), sooner or in spite of loss. A node that hears by
//! them alone from a larger side of the farm has lost the VIP's network and serves nothing.
//!
//! Where a further network has VIPs too (`cut_off.rs`), two sides of the first one that still hear
//! each other there would serve its clients twice. So of two sides of one size the one with the first
//! node serves, and neither begins while the other is heard to serve. A node that hears nobody on such
//! a network, on which others hear each other, cannot serve.
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
//! before the outputs, so that no lease is counted from later than its heartbeat. At any time the
//! driver may [`Membership::publish`] what it has read back from the kernel.
//!
//! # Limits of this protocol
//! - Whoever holds the key is believed. A node that lies can stop the farm; it cannot make the
//!   epochs run out: a view more than [`EPOCH_JUMP`] beyond all others is dropped, which leaves room
//!   for 2^31 such jumps. (A node that has installed no view takes any epoch below 2^63.)
//! - Nodes find each other through one node in between. A chain of four, each hearing only its
//!   neighbours, keeps its view but cannot change it.
//! - What lingers with a member is not told on by a node in between. If a bucket moves between two members
//!   that do not hear each other, its old TCP connections stay in the slow path, and UDP flows of rules
//!   with `linger` may be served by neither, until they do.
//! - While a node hears a member that does not hear it, it serves nothing: its lease ends, because
//!   that member might take its buckets, and nobody installs a view without the member, until that
//!   has gone on alone. Nobody serves a bucket twice meanwhile.
//! - Of several networks with VIPs the first one decides who is in the farm: while another one is split
//!   into sides of several nodes, or between two nodes, each client there is served by the node that
//!   the whole farm has agreed on, if it reaches that one.
//! - That only one side serves the clients of further networks holds for a first network that is split,
//!   not for one that is cut in one direction only: a deaf node goes on alone.
//! - Agents that start while the first network is split know of the other side only that it is there:
//!   one alone does not serve, and several serve beside the other side.
//! - A hypervisor that stops a guest's clocks too prolongs its lease by as long as it stops it.

mod abstain;
mod agree;
mod configs;
mod counters;
mod cut_off;
mod door;
mod event;
mod lease;
mod members;
mod operate;
mod peer;
mod propose;
mod rules;
mod sent;
mod speak;
mod time;
mod view;
mod wire;

#[cfg(test)]
mod check;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, net::IpAddr, sync::Arc, time::Duration};

pub use self::{
    counters::{Counters, Dropped},
    event::{Event, Level},
    operate::PowerRefused,
    peer::PeerStatus,
    time::BootTime,
    view::Proof,
    wire::fuzz,
};
use self::{
    cut_off::Sides,
    door::Nuisances,
    lease::Lease,
    peer::Peer,
    rules::Rules,
    sent::Sent,
    view::{Agreement, Digest, ViewId},
    wire::FarmId,
};
use crate::{
    model::{Abstention, Mac, Node, NodeId, NodeSet, Overrides, Timers, View},
    status::NodeState,
};

/// The longest heartbeat, in bytes.
pub const MAX_DATAGRAM: usize = wire::MAX_LEN;

/// How far a view's epoch may be beyond all that a member has seen.
pub const EPOCH_JUMP: u64 = 1 << 32;

/// What the machine must know of the farm.
#[derive(Debug, Clone)]
pub struct Config {
    /// The farm's name.
    pub farm: String,
    /// This node.
    pub own: NodeId,
    /// All nodes, by index: their addresses, one a link, tell who may send; their names go into
    /// events.
    pub nodes: Vec<Node>,
    /// Cadence and time-outs, which [`Timers::check`] has passed.
    pub timers: Timers,
    /// Keys of the heartbeats' tags, at least one: the first seals, all are accepted.
    pub keys: Vec<[u8; 32]>,
    /// Digest of all that the nodes' files must have in common.
    pub digest: [u8; 16],
    /// This node's links, by the index of its addresses: as many as it has addresses.
    pub links: Vec<OwnLink>,
    /// Powers changed at run time that are to outlast a restart; else the default, which is older
    /// than all others.
    pub overrides: Overrides,
}

/// One of this node's links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnLink {
    /// The MAC that peers are to know this node by there.
    pub mac: Mac,
    /// Whether the farm has VIPs on that network.
    pub has_vips: bool,
}

/// What the driver has to do, in order; own(view) are the buckets this node owns in that view, with
/// the configuration that it names.
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
    /// Send this datagram to the addresses of all peers on that link.
    Send {
        /// Index into the nodes' addresses.
        link: u8,
        /// At most [`MAX_DATAGRAM`] bytes.
        datagram: Vec<u8>,
    },
    /// Send this datagram to that address on the first link: a node of the farm that is not in the
    /// configuration is to know of it.
    SendTo {
        /// Where to.
        address: IpAddr,
        /// At most [`MAX_DATAGRAM`] bytes.
        datagram: Vec<u8>,
    },
    /// A peer's MAC on a link is known, or another one than before.
    Peer(NodeId, u8, Mac),
    /// Tell the operators.
    Event(Event),
}

/// The membership of one node. See the [module](self) for what drives it.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, none a state of another")]
#[derive(Debug, Clone)]
pub struct Membership {
    config: Arc<Config>,
    farm: FarmId,
    incarnation: u64,
    sent: Sent,
    state: NodeState,
    /// Whether this node can serve, as its driver has found.
    fit: bool,
    /// By node index; the own entry stays empty.
    peers: Vec<Peer>,
    /// Who was heard when membership was last judged, and who of them heard this node.
    hears: NodeSet,
    linked: NodeSet,
    /// Of the configuration in force, and of the one that is to be next.
    digest: Digest,
    staged: Option<Digest>,
    /// The staged configuration, or the one in force, is an operator's last word.
    forced: bool,
    promised: Arc<Agreement>,
    /// Who is known to have promised the same.
    ready: NodeSet,
    /// The view installed last, in force only while this node is up.
    installed: Option<Arc<Agreement>>,
    /// This node must not serve by this view or an earlier one, since it said that it cannot.
    barred: ViewId,
    /// The newest known; see [`Self::overrides`].
    overrides: Arc<Overrides>,
    /// What this node does not serve, by configuration.
    abstains: Arc<[(Digest, Abstention)]>,
    max_epoch: u64,
    lease: Lease,
    /// Until when nobody's silence proves anything.
    listen_until: BootTime,
    /// It does not serve, and listens.
    listening: bool,
    next_proposal: BootTime,
    next_heartbeat: BootTime,
    /// There is news: send a heartbeat in the next turn.
    announce: bool,
    /// Something asks for judgement.
    wake: Option<BootTime>,
    last_turn: BootTime,
    /// Another configuration than this node's is to be in force.
    follows: bool,
    /// Whose that is, if this node does not have it.
    held_back_by: Option<NodeId>,
    /// Since when this node is not held back.
    unbarred_since: Option<BootTime>,
    /// Somebody on the larger side of the VIP's network, which this node hears elsewhere only.
    cut_off_from: Option<NodeId>,
    /// The sides of the first network, and since when they are these.
    sides: (Sides, BootTime),
    /// Until when this node counts as cut off from a further network with VIPs.
    cut_off_until: Option<BootTime>,
    /// Until when peers are waited for to take over from this node, which leaves.
    leave_by: Option<BootTime>,
    left: bool,
    /// The newest heartbeat could not be sent on the first link.
    mute: bool,
    proof: Proof,
    lingering: Arc<[u8]>,
    counters: Counters,
    nuisances: Nuisances,
    /// Addresses of nodes of the farm that are not in the configuration, heard since the last
    /// heartbeat.
    newcomers: Vec<IpAddr>,
    outputs: VecDeque<Output>,
    #[cfg(test)]
    rules: Rules,
}

impl Membership {
    /// A node that has just started at `now`. `incarnation` is random, never used before. The
    /// first output fences: a former agent may have left its buckets in the kernel.
    pub fn new(config: Config, incarnation: u64, now: BootTime) -> Self {
        Self {
            farm: wire::farm_id(&config.farm),
            incarnation,
            sent: Sent::default(),
            state: NodeState::Joining,
            fit: true,
            peers: config.nodes.iter().map(|_| Peer::default()).collect(),
            hears: NodeSet::EMPTY,
            linked: NodeSet::EMPTY,
            digest: config.digest,
            staged: None,
            forced: false,
            promised: Arc::default(),
            ready: NodeSet::EMPTY,
            installed: None,
            barred: ViewId::default(),
            overrides: Arc::new(config.overrides.clone()),
            abstains: Arc::default(),
            max_epoch: 0,
            lease: Lease::default(),
            listen_until: now + listening(&config.timers),
            listening: true,
            next_proposal: now,
            next_heartbeat: now,
            announce: true,
            wake: None,
            last_turn: now,
            follows: false,
            held_back_by: None,
            unbarred_since: Some(now),
            cut_off_from: None,
            sides: (Sides::default(), now),
            cut_off_until: None,
            leave_by: None,
            left: false,
            mute: false,
            proof: Proof::default(),
            lingering: Arc::default(),
            counters: Counters::default(),
            nuisances: Nuisances::default(),
            newcomers: Vec::new(),
            outputs: VecDeque::from([Output::Fence]),
            config: Arc::new(config),
            #[cfg(test)]
            rules: Rules::ALL,
        }
    }

    /// Decides on all that was heard and on time itself. To be called, with all sockets drained,
    /// as soon as [`Self::next_deadline`] has come; earlier calls do no harm.
    pub fn handle_timeout(&mut self, now: BootTime) {
        self.begin_turn(now);
        self.wake = None;
        self.assess_peers(now);
        let listening = now < self.listen_until && self.lease.armed().is_none();
        self.announce |= std::mem::replace(&mut self.listening, listening) != listening;
        self.yield_to_other_configuration(now);
        self.yield_to_the_larger_side(now);
        self.stand_back_where_cut_off(now);
        self.promise_what_is_proposed(now);
        self.propose_what_is_due(now);
        self.install_what_is_agreed(now);
        self.finish_leaving(now);
        if self.announce || now >= self.next_heartbeat {
            self.send_heartbeat(now);
        }
        self.renew_lease(now);
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
        let heard = self.hears.iter().filter_map(|node| self.peers[node.index()].heard_at());
        let listened = self.lease.armed().is_none().then_some(self.listen_until);
        let others = listened.into_iter().chain(self.lease.armed()).chain(self.leave_by);
        let others = others.filter(|&due| due > self.last_turn);
        heard.map(|heard| heard + fail).chain(others).fold(self.next_heartbeat, BootTime::min)
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// To be told of each [`Output::Send`] before the next output: whether it could be sent to
    /// anybody. A node that cannot speak on its VIPs' network must not go on as if it were heard:
    /// its lease runs out, and it does not take the peers' silence for their death.
    pub fn heartbeat_sent(&mut self, now: BootTime, link: u8, sent: bool) {
        if link != 0 {
            return;
        }
        if !sent {
            let before = self.outputs.len();
            self.outputs.retain(|output| !matches!(output, Output::Lease(_)));
            if self.outputs.len() < before {
                self.lease.take_back();
            }
            self.peers.iter_mut().for_each(|peer| peer.excuse_silence(now));
            if self.state != NodeState::Up {
                self.listen_until = now + listening(&self.config.timers);
            }
            if !self.mute {
                self.event(Event::CannotSend);
            }
        }
        self.mute = !sent;
    }

    /// Judges this agent itself: what it missed while it was not run. To be done before anything
    /// that sets the next deadline.
    fn begin_turn(&mut self, now: BootTime) {
        let timers = self.config.timers;
        let late = now.saturating_since(self.next_deadline().max(self.last_turn));
        self.last_turn = self.last_turn.max(now);
        if late > timers.suspect {
            self.excuse_silence(now);
            self.event(Event::Stall { late });
        }
        if self.lease.has_lapsed(now) && self.rules().lapse {
            let ended = self.lease.armed().unwrap_or_default();
            self.event(Event::LeaseLapsed { ago: now.saturating_since(ended) });
            self.stop_serving(now);
        }
    }

    /// Datagrams may be missing: nobody's silence proves anything yet.
    fn excuse_silence(&mut self, now: BootTime) {
        if !self.rules().stall {
            return;
        }
        self.peers.iter_mut().for_each(|peer| peer.excuse_silence(now));
        // Whoever serves was perhaps as silent as this node was deaf.
        self.listen_until = now + listening(&self.config.timers);
    }

    /// Serves nothing until another view is installed.
    fn stop_serving(&mut self, now: BootTime) {
        if self.state == NodeState::Up {
            self.outputs.push_back(Output::Fence);
            self.state = NodeState::Fenced;
        }
        self.lease.end();
        self.announce = true;
        self.wake = Some(now);
    }

    fn name(&self, node: NodeId) -> String {
        self.config.nodes.get(node.index()).map_or_else(String::new, |node| node.name.clone())
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    #[cfg(test)]
    fn rules(&self) -> Rules {
        self.rules
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests have rules of their own")]
    fn rules(&self) -> Rules {
        Rules::ALL
    }
}

/// How long a new agent listens: a node that serves has been heard by then, or its lease is over.
fn listening(timers: &Timers) -> Duration {
    timers.fail + 2 * timers.period
}
