//! Relates the kernel's ticks to the boot clock.

use std::io;

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use nix::time::{ClockId, clock_getres};

use super::{Error, object};

/// Ticks by which the hot path's deadline is earlier than the real one: the tick counter has been
/// seen to stall for six on a busy guest, and reading it may be one late.
const STALL_TICKS: u64 = 8;

/// The length of a tick.
#[derive(Debug, Clone, Copy)]
pub(super) struct TickClock {
    tick_ns: u64,
}

impl TickClock {
    /// Asks the kernel: its coarse clock advances by ticks, so their resolution is a tick.
    pub(super) fn new() -> Result<Self, Error> {
        let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_err(|error| {
            Error::Memory { call: "clock_getres", error: io::Error::from(error) }
        })?;
        Ok(Self { tick_ns: tick.tv_nsec().cast_unsigned().max(1) })
    }

    /// The hot path's deadline for that instant of the boot clock. 0 when it is too near.
    ///
    /// Both clocks are read together here and now, so they cannot drift apart. Ticks stand still
    /// while the machine is suspended: after a resume the hot path may accept for what was left of
    /// the lease, unless the agent fences first.
    pub(super) fn ticks_at(
        self,
        clock: &mut SchedClassifier,
        deadline_ns: u64,
    ) -> Result<u64, Error> {
        let now = read(clock)?;
        let ticks = deadline_ns.saturating_sub(now.boot_ns) / self.tick_ns;
        Ok(if ticks > STALL_TICKS { now.ticks + ticks - STALL_TICKS } else { 0 })
    }
}

/// The boot clock as the kernel programs read it, in nanoseconds.
pub(super) fn boot_ns(clock: &mut SchedClassifier) -> Result<u64, Error> {
    Ok(read(clock)?.boot_ns)
}

struct Reading {
    ticks: u64,
    boot_ns: u64,
}

fn read(clock: &mut SchedClassifier) -> Result<Reading, Error> {
    let frame = [0; 64];
    let mut out = [0; 64];
    let options = TestRunOptions {
        data_in: Some(&frame),
        data_out: Some(&mut out),
        ..TestRunOptions::default()
    };
    let ran = clock.test_run(options);
    ran.map_err(|error| object::program_error("a run of `vipfarm_clock`", &error))?;
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&out[at..at + 8]);
        u64::from_ne_bytes(bytes)
    };
    Ok(Reading { ticks: word(0), boot_ns: word(8) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_one_of_those_that_linux_is_built_with() {
        let clock = TickClock::new().expect("the clock exists");
        assert!((1_000_000..=10_000_000).contains(&clock.tick_ns), "{clock:?}");
    }
}
