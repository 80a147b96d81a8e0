//! Measurements. Every figure is a median over rounds in which all that is compared takes turns:
//! machines are shared, and their nanoseconds are not each other's.
//!
//! - [`packet()`]: what a packet costs. Its gates are ratios within one run.
//! - [`failover()`]: what clients notice when nodes fail, stop, come back or change their share.

mod failover;
mod packet;
mod statistics;

pub use failover::{FailoverOptions, failover};
pub use packet::packet;
