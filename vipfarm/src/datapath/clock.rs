//! Relates the kernel's ticks to the boot clock, without assuming a tick rate.

use std::time::Duration;

use aya::programs::{TestRun, TestRunOptions, Xdp};

use super::{Error, object};

/// Ticks by which the hot path's deadline is earlier than the real one: the tick counter has been
/// seen to stall for six on a busy guest, and reading it may be one late.
const STALL_TICKS: u64 = 8;

/// The tick rates that Linux is built with on the machines it serves.
const RATES_HZ: [u64; 4] = [100, 250, 300, 1000];

/// The length of a tick.
#[derive(Debug, Clone, Copy)]
pub(super) struct TickClock {
    tick_ns: u64,
}

impl TickClock {
    /// Measures the tick over a tenth of a second.
    pub(super) fn calibrate(clock: &mut Xdp) -> Result<Self, Error> {
        let first = read(clock)?;
        std::thread::sleep(Duration::from_millis(100));
        let last = read(clock)?;
        let ticks = last.ticks.saturating_sub(first.ticks).max(1);
        let measured_ns = last.boot_ns.saturating_sub(first.boot_ns) / ticks;
        Ok(Self { tick_ns: tick_length(measured_ns) })
    }

    /// The hot path's deadline for that instant of the boot clock. 0 when it is too near.
    ///
    /// Both clocks are read together here and now, so neither suspend (the boot clock runs on,
    /// ticks do not) nor drift can make it late.
    pub(super) fn ticks_at(self, clock: &mut Xdp, deadline_ns: u64) -> Result<u64, Error> {
        let now = read(clock)?;
        let ticks = deadline_ns.saturating_sub(now.boot_ns) / self.tick_ns;
        Ok(if ticks > STALL_TICKS { now.ticks + ticks - STALL_TICKS } else { 0 })
    }
}

/// The boot clock as the kernel programs read it, in nanoseconds.
pub(super) fn boot_ns(clock: &mut Xdp) -> Result<u64, Error> {
    Ok(read(clock)?.boot_ns)
}

struct Reading {
    ticks: u64,
    boot_ns: u64,
}

fn read(clock: &mut Xdp) -> Result<Reading, Error> {
    let frame = [0; 64];
    let mut out = [0; 64];
    let options = TestRunOptions {
        data_in: Some(&frame),
        data_out: Some(&mut out),
        ..TestRunOptions::default()
    };
    clock.test_run(options).map_err(|error| object::program_error("a run of `clock`", &error))?;
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&out[at..at + 8]);
        u64::from_ne_bytes(bytes)
    };
    Ok(Reading { ticks: word(0), boot_ns: word(8) })
}

/// The tick length of the nearest known rate; a measurement far from all of them is lengthened by a
/// quarter, which makes deadlines earlier.
fn tick_length(measured_ns: u64) -> u64 {
    RATES_HZ
        .iter()
        .map(|hz| 1_000_000_000 / hz)
        .find(|&known| known.abs_diff(measured_ns) * 10 < known)
        .unwrap_or(measured_ns + measured_ns / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measured_tick_is_taken_for_the_rate_it_is_near_to() {
        assert_eq!(tick_length(3_960_000), 4_000_000);
        assert_eq!(tick_length(4_160_000), 4_000_000);
        assert_eq!(tick_length(3_400_000), 3_333_333);
        assert_eq!(tick_length(1_010_000), 1_000_000);
        assert_eq!(tick_length(10_900_000), 10_000_000);
    }

    #[test]
    fn an_unknown_rate_errs_to_longer_ticks() {
        assert_eq!(tick_length(2_000_000), 2_500_000);
    }
}
