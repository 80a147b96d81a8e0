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
};

/// Slot 0 holds `slow`. The array is emptied when its last pin or descriptor goes, attached or
/// not: the agent pins it.
#[map]
static JUMP: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The hot path.
#[cfg_attr(feature = "frags", xdp(frags))]
#[cfg_attr(not(feature = "frags"), xdp)]
#[inline(always)]
fn filter(ctx: XdpContext) -> u32 {
    match vipfarm_common::filter(&Frame::of_xdp(&ctx), &Kernel::<false>) {
        Step::Done(outcome) => finish(outcome),
        Step::Slow => {
            // SAFETY: `slow` is an XDP program like this one and takes the same context.
            unsafe { JUMP.tail_call(&ctx, 0) };
            // Only reached when the slot is empty.
            finish(Reason::Broken.into())
        }
    }
}

/// Everything variable or rare.
#[cfg_attr(feature = "frags", xdp(frags))]
#[cfg_attr(not(feature = "frags"), xdp)]
#[inline(always)]
fn slow(ctx: XdpContext) -> u32 {
    let outcome = vipfarm_common::slow(&Frame::of_xdp(&ctx), &Kernel::<false>);
    if tracing() {
        info!(&ctx, "slow path: {}", outcome.reason().as_str());
    }
    finish(outcome)
}

#[inline(always)]
fn finish(outcome: Outcome) -> u32 {
    count(outcome);
    outcome.action()
}
