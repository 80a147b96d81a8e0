//! What one packet costs: in the XDP programs, run by the kernel on a frame of ours, and in a whole
//! receiver that a flood meets, beside what a system has on board to filter by a hash.
//!
//! - [`paths`]: the hot path's outcomes. [`flood`]: the flood, and [`receiver`] who it meets.
//! - [`figures`]: what comes out, whether it is good enough, and how it looks.

mod figures;
mod flood;
mod paths;
mod receiver;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::{Args, value_parser};
use vipfarm::datapath::manual::Entry;

use self::figures::{Figures, FloodFigures};
use super::{load_average, thread_time};
use crate::{skip, translated, world::World};

/// What is measured, and where it goes.
#[derive(Debug, Clone, Args)]
pub struct PacketOptions {
    /// Write the figures there too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// How often the packet programs are loaded anew: of their figures the middle one counts
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = value_parser!(u16).range(1..))]
    loads: u16,

    /// Rounds of each load in which every outcome of the hot path takes a turn of about 20 ms
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = value_parser!(u16).range(1..))]
    rounds: u16,

    /// Rounds in which every receiver is flooded; 0 leaves the flood out
    #[arg(long, value_name = "N", default_value_t = 7)]
    flood: u16,

    /// How much CPU time a flood takes
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    flood_seconds: f64,
}

/// Measures; prints a table; says whether all gates hold.
pub fn packet(options: &PacketOptions) -> Result<bool> {
    skip::bpf().map_err(|reason| anyhow!(reason))?;
    let load_average = load_average();
    let mut not_measured = Vec::new();
    let kernel = World::new().kernel();
    let calls = translated::calls(kernel.program_id(Entry::Filter)?)?;
    let programs = kernel.sizes()?.into_iter().map(Into::into).collect();
    let measured = paths::measure(options.loads, options.rounds)?;
    let flood = match options.flood {
        0 => FloodFigures::default(),
        rounds => flood::measure(rounds, options.flood_seconds, &mut not_measured)?,
    };
    let figures = Figures {
        floor_ns: measured.floor_ns,
        lookup_ns: measured.lookup_ns,
        hot_path_calls: calls.iter().filter(|call| !call.contains(translated::TAIL_CALL)).count(),
        programs,
        loads: measured.loads,
        rounds: options.rounds,
        paths: measured.paths,
        flood,
        not_measured,
        load_average,
    };
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&figures)?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    print!("{figures}");
    Ok(figures.held())
}
