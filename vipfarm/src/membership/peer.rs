//! What this node knows about one other node.

use std::{cmp::Reverse, time::Duration};

use super::{
    counters::Dropped,
    time::BootTime,
    view::{Life, Promise},
    wire::{Activity, Heartbeat},
};
use crate::{
    model::{Mac, NodeId},
    status::NodeState,
};

/// A peer as heard, for status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its place in the configuration.
    pub node: NodeId,
    /// What it is doing; [`NodeState::Down`] when it is not heard or has left.
    pub state: NodeState,
    /// When its newest heartbeat was read; `None` if never.
    pub heard: Option<BootTime>,
    /// Its MAC on the VIP's network.
    pub mac: Option<Mac>,
    /// Its agent's incarnation.
    pub incarnation: Option<u64>,
    /// Whether it runs this node's configuration; `true` until it says otherwise.
    pub same_config: bool,
}

/// One other node.
#[derive(Debug, Default)]
pub(super) struct Peer {
    newest: Option<Heard>,
    /// Its life when membership was last judged; `None` = it was no member.
    pub(super) member: Option<Life>,
    rival: Option<Rival>,
}

/// Another agent of the node than the one that is heard.
#[derive(Debug, Clone, Copy)]
struct Rival {
    incarnation: u64,
    since: BootTime,
    last: BootTime,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    at: BootTime,
    heartbeat: Heartbeat,
}

/// What a heartbeat changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Change {
    /// Anything but the sequence.
    pub(super) any: bool,
    pub(super) mac: bool,
    /// The configuration, or the agent that runs it.
    pub(super) config: bool,
}

impl Peer {
    /// Takes an authentic heartbeat of this peer, unless it is an old one.
    ///
    /// Incarnations have no order. The one that is heard stays until it says goodbye or has been
    /// silent for `suspect`, so that no delayed or recorded datagram of a former one can push it
    /// aside. An agent that is heard beside it for longer than a restart explains is a duplicate.
    pub(super) fn absorb(
        &mut self,
        now: BootTime,
        suspect: Duration,
        heartbeat: Heartbeat,
    ) -> Result<Change, Dropped> {
        if let Some(Heard { at, heartbeat: newest }) = self.newest {
            if newest.life.incarnation != heartbeat.life.incarnation {
                if now < at + suspect && newest.activity != Activity::Leaving {
                    return Err(self.refuse(now, suspect, heartbeat.life.incarnation));
                }
            } else if heartbeat.sequence <= newest.sequence {
                return Err(Dropped::Stale);
            }
        }
        let before = self.newest.map(|heard| heard.heartbeat);
        self.newest = Some(Heard { at: now, heartbeat });
        if self.rival.is_some_and(|rival| rival.incarnation == heartbeat.life.incarnation) {
            self.rival = None;
        }
        let Some(before) = before else {
            return Ok(Change { any: true, mac: true, config: true });
        };
        Ok(Change {
            any: Heartbeat { sequence: heartbeat.sequence, ..before } != heartbeat,
            mac: before.mac != heartbeat.mac,
            config: before.digest != heartbeat.digest
                || before.life.incarnation != heartbeat.life.incarnation,
        })
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

    /// Starts the silence clock anew.
    pub(super) fn excuse_silence(&mut self, now: BootTime) {
        if let Some(heard) = &mut self.newest {
            heard.at = heard.at.max(now);
        }
    }

    pub(super) fn heard_at(&self) -> Option<BootTime> {
        self.newest.map(|heard| heard.at)
    }

    /// The newest heartbeat, if it is not older than `fail`.
    pub(super) fn present(&self, now: BootTime, fail: Duration) -> Option<&Heartbeat> {
        let heard = self.newest.as_ref()?;
        (now < heard.at + fail).then_some(&heard.heartbeat)
    }

    /// The peer's life if it may be a member: present, of the same configuration, not leaving.
    pub(super) fn eligible(&self, now: BootTime, fail: Duration, digest: [u8; 16]) -> Option<Life> {
        let heartbeat = self.present(now, fail)?;
        let eligible = heartbeat.digest == digest && heartbeat.activity != Activity::Leaving;
        eligible.then_some(heartbeat.life)
    }

    pub(super) fn has_said_goodbye(&self) -> bool {
        self.activity() == Some(Activity::Leaving)
    }

    pub(super) fn is_serving(&self) -> bool {
        self.activity() == Some(Activity::Serving)
    }

    /// What the peer has promised last.
    pub(super) fn promise(&self) -> Option<Promise> {
        self.newest.map(|heard| heard.heartbeat.promise)
    }

    /// For status: the peer as `node`, heard within `fail` or down.
    pub(super) fn status(
        &self,
        node: NodeId,
        now: BootTime,
        fail: Duration,
        digest: [u8; 16],
    ) -> PeerStatus {
        let newest = self.newest.map(|heard| heard.heartbeat);
        let state = match self.present(now, fail).map(|heartbeat| heartbeat.activity) {
            Some(Activity::Serving) => NodeState::Up,
            Some(Activity::Joining) => NodeState::Joining,
            Some(Activity::Fenced) => NodeState::Fenced,
            Some(Activity::Leaving) | None => NodeState::Down,
        };
        PeerStatus {
            node,
            state,
            heard: self.heard_at(),
            mac: newest.map(|heartbeat| heartbeat.mac),
            incarnation: newest.map(|heartbeat| heartbeat.life.incarnation),
            same_config: newest.is_none_or(|heartbeat| heartbeat.digest == digest),
        }
    }

    fn activity(&self) -> Option<Activity> {
        self.newest.map(|heard| heard.heartbeat.activity)
    }
}

/// Who goes first of two nodes whose configurations differ: the one that serves, else the lower
/// index. The greater value goes first.
pub(super) fn precedence(serving: bool, node: NodeId) -> (bool, Reverse<NodeId>) {
    (serving, Reverse(node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NodeSet;

    const SUSPECT: Duration = Duration::from_millis(110);

    fn hear(peer: &mut Peer, millis: u64, incarnation: u64) -> Result<Change, Dropped> {
        let heartbeat = Heartbeat {
            source: NodeId::new(1).expect("in range"),
            activity: Activity::Serving,
            life: Life { incarnation, number: 0 },
            sequence: millis,
            digest: [0; 16],
            promise: Promise { epoch: 1, alive: NodeSet::EMPTY, hash: [0; 16] },
            mac: Mac([2, 0, 0, 0, 0, 1]),
        };
        peer.absorb(BootTime::ZERO + Duration::from_millis(millis), SUSPECT, heartbeat)
    }

    #[test]
    fn an_agent_that_follows_a_dead_one_is_no_duplicate() {
        let mut peer = Peer::default();
        hear(&mut peer, 0, 1).expect("the first");
        for millis in [1, 50, 100] {
            assert_eq!(hear(&mut peer, millis, 2), Err(Dropped::Incarnation));
        }
        hear(&mut peer, 110, 2).expect("the other is silent");
    }

    #[test]
    fn two_agents_that_are_heard_at_once_are_duplicates() {
        let mut peer = Peer::default();
        for millis in (0..=100).step_by(50) {
            hear(&mut peer, millis, 1).expect("in time");
            assert_eq!(hear(&mut peer, millis + 1, 2), Err(Dropped::Incarnation));
        }
        hear(&mut peer, 150, 1).expect("in time");
        assert_eq!(hear(&mut peer, 151, 2), Err(Dropped::Duplicate));
    }

    #[test]
    fn old_datagrams_now_and_then_are_no_second_agent() {
        let mut peer = Peer::default();
        for millis in (0..10_000).step_by(50) {
            hear(&mut peer, millis, 1).expect("in time");
            if millis % 200 == 0 {
                assert_eq!(hear(&mut peer, millis + 1, 2), Err(Dropped::Incarnation));
            }
        }
    }
}
