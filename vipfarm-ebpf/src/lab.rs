//! Programs of the lab and the bench; no part of a farm.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![expect(clippy::inline_always, reason = "as in the packet programs")]
#![expect(clippy::needless_pass_by_value, reason = "the entry points' signature is aya's")]

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS},
    helpers::generated::bpf_get_prandom_u32,
    macros::{map, socket_filter, xdp},
    maps::{Array, DevMap, HashMap, ProgramArray},
    programs::{SkBuffContext, XdpContext},
};

mod object;

/// Passes everything: a veth's peer needs a program before it takes frames sent by XDP.
#[xdp]
fn pass(_: XdpContext) -> u32 {
    XDP_PASS
}

/// Drops everything: the floor that the bench subtracts.
#[xdp(frags)]
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

/// What the following programs go on with: slot 0 is under test, slot 1 is the floor. All are of the
/// flavour that takes frames in several buffers (Linux 5.18), as a farm's filter is: a table holds but
/// one.
#[map]
static NEXT: ProgramArray = ProgramArray::with_max_entries(2, 0);

/// The frame under test as it was: its MACs, the target's first, each with its bytes first in memory;
/// and where its source port is, 34 or 54.
#[map]
static FRAME: Array<u64> = Array::with_max_entries(3, 0);

/// Runs the program under test on the frame as it was before the last run, which rewrote its MACs.
#[xdp(frags)]
fn again(ctx: XdpContext) -> u32 {
    restore(&ctx);
    // SAFETY: slot 0 holds an XDP program.
    unsafe { NEXT.tail_call(&ctx, 0) };
    XDP_ABORTED
}

/// The same work without the program under test.
#[xdp(frags)]
fn again_floor(ctx: XdpContext) -> u32 {
    restore(&ctx);
    // SAFETY: slot 1 holds an XDP program.
    unsafe { NEXT.tail_call(&ctx, 1) };
    XDP_ABORTED
}

/// As [`again`], with another source port for every packet: what the CPU cannot predict is whose the
/// client is.
#[xdp(frags)]
fn vary(ctx: XdpContext) -> u32 {
    restore(&ctx);
    draw_port(&ctx);
    // SAFETY: slot 0 holds an XDP program.
    unsafe { NEXT.tail_call(&ctx, 0) };
    XDP_ABORTED
}

/// The same work without the program under test.
#[xdp(frags)]
fn vary_floor(ctx: XdpContext) -> u32 {
    restore(&ctx);
    draw_port(&ctx);
    // SAFETY: slot 1 holds an XDP program.
    unsafe { NEXT.tail_call(&ctx, 1) };
    XDP_ABORTED
}

#[inline(always)]
fn restore(ctx: &XdpContext) {
    let (data, end) = (ctx.data(), ctx.data_end());
    if let (Some(target), Some(source)) = (FRAME.get(0), FRAME.get(1))
        && data + 12 <= end
    {
        // SAFETY: 12 bytes lie within the frame, as just checked.
        unsafe {
            (data as *mut [u8; 6]).write_unaligned(mac(*target));
            ((data + 6) as *mut [u8; 6]).write_unaligned(mac(*source));
        }
    }
}

#[inline(always)]
fn draw_port(ctx: &XdpContext) {
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + 56 <= end {
        // SAFETY: takes no pointer.
        let [a, b, ..] = unsafe { bpf_get_prandom_u32() }.to_ne_bytes();
        let port = if FRAME.get(2) == Some(&54) { data + 54 } else { data + 34 };
        // SAFETY: 56 bytes lie within the frame, as just checked.
        unsafe { (port as *mut [u8; 2]).write_unaligned([a, b]) };
    }
}

/// The MAC whose bytes are first in the word.
#[inline(always)]
fn mac(word: u64) -> [u8; 6] {
    let [a, b, c, d, e, f, ..] = word.to_ne_bytes();
    [a, b, c, d, e, f]
}

/// What [`flood`] needs: the frames so far, the slot of [`PORTS`] that it sends through, and the MAC
/// that it sends to, its bytes first in memory.
#[map]
static FLOOD: Array<u64> = Array::with_max_entries(3, 0);

/// Interfaces to send through. Frames for an empty slot are dropped.
#[map]
static PORTS: DevMap = DevMap::with_max_entries(8, 0);

/// Sends a UDP datagram from another of 4096 clients' addresses, and now and then another of 4
/// ports. The frame is plain IPv4 without options and has no UDP checksum; the client's address in it
/// is the first of the 4096, and its port the first of the 4.
#[xdp]
fn flood(ctx: XdpContext) -> u32 {
    let (data, end) = (ctx.data(), ctx.data_end());
    let (Some(sent), Some(slot), Some(target)) = (FLOOD.get_ptr_mut(0), FLOOD.get(1), FLOOD.get(2))
    else {
        return XDP_ABORTED;
    };
    if data + 36 > end {
        return XDP_ABORTED;
    }
    // SAFETY: the map value is aligned, and one thread at a time runs this program.
    let [low, high, ..] = unsafe {
        *sent += 1;
        (*sent).to_le_bytes()
    };
    // Frames come back from the receiver as it left them: with another MAC, for instance.
    // SAFETY: 36 bytes lie within the frame, as just checked.
    unsafe {
        (data as *mut [u8; 6]).write_unaligned(mac(*target));
        let (sum, client) = ((data + 24) as *mut u16, (data + 28) as *mut u16);
        let old = client.read_unaligned();
        let new = (u16::from_be(old) & 0xf000 | u16::from_be_bytes([high & 0x0f, low])).to_be();
        client.write_unaligned(new);
        sum.write_unaligned(updated(sum.read_unaligned(), old, new));
        let port = (data + 35) as *mut u8;
        port.write_unaligned(port.read_unaligned() & 0xfc | high >> 4 & 3);
    }
    let [slot, ..] = slot.to_le_bytes();
    match PORTS.redirect(slot.into(), XDP_DROP.into()) {
        Ok(action) | Err(action) => action,
    }
}

/// The Internet checksum after one word has changed (RFC 1624), all in network order.
#[inline(always)]
fn updated(sum: u16, old: u16, new: u16) -> u16 {
    let sum = u32::from(!sum) + u32::from(!old) + u32::from(new);
    let sum = (sum & 0xffff) + (sum >> 16);
    let [low, high, ..] = ((sum & 0xffff) + (sum >> 16)).to_le_bytes();
    !u16::from_le_bytes([low, high])
}

/// Lets no packet into its socket: the network stack's whole work, without a reader's.
#[socket_filter]
fn deaf(_: SkBuffContext) -> i64 {
    0
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
