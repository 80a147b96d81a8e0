//! What the heartbeat thread shows of itself after each turn.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    agent::ports::Port,
    membership::{BootTime, PeerStatus},
    model::{BUCKETS, Bitmap, Overrides, View},
    status::{Lateness, NodeState, ViewChange},
};

/// Where the thread leaves its state for others to look at. It never waits for them: if somebody is
/// looking just then, the state appears a turn later.
#[derive(Debug, Clone)]
pub struct Latest(Arc<Mutex<Arc<Snapshot>>>);

impl Latest {
    /// The state before the thread has run.
    pub fn new(ports: &[Port], digest: [u8; 16]) -> Self {
        Self(Arc::new(Mutex::new(Arc::new(Snapshot::before_the_first_turn(ports, digest)))))
    }

    /// The state after the last turn.
    pub fn get(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set(&self, snapshot: Snapshot) {
        if let Ok(mut latest) = self.0.try_lock() {
            *latest = Arc::new(snapshot);
        }
    }
}

/// The state after a turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// When it was so.
    pub at: BootTime,
    /// The installed view.
    pub view: View,
    /// The powers changed at run time, the newest known: a view with them will follow.
    pub powers: Arc<Overrides>,
    /// The configuration of the tables: the one of the view, or of the view promised last.
    pub digest: [u8; 16],
    /// The configuration that is to be next here.
    pub staged: Option<[u8; 16]>,
    /// What the node is doing.
    pub state: NodeState,
    /// Whether everything owned is accepted.
    pub converged: bool,
    /// Until when the kernel accepts, as read from there; zero = fenced.
    pub deadline: BootTime,
    /// Whether all that is for a VIP takes the slow path, although the lease is far from its end.
    pub detour: bool,
    /// The peers.
    pub peers: Vec<PeerStatus>,
    /// The bitmaps in the kernel, as read from there, by interface and kernel group.
    pub accept: Vec<Vec<Bitmap>>,
    /// The buckets given away whose old connections this node still serves, by kernel group.
    pub lingering: Vec<Bitmap>,
    /// The buckets taken over whose old connections other nodes may still serve, by kernel group.
    pub inherited: Vec<Bitmap>,
    /// Which time it is that this node judges flows that linger, by kernel group and bucket; empty if none do.
    pub tenures: Vec<[u16; BUCKETS]>,
    /// How often what it accepts was changed: what is counted of it holds until the next time.
    pub steps: u64,
    /// Heartbeats by outcome.
    pub heartbeats: Vec<(String, u64)>,
    /// How late the thread was.
    pub lateness: Lateness,
    /// The last change of view.
    pub view_change: Option<ViewChange>,
}

impl Snapshot {
    /// The state in a line for people; `nodes` is how many the farm has.
    pub fn summary(&self, nodes: usize) -> String {
        let (state, View { alive, epoch, .. }) = (self.state.as_str(), &self.view);
        format!("{state}, {} of {nodes} nodes alive in view {epoch}", alive.len())
    }

    fn before_the_first_turn(ports: &[Port], digest: [u8; 16]) -> Self {
        Self {
            at: BootTime::ZERO,
            view: View::default(),
            powers: Arc::default(),
            digest,
            staged: None,
            state: NodeState::Joining,
            converged: false,
            deadline: BootTime::ZERO,
            detour: false,
            peers: Vec::new(),
            accept: ports.iter().map(|port| port.accept().to_vec()).collect(),
            lingering: Vec::new(),
            inherited: Vec::new(),
            tenures: Vec::new(),
            steps: 0,
            heartbeats: Vec::new(),
            lateness: Lateness::default(),
            view_change: None,
        }
    }
}
