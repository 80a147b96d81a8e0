//! The XDP programs. Inlined into their entry points: the verifier would take a call for another
//! function, which loses the packet pointers.
//!
//! With the feature `frags` a frame may come in several buffers, of which the programs see the first:
//! it has the headers. A jump table takes programs of one flavour only, so there is one object of each.

use aya_ebpf::{
    macros::{map, xdp},
    maps::ProgramArray,
    programs::XdpContext,
};
use aya_log_ebpf::info;
use vipfarm_common::{Outcome, Reason, Step};

use crate::{
    frame::Frame,
    tables::{Kernel, count, tracing},
    trace,
};

/// Slot 0 holds `slow`, slot 1 `slow_v6`, slot 2 `trace`. The array is emptied when its last pin or descriptor goes,
/// attached or not: the agent pins it.
#[map]
pub(crate) static JUMP: ProgramArray = ProgramArray::with_max_entries(3, 0);

/// See [`JUMP`].
pub(crate) const TRACE_SLOT: u32 = 2;

/// The hot path.
#[cfg_attr(feature = "frags", xdp(frags))]
#[cfg_attr(not(feature = "frags"), xdp)]
#[inline(always)]
fn filter(ctx: XdpContext) -> u32 {
    match vipfarm_common::filter(&Frame::of_xdp(&ctx), &Kernel::of(&ctx)) {
        Step::Done(outcome) => finish(outcome),
        Step::Slow => {
            // SAFETY: `slow` is an XDP program like this one and takes the same context.
            unsafe { JUMP.tail_call(&ctx, 0) };
            // Only reached when the slot is empty.
            finish(Reason::Broken.into())
        }
    }
}

/// Everything variable or rare, but for IPv6.
#[cfg_attr(feature = "frags", xdp(frags))]
#[cfg_attr(not(feature = "frags"), xdp)]
#[inline(always)]
fn slow(ctx: XdpContext) -> u32 {
    match vipfarm_common::slow_v4(&Frame::of_xdp(&ctx), &Kernel::of(&ctx)) {
        Step::Done(outcome) => traced(&ctx, outcome),
        Step::Slow => {
            // SAFETY: as above.
            unsafe { JUMP.tail_call(&ctx, 1) };
            finish(Reason::Broken.into())
        }
    }
}

/// The same of IPv6.
#[cfg_attr(feature = "frags", xdp(frags))]
#[cfg_attr(not(feature = "frags"), xdp)]
#[inline(always)]
fn slow_v6(ctx: XdpContext) -> u32 {
    traced(&ctx, vipfarm_common::slow_v6(&Frame::of_xdp(&ctx), &Kernel::of(&ctx)))
}

#[inline(always)]
fn traced(ctx: &XdpContext, outcome: Outcome) -> u32 {
    if tracing() {
        info!(ctx, "slow path: {}", outcome.reason().as_str());
    }
    let action = finish(outcome);
    trace::hand_over(ctx, outcome);
    action
}

#[inline(always)]
fn finish(outcome: Outcome) -> u32 {
    count(outcome);
    outcome.action()
}
