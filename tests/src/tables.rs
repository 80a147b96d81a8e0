//! The kernel tables of a running agent, changed behind its back.

use std::{
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result, ensure};
use aya::{maps::MapData, programs::loaded_programs};
use vipfarm_common::layout::{MAX_GROUPS, State};

/// What an XDP program of an agent judges packets by, mapped here too.
#[derive(Debug)]
pub struct Tables(NonNull<State>);

impl Tables {
    /// Those of the program with that id.
    pub fn of(program_id: u32) -> Result<Self> {
        let program = loaded_programs().filter_map(Result::ok).find(|it| it.id() == program_id);
        let program = program.with_context(|| format!("no program has the id {program_id}"))?;
        let maps = program.map_ids()?.context("the kernel does not tell the program's maps")?;
        let maps = maps.into_iter().map(MapData::from_id).collect::<Result<Vec<_>, _>>()?;
        let is_state =
            |map: &&MapData| map.info().is_ok_and(|info| info.name_as_str() == Some("STATE"));
        let map = maps.iter().find(is_state).context("the program has no map STATE")?;
        // SAFETY: a fresh shared mapping of the map's only element, which has the layout of the
        // same workspace.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size_of::<State>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        ensure!(address != libc::MAP_FAILED, "mmap of STATE: {}", io::Error::last_os_error());
        NonNull::new(address.cast()).map(Self).context("mmap gave no address")
    }

    /// Changes whether the node accepts these buckets of a kernel group: bits of a word of its
    /// bitmap.
    pub fn flip(&self, group: usize, word: usize, bits: u64) {
        assert!(group < MAX_GROUPS && word < 4);
        for generation in 0..2 {
            // SAFETY: the pointer lies within the mapping, as was checked.
            let mine = unsafe {
                &raw mut (*self.0.as_ptr()).generations[generation].groups[group].mine[word]
            };
            // SAFETY: an aligned word within the mapping, to all others an atomic one too.
            unsafe { AtomicU64::from_ptr(mine) }.fetch_xor(bits, Ordering::Release);
        }
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `of` with this length and is not used any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<State>()) };
    }
}
