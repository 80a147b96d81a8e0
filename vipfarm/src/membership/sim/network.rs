//! What happens to datagrams between two nodes.

use std::rc::Rc;

use super::super::Timers;

/// One datagram, however many nodes it goes to.
pub(super) type Datagram = Rc<[u8]>;

/// From one node to another.
#[derive(Clone, Copy, Default)]
pub(super) struct Path {
    /// Nothing comes through before that time, in nanoseconds.
    pub(super) cut_until: u64,
    /// When the newest datagram was sent that came through.
    delivered: u64,
    /// When the newest one was sent that did not.
    lost: u64,
    /// So many were lost in a row, for so long, that either end may take the other for dead.
    broken: bool,
}

impl Path {
    pub(super) fn deliver(&mut self, now: u64, timers: Timers) {
        self.broken = self.is_broken(now, timers);
        self.delivered = now;
        self.lost = 0;
    }

    pub(super) fn lose(&mut self, now: u64, timers: Timers) {
        self.lost = now;
        self.broken = self.is_broken(now, timers);
    }

    /// Whether the other end may have missed this one, not by its silence alone, since the two were
    /// in one view.
    pub(super) fn is_broken(&self, now: u64, timers: Timers) -> bool {
        let silent = u128::from(now.saturating_sub(self.delivered));
        let long = timers.fail.saturating_sub(timers.period + timers.margin()).as_nanos();
        self.broken || (self.lost > 0 && silent >= long)
    }

    pub(super) fn mend(&mut self) {
        self.broken = false;
    }
}

/// Who accepts a bucket, in one table of 64: rendezvous, so that a node that comes or goes moves no
/// others; and every change of a power or configuration moves most of them.
pub(super) fn table(owners: &[usize], salt: u64) -> [Option<usize>; 64] {
    let score = |bucket: u64, node: usize| super::rng::mix(salt ^ (bucket << 32 | node as u64));
    let owner =
        |bucket: usize| owners.iter().copied().max_by_key(|&node| score(bucket as u64, node));
    std::array::from_fn(owner)
}
