//! Mean and worst of many durations.

use std::time::Duration;

/// What was counted so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    count: u64,
    total: Duration,
    worst: Duration,
}

impl Tally {
    pub(super) fn add(&mut self, time: Duration) {
        self.count += 1;
        self.total += time;
        self.worst = self.worst.max(time);
    }

    /// Milliseconds; 0 if nothing was counted.
    pub(super) fn mean_ms(&self) -> f64 {
        millis(self.total) / self.count.max(1) as f64
    }

    /// Milliseconds; 0 if nothing was counted.
    pub(super) fn max_ms(&self) -> f64 {
        millis(self.worst)
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
