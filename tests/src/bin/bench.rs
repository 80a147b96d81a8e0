//! `bench packet`: what a packet costs; `bench failover`: what clients notice when nodes fail; and
//! whether that is within the budget.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use vipfarm_lab::bench::{self, FailoverOptions};

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
    /// Measure what clients notice when nodes fail, stop, come back or change their share
    Failover(FailoverOptions),
}

fn main() -> ExitCode {
    let outcome = match Args::parse().bench {
        Bench::Packet { json } => bench::packet(json.as_deref()),
        Bench::Failover(options) => bench::failover(&options),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
