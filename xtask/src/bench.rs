//! `cargo xtask bench NAME`: builds all and runs the lab's `bench` program.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use clap::ValueEnum;

use crate::artifact;
use crate::build;
use crate::demo;
use crate::process;
use crate::setup;
use crate::workspace::Workspace;

/// Options of `bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure.
    #[arg(value_enum)]
    what: Bench,
    /// Write what was measured to FILE.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What can be measured.
#[derive(Clone, Copy, ValueEnum)]
enum Bench {
    /// Nanoseconds per packet and path, over an in-run floor.
    Packet,
}

/// Measures.
pub(crate) fn verb(workspace: &Workspace, args: &Args) -> Result<()> {
    demo::require_root("bench packet")?;
    setup::lab_tools()?;
    let artifacts = build::release_with_lab(workspace, "bench")?;

    let mut bench = Command::new(artifact::program(&artifacts, "bench")?);
    bench.arg(match args.what {
        Bench::Packet => "packet",
    });
    if let Some(file) = &args.json {
        bench.arg("--json").arg(file);
    }
    bench.env("VIPFARM_BIN", artifact::program(&artifacts, "vipfarm")?);
    bench.env("VIPFARM_LAB_OBJECT", workspace.lab_object());
    process::run(&mut bench)
}
