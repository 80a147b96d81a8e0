//! `vipfarm trace`: tells the agent of one client's frames when `slow` has judged them. A program of
//! its own: what `slow` leaves of the stack is too little.

use core::ptr;

use aya_ebpf::{
    macros::{map, xdp},
    maps::{Array, PerCpuArray, RingBuf},
    programs::XdpContext,
};
use vipfarm_common::{
    Outcome, Packet, Tables,
    trace::{HEAD, Traced, Wanted, is_wanted},
};

use crate::{
    frame::Frame,
    tables::TC,
    xdp::{JUMP, TRACE_SLOT},
};

/// Whose frames to tell of; the agent's.
#[map]
static WANTED: Array<Wanted> = Array::with_max_entries(1, 0);

/// What became of the frame that `slow` has just judged.
#[map]
static JUDGED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// [`Traced`] frames, for the agent.
#[map]
static TRACED: RingBuf = RingBuf::with_byte_size(256 << 10, 0);

/// Of this CPU: the time slot, how many frames were told of in it, and how many in all were not.
#[map]
static PACE: PerCpuArray<[u64; 3]> = PerCpuArray::with_max_entries(1, 0);

/// Length of a slot as a power of two of nanoseconds: 67 ms.
const SLOT_SHIFT: u64 = 26;
/// Frames told of in a slot: a thousand a second.
const SLOT_MOST: u64 = 67;

/// Has the frame looked at if a trace runs. Returns if none does.
#[inline(always)]
pub(crate) fn hand_over(ctx: &XdpContext, outcome: Outcome) {
    let Some(wanted) = WANTED.get(0) else { return };
    if wanted.family == 0 {
        return;
    }
    let Some(judged) = JUDGED.get_ptr_mut(0) else { return };
    // SAFETY: the map value is this CPU's own; the program takes the same context as its caller.
    unsafe {
        *judged = outcome.code() as u64;
        JUMP.tail_call(ctx, TRACE_SLOT);
    }
}

/// Tells of the frame if it is the client's; what becomes of it was decided before.
#[cfg_attr(feature = "frags", xdp(frags))]
#[cfg_attr(not(feature = "frags"), xdp)]
#[inline(always)]
fn trace(ctx: XdpContext) -> u32 {
    let code = JUDGED.get(0).copied().unwrap_or(0);
    let frame = Frame::of_xdp(&ctx);
    if WANTED.get(0).is_some_and(|wanted| is_wanted(&frame, wanted)) && !tell(&ctx, &frame, code) {
        note_lost();
    }
    (code & 3) as u32
}

/// Whether there was room.
#[inline(always)]
fn tell(ctx: &XdpContext, frame: &Frame, code: u64) -> bool {
    let boot_ns = TC.boot_ns();
    if !may_tell(boot_ns) {
        return false;
    }
    let Some(mut entry) = TRACED.reserve::<Traced>(0) else { return false };
    let traced = entry.as_mut_ptr();
    // SAFETY: the entry is this program's until it is submitted, and every byte of it is written.
    unsafe {
        ptr::write(&raw mut (*traced).boot_ns, boot_ns);
        ptr::write(&raw mut (*traced).code, code);
        ptr::write(&raw mut (*traced).length, (ctx.data_end() - ctx.data()) as u64);
        let words = (&raw mut (*traced).head).cast::<[u8; 8]>();
        let mut word = 0;
        while word < HEAD / 8 {
            ptr::write_volatile(words.add(word), [0; 8]);
            word += 1;
        }
        // Ends where the frame does: the verifier follows one way through it, and not one for each pair.
        let pairs = words.cast::<[u8; 2]>();
        let mut pair = 0;
        while pair < HEAD / 2
            && let Some(bytes) = frame.at::<2>(2 * pair)
        {
            ptr::write(pairs.add(pair), bytes);
            pair += 1;
        }
    }
    entry.submit(0);
    true
}

#[inline(always)]
fn may_tell(boot_ns: u64) -> bool {
    let Some(pace) = PACE.get_ptr_mut(0) else { return false };
    // SAFETY: the map value is this CPU's own, and BPF programs do not preempt themselves.
    let pace = unsafe { &mut *pace };
    if pace[0] != boot_ns >> SLOT_SHIFT {
        pace[0] = boot_ns >> SLOT_SHIFT;
        pace[1] = 0;
    }
    pace[1] += 1;
    pace[1] <= SLOT_MOST
}

#[inline(always)]
fn note_lost() {
    if let Some(pace) = PACE.get_ptr_mut(0) {
        // SAFETY: as above.
        unsafe { (*pace)[2] += 1 };
    }
}
