//! How long the kernel may accept without hearing from the agent.

use std::time::Duration;

use super::time::BootTime;
use crate::model::Timers;

/// The lease as this node's own heartbeats justify it.
///
/// A peer takes this node's buckets [`Timers::fail`] after the last heartbeat it has received, so
/// the kernel must have stopped by then. That heartbeat is the newest one sent or, if the network
/// lost that, the one before: the deadline keeps to both, which makes one lost heartbeat harmless
/// however late it was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    /// [`Timers::lease`].
    length: Duration,
    /// [`Timers::fail`] less what clocks may drift.
    fail: Duration,
    /// When the newest heartbeat of this life was sent, and the one before it.
    sent: Option<(BootTime, BootTime)>,
    /// The same before the newest one.
    sent_before: Option<(BootTime, BootTime)>,
}

impl Lease {
    pub(super) fn new(timers: &Timers) -> Self {
        Self {
            length: timers.lease,
            fail: timers.fail.saturating_sub(timers.margin()),
            sent: None,
            sent_before: None,
        }
    }

    /// A heartbeat goes out; `now` was read before.
    pub(super) fn heartbeat_sent(&mut self, now: BootTime) {
        let previous = self.sent.map_or(now, |(newest, _)| newest);
        self.sent_before = self.sent.replace((now, previous));
    }

    /// The newest heartbeat could not be sent to anybody: it justifies nothing.
    pub(super) fn heartbeat_failed(&mut self) {
        self.sent = self.sent_before;
    }

    /// A new life begins: nothing sent before it counts.
    pub(super) fn begin_life(&mut self) {
        self.sent = None;
        self.sent_before = None;
    }

    /// Until when the kernel may accept; `None` before the first heartbeat of a life. Never falls
    /// within a life.
    pub(super) fn deadline(&self) -> Option<BootTime> {
        let (newest, previous) = self.sent?;
        Some((newest + self.length).min(previous + self.fail))
    }

    /// Whether the deadline has passed.
    pub(super) fn has_lapsed(&self, now: BootTime) -> bool {
        self.deadline().is_some_and(|deadline| now >= deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMERS: Timers = Timers::BALANCED;

    fn at(millis: u64) -> BootTime {
        BootTime::ZERO + Duration::from_millis(millis)
    }

    fn lease(sent: &[u64]) -> Lease {
        let mut lease = Lease::new(&TIMERS);
        for &millis in sent {
            lease.heartbeat_sent(at(millis));
        }
        lease
    }

    #[test]
    fn nothing_is_leased_before_a_heartbeat() {
        assert_eq!(lease(&[]).deadline(), None);
        assert!(!lease(&[]).has_lapsed(at(1_000_000)));
    }

    #[test]
    fn punctual_heartbeats_lease_the_full_time() {
        assert_eq!(lease(&[0, 50]).deadline(), Some(at(50) + TIMERS.lease));
    }

    #[test]
    fn a_late_heartbeat_may_be_lost_without_an_overlap() {
        let last_heard = at(0);
        let deadline = lease(&[0, 160]).deadline().expect("heartbeats were sent");
        assert!(deadline < last_heard + TIMERS.fail);
    }

    #[test]
    fn a_heartbeat_that_could_not_be_sent_leases_nothing() {
        let mut lease = lease(&[0, 50]);
        let before = lease.deadline();
        lease.heartbeat_sent(at(100));
        lease.heartbeat_failed();
        assert_eq!(lease.deadline(), before);
        let mut fresh = Lease::new(&TIMERS);
        fresh.heartbeat_sent(at(0));
        fresh.heartbeat_failed();
        assert_eq!(fresh.deadline(), None);
    }

    #[test]
    fn it_lapses_at_the_deadline_not_before() {
        let lease = lease(&[0]);
        let deadline = at(0) + TIMERS.lease;
        assert!(!lease.has_lapsed(deadline - Duration::from_nanos(1)));
        assert!(lease.has_lapsed(deadline));
    }
}
