//! `cargo xtask demo` builds everything and runs this.

use std::process::ExitCode;

use clap::Parser;
use vipfarm_lab::demo::{self, Options};

fn main() -> ExitCode {
    demo::run(&Options::parse())
}
