//! The maps, the constants set before loading, and the clocks.

use core::{cell::UnsafeCell, mem, ptr};

use aya_ebpf::{
    Global,
    bindings::{bpf_sock_tuple, xdp_md},
    helpers::generated::{
        bpf_jiffies64, bpf_ktime_get_boot_ns, bpf_sk_release, bpf_skc_lookup_tcp,
        bpf_tcp_check_syncookie,
    },
    macros::map,
    maps::{Array, LruHashMap, PerCpuArray},
    programs::XdpContext,
};
use vipfarm_common::{
    Guarded, Outcome, State, Tables,
    hash::Start,
    layout::{self, Claim, GUARD_COUNTERS, mac_word},
    packet::{Connection, FlowKey, FragmentKey, MAX_FLOWS, MAX_FRAGMENTS, Requester, Tuple},
    reason::COUNTERS,
};

use crate::frame::Frame;

/// What the agent writes and programs read, in a section of its own: programs have its address, which a
/// lookup in an array would cost each of them a nanosecond. The loader makes the section's map, so that the
/// agent can write it without a system call. Under its own name, so that the compiler does not take it for
/// something that nobody writes.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.state")]
static STATE: Shared = Shared(UnsafeCell::new(
    // SAFETY: it consists of numbers, for which zeroes are valid.
    unsafe { mem::zeroed() },
));

struct Shared(UnsafeCell<State>);

// SAFETY: programs only read it; what changes meanwhile changes by words.
unsafe impl Sync for Shared {}

/// Packets by [`Outcome::code`]. The second entry is the agent's: what former programs have counted.
#[map]
static PACKETS: PerCpuArray<[u64; COUNTERS]> = PerCpuArray::with_max_entries(2, 0);

/// The last [`Claim`] of each virtual address, as a word, by its identity; the agent takes them out.
#[map]
static CLAIMS: Array<u64> = Array::with_max_entries(layout::CLAIMS, 0);

/// Corrected and refused frames by [`Guarded`]; the second entry likewise.
#[map]
static GUARD: PerCpuArray<[u64; GUARD_COUNTERS]> = PerCpuArray::with_max_entries(2, 0);

/// Packets that came in parts: what became of the first.
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, u32> = LruHashMap::with_max_entries(MAX_FRAGMENTS, 0);

/// Who asked for a VIP whose nodes answer with their own MACs: its MAC, as
/// [`vipfarm_common::layout::mac_word`].
#[map]
static REQUESTERS: LruHashMap<Requester, u64> = LruHashMap::with_max_entries(16_384, 0);

/// UDP flows that are to stay here, with the time of their last datagram as [`vipfarm_common::packet::seen`]
/// has it.
#[map]
static FLOWS: LruHashMap<FlowKey, u64> = LruHashMap::with_max_entries(MAX_FLOWS, 0);

/// The flow that is asked for.
#[map]
static FLOW: PerCpuArray<FlowKey> = PerCpuArray::with_max_entries(1, 0);

/// Early fragments of this CPU: the time slot, and how many were kept in it.
#[map]
static EARLY: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);

/// The connection that is asked for.
#[map]
static TUPLE: PerCpuArray<bpf_sock_tuple> = PerCpuArray::with_max_entries(1, 0);

/// Length of a slot as a power of two of nanoseconds: 67 ms.
const SLOT_SHIFT: u64 = 26;

// Set by the loader. Each is a `Global` of its own: one of a struct would be copied whole for
// every packet.
/// The four words of the hash's [`Start`].
#[unsafe(no_mangle)]
static HASH0: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static HASH1: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static HASH2: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static HASH3: Global<u64> = Global::new(0);
/// The interface's MAC in the form of [`vipfarm_common::layout::mac_word`].
#[unsafe(no_mangle)]
static OWN_MAC: Global<u64> = Global::new(0);
/// Early fragments that a CPU keeps in a slot of 67 ms: 1024 are a hundred datagrams of 16 KB.
#[unsafe(no_mangle)]
static EARLY_MOST: Global<u64> = Global::new(1024);
/// 1: `slow` logs what it decides.
#[unsafe(no_mangle)]
static TRACE: Global<u8> = Global::new(0);

/// The kernel's side of [`Tables`].
pub(crate) struct Kernel(*mut xdp_md);

impl Kernel {
    #[inline(always)]
    pub(crate) fn of(ctx: &XdpContext) -> Self {
        Self(ctx.ctx)
    }
}

/// The tables for TC programs, which ask for no connections.
pub(crate) const TC: Kernel = Kernel(ptr::null_mut());

impl Tables for Kernel {
    #[inline(always)]
    fn state(&self) -> &State {
        // SAFETY: it is initialised, and no program writes it.
        unsafe { &*STATE.0.get() }
    }

    #[inline(always)]
    fn volatile<T: Copy>(&self, word: &T) -> T {
        // SAFETY: a reference is readable; volatile, because the agent stores to the shared page.
        unsafe { ptr::read_volatile(word) }
    }

    #[inline(always)]
    fn ticks(&self) -> u64 {
        // SAFETY: takes no pointer; the JIT inlines it to a load of jiffies64.
        unsafe { bpf_jiffies64() }
    }

    #[inline(always)]
    fn boot_ns(&self) -> u64 {
        // SAFETY: takes no pointer.
        unsafe { bpf_ktime_get_boot_ns() }
    }

    #[inline(always)]
    fn hash_start(&self) -> Start {
        Start([HASH0.load(), HASH1.load(), HASH2.load(), HASH3.load()])
    }

    #[inline(always)]
    fn own_mac(&self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = OWN_MAC.load().to_ne_bytes();
        [a, b, c, d, e, f]
    }

    #[inline(always)]
    fn connection(&self, tuple: &Tuple) -> Connection {
        let Some(key) = TUPLE.get_ptr_mut(0) else { return Connection::None };
        // SAFETY: the map value is this CPU's own; the union's fields are integers, and the kernel
        // reads those of the family that the size tells.
        let size = unsafe {
            if tuple.is_v6 {
                let key = &mut (*key).__bindgen_anon_1.ipv6;
                key.saddr = words(tuple.client);
                key.daddr = words(tuple.vip);
                key.sport = u16::from_ne_bytes(tuple.client_port);
                key.dport = u16::from_ne_bytes(tuple.vip_port);
                36
            } else {
                let key = &mut (*key).__bindgen_anon_1.ipv4;
                [key.saddr, ..] = words(tuple.client);
                [key.daddr, ..] = words(tuple.vip);
                key.sport = u16::from_ne_bytes(tuple.client_port);
                key.dport = u16::from_ne_bytes(tuple.vip_port);
                12
            }
        };
        let (network, transport) = tuple.headers.unwrap_or((0, 0));
        connection(self.0, size, network, transport)
    }

    #[inline(always)]
    fn flow_seen(&self, flow: &Tuple) -> u64 {
        put_flow(flow);
        flow_seen()
    }

    #[inline(always)]
    fn note_flow(&self, flow: &Tuple, seen: u64) {
        put_flow(flow);
        note_flow(seen);
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<u32> {
        // SAFETY: the value is copied at once; an entry that is replaced meanwhile is as good.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn put_fragment(&self, key: &FragmentKey, fate: u32) {
        // Fails only without memory: the other fragments are then early ones.
        let _ = FRAGMENTS.insert(key, fate, 0);
    }

    #[inline(always)]
    fn may_keep_fragment(&self) -> bool {
        let slot = self.boot_ns() >> SLOT_SHIFT;
        let Some(kept) = EARLY.get_ptr_mut(0) else { return false };
        // SAFETY: the map value is this CPU's own, and BPF programs do not preempt themselves.
        let kept = unsafe { &mut *kept };
        if kept[0] != slot {
            *kept = [slot, 0];
        }
        kept[1] += 1;
        kept[1] <= EARLY_MOST.load()
    }

    #[inline(always)]
    fn note_requester(&self, requester: &Requester, mac: [u8; 6]) {
        // Fails only without memory: that client waits for the next announcement to all.
        let _ = REQUESTERS.insert(requester, mac_word(mac), 0);
    }

    #[inline(always)]
    fn note_claim(&self, claim: Claim) {
        if let Some(last) = CLAIMS.get_ptr_mut(claim.vip.into()) {
            // SAFETY: an aligned word of the map; whichever CPU stores last is read.
            unsafe { ptr::write_volatile(last, claim.word()) };
        }
    }
}

/// `BPF_F_CURRENT_NETNS`.
const OWN_NETNS: u64 = u64::MAX;
/// `TCP_TIME_WAIT`, `TCP_LISTEN` and `TCP_NEW_SYN_RECV` (`net/tcp_states.h`).
const TIME_WAIT: u32 = 6;
const LISTEN: u32 = 10;
const NEW_SYN_RECV: u32 = 12;
/// What the cookie's check reads of either family's header, and of TCP's. A frame with 40 bytes from
/// its IPv4 header on has that of TCP, too.
const IP: u32 = 40;
const TCP: u32 = 20;

/// What the stack has of the connection in [`TUPLE`]. A function of its own, for the sake of the
/// stack, of which the kernel gives 512 bytes.
#[inline(never)]
fn connection(ctx: *mut xdp_md, size: u32, network: usize, transport: usize) -> Connection {
    let Some(key) = TUPLE.get_ptr_mut(0) else { return Connection::None };
    // SAFETY: the context is this run's, the key a map value; the reference is released below, on the
    // only way out.
    unsafe {
        let socket = bpf_skc_lookup_tcp(ctx.cast(), key, size, OWN_NETNS, 0);
        if socket.is_null() {
            return Connection::None;
        }
        let state = ptr::read_volatile(&raw const (*socket).state);
        let has_cookie = state == LISTEN && transport > 0 && {
            let frame = Frame::of_xdp(&XdpContext::new(ctx));
            match (
                frame.part::<{ IP as usize }>(network),
                frame.part::<{ TCP as usize }>(transport),
            ) {
                (Some(ip), Some(tcp)) => {
                    let (ip, tcp) = (ip.cast(), tcp.cast());
                    bpf_tcp_check_syncookie(socket.cast(), ip, IP, tcp, TCP) == 0
                }
                _ => false,
            }
        };
        bpf_sk_release(socket.cast());
        match state {
            LISTEN if !has_cookie => Connection::None,
            TIME_WAIT => Connection::Ended,
            LISTEN | NEW_SYN_RECV => Connection::Begun,
            _ => Connection::Own,
        }
    }
}

/// Has [`FLOW`] say that flow.
#[inline(always)]
fn put_flow(flow: &Tuple) {
    if let Some(key) = FLOW.get_ptr_mut(0) {
        // SAFETY: the map value is this CPU's own, and BPF programs do not preempt themselves.
        unsafe { *key = flow.into() };
    }
}

/// When [`FLOW`] was seen last, as [`FLOWS`] has it; 0 = never. A function of its own, as above.
#[inline(never)]
fn flow_seen() -> u64 {
    let Some(key) = FLOW.get_ptr(0) else { return 0 };
    // SAFETY: the key is a map value; what was found is copied at once.
    unsafe {
        let key = &*key;
        FLOWS.get(key).copied().unwrap_or(0)
    }
}

/// Notes that [`FLOW`] is seen now, likewise.
#[inline(never)]
fn note_flow(now: u64) {
    let Some(key) = FLOW.get_ptr(0) else { return };
    // SAFETY: the key is a map value.
    let key = unsafe { &*key };
    match FLOWS.get_ptr_mut(key) {
        // SAFETY: an aligned word of the map; all CPUs store the same time, nearly.
        Some(seen) => unsafe { ptr::write_volatile(seen, now) },
        // Fails only without memory: the flow then moves with its bucket.
        None => drop(FLOWS.insert(key, now, 0)),
    }
}

/// An address as the kernel takes it.
#[inline(always)]
fn words(addr: [u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = addr;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}

/// Whether `slow` logs.
#[inline(always)]
pub(crate) fn tracing() -> bool {
    TRACE.load() != 0
}

/// Counts a frame.
#[inline(always)]
pub(crate) fn count(outcome: Outcome) {
    if let Some(counters) = PACKETS.get_ptr_mut(0) {
        // SAFETY: the map value is this CPU's own, and BPF programs do not preempt themselves.
        unsafe { (*counters)[outcome.code() & (COUNTERS - 1)] += 1 };
    }
}

/// Counts a frame that was corrected or refused.
#[inline(always)]
pub(crate) fn count_guard(guarded: Guarded) {
    if let Some(counters) = GUARD.get_ptr_mut(0) {
        // SAFETY: as in `count`.
        unsafe { (*counters)[guarded as usize & (GUARD_COUNTERS - 1)] += 1 };
    }
}
