//! The kernel tables of a running agent, changed behind its back.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use aya::{maps::MapData, programs::loaded_programs};
use vipfarm::datapath::Mapping;
use vipfarm_common::layout::MAX_GROUPS;

/// What an XDP program of an agent judges packets by, mapped here too.
#[derive(Debug)]
pub struct Tables(Mapping);

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
        Ok(Self(Mapping::of(map).context("mmap of STATE")?))
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
