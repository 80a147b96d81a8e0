//! The verb that looks at the machine.

use std::path::PathBuf;

use clap::Args;

use crate::agent::options::{DEFAULT_BPF_DIR, DEFAULT_RUN_DIR};

/// Arguments of `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct DoctorArgs {
    /// The farm's file; without one, only the machine is looked at
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// This node's name in the file [default: the node whose addresses this machine has]
    #[arg(long, value_name = "NAME", requires = "config")]
    pub node: Option<String>,

    /// An interface that may get VIPs
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,

    /// The agent is to run with --generic
    #[arg(long)]
    pub generic: bool,

    /// Directory of the control sockets
    #[arg(long, value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,

    /// Directory of the pinned maps and programs, on a bpf file system
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPF_DIR)]
    pub bpf_dir: PathBuf,

    /// Print JSON for scripts
    #[arg(long)]
    pub json: bool,
}
