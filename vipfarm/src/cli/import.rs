//! The arguments of `import`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

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
    /// Farm modules are translated. The VIP of a mirror module is where one node is, which vipfarm
    /// cannot do yet: the file proposes a farm with its addresses, in comments.
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
    /// An instance has its addresses where one node is, which vipfarm cannot do yet: the file proposes
    /// a farm with its addresses, in comments. Nodes are taken from `unicast_peer`.
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
    #[arg(long, value_name = "NAME", default_value = "farm")]
    pub farm: String,

    /// Prefix length of IPv4 VIPs for which the source has none
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u8).range(1..=32))]
    pub prefix: Option<u8>,

    /// Tell what became of the source as JSON, for scripts
    #[arg(long)]
    pub json: bool,
}
