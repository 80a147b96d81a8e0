//! The verbs that tell what the filter makes of packets.

use std::{path::PathBuf, str::FromStr};

use clap::Args;

use super::TalkArgs;
use crate::{
    model::{Mac, VlanTags},
    status::{ExplainProto, ExplainQuery, HostPort},
};

/// Arguments of `explain`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ExplainArgs {
    /// The client; its port matters to rules with filter `on_port`
    #[arg(value_name = "CLIENT[:PORT]")]
    pub client: HostPort,

    /// The VIP; tcp and udp need the port
    #[arg(value_name = "VIP[:PORT]")]
    pub vip: HostPort,

    /// The packet's protocol: tcp, udp, icmp (an echo request), arp (for IPv6 a neighbour
    /// solicitation), or the number of another one, such as 47 for GRE
    #[arg(long, default_value_t = ExplainProto::Tcp)]
    pub proto: ExplainProto,

    /// The packet's IPv4 identification; matters to rules with filter `on_ipid`
    #[arg(long, value_name = "N")]
    pub ip_id: Option<u16>,

    /// A fragment of that packet which is not the first one, so without ports
    #[arg(long)]
    pub fragment: bool,

    /// An ICMP error about the VIP's answer to that packet instead: what a router sends to which it is too
    /// long (IPv4: fragmentation needed, IPv6: packet too big)
    #[arg(long)]
    pub icmp_error: bool,

    /// The VLAN that the packet comes in, with two tags OUTER.INNER, 0 for none; matters where the
    /// address is a VIP in several
    #[arg(long, value_name = "ID")]
    pub vlan: Option<VlanTags>,

    /// Ask this file instead of an agent
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["run_dir", "farm", "socket"])]
    pub config: Option<PathBuf>,

    /// Nodes to imagine dead, separated by commas
    #[arg(long, value_name = "NODE", value_delimiter = ',', requires = "config")]
    pub down: Vec<String>,

    /// The node whose verdict to give [default: the one that serves the client]
    #[arg(long, value_name = "NAME", requires = "config")]
    pub node: Option<String>,

    /// Which agent, in what form.
    #[command(flatten)]
    pub talk: TalkArgs,
}

impl ExplainArgs {
    /// The packet to explain, not yet checked.
    pub fn query(&self) -> ExplainQuery {
        ExplainQuery {
            client: self.client.addr,
            client_port: self.client.port,
            vip: self.vip.addr,
            vip_port: self.vip.port,
            proto: self.proto,
            ip_id: self.ip_id,
            fragment: self.fragment,
            icmp_error: self.icmp_error,
            vlan: self.vlan,
        }
    }
}

/// Arguments of `replay`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ReplayArgs {
    /// The capture, `-` for standard input
    #[arg(value_name = "FILE.pcap")]
    pub file: PathBuf,

    /// The farm's file
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,

    /// Nodes to imagine dead, separated by commas
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    pub down: Vec<String>,

    /// The node whose verdicts to give [default: those of the farm as a whole]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,

    /// Nodes' MACs, separated by commas; `vipfarm nodes --json` shows them
    #[arg(long, value_name = "NODE=MAC", value_delimiter = ',')]
    pub mac: Vec<NodeMac>,

    /// Print JSON for scripts: one object a packet and a line, then one of the totals
    #[arg(long)]
    pub json: bool,
}

/// A node and its MAC, written `NODE=MAC`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeMac {
    /// The node's name.
    pub node: String,
    /// Its MAC on the VIP's network.
    pub mac: Mac,
}

impl FromStr for NodeMac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (node, mac) = text
            .split_once('=')
            .ok_or_else(|| format!("`{text}` is not NODE=MAC, such as node1=02:00:00:00:00:0b"))?;
        Ok(Self { node: node.into(), mac: mac.parse()? })
    }
}
