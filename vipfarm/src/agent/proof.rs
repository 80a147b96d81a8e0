//! The proof, at run time, that every bucket is accepted by exactly one kernel of the farm.
//!
//! Each agent reads back what its kernel accepts, and its heartbeats carry a digest of it. What each
//! member must accept follows from the view, so every node can check all of them. Nothing is decided
//! by the outcome: it is for operators.
//!
//! What a peer has said is as old as its newest heartbeat and the period before. Only the bitmaps
//! and the lease are read back, not the addresses and rules.

mod due;
mod told;
mod words;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use self::{due::Due, told::Told, words::Words};
pub use self::{due::of, told::News};
use super::{engine::Snapshot, ports::Port};
use crate::{
    membership::{BootTime, PeerStatus},
    model::{Farm, NodeId, Timers},
    status::{Fault, FaultKind, GroupProof, NodeState, ProofStatus, Verdict},
};

/// How long a member may be in another view, or say nothing of this one, before it is at fault.
const LATE: Duration = Duration::from_secs(1);

/// Checks the farm, and remembers what it has told.
#[derive(Debug)]
pub struct Prover(Mutex<(Checker, Told)>);

impl Prover {
    /// A node that has seen nothing yet.
    pub fn new(own: NodeId) -> Self {
        Self(Mutex::new((Checker::new(own), Told::default())))
    }

    /// The proof by what the heartbeat thread has shown last. `port` is any of this node's.
    pub fn check(
        &self,
        now: BootTime,
        snapshot: &Snapshot,
        farm: &Farm,
        port: &Port,
    ) -> ProofStatus {
        self.state().0.check(now, snapshot, farm, port)
    }

    /// What of that is worth an event.
    pub fn news(&self, now: BootTime, status: &ProofStatus) -> Option<News> {
        self.state().1.news(now, status)
    }

    fn state(&self) -> MutexGuard<'_, (Checker, Told)> {
        // What a panic left half done is made anew by the next check.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compares what is with what must be.
#[derive(Debug)]
struct Checker {
    own: NodeId,
    due: Option<Due>,
    /// Since when each node has that trouble.
    since: BTreeMap<(NodeId, FaultKind), BootTime>,
}

impl Checker {
    fn new(own: NodeId) -> Self {
        Self { own, due: None, since: BTreeMap::new() }
    }

    fn check(
        &mut self,
        now: BootTime,
        snapshot: &Snapshot,
        farm: &Farm,
        port: &Port,
    ) -> ProofStatus {
        let (at, view) = (snapshot.at, &snapshot.view);
        if !view.alive.contains(self.own) || snapshot.deadline <= now {
            self.since.clear();
            return ProofStatus { epoch: view.epoch, ..ProofStatus::default() };
        }
        let due = self.due.take().filter(|due| due.is_by(view, port));
        let due = due.unwrap_or_else(|| Due::by(view, farm.node_ids(), port));
        let timers = farm.membership.timers;
        let trouble = |node| (node, self.trouble(node, snapshot, &due, timers));
        let troubles: BTreeMap<_, _> =
            farm.node_ids().map(trouble).filter_map(|(node, kind)| Some((node, kind?))).collect();
        self.since.retain(|(node, kind), _| troubles.get(node) == Some(kind));
        let words = Words { farm, due: &due, own: self.own, snapshot, lease: timers.lease };
        let mut status = ProofStatus {
            verdict: Verdict::OwnedOnce,
            epoch: view.epoch,
            groups: self.groups(snapshot, farm, &due, &troubles),
            ..ProofStatus::default()
        };
        for (&node, &kind) in &troubles {
            let since = *self.since.entry((node, kind)).or_insert(at);
            if at.saturating_since(since) < patience(kind, timers) {
                status.waiting_for.push(words.name(node));
            } else {
                let message = words.fault(node, kind);
                let node = Some(words.name(node));
                status.faults.push(Fault { node, group: None, kind, message });
            }
        }
        for group in due.without_owner() {
            let (kind, message) = (FaultKind::NoOwner, words.no_owner(group));
            let group = Some(words.group(group).to_owned());
            status.faults.push(Fault { node: None, group, kind, message });
        }
        if !status.faults.is_empty() {
            status.verdict = Verdict::Wrong;
        } else if !status.waiting_for.is_empty() {
            status.verdict = Verdict::Changing;
        }
        self.due = Some(due);
        status
    }

    /// What a node has not done that the view asks of it.
    fn trouble(
        &self,
        node: NodeId,
        snapshot: &Snapshot,
        due: &Due,
        timers: Timers,
    ) -> Option<FaultKind> {
        if node == self.own {
            return if !snapshot.converged {
                Some(FaultKind::Unproven)
            } else if of(&due.view, &snapshot.accept) != due.proof(node) {
                Some(FaultKind::Tables)
            } else {
                None
            };
        }
        let peer = snapshot.peers.iter().find(|peer| peer.node == node);
        let since = |heard| snapshot.at.saturating_since(heard);
        let heard = |peer: &&PeerStatus| peer.heard.is_some_and(|at| since(at) <= timers.lease);
        let peer = peer.filter(heard);
        if !due.view.alive.contains(node) {
            let serves = peer.is_some_and(|peer| peer.state == NodeState::Up);
            return serves.then_some(FaultKind::OtherView);
        }
        let owns = due.owns(node);
        match peer {
            None => owns.then_some(FaultKind::Silent),
            Some(PeerStatus { state: NodeState::Fenced | NodeState::Joining, .. }) => {
                owns.then_some(FaultKind::NotServing)
            }
            // It leaves, and what it had is others'.
            Some(PeerStatus { state: NodeState::Down, .. }) if !owns => None,
            Some(peer) if !peer.agrees => Some(FaultKind::OtherView),
            Some(peer) if peer.proof.epoch != due.view.epoch => Some(FaultKind::Unproven),
            Some(peer) => (peer.proof != due.proof(node)).then_some(FaultKind::Tables),
        }
    }

    fn groups(
        &self,
        snapshot: &Snapshot,
        farm: &Farm,
        due: &Due,
        troubles: &BTreeMap<NodeId, FaultKind>,
    ) -> Vec<GroupProof> {
        let count = |(group, name): (usize, &str)| {
            let here = snapshot.accept.iter();
            let here: Vec<_> = here.filter_map(|interface| interface.get(group)).collect();
            let mut proof =
                GroupProof { name: name.to_owned(), once: 0, twice: 0, nobody: 0, unknown: 0 };
            for (bucket, &owner) in due.tables[group].owners().iter().enumerate() {
                let interfaces = here.iter().filter(|bitmap| bitmap.has(bucket)).count();
                let owner = owner.filter(|&owner| owner != self.own);
                let trouble = owner.map(|owner| troubles.get(&owner));
                let place = match trouble {
                    Some(None) if interfaces > 0 => &mut proof.twice,
                    Some(None) => &mut proof.once,
                    Some(Some(FaultKind::NotServing)) | None if interfaces == 0 => {
                        &mut proof.nobody
                    }
                    Some(Some(FaultKind::NotServing)) | None if interfaces == here.len() => {
                        &mut proof.once
                    }
                    Some(Some(_)) | None => &mut proof.unknown,
                };
                *place += 1;
            }
            proof
        };
        words::groups(farm).enumerate().map(count).collect()
    }
}

/// How long a node may have that trouble before it is at fault.
fn patience(kind: FaultKind, timers: Timers) -> Duration {
    match kind {
        // What is told of a view may have been overtaken by another: the next heartbeats tell.
        FaultKind::Tables | FaultKind::NotServing => 2 * timers.period,
        FaultKind::OtherView | FaultKind::Unproven => LATE,
        FaultKind::Silent | FaultKind::NoOwner => Duration::ZERO,
    }
}
