//! The `nodes` key.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
};

use crate::model::{MAX_NODES, Node};

use super::address;
use super::diagnostic::{Located, Report};
use super::fields::{self, Fields, NAME};
use super::yaml::Value;

/// A node as read: its name may break the rules, so that powers which name it are still known.
#[derive(Debug)]
pub(super) struct NodeDraft {
    pub(super) name: Located<String>,
    pub(super) addresses: Vec<Located<IpAddr>>,
    /// All that are listed, by place; `None` = not usable.
    pub(super) links: Vec<Option<IpAddr>>,
}

/// All nodes of the file.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    pub(super) list: Vec<NodeDraft>,
    /// Every node has a name: others may be told that theirs is unknown.
    pub(super) complete: bool,
}

impl From<NodeDraft> for Node {
    fn from(node: NodeDraft) -> Self {
        let addresses = node.addresses.into_iter().map(|address| address.value).collect();
        Self { name: node.name.value, addresses }
    }
}

/// Reads the list and checks that names and addresses are unique.
pub(super) fn read(value: &Value, report: &mut Report) -> Nodes {
    let example = "- { name: node1, addresses: [192.168.1.11] }";
    let items = fields::list(value, "`nodes`", example, report).unwrap_or_default();
    if let Some(excess) = items.get(MAX_NODES) {
        report.error(
            excess.at,
            format!("{} nodes are too many: a farm has at most {MAX_NODES}", items.len()),
            "remove nodes, or split the farm",
        );
    }
    let list: Vec<_> = items.iter().filter_map(|item| read_node(item, report)).collect();
    check_unique(&list, report);
    check_families(&list, report);
    Nodes { complete: !items.is_empty() && list.len() == items.len(), list }
}

fn read_node(value: &Value, report: &mut Report) -> Option<NodeDraft> {
    let fields = Fields::of(value, "a node", &["name", "addresses"], report)?;
    let addresses = fields
        .require("addresses", "addresses: [192.168.1.11]", report)
        .and_then(|list| fields::list(list, "`addresses`", "[192.168.1.11]", report))
        .unwrap_or_default();
    let addresses: Vec<_> = addresses.iter().map(|address| read_address(address, report)).collect();
    let links = addresses.iter().map(|address| Some((*address)?.value)).collect();
    let name = fields.require("name", "name: node1", report)?;
    let name = fields::name(name, "a node's name", &NAME, report)?;
    Some(NodeDraft { name, addresses: addresses.into_iter().flatten().collect(), links })
}

fn read_address(value: &Value, report: &mut Report) -> Option<Located<IpAddr>> {
    let text = fields::text(value, "an address", "192.168.1.11", report)?;
    let Ok(address) = text.parse() else {
        let help = if text.contains('/') {
            "write it without the prefix length: that is the VIP's"
        } else if address::looks_like_v6(text) {
            "write an address such as fd00:1::11; node names are not resolved here"
        } else {
            "write an address such as 192.168.1.11; node names are not resolved here"
        };
        report.error(value.at, fields::is_not(text, "an IP address"), help);
        return None;
    };
    if let Some(kind) = unusable(address) {
        report.error(
            value.at,
            format!("no peer can reach a node at the {kind} address {address}"),
            "write the node's own address on the farm's network",
        );
        return None;
    }
    Some(Located { at: value.at, value: address })
}

/// Why an address cannot be one host's on a network, if it cannot.
pub(super) fn unusable(address: IpAddr) -> Option<&'static str> {
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    match address {
        _ if address.is_unspecified() => Some("unspecified"),
        _ if address.is_loopback() => Some("loopback"),
        _ if address.is_multicast() => Some("multicast"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some("broadcast"),
        // RFC 1112 section 4: class E, which many stacks refuse.
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => Some("reserved"),
        // RFC 4291 section 2.5.5.2: never on the wire.
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("IPv4-mapped"),
        _ if link_local => Some("link-local"),
        _ => None,
    }
}

fn check_unique(nodes: &[NodeDraft], report: &mut Report) {
    let mut names = HashMap::new();
    let mut addresses = HashMap::new();
    for node in nodes {
        let name = &node.name;
        if let Some(line) = names.insert(&name.value, name.at.line) {
            report.error(
                name.at,
                format!("the node name `{}` is taken, on line {line}", name.value),
                "give each node a name of its own",
            );
        }
        for address in &node.addresses {
            if let Some(line) = addresses.insert(address.value, address.at.line) {
                report.error(
                    address.at,
                    format!("the address {} is taken, on line {line}", address.value),
                    "give each node addresses of its own",
                );
            }
        }
    }
}

/// Each network of the heartbeats needs one family: a socket of one reaches no address of the other.
fn check_families(nodes: &[NodeDraft], report: &mut Report) {
    let Some((first, others)) = nodes.split_first() else { return };
    for node in others {
        let mut links = first.addresses.iter().zip(&node.addresses);
        let differ = links.find(|(one, other)| one.value.is_ipv4() != other.value.is_ipv4());
        if let Some((one, other)) = differ {
            report.error(
                other.at,
                format!(
                    "heartbeats cannot run between {} of {} and {} of {}: one is an IPv4 address, the other an IPv6 address",
                    one.value, first.name.value, other.value, node.name.value
                ),
                "list the addresses of all nodes in one order of networks, with one family in each",
            );
        }
    }
}
