//! `cargo xtask bench NAME`: builds all and runs the lab's `bench` program.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use clap::{Subcommand, value_parser};

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
    /// Nanoseconds per packet and path, over an in-run floor; and of receiving a flood, beside nft and
    /// iptables. Takes two minutes.
    Packet {
        #[command(flatten)]
        output: Output,
        /// How often the packet programs are loaded anew: of their figures the middle one counts.
        #[arg(long, value_name = "N", default_value_t = 7, value_parser = value_parser!(u16).range(1..))]
        loads: u16,
        /// Rounds of each load in which every path takes a turn.
        #[arg(long, value_name = "N", default_value_t = 9, value_parser = value_parser!(u16).range(1..))]
        rounds: u16,
        /// Rounds in which every receiver is flooded; 0 leaves the flood out.
        #[arg(long, value_name = "N", default_value_t = 7)]
        flood: u16,
        /// How much CPU time a flood takes.
        #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
        flood_seconds: f64,
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
        /// Only a VIP that one node at a time has, and keepalived beside it.
        #[arg(long)]
        floating: bool,
    },
    /// What becomes of TCP connections when their buckets move. Takes eight minutes.
    Handover {
        #[command(flatten)]
        output: Output,
        /// Connections of each family that are open all the while.
        #[arg(long, value_name = "N", default_value_t = 150)]
        connections: u16,
        /// Only the events with that in their name.
        #[arg(long, value_name = "WORD")]
        only: Option<String>,
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
    let compared = match args.what {
        Bench::Packet { .. } => setup::filters(),
        Bench::Failover { .. } => setup::keepalived(),
        Bench::Handover { .. } => Ok(()),
    };
    if let Err(error) = compared {
        eprintln!("setup: {error:#}\nsetup: what is missing will not be measured");
    }
    let artifacts = build::with_lab(workspace, "bench", true)?;

    let mut bench = Command::new(artifact::program(&artifacts, "bench")?);
    bench.arg(args.what.name());
    if let Some(file) = &args.what.output().json {
        bench.arg("--json").arg(file);
    }
    let options = match &args.what {
        Bench::Packet { loads, rounds, flood, flood_seconds, .. } => vec![
            ("--loads", loads.to_string()),
            ("--rounds", rounds.to_string()),
            ("--flood", flood.to_string()),
            ("--flood-seconds", flood_seconds.to_string()),
        ],
        Bench::Failover { runs, soak, .. } => {
            vec![("--runs", runs.to_string()), ("--soak", soak.to_string())]
        }
        Bench::Handover { connections, only, .. } => {
            let only = only.iter().map(|word| ("--only", word.clone()));
            only.chain([("--connections", connections.to_string())]).collect()
        }
    };
    for (option, value) in options {
        bench.arg(option).arg(value);
    }
    if matches!(args.what, Bench::Failover { floating: true, .. }) {
        bench.arg("--floating");
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
            Self::Handover { .. } => "handover",
        }
    }

    fn output(&self) -> &Output {
        match self {
            Self::Packet { output, .. }
            | Self::Failover { output, .. }
            | Self::Handover { output, .. } => output,
        }
    }
}
