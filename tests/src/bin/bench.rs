//! `bench packet [--json FILE]`: what a packet costs, and whether that is within the budget.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use vipfarm_lab::bench;

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Time the packet programs over an empty program, as ratios to one kernel hash lookup
    Packet {
        /// Write the figures there too
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let Bench::Packet { json } = Args::parse().bench;
    match bench::packet(json.as_deref()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
