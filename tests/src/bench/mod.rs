//! Measurements. Every figure is a median over rounds in which all that is compared takes turns:
//! machines are shared, and their nanoseconds are not each other's.
//!
//! - [`packet()`]: what a packet costs. Its gates are ratios within one run.
//! - [`failover()`]: what clients notice when nodes fail, stop, come back or change their share.
//! - [`handover()`]: what becomes of TCP connections when their buckets move.

mod failover;
mod handover;
mod packet;
mod statistics;

use std::fs;

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};

pub use failover::{FailoverOptions, failover};
pub use handover::{HandoverOptions, handover};
pub use packet::{PacketOptions, packet};

/// Tasks that ran or waited to run, averaged over the last minute; `None` where the system does not say.
fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// CPU time of this thread in nanoseconds: what other work on the machine takes is not in it.
fn thread_time() -> Result<f64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64)
}
