//! The arguments of `import`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::config::FARM_NAME;

/// Arguments of `import`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ImportArgs {
    /// Where the configuration comes from.
    #[command(subcommand)]
    pub from: ImportFrom,
}

/// The products whose configuration can be read.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum ImportFrom {
    /// A farm module of `SafeKit`
    ///
    /// A farm module's VIP becomes a VIP block with the same mode and groups. A mirror module's is where
    /// one node is: a block with `mode: failover` and `preempt: false`.
    #[command(after_help = "\
Example:
  vipfarm import safekit userconfig.xml --cluster cluster.xml --prefix 24 -o farm.yaml")]
    Safekit {
        /// The module's configuration
        #[arg(value_name = "userconfig.xml")]
        file: PathBuf,

        /// The cluster's configuration, which has the nodes and their addresses
        #[arg(long, value_name = "cluster.xml")]
        cluster: Option<PathBuf>,

        /// What to make of it.
        #[command(flatten)]
        into: ImportInto,
    },

    /// The VRRP instances of keepalived
    ///
    /// An instance becomes a VIP block with `mode: failover`. Nodes are taken from `unicast_src_ip` and
    /// `unicast_peer`; the priorities of the other nodes are to be added by hand.
    #[command(after_help = "Example:\n  vipfarm import keepalived keepalived.conf -o farm.yaml")]
    Keepalived {
        /// The configuration; what it includes is not read
        #[arg(value_name = "keepalived.conf")]
        file: PathBuf,

        /// What to make of it.
        #[command(flatten)]
        into: ImportInto,
    },
}

/// What to make of another product's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ImportInto {
    /// Write the farm's file here instead of to standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Replace a file that is there
    #[arg(long, requires = "output")]
    pub force: bool,

    /// The farm's name, which no source has
    #[arg(long, value_name = "NAME", default_value = "farm", value_parser = farm_name)]
    pub farm: String,

    /// Prefix length of IPv4 VIPs for which the source has none
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u8).range(1..=32))]
    pub prefix: Option<u8>,

    /// Tell what became of the source as JSON, for scripts
    #[arg(long)]
    pub json: bool,
}

/// A name that the farm's file takes.
fn farm_name(text: &str) -> Result<String, String> {
    let usable =
        (1..=FARM_NAME.longest).contains(&text.len()) && text.bytes().all(FARM_NAME.allows);
    let help = || format!("use 1 to {} of: {}", FARM_NAME.longest, FARM_NAME.characters);
    usable.then(|| text.to_owned()).ok_or_else(help)
}
