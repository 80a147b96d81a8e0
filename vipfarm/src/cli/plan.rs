//! The verb that looks ahead.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `plan`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct PlanArgs {
    /// The farm's file
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,

    /// Nodes that fail or are stopped, separated by commas
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    pub down: Vec<String>,

    /// Nodes that are down now and come back, separated by commas
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    pub up: Vec<String>,

    /// Nodes that are down now and stay so, separated by commas
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    pub absent: Vec<String>,

    /// Nodes that are drained, separated by commas
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    pub drain: Vec<String>,

    /// A node's next power in a group, 0 to 1000; several times for several
    #[arg(long, num_args = 2, value_names = ["GROUP", "NODE=N"], action = clap::ArgAction::Append)]
    pub power: Vec<String>,

    /// Print JSON for scripts
    #[arg(long)]
    pub json: bool,
}
