//! Heartbeat timing and transport.

use std::time::Duration;

/// Heartbeat timing and transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    /// The timers, from a profile or given one by one.
    pub timers: Timers,
    /// UDP port of the heartbeats, the same on every node.
    pub port: u16,
}

/// UDP port of the heartbeats when the file names none.
pub const DEFAULT_PORT: u16 = 4895;

/// Membership timers. See [`Timers::check`] for what must hold between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// Time between two heartbeats.
    pub period: Duration,
    /// Silence after which a peer no longer counts as the basis of this node's lease.
    pub suspect: Duration,
    /// How long the kernel may go on accepting after the agent's last renewal.
    pub lease: Duration,
    /// Silence after which a peer is out of the view.
    pub fail: Duration,
}

impl Timers {
    /// 20/120 ms: needs a real-time heartbeat thread.
    pub const FAST: Self = Self::from_millis(20, 45, 80, 120);
    /// 50/250 ms, the default.
    pub const BALANCED: Self = Self::from_millis(50, 110, 170, 250);
    /// 100/600 ms, for busy shared machines.
    pub const RELAXED: Self = Self::from_millis(100, 230, 420, 600);

    const fn from_millis(period: u64, suspect: u64, lease: u64, fail: u64) -> Self {
        Self {
            period: Duration::from_millis(period),
            suspect: Duration::from_millis(suspect),
            lease: Duration::from_millis(lease),
            fail: Duration::from_millis(fail),
        }
    }

    /// What a clock may drift and a datagram may take between two nodes: 4 % of [`Timers::fail`],
    /// at least 2 ms.
    pub fn margin(&self) -> Duration {
        (self.fail / 25).max(Duration::from_millis(2))
    }

    /// Whether a thread that runs late does harm sooner than with `other`: a shorter period alone
    /// makes no difference.
    pub fn are_stricter_than(&self, other: &Self) -> bool {
        self.suspect < other.suspect || self.lease < other.lease || self.fail < other.fail
    }

    /// Whether the timers can work together; the error says what does not hold and why it must.
    ///
    /// - `fail > lease + margin`: a node that stopped renewing has stopped accepting before a peer
    ///   takes its buckets.
    /// - `fail > suspect + 2 * period + 2 * margin`: one crash does not let every lease lapse. A
    ///   lease ends `fail - margin` after the newest heartbeat that the crashed node has
    ///   acknowledged; that one is up to two periods and a round trip (the second margin) older
    ///   than the crash, and the crashed node counts until it has been silent for `suspect`.
    /// - `suspect > 2 * period`: one lost heartbeat is no reason to leave a peer out of account.
    /// - `lease > 2 * period`: one late turn does not fence a healthy node.
    pub fn check(&self) -> Result<(), String> {
        let Self { period, suspect, lease, fail } = *self;
        let margin = self.margin();
        if period.is_zero() {
            return Err("the period must not be zero".into());
        }
        if lease <= 2 * period {
            return Err(format!(
                "lease {lease:?} must be longer than two periods ({:?}), or one late heartbeat stops a healthy node",
                2 * period
            ));
        }
        if fail <= lease + margin {
            return Err(format!(
                "fail {fail:?} must be longer than lease + margin ({:?}), or peers take a node's buckets while it still serves them",
                lease + margin
            ));
        }
        if suspect <= 2 * period {
            return Err(format!(
                "suspect {suspect:?} must be longer than two periods ({:?}), or one lost heartbeat makes a healthy peer suspect",
                2 * period
            ));
        }
        let crash = suspect + 2 * period + 2 * margin;
        if fail <= crash {
            return Err(format!(
                "fail {fail:?} must be longer than suspect + two periods + two margins ({crash:?}), or one crash stops every node for an instant",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_keeps_its_inequalities() {
        for timers in [Timers::FAST, Timers::BALANCED, Timers::RELAXED] {
            timers.check().expect("a shipped profile must be valid");
        }
    }

    #[test]
    fn each_timer_but_the_period_can_make_the_difference() {
        let millis = Duration::from_millis;
        let balanced = Timers::BALANCED;
        for timers in [
            Timers { suspect: millis(109), ..balanced },
            Timers { lease: millis(169), ..balanced },
            Timers { fail: millis(249), ..Timers::RELAXED },
        ] {
            assert!(timers.are_stricter_than(&balanced), "{timers:?}");
        }
        for timers in [balanced, Timers { period: millis(5), ..balanced }, Timers::RELAXED] {
            assert!(!timers.are_stricter_than(&balanced), "{timers:?}");
        }
    }

    #[test]
    fn timers_down_to_five_milliseconds_are_legal() {
        Timers::from_millis(5, 11, 20, 30).check().expect("5/30 ms");
    }

    #[test]
    fn timers_under_which_one_crash_stops_all_are_refused() {
        let timers = Timers { suspect: Duration::from_millis(130), ..Timers::BALANCED };
        assert!(timers.check().expect_err("too late").contains("one crash stops every node"));
        let timers = Timers { suspect: Duration::from_millis(100), ..Timers::BALANCED };
        assert!(timers.check().expect_err("too early").contains("makes a healthy peer suspect"));
    }

    #[test]
    fn a_lease_as_long_as_the_failure_time_is_refused() {
        let timers = Timers { lease: Timers::BALANCED.fail, ..Timers::BALANCED };
        assert!(timers.check().expect_err("overlap").contains("while it still serves them"));
    }
}
