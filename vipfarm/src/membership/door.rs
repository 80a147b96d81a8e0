//! What comes in: is it a heartbeat, is it authentic, is it new, and is it news.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{
    Dropped, EPOCH_JUMP, Event, Membership, Output,
    peer::Refusal,
    time::BootTime,
    view::life,
    wire::{self, Flags, Heartbeat},
};
use crate::model::Node;

/// The least time between two events that anybody on the network can cause.
const NUISANCE_INTERVAL: Duration = Duration::from_secs(10);

/// Beyond this no epoch is believed: whoever comes after must have room.
const LAST_EPOCH: u64 = 1 << 63;

/// Nodes that are not in the configuration and yet answered, in one period.
const MOST_NEWCOMERS: usize = 8;

/// When such were told of last.
#[derive(Debug, Clone, Default)]
pub(super) struct Nuisances {
    duplicate: Option<BootTime>,
    bad_tag: Option<BootTime>,
    epoch: Option<BootTime>,
    newcomer: Option<BootTime>,
    unknown: Option<BootTime>,
    /// When a heartbeat last came from a node's address that has another key or does not acknowledge
    /// this node's: not told of each time, but known.
    pub(super) stranger: Option<BootTime>,
}

impl Membership {
    /// Takes one datagram as the socket of that link gave it, with the address it came from. What
    /// does not count is dropped by a [`Dropped`] reason; no input does harm.
    pub fn handle_datagram(&mut self, now: BootTime, link: u8, source: IpAddr, bytes: &[u8]) {
        self.begin_turn(now);
        let heartbeat = self.authenticate(link, source.to_canonical(), bytes);
        if heartbeat == Err(Dropped::Source) && link == 0 {
            self.note_newcomer(now, source.to_canonical(), bytes);
        }
        match heartbeat.and_then(|heartbeat| self.note(now, link, heartbeat)) {
            Ok(()) => self.counters.accepted += 1,
            Err(reason) => self.drop_datagram(now, source.to_canonical(), reason),
        }
    }

    /// A node of this farm that this one's configuration does not have yet, or no longer: it must
    /// hear that the farm serves, or it would serve alone beside it.
    fn note_newcomer(&mut self, now: BootTime, source: IpAddr, bytes: &[u8]) {
        let is_new = self.newcomers.len() < MOST_NEWCOMERS && !self.newcomers.contains(&source);
        if is_new && wire::open(bytes, 0, &self.config.keys).is_ok() {
            self.newcomers.push(source);
            if is_time(&mut self.nuisances.newcomer, now) {
                self.event(Event::Newcomer { source });
            }
        }
    }

    /// Tells why this node does not begin to serve although it hears nobody.
    pub(super) fn tell_of_strangers(&mut self, now: BootTime) {
        if is_time(&mut self.nuisances.unknown, now) {
            self.event(Event::Unknown);
        }
    }

    fn authenticate(&self, link: u8, source: IpAddr, bytes: &[u8]) -> Result<Heartbeat, Dropped> {
        let is_of = |node: &Node| node.addresses.get(usize::from(link)) == Some(&source);
        wire::screen(bytes, self.farm)?;
        if !self.config.nodes.iter().any(is_of) {
            return Err(Dropped::Source);
        }
        let heartbeat = wire::open(bytes, link, &self.config.keys)?;
        let node = self.config.nodes.get(heartbeat.source.index()).ok_or(Dropped::Malformed)?;
        if !is_of(node) {
            return Err(Dropped::Source);
        }
        if heartbeat.source != self.config.own {
            Ok(heartbeat)
        } else if heartbeat.incarnation == self.incarnation {
            Err(Dropped::Own)
        } else {
            Err(Dropped::Duplicate)
        }
    }

    fn note(&mut self, now: BootTime, link: u8, heartbeat: Heartbeat) -> Result<(), Dropped> {
        let node = heartbeat.source;
        let epoch = heartbeat.state.max_epoch.max(heartbeat.state.promised.id.epoch);
        if epoch > self.highest_believable() {
            return Err(Dropped::Epoch);
        }
        let timers = self.config.timers;
        self.sent.forget(now, timers.fail);
        let ack = heartbeat.acks.get(self.config.own.index()).copied().unwrap_or_default();
        let proof = if ack.life == life(self.incarnation) { self.sent.time_of(ack) } else { None };
        let heartbeat = Arc::new(heartbeat);
        let peer = &mut self.peers[node.index()];
        let change = match peer.absorb(now, usize::from(link), &timers, &heartbeat, proof) {
            Ok(change) => change,
            Err(Refusal::Dropped(reason)) => return Err(reason),
            Err(Refusal::NewCandidate) => {
                // Its proof is our next heartbeat, acknowledged.
                self.announce = true;
                return Err(Dropped::Unproven);
            }
        };
        self.max_epoch = self.max_epoch.max(epoch);
        let has_vips = self.has_vips(usize::from(link));
        // Its view may be this node's, and each about to take over from the other.
        let is_silent = !self.peers[node.index()].is_heard(now, timers.suspect);
        let split = link != 0 && has_vips && is_silent;
        let apart = heartbeat.state.flags.has(Flags::SERVING) && (split || !self.is_rival_of(node));
        let served_apart = &mut self.peers[node.index()].served_apart;
        match (apart, has_vips) {
            (true, true) => *served_apart = Some(now),
            // By another network: its clients may be others.
            (true, false) => {}
            (false, _) => *served_apart = None,
        }
        if let Some(overrides) = &heartbeat.overrides
            && overrides.version() > self.overrides.version()
        {
            self.overrides = Arc::clone(overrides);
        }
        if change.mac {
            self.outputs.push_back(Output::Peer(node, link, heartbeat.mac));
        }
        if change.agent && self.hears.contains(node) {
            self.peers[node.index()].note_loss(now);
            let node = self.name(node);
            self.event(Event::NodeRestarted { node });
        }
        if change.config
            && !self.runs(node, self.digest)
            && self.staged != Some(heartbeat.state.digest)
        {
            let node = self.name(node);
            self.event(Event::ConfigMismatch { node });
        }
        let is_news = change.state || !self.hears.contains(node);
        if is_news || (change.acked && self.needs_acks(now)) {
            self.wake = self.wake.or(Some(now));
        }
        Ok(())
    }

    fn highest_believable(&self) -> u64 {
        if self.installed.is_none() {
            return LAST_EPOCH;
        }
        self.max_epoch.saturating_add(EPOCH_JUMP).min(LAST_EPOCH)
    }

    fn drop_datagram(&mut self, now: BootTime, source: IpAddr, reason: Dropped) {
        self.counters.drop_for(reason);
        if matches!(reason, Dropped::Tag | Dropped::Unproven) {
            self.nuisances.stranger = Some(now);
        }
        let node = || {
            let node = self.config.nodes.iter().find(|node| node.addresses.contains(&source));
            node.map_or_else(String::new, |node| node.name.clone())
        };
        let (last, event) = match reason {
            Dropped::Duplicate => {
                let event = Event::DuplicateNode { node: node(), source };
                (&mut self.nuisances.duplicate, event)
            }
            Dropped::Tag => (&mut self.nuisances.bad_tag, Event::BadTag { source }),
            Dropped::Epoch => {
                let event = Event::WildEpoch { node: node() };
                (&mut self.nuisances.epoch, event)
            }
            _ => return,
        };
        if is_time(last, now) {
            self.event(event);
        }
    }
}

/// Whether something that was told of `last` may be told of again.
fn is_time(last: &mut Option<BootTime>, now: BootTime) -> bool {
    let due = last.is_none_or(|last| now >= last + NUISANCE_INTERVAL);
    if due {
        *last = Some(now);
    }
    due
}
