//! The XDP programs.

use aya_ebpf::{
    macros::{map, xdp},
    maps::ProgramArray,
    programs::XdpContext,
};
use aya_log_ebpf::info;
use vipfarm_common::{Reason, Step, Tables};

use crate::{
    frame::Frame,
    tables::{Kernel, count, tracing},
};

/// Slot 0 holds `slow`. The array is emptied when its last pin or descriptor goes, attached or
/// not: the agent pins it.
#[map]
static JUMP: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The hot path.
#[xdp]
fn filter(ctx: XdpContext) -> u32 {
    match vipfarm_common::filter(&Frame::of_xdp(&ctx), &Kernel) {
        Step::Done(reason) => finish(reason),
        Step::Slow => {
            // SAFETY: `slow` is an XDP program like this one and takes the same context.
            unsafe { JUMP.tail_call(&ctx, 0) };
            // Only reached when the slot is empty.
            finish(Reason::Broken)
        }
    }
}

/// Everything variable or rare.
#[xdp]
fn slow(ctx: XdpContext) -> u32 {
    let reason = vipfarm_common::slow(&Frame::of_xdp(&ctx), &Kernel);
    if tracing() {
        info!(&ctx, "slow path: {}", reason.as_str());
    }
    finish(reason)
}

/// Writes jiffies64 and the boot clock, read in one breath, over the frame's first 16 bytes: the
/// agent learns the length of a tick and how far the two are apart. Never attached.
#[xdp]
fn clock(ctx: XdpContext) -> u32 {
    let (data, end) = (ctx.data() as *mut u64, ctx.data_end() as *mut u64);
    if data.wrapping_add(2) > end {
        return 1;
    }
    // SAFETY: 16 bytes at `data` lie within the frame, as just checked.
    unsafe {
        data.write_unaligned(Kernel.ticks());
        data.wrapping_add(1).write_unaligned(Kernel.boot_ns());
    }
    2
}

#[inline(always)]
fn finish(reason: Reason) -> u32 {
    count(reason);
    reason.action()
}
