//! What this node knows about one other node.

use std::{sync::Arc, time::Duration};

use super::{
    counters::Dropped,
    time::BootTime,
    view::{Digest, Life, Proof, Stamp, life},
    wire::{Ack, Flags, Heartbeat, State},
};
use crate::{
    config::differing_parts,
    model::{Mac, NodeId, Timers},
    status::NodeState,
};

/// How often the damping of a joiner may double; the longest is [`LONGEST_DAMPING`] anyway.
const MOST_FLAPS: u32 = 16;
const LONGEST_DAMPING: Duration = Duration::from_secs(30);
/// A member for that long is stable: that it is lost then counts as no flap.
const STABLE: Duration = Duration::from_mins(1);

/// A peer as heard, for status.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, none a state of another")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its place in the configuration.
    pub node: NodeId,
    /// What it is doing; [`NodeState::Down`] when it is not heard or has left.
    pub state: NodeState,
    /// When its newest heartbeat on the first link was read; `None` if never.
    pub heard: Option<BootTime>,
    /// For each link, whether the peer is heard on it.
    pub links: Vec<bool>,
    /// Its MAC on each link; `None` = not known.
    pub macs: Vec<Option<Mac>>,
    /// Its agent's incarnation.
    pub incarnation: Option<u64>,
    /// In which parts its configuration is another than this node's.
    pub config_differs: Vec<&'static str>,
    /// The digest of the configuration that it has in force.
    pub digest: Option<[u8; 16]>,
    /// The digest of the configuration that it has staged.
    pub staged: Option<[u8; 16]>,
    /// Whether it hears this node.
    pub hears_us: bool,
    /// Whether it says that it cannot serve.
    pub unfit: bool,
    /// Whether it leaves the farm.
    pub leaving: bool,
    /// When this node sent the newest heartbeat that it has acknowledged.
    pub acked: Option<BootTime>,
    /// Number of the view it has installed.
    pub epoch: u64,
    /// Whether that is the view installed here.
    pub agrees: bool,
    /// What its kernel accepts, as it said last.
    pub proof: Proof,
    /// What it still serves of what it has given away, as it said last; empty while it has not said
    /// so since it promised its last view.
    pub lingering: Arc<[u8]>,
}

/// One other node.
#[derive(Debug, Clone, Default)]
#[cfg_attr(test, derive(PartialEq, Hash))]
pub(super) struct Peer {
    newest: Option<Arc<Heartbeat>>,
    links: Vec<Link>,
    /// When this node sent the newest heartbeat that the peer has acknowledged.
    acked: Option<BootTime>,
    /// When it was last heard to serve by a view in which this node owns nothing; `None` if it has
    /// been heard otherwise since.
    pub(super) served_apart: Option<BootTime>,
    candidate: Option<Candidate>,
    rival: Option<Rival>,
    /// Since when, as membership was last judged, each hears the other.
    pub(super) linked_since: Option<BootTime>,
    /// Since when it is in the installed view.
    pub(super) member_since: Option<BootTime>,
    flaps: u32,
}

/// What comes from a peer by one network.
#[derive(Debug, Clone, Copy, Default)]
#[cfg_attr(test, derive(PartialEq, Hash))]
struct Link {
    sequence: u64,
    at: Option<BootTime>,
    /// The peer's there.
    mac: Option<Mac>,
    /// As events have told.
    up: bool,
}

/// An agent that is heard and must prove that it is alive.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(test, derive(PartialEq, Hash))]
struct Candidate {
    incarnation: u64,
    sequence: u64,
}

/// Another agent of the node than the one that is heard.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(test, derive(PartialEq, Hash))]
struct Rival {
    incarnation: u64,
    since: BootTime,
    last: BootTime,
}

/// What a heartbeat changed.
#[expect(clippy::struct_excessive_bools, reason = "each may change without the others")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Change {
    /// The sender's state.
    pub(super) state: bool,
    /// The MAC on the heartbeat's link.
    pub(super) mac: bool,
    /// The configuration, or the agent that runs it.
    pub(super) config: bool,
    /// It is another agent than before.
    pub(super) agent: bool,
    /// It acknowledged a later heartbeat than before.
    pub(super) acked: bool,
}

/// Why a heartbeat is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Dropped(Dropped),
    /// An agent that must first prove that it is alive: answer it.
    NewCandidate,
}

impl Peer {
    /// Takes an authentic heartbeat of this peer, unless it is an old one. `proof` is when this
    /// node sent the heartbeat that it acknowledges, if that is less than `fail` ago.
    ///
    /// Incarnations have no order. The one that is heard stays until it says goodbye or has been
    /// silent for `suspect`, so that no delayed or recorded datagram of a former one can push it
    /// aside. An agent that is heard beside it for longer than a restart explains is a duplicate.
    ///
    /// An agent that has not been heard within `fail` must prove that it is alive now: recorded
    /// traffic never acknowledges what this agent has just sent.
    pub(super) fn absorb(
        &mut self,
        now: BootTime,
        link: usize,
        timers: &Timers,
        heartbeat: &Arc<Heartbeat>,
        proof: Option<BootTime>,
    ) -> Result<Change, Refusal> {
        let incarnation = heartbeat.incarnation;
        let newest = self.newest.as_ref();
        let same = newest.is_some_and(|newest| newest.incarnation == incarnation);
        if let Some(newest) = newest
            && !same
            && !newest.state.flags.has(Flags::LEAVING)
            && self.heard_at().is_some_and(|at| now < at + timers.suspect)
        {
            return Err(Refusal::Dropped(self.refuse(now, timers.suspect, incarnation)));
        }
        let known = if same { self.links.get(link).map_or(0, |link| link.sequence) } else { 0 };
        if heartbeat.sequence <= known {
            return Err(Refusal::Dropped(Dropped::Stale));
        }
        let present = same && self.links.iter().any(|link| is_up(link.at, now, timers.fail));
        if !present && proof.is_none() {
            return Err(self.consider(link, heartbeat));
        }
        Ok(self.accept(now, link, heartbeat, proof))
    }

    fn accept(
        &mut self,
        now: BootTime,
        link: usize,
        heartbeat: &Arc<Heartbeat>,
        proof: Option<BootTime>,
    ) -> Change {
        let before = self.newest.clone().filter(|it| it.incarnation == heartbeat.incarnation);
        if before.is_none() {
            self.links.iter_mut().for_each(|link| (link.sequence, link.at) = (0, None));
            self.acked = None;
        }
        if self.links.len() <= link {
            self.links.resize(link + 1, Link::default());
        }
        let on = &mut self.links[link];
        (on.sequence, on.at) = (heartbeat.sequence, Some(now));
        let mac = on.mac.replace(heartbeat.mac) != Some(heartbeat.mac);
        self.candidate = None;
        self.rival = self.rival.filter(|rival| rival.incarnation != heartbeat.incarnation);
        let acked = proof > self.acked;
        self.acked = self.acked.max(proof);
        if before.as_ref().is_some_and(|before| before.sequence >= heartbeat.sequence) {
            // Another link was faster.
            return Change { mac, acked, ..Change::default() };
        }
        self.newest = Some(Arc::clone(heartbeat));
        let (before, after) = (before.as_ref().map(|before| &before.state), &heartbeat.state);
        Change {
            state: before != Some(after),
            mac,
            config: before.is_none_or(|before| before.digest != after.digest),
            agent: before.is_none(),
            acked,
        }
    }

    fn consider(&mut self, link: usize, heartbeat: &Heartbeat) -> Refusal {
        let Heartbeat { incarnation, sequence, .. } = *heartbeat;
        let known = self.candidate.filter(|candidate| candidate.incarnation == incarnation);
        // Acknowledgements, the proof, speak of the first link only.
        if link != 0 || known.is_some_and(|candidate| sequence <= candidate.sequence) {
            return Refusal::Dropped(Dropped::Unproven);
        }
        self.candidate = Some(Candidate { incarnation, sequence });
        if known.is_some() { Refusal::Dropped(Dropped::Unproven) } else { Refusal::NewCandidate }
    }

    /// The agent before a restart falls silent, so that the new one is refused for less than
    /// `suspect`.
    fn refuse(&mut self, now: BootTime, suspect: Duration, incarnation: u64) -> Dropped {
        let known = self
            .rival
            .filter(|rival| rival.incarnation == incarnation && now < rival.last + suspect);
        let since = known.map_or(now, |rival| rival.since);
        self.rival = Some(Rival { incarnation, since, last: now });
        if now >= since + suspect { Dropped::Duplicate } else { Dropped::Incarnation }
    }

    /// What to acknowledge to the peer: the newest it sent on the first link.
    pub(super) fn ack(&self) -> Ack {
        let newest = || {
            let sequence = self.links.first()?.sequence;
            self.newest.as_ref().map(|newest| (newest.incarnation, sequence))
        };
        let candidate = self.candidate.map(|it| (it.incarnation, it.sequence));
        candidate.or_else(newest).map_or(Ack::default(), |(incarnation, sequence)| Ack {
            life: life(incarnation),
            sequence: life(sequence),
        })
    }

    /// Starts the silence clocks anew.
    pub(super) fn excuse_silence(&mut self, now: BootTime) {
        for link in self.links.iter_mut().filter(|link| link.up) {
            link.at = link.at.max(Some(now));
        }
    }

    /// When it was last heard on the first link.
    pub(super) fn heard_at(&self) -> Option<BootTime> {
        self.links.first().and_then(|link| link.at)
    }

    /// Whether it was heard on the first link within `span`.
    pub(super) fn is_heard(&self, now: BootTime, span: Duration) -> bool {
        self.is_heard_on(0, now, span)
    }

    /// Whether it was heard on any link within `span`.
    pub(super) fn is_heard_anyhow(&self, now: BootTime, span: Duration) -> bool {
        self.links.iter().any(|link| is_up(link.at, now, span))
    }

    /// Whether it was heard on that link within `span`.
    pub(super) fn is_heard_on(&self, link: usize, now: BootTime, span: Duration) -> bool {
        self.links.get(link).is_some_and(|link| is_up(link.at, now, span))
    }

    /// The links, by number, that came up or went down since the last call.
    pub(super) fn changed_links(&mut self, now: BootTime, fail: Duration) -> Vec<(usize, bool)> {
        let mut changed = Vec::new();
        for (number, link) in self.links.iter_mut().enumerate() {
            let up = is_up(link.at, now, fail);
            if up != link.up {
                link.up = up;
                changed.push((number, up));
            }
        }
        changed
    }

    /// Its newest heartbeat, however old.
    pub(super) fn newest(&self) -> Option<&Arc<Heartbeat>> {
        self.newest.as_ref()
    }

    /// What it said last, however long ago.
    pub(super) fn state(&self) -> Option<&State> {
        self.newest.as_ref().map(|newest| &newest.state)
    }

    pub(super) fn has(&self, flag: Flags) -> bool {
        self.state().is_some_and(|state| state.flags.has(flag))
    }

    pub(super) fn life(&self) -> Option<Life> {
        self.newest.as_ref().map(|newest| life(newest.incarnation))
    }

    /// When this node sent the newest heartbeat that the peer has acknowledged.
    pub(super) fn acked(&self) -> Option<BootTime> {
        self.acked
    }

    /// How long a joiner must have been heard before it is made a member: ten periods, twice as
    /// long after each time it was lost soon after it had joined.
    pub(super) fn damping(&self, periods: u32, period: Duration) -> Duration {
        (period * periods * (1 << self.flaps)).min(LONGEST_DAMPING)
    }

    /// To be told when the peer is lost.
    pub(super) fn note_loss(&mut self, now: BootTime) {
        self.linked_since = None;
        if let Some(since) = self.member_since.take() {
            let flapped = now < since + STABLE;
            self.flaps = if flapped { (self.flaps + 1).min(MOST_FLAPS) } else { 0 };
        }
    }

    /// For status: the peer as `node`, heard within `fail` or down.
    pub(super) fn status(
        &self,
        node: NodeId,
        own: NodeId,
        now: BootTime,
        fail: Duration,
        digest: Digest,
        installed: Option<Stamp>,
    ) -> PeerStatus {
        let heard = self.is_heard(now, fail);
        let newest = self.state();
        let state = match newest.map(|state| state.flags) {
            Some(flags) if !heard || flags.has(Flags::LEAVING) => NodeState::Down,
            Some(flags) if flags.has(Flags::SERVING) => NodeState::Up,
            Some(flags) if flags.has(Flags::FENCED) => NodeState::Fenced,
            Some(_) => NodeState::Joining,
            None => NodeState::Down,
        };
        PeerStatus {
            node,
            state,
            heard: self.heard_at(),
            links: self.links.iter().map(|link| is_up(link.at, now, fail)).collect(),
            macs: self.links.iter().map(|link| link.mac).collect(),
            incarnation: self.newest.as_ref().map(|newest| newest.incarnation),
            config_differs: newest
                .map_or_else(Vec::new, |state| differing_parts(digest, state.digest)),
            digest: newest.map(|state| state.digest),
            staged: newest.and_then(|state| state.staged),
            hears_us: newest.is_some_and(|state| state.hears.contains(own)),
            unfit: self.has(Flags::UNFIT),
            leaving: self.has(Flags::LEAVING),
            acked: self.acked,
            epoch: newest.map_or(0, |state| state.installed.id.epoch),
            agrees: installed.is_some() && newest.map(|state| state.installed) == installed,
            proof: self.newest.as_ref().map_or_else(Proof::default, |newest| newest.proof),
            lingering: self
                .newest
                .as_ref()
                .map_or_else(Arc::default, |newest| Arc::clone(&newest.lingering)),
        }
    }
}

fn is_up(at: Option<BootTime>, now: BootTime, span: Duration) -> bool {
    at.is_some_and(|at| now < at + span)
}
