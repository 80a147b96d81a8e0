//! How long a change of view kept buckets without owner: measured where the kernel tables are
//! written, so that nothing of the way to whoever asks is in it.

use crate::{membership::BootTime, status::ViewChange};

/// Takes the times of releases and acquisitions.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Barrier {
    /// Of the first release since the last acquisition: what it gave up has no owner yet.
    released: Option<BootTime>,
    last: Option<ViewChange>,
}

impl Barrier {
    /// Something that was served is about to be released.
    pub(super) fn release(&mut self, now: BootTime) {
        self.released.get_or_insert(now);
    }

    /// The buckets of the view with that number are in force.
    pub(super) fn acquire(&mut self, now: BootTime, epoch: u64) {
        let micros = |time: BootTime| time.as_nanos() / 1000;
        let released_us = self.released.take().map(micros);
        self.last = Some(ViewChange { epoch, released_us, acquired_us: micros(now) });
    }

    /// Everything was given up because of a fault: that is an outage, not a change of view.
    pub(super) fn fence(&mut self) {
        self.released = None;
    }

    /// The last change, if there was one.
    pub(super) fn last(&self) -> Option<ViewChange> {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_timed_from_its_first_release() {
        let mut barrier = Barrier::default();
        barrier.release(at(100));
        barrier.release(at(200));
        barrier.acquire(at(450), 7);
        let expected = ViewChange { epoch: 7, released_us: Some(100), acquired_us: 450 };
        assert_eq!(barrier.last(), Some(expected));
        barrier.release(at(900));
        assert_eq!(barrier.last(), Some(expected), "it is not complete");
    }

    #[test]
    fn who_served_nothing_has_released_nothing() {
        let mut barrier = Barrier::default();
        barrier.release(at(100));
        barrier.fence();
        barrier.acquire(at(450), 8);
        let expected = ViewChange { epoch: 8, released_us: None, acquired_us: 450 };
        assert_eq!(barrier.last(), Some(expected));
    }

    fn at(micros: u64) -> BootTime {
        BootTime::from_nanos(micros * 1000)
    }
}
