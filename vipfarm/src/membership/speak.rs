//! What this node says of itself.

use std::{sync::Arc, time::Duration};

use super::{
    Membership, Output,
    peer::Peer,
    time::BootTime,
    wire::{self, Flags, Heartbeat, State},
};
use crate::{
    model::{Abstention, Mac, Timers},
    status::NodeState,
};

impl Membership {
    /// Sends all that this node has to say, by all its links.
    pub(super) fn send_heartbeat(&mut self, now: BootTime) {
        let Timers { period, fail, .. } = self.config.timers;
        let heartbeat = self.heartbeat(now, fail);
        let key = &self.config.keys[0];
        let first = wire::seal(&heartbeat, 0, self.farm, key);
        let others = (0..).zip(&self.config.links).skip(1);
        let others = others.map(|(link, own)| (link, wire::reseal(&first, link, own.mac, key)));
        let others: Vec<_> = others.collect();
        let newcomers = std::mem::take(&mut self.newcomers);
        let answers = newcomers
            .into_iter()
            .map(|address| Output::SendTo { address, datagram: first.clone() });
        let answers: Vec<_> = answers.collect();
        self.outputs.push_back(Output::Send { link: 0, datagram: first });
        self.outputs.extend(answers);
        for (link, datagram) in others {
            self.outputs.push_back(Output::Send { link, datagram });
        }
        self.counters.sent += 1;
        self.next_heartbeat = now + period;
        self.announce = false;
    }

    pub(super) fn heartbeat(&mut self, now: BootTime, fail: Duration) -> Heartbeat {
        let installed = self.installed.as_ref().map(|installed| installed.stamp);
        let promised = self.promised.stamp;
        let version = self.overrides().version();
        let is_behind = |state: &State| state.overrides < version;
        let is_news =
            self.hears.iter().any(|node| self.peers[node.index()].state().is_some_and(is_behind));
        Heartbeat {
            source: self.config.own,
            incarnation: self.incarnation,
            sequence: self.sent.next(now, fail),
            state: State {
                flags: self.flags(),
                digest: self.digest,
                staged: self.staged,
                installed: installed.unwrap_or_default(),
                promised,
                ready: self.ready,
                hears: self.hears,
                linked: self.linked,
                max_epoch: self.max_epoch,
                overrides: version,
                hears_on: self.hears_on(now),
                abstains: self.own_abstention(self.digest),
                abstains_next: self.staged.map_or(Abstention::NONE, |it| self.own_abstention(it)),
            },
            mac: self.config.links.first().map_or(Mac([0; 6]), |first| first.mac),
            proof: self.proof,
            acks: self.peers.iter().map(Peer::ack).collect(),
            proposal: (installed.unwrap_or_default() != promised || !self.rules().barrier)
                .then(|| Arc::clone(&self.promised)),
            overrides: is_news.then(|| Arc::clone(self.overrides())),
            lingering: Arc::clone(&self.lingering),
        }
    }

    pub(super) fn flags(&self) -> Flags {
        let is_fenced = self.state == NodeState::Fenced && self.rules().fenced_is_told;
        Flags::default()
            .with(Flags::SERVING, self.serves(self.config.own))
            .with(Flags::FENCED, is_fenced)
            .with(Flags::LEAVING, self.leave_by.is_some())
            .with(Flags::UNFIT, !self.is_fit() || self.held_back_by.is_some())
            .with(Flags::FORCED, self.forced)
            .with(Flags::LISTENING, self.listening && self.rules().listen)
    }
}
