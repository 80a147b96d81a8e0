//! The maps, the constants set before loading, and the clocks.

use core::ptr;

use aya_ebpf::{
    Global,
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns},
    macros::map,
    maps::{Array, LruHashMap, PerCpuArray},
};
use vipfarm_common::{
    Guarded, Outcome, State, Tables,
    layout::{Claim, GUARD_COUNTERS, mac_word},
    packet::{FragmentKey, Requester},
    reason::COUNTERS,
};

/// `BPF_F_MMAPABLE`: the agent writes leases and bitmaps without a system call.
const MMAPABLE: u32 = 1 << 10;

#[map]
static STATE: Array<State> = Array::with_max_entries(1, MMAPABLE);

/// Packets by [`Outcome::code`].
#[map]
static PACKETS: PerCpuArray<[u64; COUNTERS]> = PerCpuArray::with_max_entries(1, 0);

/// The last [`Claim`], as a word.
#[map]
static CLAIM: Array<u64> = Array::with_max_entries(1, 0);

/// Corrected frames by [`Guarded`].
#[map]
static GUARD: PerCpuArray<[u64; GUARD_COUNTERS]> = PerCpuArray::with_max_entries(1, 0);

/// Packets that came in parts: what became of the first.
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, u32> = LruHashMap::with_max_entries(16_384, 0);

/// Who asked for a VIP whose nodes answer with their own MACs: its MAC, as
/// [`vipfarm_common::layout::mac_word`].
#[map]
static REQUESTERS: LruHashMap<Requester, u64> = LruHashMap::with_max_entries(16_384, 0);

/// Early fragments of this CPU: the time slot, and how many were kept in it.
#[map]
static EARLY: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);

/// Length of a slot as a power of two of nanoseconds: 67 ms.
const SLOT_SHIFT: u64 = 26;

// Set by the loader. Each is a `Global` of its own: one of a struct would be copied whole for
// every packet.
#[unsafe(no_mangle)]
static KEY0: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static KEY1: Global<u64> = Global::new(0);
/// The interface's MAC in the form of [`vipfarm_common::layout::mac_word`].
#[unsafe(no_mangle)]
static OWN_MAC: Global<u64> = Global::new(0);
/// Early fragments that a CPU keeps in a slot of 67 ms: 1024 are a hundred datagrams of 16 KB.
#[unsafe(no_mangle)]
static EARLY_MOST: Global<u64> = Global::new(1024);
/// 1: `slow` logs what it decides.
#[unsafe(no_mangle)]
static TRACE: Global<u8> = Global::new(0);

/// The kernel's side of [`Tables`]. `ANEW` asks about a frame that XDP has judged already.
pub(crate) struct Kernel<const ANEW: bool = false>;

impl<const ANEW: bool> Tables for Kernel<ANEW> {
    #[inline(always)]
    fn state(&self) -> Option<&State> {
        STATE.get(0)
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
    fn hash_key(&self) -> [u64; 2] {
        [KEY0.load(), KEY1.load()]
    }

    #[inline(always)]
    fn own_mac(&self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = OWN_MAC.load().to_ne_bytes();
        [a, b, c, d, e, f]
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
        if ANEW {
            return true;
        }
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
        if let Some(last) = CLAIM.get_ptr_mut(0) {
            // SAFETY: an aligned word of the map; whichever CPU stores last is read.
            unsafe { ptr::write_volatile(last, claim.word()) };
        }
    }
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

/// Counts a corrected frame.
#[inline(always)]
pub(crate) fn count_guard(guarded: Guarded) {
    if let Some(counters) = GUARD.get_ptr_mut(0) {
        // SAFETY: as in `count`.
        unsafe { (*counters)[guarded as usize & (GUARD_COUNTERS - 1)] += 1 };
    }
}
