//! The project's own tool: `cargo xtask VERB`, one file per verb.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

mod artifact;
mod bench;
mod build;
mod demo;
mod dist;
mod ebpf;
mod fuzz;
mod lint;
mod process;
mod setup;
mod sim;
mod test;
mod tidy;
mod workspace;

/// Everything the project needs beside plain cargo.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Find or install what building the eBPF programs and running the lab needs.
    Setup,
    /// Build the eBPF programs, then vipfarm with the programs inside.
    Build(build::Args),
    /// Run every test; ends with one line: passed, failed, skipped.
    Test(test::Args),
    /// Show a farm of three nodes at work in network namespaces (root).
    Demo(demo::Args),
    /// Simulate many farms: loss, cuts, freezes, crashes.
    Sim(sim::Args),
    /// Send mutated heartbeats to a membership machine at work, for a bounded time.
    Fuzz(fuzz::Args),
    /// Measure (root).
    Bench(bench::Args),
    /// Pack the program with its unit, manual pages, completions and documents.
    Dist,
    /// Check formatting, clippy and the house rules.
    Lint,
    /// Check the house rules only.
    Tidy,
}

fn main() -> ExitCode {
    // Not `-> Result`: with RUST_BACKTRACE set, that would bury the message under a backtrace.
    dispatch(Cli::parse().verb).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn dispatch(verb: Verb) -> Result<ExitCode> {
    let workspace = Workspace::locate()?;
    match verb {
        Verb::Setup => setup::verb(&workspace)?,
        Verb::Build(args) => build::verb(&workspace, &args)?,
        Verb::Test(args) => return test::verb(&workspace, &args),
        Verb::Demo(args) => demo::verb(&workspace, &args)?,
        Verb::Sim(args) => sim::verb(&workspace, &args)?,
        Verb::Fuzz(args) => fuzz::verb(&workspace, &args)?,
        Verb::Bench(args) => bench::verb(&workspace, &args)?,
        Verb::Dist => dist::verb(&workspace)?,
        Verb::Lint => lint::verb(&workspace)?,
        Verb::Tidy => tidy::verb(&workspace)?,
    }
    Ok(ExitCode::SUCCESS)
}
