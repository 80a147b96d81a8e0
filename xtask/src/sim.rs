//! `cargo xtask sim`: more simulated farms than the tests have time for.

use anyhow::{Context as _, Result, bail};

use crate::process;
use crate::workspace::Workspace;

/// Options of `sim`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many schedules to run, from seed 0 on.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    seeds: u64,
    /// Nodes of every farm; else chance decides.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=64))]
    nodes: Option<u64>,
    /// Run this one schedule alone.
    #[arg(long, value_name = "SEED", conflicts_with = "seeds")]
    seed: Option<u64>,
}

/// Runs the simulator of the membership; a failure names its seed.
pub(crate) fn verb(workspace: &Workspace, args: &Args) -> Result<()> {
    let mut command = process::host_cargo();
    command.args(["test", "--locked", "--package", "vipfarm", "--lib"]);
    command.args(["membership::sim::with_", "--", "--nocapture"]);
    command.current_dir(workspace.root()).env("CARGO_TARGET_DIR", workspace.target());
    command.env("VIPFARM_SEEDS", args.seeds.to_string());
    if let Some(nodes) = args.nodes {
        command.env("VIPFARM_NODES", nodes.to_string());
    }
    if let Some(seed) = args.seed {
        command.env("VIPFARM_SEED", seed.to_string());
    }
    let status = command.status().context("cannot start cargo")?;
    if !status.success() {
        bail!("a farm came to grief: run its seed alone with `cargo xtask sim --seed SEED`");
    }
    Ok(())
}
