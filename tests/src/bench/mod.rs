//! Measurements. Every figure is a median over rounds in which all that is compared takes turns:
//! machines are shared, and their nanoseconds are not each other's.
//!
//! - [`packet()`]: what a packet costs. Its gates are ratios within one run.
//! - [`failover()`]: what clients notice when nodes fail, stop, come back or change their share.

mod failover;
mod packet;
mod statistics;

use std::fs;

pub use failover::{FailoverOptions, failover};
pub use packet::{PacketOptions, packet};

/// Tasks that ran or waited to run, averaged over the last minute; `None` where the system does not say.
fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}
