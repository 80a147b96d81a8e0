//! Who is there: heard, heard by, connected, of the same configuration.

use super::{
    Event, Membership,
    peer::Peer,
    time::BootTime,
    view::{Digest, Life, life},
    wire::Flags,
};
use crate::{
    model::{NodeId, NodeSet},
    status::NodeState,
};

impl Membership {
    /// Brings who is heard up to date and tells who came and went.
    pub(super) fn assess_peers(&mut self, now: BootTime) {
        let fail = self.config.timers.fail;
        let (before_hears, before_linked) = (self.hears, self.linked);
        self.hears = NodeSet::EMPTY;
        self.linked = NodeSet::EMPTY;
        for index in 0..self.peers.len() {
            let Some(node) = NodeId::new(index).filter(|&node| node != self.config.own) else {
                continue;
            };
            let peer = &mut self.peers[index];
            let links = peer.changed_links(now, fail);
            if peer.is_heard(now, fail) {
                self.hears = self.hears.with(node);
                if peer.state().is_some_and(|state| state.hears.contains(self.config.own)) {
                    self.linked = self.linked.with(node);
                    peer.linked_since = peer.linked_since.or(Some(now));
                } else {
                    peer.linked_since = None;
                }
            } else if before_hears.contains(node) {
                peer.note_loss(now);
            }
            self.tell_links(now, node, &links);
        }
        if (self.hears, self.linked) != (before_hears, before_linked) {
            self.announce = true;
        }
    }

    fn tell_links(&mut self, now: BootTime, node: NodeId, changed: &[(usize, bool)]) {
        let peer = &self.peers[node.index()];
        let silence = peer.heard_at().map(|at| now.saturating_since(at)).unwrap_or_default();
        let elsewhere = peer.is_heard_anyhow(now, self.config.timers.fail);
        let (left, name) = (peer.has(Flags::LEAVING), self.name(node));
        for &(link, up) in changed {
            let node = name.clone();
            match (link, up) {
                (0, true) => self.event(Event::NodeJoined { node }),
                (0, false) if left => {}
                (0, false) if elsewhere => self.event(Event::NetworkLost { node, silence }),
                (0, false) => self.event(Event::NodeLost { node, silence }),
                // With the node itself all its links come and go.
                (_, true) => self.event(Event::LinkRestored { node, link }),
                (_, false) if elsewhere => self.event(Event::LinkLost { node, link }),
                (_, false) => {}
            }
        }
    }

    /// The nodes that are connected with this one by links that work in both directions, this one
    /// included, as far as they can be members of a view with that digest.
    ///
    /// Each node tells whom it is linked with, so a node is found that is two links away; what such
    /// a node is doing is not known here, so it can only stay what it is: a member.
    pub(super) fn component(&self, digest: Digest) -> NodeSet {
        let own = self.config.own;
        let mut found = NodeSet::EMPTY.with(own);
        let mut frontier =
            self.linked.iter().filter(|&node| self.runs(node, digest)).collect::<NodeSet>();
        while !frontier.is_empty() {
            found = found.union(frontier);
            let relays = std::mem::take(&mut frontier);
            for relay in relays.iter().filter(|&relay| self.hears.contains(relay)) {
                let linked = self.peers[relay.index()].state().map_or(NodeSet::EMPTY, |s| s.linked);
                let new = linked
                    .difference(found)
                    .iter()
                    .filter(|&node| self.may_follow(node, relay, digest));
                frontier = new.fold(frontier, NodeSet::with);
            }
        }
        found
    }

    /// Whether `node` belongs to the component because `relay` is linked with it.
    fn may_follow(&self, node: NodeId, relay: NodeId, digest: Digest) -> bool {
        if node.index() >= self.peers.len() {
            return false;
        }
        if self.hears.contains(node) {
            return self.runs(node, digest);
        }
        let known = self.promised.content.life_of(node);
        let relayed = self.peers[relay.index()].newest();
        let relayed = relayed.and_then(|heartbeat| heartbeat.acks.get(node.index()));
        known.is_some() && relayed.map(|ack| ack.life) == known
    }

    /// Whether the node could serve that configuration: it has it in force, has promised to go over
    /// to it, or has staged it.
    pub(super) fn runs(&self, node: NodeId, digest: Digest) -> bool {
        let has = [self.in_force(node), self.promised_digest(node), self.staged_at(node)];
        has.contains(&Some(digest))
    }

    /// Whether the node serves, by a view and a lease; of a peer, as it says itself.
    pub(super) fn serves(&self, node: NodeId) -> bool {
        if node == self.config.own {
            self.state == NodeState::Up && self.lease.armed().is_some()
        } else {
            self.says(node, Flags::SERVING)
        }
    }

    /// Whether the node, this one or a peer, says so.
    pub(super) fn says(&self, node: NodeId, flag: Flags) -> bool {
        if node == self.config.own {
            self.flags().has(flag)
        } else {
            self.peers.get(node.index()).is_some_and(|peer| peer.has(flag))
        }
    }

    /// Which agent of the node is alive: as heard or, for a node that is two links away, as agreed.
    pub(super) fn life_of(&self, node: NodeId) -> Option<Life> {
        if node == self.config.own {
            return Some(life(self.incarnation));
        }
        let heard = self.hears.contains(node);
        let peer = self.peers.get(node.index()).filter(|_| heard);
        peer.map_or_else(|| self.promised.content.life_of(node), Peer::life)
    }

    /// All nodes of the configuration.
    pub(super) fn everybody(&self) -> NodeSet {
        (0..self.config.nodes.len()).filter_map(NodeId::new).collect()
    }
}
