//! What operators and the driver ask for and look at.

use std::{sync::Arc, time::Duration};

use super::{
    BootTime, Counters, Event, Membership, PeerStatus, Proof, listening,
    peer::Peer,
    view::{Life, life},
    wire::Flags,
};
use crate::{
    model::{Node, NodeId, Override, Overrides, Stay, StayKind, TooManyOverrides, View, VipId},
    status::NodeState,
};

/// A switch forwards for a port some time after the port has a carrier: a Linux bridge is told of
/// carriers once a second.
const PORT_OPENS: Duration = Duration::from_secs(1);

/// Why a power cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PowerRefused {
    /// There is no agent that the change could end with.
    #[error("{node} is not in the farm: add --persist to have it apply when it comes back")]
    Absent {
        /// The node.
        node: String,
    },
    /// There is no room for it.
    #[error(transparent)]
    TooMany(#[from] TooManyOverrides),
}

impl Membership {
    /// Leaves for good: becomes idle by one view change, and serves until then. Go on driving until
    /// [`Self::has_left`], twice [`Timers::fail`](crate::model::Timers::fail) at most.
    pub fn leave(&mut self, now: BootTime) {
        self.begin_turn(now);
        if self.leave_by.is_none() {
            self.leave_by = Some(now + 2 * self.config.timers.fail);
            self.event(Event::Leaving);
            self.news(now);
        }
    }

    /// Whether every peer has taken over from this node, or has had the time to miss it. It serves
    /// nothing then.
    pub fn has_left(&self) -> bool {
        self.left
    }

    /// Says whether this node can serve. One that cannot is fenced at once, and its peers take over
    /// as soon as they hear of it; one that can again waits for a view.
    pub fn set_fit(&mut self, now: BootTime, fit: bool) {
        self.begin_turn(now);
        if fit == self.fit {
            return;
        }
        self.fit = fit;
        if fit {
            // While its network was lost it heard nobody, and nobody heard it: as after a start, it
            // does not know who serves.
            self.listen_until = now + listening(&self.config.timers) + PORT_OPENS;
            self.event(Event::Fit);
        } else {
            self.event(Event::Unfit);
            self.stop_serving(now);
        }
        self.news(now);
    }

    /// Changes a node's power in the group of that index, in file order over all blocks, or in all
    /// groups; `None` = back to the file's, and what was said before is forgotten. What is not to
    /// `persist` ends with the node's agent that is there now. Gives the version: a view with this or
    /// a higher one will be installed by all. A change of nothing changes no version.
    pub fn set_power(
        &mut self,
        now: BootTime,
        group: Option<u8>,
        node: NodeId,
        power: Option<u16>,
        persist: bool,
    ) -> Result<u64, PowerRefused> {
        self.begin_turn(now);
        let (own, known) = (self.config.own, self.overrides());
        let changed = match power {
            None => known.without(own, group, node),
            Some(power) => {
                let life = self.life_to_name(node, persist)?;
                known.with(own, Override { node, group, power, life })?
            }
        };
        Ok(self.override_by(now, changed))
    }

    /// Moves a failover VIP to a node and keeps it there; `None` = back to who has it by the file, if it
    /// was moved. As [`Self::set_power`] for the rest.
    pub fn move_vip(
        &mut self,
        now: BootTime,
        vip: VipId,
        node: Option<NodeId>,
        persist: bool,
    ) -> Result<u64, PowerRefused> {
        self.begin_turn(now);
        let (own, known) = (self.config.own, self.overrides());
        let changed = if let Some(node) = node {
            let life = self.life_to_name(node, persist)?;
            known.with_stay(own, Stay { vip, kind: StayKind::Pinned, node, life })?
        } else {
            // It goes, although it has the VIP; who has had it back by then stays.
            let pinned = known.stay(vip, StayKind::Pinned).map(|pin| pin.node);
            known.without_stays(own, |stay| stay.vip == vip && Some(stay.node) == pinned)
        };
        Ok(self.override_by(now, changed))
    }

    /// Says of which failover VIPs this node is to stay the holder while its agent lives. Does nothing
    /// while the farm is changing over to another view: to be asked again then.
    pub fn stay(&mut self, now: BootTime, vips: &[VipId]) {
        let known = self.overrides();
        let settled = known.version() == self.promised.content.powers.version();
        if !settled || !self.is_converged() {
            return;
        }
        self.begin_turn(now);
        let (node, kind, life) =
            (self.config.own, StayKind::Incumbent, Some(life(self.incarnation)));
        let own = |stay: &Stay| stay.kind == kind && stay.node == node;
        let none = self.overrides().without_stays(node, own);
        let stays = vips.iter().map(|&vip| Stay { vip, kind, node, life });
        // Without room it is as if the file said that the best node takes over.
        if let Some(changed) = none.and(stays) {
            self.override_by(now, changed);
        }
    }

    /// The agent that a change about a node is to end with.
    fn life_to_name(&self, node: NodeId, persist: bool) -> Result<Option<Life>, PowerRefused> {
        // An agent that leaves is still heard for a while.
        let present = self.life_of(node).filter(|_| !self.says(node, Flags::LEAVING));
        if present.is_none() && !persist {
            return Err(PowerRefused::Absent { node: self.name(node) });
        }
        Ok(present.filter(|_| !persist))
    }

    /// Has the farm agree on what was changed, if anything was: the version that is then in force.
    fn override_by(&mut self, now: BootTime, changed: Overrides) -> u64 {
        let known = self.overrides();
        if changed.entries() != known.entries() || changed.stays() != known.stays() {
            self.overrides = Arc::new(changed);
            self.news(now);
        }
        self.overrides().version().counter
    }

    /// The powers changed at run time, the newest known: a view with them will follow. Of two sets
    /// with one version the agreed one counts: an agent that starts anew knows from its disk only
    /// what is persistent of it.
    pub fn overrides(&self) -> &Arc<Overrides> {
        let agreed = &self.promised.content.powers;
        if agreed.version() == self.overrides.version() { agreed } else { &self.overrides }
    }

    /// Says that this node is to serve the configuration of that digest next; the one in force
    /// takes back what was staged. When all members have staged the same, the farm goes over to it
    /// in one view; `force`: those who have staged it go over, and the others are left out.
    pub fn stage(&mut self, now: BootTime, digest: [u8; 16], force: bool) {
        self.begin_turn(now);
        let is_settled = self.promised_digest(self.config.own).is_none_or(|it| it == self.digest);
        let digest = (digest != self.digest || !is_settled).then_some(digest);
        if (digest, force) == (self.staged, self.forced) {
            return;
        }
        (self.staged, self.forced) = (digest, force);
        if digest.is_some() {
            self.event(Event::ConfigStaged);
        }
        self.news(now);
    }

    /// Gives the machine what of another file takes effect at once: the keys, and nodes that are
    /// added behind the others, which can be heard before the file is in force. A node that the
    /// file drops stays known, because it may still serve; only another in its place displaces it.
    pub fn reconfigure(&mut self, now: BootTime, keys: Vec<[u8; 32]>, nodes: &[Node]) {
        self.begin_turn(now);
        let config = Arc::make_mut(&mut self.config);
        config.keys = keys;
        let same = config.nodes.iter().zip(nodes).take_while(|(is, would)| is == would).count();
        if let Some(others) = nodes.get(same..).filter(|others| !others.is_empty()) {
            config.nodes.truncate(same);
            self.peers.truncate(same);
            config.nodes.extend_from_slice(others);
            self.peers.resize_with(config.nodes.len(), Peer::default);
        }
        self.news(now);
    }

    /// All nodes whose heartbeats count, in their order.
    pub fn nodes(&self) -> &[Node] {
        &self.config.nodes
    }

    /// The configurations that this node can be asked to serve: first the one in force, then the
    /// one of the view promised last and the one staged, each of which may be the same.
    pub fn servable(&self) -> impl Iterator<Item = [u8; 16]> {
        let own = self.config.own;
        [Some(self.digest), self.promised_digest(own), self.staged].into_iter().flatten()
    }

    /// Datagrams were lost on this machine, between network and agent: the silence of peers proves
    /// nothing for now.
    pub fn datagrams_lost(&mut self, now: BootTime) {
        self.begin_turn(now);
        self.excuse_silence(now);
    }

    /// What this node's kernel accepts: later heartbeats tell the peers, see
    /// [`PeerStatus::proof`]. No other heartbeat is sent for it.
    pub fn publish(&mut self, proof: Proof) {
        self.proof = proof;
    }

    /// Which buckets this node has given away and still serves old connections of, for the peers to
    /// know: see [`PeerStatus::lingering`]. Opaque here. It holds until the next view is promised: then
    /// heartbeats say nothing, which is empty, until the driver has released and says it anew.
    ///
    /// # Panics
    /// If it is longer than 1100 bytes.
    pub fn publish_lingering(&mut self, now: BootTime, lingering: Arc<[u8]>) {
        assert!(lingering.len() <= super::wire::MAX_LINGERING, "33 bytes for each of 32 groups");
        if self.lingering != lingering {
            self.begin_turn(now);
            self.lingering = lingering;
            self.announce = true;
            self.wake = Some(now);
        }
    }

    /// What this node does.
    pub fn state(&self) -> NodeState {
        self.state
    }

    /// The view in force; `None` while nothing is served.
    pub fn view(&self) -> Option<View> {
        let installed = self.installed.as_ref().filter(|_| self.state == NodeState::Up);
        installed.map(|installed| installed.view())
    }

    /// The view this node has promised last, installed or not.
    pub fn promised_view(&self) -> View {
        self.promised.view()
    }

    /// Whether this node serves by the view it has promised last: nothing is released that its new
    /// owner has not acquired.
    pub fn is_converged(&self) -> bool {
        let installed = self.installed.as_ref().map(|installed| installed.stamp);
        self.serves(self.config.own) && installed == Some(self.promised.stamp)
    }

    /// The digest of the configuration in force, and of the staged one.
    pub fn configurations(&self) -> ([u8; 16], Option<[u8; 16]>) {
        (self.digest, self.staged)
    }

    /// The node that keeps this one from serving, because it runs another configuration.
    pub fn held_back_by(&self) -> Option<NodeId> {
        self.held_back_by
    }

    /// Until when the kernel may accept; [`BootTime::ZERO`] while fenced.
    pub fn lease(&self) -> BootTime {
        self.lease.armed().unwrap_or(BootTime::ZERO)
    }

    /// This agent's incarnation.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The peers as heard, in the order of the configuration.
    pub fn peers(&self, now: BootTime) -> impl Iterator<Item = PeerStatus> {
        let (own, fail, digest) = (self.config.own, self.config.timers.fail, self.digest);
        let installed = self.installed.as_ref().map(|installed| installed.stamp);
        let nodes = self.peers.iter().enumerate();
        nodes
            .filter_map(|(index, peer)| Some((NodeId::new(index)?, peer)))
            .filter(move |&(node, _)| node != own)
            .map(move |(node, peer)| peer.status(node, own, now, fail, digest, installed))
    }

    /// Heartbeats by outcome.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn finish_leaving(&mut self, now: BootTime) {
        let Some(deadline) = self.leave_by.filter(|_| !self.left) else { return };
        let own = self.config.own;
        let has_nothing = self.installed.as_ref().is_none_or(|installed| {
            let id = installed.id();
            let follows = |node: NodeId| {
                let state = self.peers[node.index()].state();
                state
                    .is_none_or(|state| state.installed.id >= id || state.flags.has(Flags::LEAVING))
            };
            let is_idle = !installed.content.owners().contains(own);
            is_idle && self.linked.iter().all(follows)
        });
        if has_nothing || now >= deadline {
            self.left = true;
            self.stop_serving(now);
        }
    }

    pub(super) fn news(&mut self, now: BootTime) {
        self.announce = true;
        self.wake = self.wake.or(Some(now));
    }
}
