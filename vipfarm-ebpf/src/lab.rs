//! Programs of the lab and the bench; no part of a farm.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![expect(clippy::inline_always, reason = "as in the packet programs")]
#![expect(clippy::needless_pass_by_value, reason = "the entry points' signature is aya's")]

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS},
    helpers::generated::bpf_get_prandom_u32,
    macros::{map, xdp},
    maps::{Array, HashMap, ProgramArray},
    programs::XdpContext,
};

mod object;

/// Passes everything: a veth's peer needs a program before it takes frames sent by XDP.
#[xdp]
fn pass(_: XdpContext) -> u32 {
    XDP_PASS
}

/// Drops everything: the floor that the bench subtracts.
#[xdp]
fn floor(_: XdpContext) -> u32 {
    XDP_DROP
}

/// The chance of loss, of 2^32.
#[map]
static LOSS: Array<u32> = Array::with_max_entries(1, 0);

/// Loses frames at random.
#[xdp]
fn lossy(_: XdpContext) -> u32 {
    let chance = LOSS.get(0).copied().unwrap_or(0);
    // SAFETY: takes no pointer.
    if unsafe { bpf_get_prandom_u32() } < chance { XDP_DROP } else { XDP_PASS }
}

/// Sixteen services under 8-byte keys, filled by the bench.
#[map]
static SERVICES: HashMap<u64, u64> = HashMap::with_max_entries(16, 0);

/// One lookup in a kernel hash map by destination address and port: the bench's unit.
#[xdp]
fn lookup(ctx: XdpContext) -> u32 {
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + 38 > end {
        return XDP_PASS;
    }
    // SAFETY: 38 bytes lie within the frame, as just checked.
    let (addr, port) = unsafe {
        (((data + 30) as *const u32).read_unaligned(), ((data + 36) as *const u16).read_unaligned())
    };
    let key = u64::from(addr) << 16 | u64::from(port);
    // SAFETY: the value is only read.
    match unsafe { SERVICES.get(key) } {
        Some(_) => XDP_DROP,
        None => XDP_PASS,
    }
}

/// What [`vary`] and [`vary_floor`] go on with: slots 0 and 1.
#[map]
static NEXT: ProgramArray = ProgramArray::with_max_entries(2, 0);

/// Draws another source port for every packet, then runs the program under test: what the CPU cannot
/// predict is whose the client is.
#[xdp]
fn vary(ctx: XdpContext) -> u32 {
    draw_port(&ctx);
    // SAFETY: slot 0 holds an XDP program.
    unsafe { NEXT.tail_call(&ctx, 0) };
    XDP_ABORTED
}

/// The same work without the program under test.
#[xdp]
fn vary_floor(ctx: XdpContext) -> u32 {
    draw_port(&ctx);
    // SAFETY: slot 1 holds an XDP program.
    unsafe { NEXT.tail_call(&ctx, 1) };
    XDP_ABORTED
}

#[inline(always)]
fn draw_port(ctx: &XdpContext) {
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + 36 <= end {
        // SAFETY: takes no pointer.
        let [a, b, ..] = unsafe { bpf_get_prandom_u32() }.to_ne_bytes();
        // SAFETY: 36 bytes lie within the frame, as just checked.
        unsafe { ((data + 34) as *mut [u8; 2]).write_unaligned([a, b]) };
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
