//! When this node sent what.

use std::{collections::VecDeque, time::Duration};

use super::{time::BootTime, view::life, wire::Ack};

/// The heartbeats sent within [`crate::model::Timers::fail`]: only their acknowledgements prove or
/// justify anything.
#[derive(Debug, Clone, Default)]
#[cfg_attr(test, derive(PartialEq, Hash))]
pub(super) struct Sent {
    sequence: u64,
    /// Ascending.
    times: VecDeque<BootTime>,
}

impl Sent {
    /// The number of the next heartbeat, which goes out now; `now` was read before.
    pub(super) fn next(&mut self, now: BootTime, fail: Duration) -> u64 {
        self.forget(now, fail);
        self.sequence += 1;
        self.times.push_back(now);
        self.sequence
    }

    /// Forgets what was sent longer than `fail` ago.
    pub(super) fn forget(&mut self, now: BootTime, fail: Duration) {
        while self.times.front().is_some_and(|&at| at + fail <= now) {
            self.times.pop_front();
        }
    }

    /// When the acknowledged heartbeat was sent; `None` if that is too long ago.
    pub(super) fn time_of(&self, ack: Ack) -> Option<BootTime> {
        // The low half is enough: nobody sends 2^32 heartbeats within `fail`.
        let low = life(self.sequence);
        let age = usize::try_from(low.wrapping_sub(ack.sequence)).ok()?;
        let place = self.times.len().checked_sub(age.checked_add(1)?)?;
        self.times.get(place).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAIL: Duration = Duration::from_millis(250);

    fn at(millis: u64) -> BootTime {
        BootTime::ZERO + Duration::from_millis(millis)
    }

    fn ack(sequence: u64) -> Ack {
        Ack { life: 1, sequence: life(sequence) }
    }

    #[test]
    fn what_was_sent_within_the_failure_time_is_known() {
        let mut sent = Sent::default();
        let numbers = [0, 50, 100].map(|millis| sent.next(at(millis), FAIL));
        assert_eq!(numbers, [1, 2, 3]);
        assert_eq!(sent.time_of(ack(2)), Some(at(50)));
        sent.forget(at(300), FAIL);
        assert_eq!(
            [ack(1), ack(2), ack(3)].map(|ack| sent.time_of(ack)),
            [None, None, Some(at(100))]
        );
        assert_eq!(sent.time_of(ack(4)), None, "never sent");
        assert_eq!(sent.time_of(Ack::default()), None);
    }

    #[test]
    fn numbers_beyond_the_low_half_are_told_apart() {
        let mut sent = Sent { sequence: u64::from(u32::MAX) - 1, ..Sent::default() };
        let numbers = [0, 1, 2].map(|millis| sent.next(at(millis), FAIL));
        for (millis, number) in (0..).zip(numbers) {
            assert_eq!(sent.time_of(ack(number)), Some(at(millis)));
        }
    }
}
