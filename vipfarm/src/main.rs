//! The `vipfarm` binary: the command line over the library.

use std::process::ExitCode;

use clap::Parser;
use vipfarm::{cli::Cli, commands};

fn main() -> ExitCode {
    commands::main(Cli::parse().verb)
}
