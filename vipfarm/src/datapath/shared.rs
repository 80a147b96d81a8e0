//! The state that agent and kernel share, mapped into the agent: leases and bitmaps are written by
//! word stores, with no system call and no wait.

use std::{
    array::from_fn,
    io,
    mem::{self, size_of},
    os::fd::{AsFd, AsRawFd},
    ptr::{self, NonNull, addr_of_mut},
    sync::atomic::{AtomicU64, Ordering},
    thread::{self, JoinHandle},
};

use aya::maps::MapData;
use vipfarm_common::layout::{
    Generation, Group, MAC_SLOTS, MAX_GROUPS, MAX_PEERS, State, active_word,
};

use super::Error;
use crate::{
    model::Bitmap,
    plan::{Owners, Turns},
};

/// `MEMBARRIER_CMD_GLOBAL` (linux/membarrier.h).
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

/// Of a thread that makes one system call; memory may be locked, so all of it is real.
const STACK: usize = 64 << 10;

/// The mapped state. One writer: the thread that owns this value.
pub(super) struct SharedState {
    state: Mapping,
    idle: Idle,
    /// The hot path is to ask the slow one about each frame, whatever the lease.
    detour: bool,
}

/// The element of a `STATE` array, mapped until this is dropped. The kernel writes it too.
#[derive(Debug)]
pub struct Mapping(NonNull<State>);

/// The generation that is not active. A packet that began before the last switch may still use it;
/// `membarrier` returns when every CPU has passed through a quiescent state since.
enum Idle {
    /// No packet has used it.
    Unused,
    /// A thread waits until no packet uses it any more.
    Draining(JoinHandle<io::Result<()>>),
    /// Nobody waits yet.
    InUse,
}

impl Idle {
    /// Waiting takes tens of milliseconds, which whoever switches does not have: it is done behind
    /// his back, and as a rule long before the next switch.
    fn begin_draining() -> Self {
        let waiting = thread::Builder::new().name("membarrier".into()).stack_size(STACK);
        waiting.spawn(wait_for_packets).map_or(Self::InUse, Self::Draining)
    }

    fn drained(self) -> io::Result<()> {
        match self {
            Self::Unused => Ok(()),
            Self::Draining(waiting) => waiting.join().expect("a system call does not panic"),
            Self::InUse => wait_for_packets(),
        }
    }
}

/// Refused on `nohz_full` machines, which therefore get one configuration a start.
pub(super) fn wait_for_packets() -> io::Result<()> {
    // SAFETY: no pointers are passed.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps the only element of the array, which must be that of programs of this version. The error
    /// is that of `mmap`.
    pub fn of(map: &MapData) -> io::Result<Self> {
        let fd = map.fd().as_fd().as_raw_fd();
        // SAFETY: a fresh shared mapping of the map's only element, whose size is `State`'s (the
        // object was built from the same definition); the kernel rounds up to pages.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size_of::<State>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        match NonNull::new(address.cast()) {
            Some(state) if address != libc::MAP_FAILED => Ok(Self(state)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Where it is: valid for [`State`]'s size while this value lives.
    pub fn as_ptr(&self) -> *mut State {
        self.0.as_ptr()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `of` with this length and is not used any more.
        unsafe { libc::munmap(self.as_ptr().cast(), size_of::<State>()) };
    }
}

impl SharedState {
    /// Maps the element of the `STATE` array.
    pub(super) fn map(map: &MapData) -> Result<Self, Error> {
        let state = Mapping::of(map)
            .map_err(|error| Error::Memory { call: "mmap of the STATE map", error })?;
        Ok(Self { state, idle: Idle::Unused, detour: false })
    }

    /// Extends the lease. `deadline_ns` first: a packet in between errs to the slow path.
    pub(super) fn extend_lease(&mut self, deadline_ticks: u64, deadline_ns: u64) {
        // SAFETY: the pointers lie within the mapping.
        let control = unsafe { addr_of_mut!((*self.state.as_ptr()).control) };
        // SAFETY: as above.
        let (ns, ticks) = unsafe {
            (addr_of_mut!((*control).deadline_ns), addr_of_mut!((*control).deadline_ticks))
        };
        store(ns, deadline_ns);
        store(ticks, if self.detour { 0 } else { deadline_ticks });
    }

    /// Ends the lease. `deadline_ticks` first, for the same reason.
    pub(super) fn fence(&mut self) {
        self.force_slow();
        // SAFETY: the pointer lies within the mapping.
        store(unsafe { addr_of_mut!((*self.state.as_ptr()).control.deadline_ns) }, 0);
    }

    /// Whether the hot path is to ask the slow one for every frame of a VIP from now on; off, it decides
    /// itself when the lease has been extended.
    pub(super) fn detour(&mut self, detour: bool) {
        self.detour = detour;
        if detour {
            self.force_slow();
        }
    }

    /// Makes the hot path ask the slow one for every frame of a VIP.
    pub(super) fn force_slow(&mut self) {
        // SAFETY: the pointer lies within the mapping.
        store(unsafe { addr_of_mut!((*self.state.as_ptr()).control.deadline_ticks) }, 0);
    }

    /// Stores a group's bitmap in the active generation. Each word is old or new to a packet.
    pub(super) fn store_bitmap(&mut self, group: usize, bitmap: Bitmap) {
        // SAFETY: the pointer lies within the mapping.
        store_words(unsafe { addr_of_mut!((*self.group(group)).mine) }, bitmap.0);
    }

    /// Stores a group's buckets in a move likewise.
    pub(super) fn store_moving(&mut self, group: usize, bitmap: Bitmap) {
        // SAFETY: as above.
        store_words(unsafe { addr_of_mut!((*self.group(group)).moving) }, bitmap.0);
    }

    /// Stores a group's owners likewise, eight at a time.
    pub(super) fn store_owners(&mut self, group: usize, owners: &Owners) {
        // SAFETY: as above; the field begins at a multiple of 8.
        store_words(unsafe { addr_of_mut!((*self.group(group)).owners) }.cast(), owners.words());
    }

    /// Stores a group's former owners likewise.
    pub(super) fn store_former(&mut self, group: usize, owners: &Owners) {
        // SAFETY: as above.
        store_words(unsafe { addr_of_mut!((*self.group(group)).former) }.cast(), owners.words());
    }

    /// Stores who judges a group's flows likewise: who is before this node first, so that it does not take
    /// itself for the first one, and since when it does last, so that nothing is noted by one that does not
    /// any more.
    pub(super) fn store_turns(&mut self, group: usize, turns: &Turns) {
        // SAFETY: as above.
        store_words(
            unsafe { addr_of_mut!((*self.group(group)).first) }.cast(),
            turns.first.words(),
        );
        // SAFETY: as above.
        store_words(unsafe { addr_of_mut!((*self.group(group)).next) }.cast(), turns.next.words());
        // SAFETY: as above.
        let tenure = unsafe { addr_of_mut!((*self.group(group)).tenure) };
        store_words(tenure.cast(), turns.tenure_words());
    }

    fn group(&mut self, group: usize) -> *mut Group {
        assert!(group < MAX_GROUPS, "a plan has at most MAX_GROUPS groups");
        // SAFETY: the pointer lies within the mapping; `group` was checked.
        unsafe { addr_of_mut!((*self.active()).groups[group]) }
    }

    /// Stores a peer's MAC in the active generation.
    pub(super) fn store_peer(&mut self, index: usize, mac: u64) {
        assert!(index < MAX_PEERS, "a farm has at most MAX_PEERS nodes");
        let active = self.active();
        // SAFETY: the pointer lies within the mapping; `index` was checked.
        store(unsafe { addr_of_mut!((*active).peers[index]) }, mac);
    }

    /// Stores a slot of the set of peers' MACs in the active generation.
    pub(super) fn store_peer_slot(&mut self, slot: usize, mac: u64) {
        assert!(slot < MAC_SLOTS, "a multiplier gives slots below MAC_SLOTS");
        let active = self.active();
        // SAFETY: the pointer lies within the mapping; `slot` was checked.
        store(unsafe { addr_of_mut!((*active).peer_slots[slot]) }, mac);
    }

    /// Writes the idle generation, when no packet uses it any more, and makes it the active one.
    pub(super) fn switch(&mut self, tables: &Generation) -> Result<(), Error> {
        let idle = mem::replace(&mut self.idle, Idle::InUse);
        idle.drained().map_err(|error| Error::Memory { call: "membarrier", error })?;
        let idle = self.active_index() ^ 1;
        // SAFETY: the pointers lie within the mapping, and no packet reads the idle generation.
        unsafe {
            addr_of_mut!((*self.state.as_ptr()).generations[idle]).write(*tables);
            let active = addr_of_mut!((*self.state.as_ptr()).control.active);
            store(active, active_word(idle, tables));
        }
        self.idle = Idle::begin_draining();
        Ok(())
    }

    /// The bitmap of a group as the next packet finds it.
    pub(super) fn bitmap(&self, group: usize) -> Bitmap {
        assert!(group < MAX_GROUPS, "a plan has at most MAX_GROUPS groups");
        let active = self.active();
        // SAFETY: the pointers lie within the mapping; `group` was checked, `word` is below 4.
        Bitmap(from_fn(|word| load(unsafe { addr_of_mut!((*active).groups[group].mine[word]) })))
    }

    /// The hot path's deadline in ticks; 0 = it asks the slow path about each frame.
    pub(super) fn deadline_ticks(&self) -> u64 {
        // SAFETY: the pointer lies within the mapping.
        load(unsafe { addr_of_mut!((*self.state.as_ptr()).control.deadline_ticks) })
    }

    /// The end of the lease in nanoseconds of the boot clock; 0 = fenced.
    pub(super) fn deadline_ns(&self) -> u64 {
        // SAFETY: the pointer lies within the mapping.
        load(unsafe { addr_of_mut!((*self.state.as_ptr()).control.deadline_ns) })
    }

    fn active(&self) -> *mut Generation {
        // SAFETY: the index is 0 or 1, so the pointer lies within the mapping.
        unsafe { addr_of_mut!((*self.state.as_ptr()).generations[self.active_index()]) }
    }

    fn active_index(&self) -> usize {
        // SAFETY: the pointer lies within the mapping; only this thread writes the word.
        let active =
            unsafe { ptr::read_volatile(addr_of_mut!((*self.state.as_ptr()).control.active)) };
        usize::from(active & 1 == 1)
    }
}

/// Loads a word as it is now: whoever may write BPF maps may have changed it.
fn load(word: *mut u64) -> u64 {
    // SAFETY: callers pass aligned words within the mapping.
    unsafe { AtomicU64::from_ptr(word) }.load(Ordering::Acquire)
}

/// Stores the words of a field, each so that it is old or new to whoever looks.
fn store_words<const N: usize>(field: *mut [u64; N], words: [u64; N]) {
    for (index, word) in words.into_iter().enumerate() {
        store(field.cast::<u64>().wrapping_add(index), word);
    }
}

/// Stores a word so that stores before it are visible to whoever sees it.
fn store(word: *mut u64, value: u64) {
    // SAFETY: callers pass aligned words within the mapping, which the kernel only reads.
    unsafe { AtomicU64::from_ptr(word) }.store(value, Ordering::Release);
}
