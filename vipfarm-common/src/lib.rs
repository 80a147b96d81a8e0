//! The packet decision of vipfarm: what becomes of a frame, and why.
//!
//! One piece of code, three callers: the XDP programs (`vipfarm-ebpf`), the agent's `explain`, and
//! the tests. It cannot allocate, do IO, read a clock, panic or run unbounded; what it needs from
//! its surroundings comes through two traits, [`Packet`] (bytes at an offset) and [`Tables`] (maps,
//! clocks, constants).
//!
//! - [`packet`]: the seam to the frame's bytes, and its implementation for a host's buffer.
//! - [`layout`]: the map values that agent and kernel share.
//! - [`hash`]: SipHash-1-3 over the client's fields.
//! - [`filter()`]: the hot path; [`slow()`]: everything variable or rare, a superset of it.
//! - [`guard()`]: what may leave a node.
//! - [`trace`]: which frames an operator is told of.
//! - [`reason`]: every outcome, by name.
//!
//! Every function of the packet path is `#[inline(always)]`: a call costs about 8 ns on CPUs with
//! return-speculation mitigations, and a packet pointer does not survive one in BPF.
#![no_std]
#![forbid(unsafe_code)]
#![expect(
    clippy::inline_always,
    reason = "a call costs 8 ns in the kernel, and a packet pointer does not survive one"
)]

pub mod filter;
pub mod guard;
pub mod hash;
pub mod layout;
pub mod packet;
pub mod reason;
pub mod slow;
pub mod trace;
mod vip;

pub use filter::{Step, filter};
pub use guard::{Guarded, guard};
pub use layout::{Generation, State};
pub use packet::{Head, Packet, Tables};
pub use reason::{Outcome, Reason, Verdict};
pub use slow::{slow, slow_v4, slow_v6};

/// The whole decision, as the kernel takes it: [`filter()`], then [`slow()`] if it says so.
#[inline(always)]
pub fn decide<P: Packet, T: Tables>(packet: &P, tables: &T) -> Outcome {
    match filter(packet, tables) {
        Step::Done(outcome) => outcome,
        Step::Slow => slow(packet, tables),
    }
}
