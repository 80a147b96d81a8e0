//! The verbs that change what the farm does.

use std::{str::FromStr, time::Duration};

use clap::Args;

use super::{TalkArgs, humantime};
use crate::model::MAX_POWER;

/// Arguments of `power`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct PowerArgs {
    /// The group
    #[arg(value_name = "GROUP")]
    pub group: String,

    /// The node and its new power, 0 to 1000
    #[arg(value_name = "NODE=N", required_unless_present = "file")]
    pub powers: Vec<NodePower>,

    /// Nodes to give the powers of the file back, separated by commas
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    pub file: Vec<String>,

    /// How long it holds, how long to wait, which agent, in what form.
    #[command(flatten)]
    pub hold: HoldArgs,
}

/// Arguments of `move`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct MoveArgs {
    /// An address of the failover VIP; of one in several VLANs with its tags, such as 192.168.1.222@10
    #[arg(value_name = "VIP")]
    pub vip: String,

    /// The node that is to have it
    #[arg(value_name = "NODE", required_unless_present = "back")]
    pub node: Option<String>,

    /// Give it back to the node that has it by the file
    #[arg(long, conflicts_with_all = ["node", "persist"])]
    pub back: bool,

    /// How long it holds, how long to wait, which agent, in what form.
    #[command(flatten)]
    pub hold: HoldArgs,
}

/// Arguments of `drain`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct DrainArgs {
    /// The node [default: the one whose agent is asked]
    #[arg(value_name = "NODE")]
    pub node: Option<String>,

    /// Wait until the node's connections have ended, such as 60s or 5m; reset what is left then
    #[arg(long, value_name = "TIME", value_parser = humantime)]
    pub timeout: Option<Duration>,

    /// Have the drain outlast restarts of agents and machines, see `vipfarm power --help`
    #[arg(long)]
    pub persist: bool,

    /// Which agent, in what form.
    #[command(flatten)]
    pub talk: TalkArgs,
}

/// Arguments of `undrain`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct UndrainArgs {
    /// The node [default: the one whose agent is asked]
    #[arg(value_name = "NODE")]
    pub node: Option<String>,

    /// How long it holds, how long to wait, which agent, in what form.
    #[command(flatten)]
    pub hold: HoldArgs,
}

/// Arguments of `close` and `open`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CloseArgs {
    /// A group, or a VIP for all groups of its block [default: all groups]
    #[arg(value_name = "GROUP|VIP")]
    pub what: Option<String>,

    /// How long it holds, how long to wait, which agent, in what form.
    #[command(flatten)]
    pub hold: HoldArgs,
}

/// Arguments of the verbs that change powers.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct HoldArgs {
    /// Have the change outlast restarts of agents and machines
    ///
    /// Every node of the farm writes it to its disk, in the directory --state-dir of its agent.
    /// Without --persist it ends with the agent of the node that it is about: the next one has the
    /// file's powers. What is taken back (`undrain`, `open`, `power --file`) stays so in any case.
    #[arg(long)]
    pub persist: bool,

    /// How long to wait, which agent, in what form.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// Arguments of `reload`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ReloadArgs {
    /// Go over to the file with the nodes that have read it too; the others stop serving until they
    /// have
    #[arg(long)]
    pub force: bool,

    /// How long to wait, which agent, in what form.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// Arguments of `upgrade`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct UpgradeArgs {
    /// How long the kernel may serve open connections without an agent, at most 1m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime)]
    pub hold: Duration,

    /// End the process, instead of executing the new program
    #[arg(long)]
    pub exit: bool,

    /// Take a file that the other nodes do not serve: upgrade them at the same time
    #[arg(long)]
    pub all_at_once: bool,

    /// How long to wait, which agent, in what form.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// Arguments of the verbs that wait for the farm.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct WaitArgs {
    /// How long to wait until the farm has agreed, such as 500ms or 1m
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime)]
    pub timeout: Duration,

    /// Which agent, in what form.
    #[command(flatten)]
    pub talk: TalkArgs,
}

/// A node and its power, written `NODE=N`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePower {
    /// The node's name.
    pub node: String,
    /// Its power.
    pub power: u16,
}

impl FromStr for NodePower {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let explain = || format!("`{text}` is not NODE=N with N from 0 to {MAX_POWER}");
        let (node, power) = text.split_once('=').ok_or_else(explain)?;
        let power: u16 = power.parse().ok().ok_or_else(explain)?;
        if node.is_empty() || power > MAX_POWER {
            return Err(explain());
        }
        Ok(Self { node: node.into(), power })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_without_node_or_number_is_none() {
        let power = "node1=3".parse();
        assert_eq!(power, Ok(NodePower { node: "node1".into(), power: 3 }));
        for wrong in ["node1", "=3", "node1=", "node1=-1", "node1=1001", "node1=x"] {
            assert!(wrong.parse::<NodePower>().is_err(), "{wrong}");
        }
    }
}
