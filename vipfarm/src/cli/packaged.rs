//! The verbs that make what a package installs beside the program.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// Arguments of `completions`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ManArgs {
    /// Where to write the pages; made if it is missing [default: vipfarm.1 to standard output]
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
}
