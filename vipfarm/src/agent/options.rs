//! What the operator asks of the two verbs that act on this node's network.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

/// Where agents keep their control sockets, one `FARM.sock` each.
pub const DEFAULT_RUN_DIR: &str = "/run/vipfarm";

/// Where agents pin their maps and programs; must be on a bpf file system.
pub const DEFAULT_BPF_DIR: &str = "/sys/fs/bpf/vipfarm";

/// Where agents keep what is to outlast a restart of the machine, one `FARM.powers.json` each.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/vipfarm";

/// How to run an agent.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct AgentOptions {
    /// Which farm, where, and how it logs.
    #[command(flatten)]
    pub place: Place,

    /// Directory of the powers set with --persist; made if it is missing. `vipfarm down` leaves it
    /// alone
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,

    /// How long open TCP connections are waited for when the agent is to stop, while new ones go to the
    /// other nodes; what is left then is reset (`tcp_reset`) [default: the file's `stop_timeout`]
    #[arg(long, value_name = "TIME", value_parser = crate::cli::humantime)]
    pub stop_timeout: Option<Duration>,

    /// Log as text for people, or as one JSON object a line: `timestamp`, `level`, `message`, of events
    /// also `kind`, and further fields
    #[arg(long, value_name = "FORMAT", env = "VIPFARM_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// Attach the filter in generic mode even where the driver could run it natively: slower, for
    /// drivers whose native mode misbehaves
    #[arg(long)]
    pub generic: bool,

    /// Log every frame that takes the filter's slow path (options, ICMP, ARP): for debugging, at
    /// some cost
    #[arg(long)]
    pub trace: bool,
}

/// How to clean up after an agent that could not do so itself.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct DownOptions {
    /// Whose traces to remove, and where.
    #[command(flatten)]
    pub place: Place,
}

/// A farm on a node, and the directories its agent works in.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Place {
    /// The farm's file, the same on every node
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,

    /// This node's name in the file [default: the node whose addresses this machine has]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,

    /// Directory of the control sockets
    #[arg(long, value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,

    /// Directory of the pinned maps and programs, on a bpf file system
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPF_DIR)]
    pub bpf_dir: PathBuf,
}

/// The form of the log lines on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// One line of text an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}
