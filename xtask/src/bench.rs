//! `cargo xtask bench NAME`: builds all and runs the lab's `bench` program.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use clap::Subcommand;

use crate::artifact;
use crate::build;
use crate::demo;
use crate::process;
use crate::setup;
use crate::workspace::Workspace;

/// Options of `bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Bench,
}

/// What can be measured.
#[derive(Subcommand)]
enum Bench {
    /// Nanoseconds per packet and path, over an in-run floor.
    Packet {
        #[command(flatten)]
        output: Output,
    },
    /// What clients notice when nodes fail, stop, come back or change their share; and the same of
    /// keepalived. Takes eight minutes.
    Failover {
        #[command(flatten)]
        output: Output,
        /// How often each event is measured; 0 leaves out all but the soak.
        #[arg(long, value_name = "N", default_value_t = 7)]
        runs: u16,
        /// Also let a farm serve for so long while all processors are overloaded; 0 leaves that out.
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        soak: u64,
    },
}

/// Where figures go.
#[derive(clap::Args)]
struct Output {
    /// Write what was measured to FILE.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Measures.
pub(crate) fn verb(workspace: &Workspace, args: &Args) -> Result<()> {
    demo::require_root(&format!("bench {}", args.what.name()))?;
    setup::lab_tools()?;
    if let Bench::Failover { .. } = args.what
        && let Err(error) = setup::keepalived()
    {
        eprintln!("setup: {error:#}\nsetup: keepalived will not be measured");
    }
    let artifacts = build::release_with_lab(workspace, "bench")?;

    let mut bench = Command::new(artifact::program(&artifacts, "bench")?);
    bench.arg(args.what.name());
    if let Some(file) = &args.what.output().json {
        bench.arg("--json").arg(file);
    }
    if let Bench::Failover { runs, soak, .. } = args.what {
        bench.arg("--runs").arg(runs.to_string()).arg("--soak").arg(soak.to_string());
    }
    bench.env("VIPFARM_BIN", artifact::program(&artifacts, "vipfarm")?);
    bench.env("VIPFARM_LAB_OBJECT", workspace.lab_object());
    process::run(&mut bench)
}

impl Bench {
    fn name(&self) -> &'static str {
        match self {
            Self::Packet { .. } => "packet",
            Self::Failover { .. } => "failover",
        }
    }

    fn output(&self) -> &Output {
        match self {
            Self::Packet { output } | Self::Failover { output, .. } => output,
        }
    }
}
