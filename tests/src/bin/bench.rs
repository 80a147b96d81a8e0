//! `bench packet`: what a packet costs; `bench failover`: what clients notice when nodes fail;
//! `bench handover`: what becomes of connections when buckets move; and whether that is within the
//! budget.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use vipfarm_lab::bench::{self, FailoverOptions, HandoverOptions, PacketOptions};

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Time the packet programs as ratios to one kernel hash lookup, and a flood beside nft and iptables
    Packet(PacketOptions),
    /// Measure what clients notice when nodes fail, stop, come back or change their share
    Failover(FailoverOptions),
    /// Count the TCP connections that do not outlive a move of their buckets
    Handover(HandoverOptions),
}

fn main() -> ExitCode {
    let outcome = match Args::parse().bench {
        Bench::Packet(options) => bench::packet(&options),
        Bench::Failover(options) => bench::failover(&options),
        Bench::Handover(options) => bench::handover(&options),
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
