//! What must hold between the parts of a file: names that exist, addresses and rules that do not
//! collide, the size of the kernel's tables.

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;

use vipfarm_common::layout::{self, MAX_RULES, MAX_VIPS};

use crate::model::{Filter, Mode, Proto};

use super::address;
use super::diagnostic::{Located, Report};
use super::nodes::{NodeDraft, Nodes};
use super::suggest;
use super::vip::VipDraft;

/// Groups of one file: the kernel's, less the built-in one and one in reserve.
const MAX_GROUPS: usize = layout::MAX_GROUPS - 2;

/// Reports whatever does not hold.
pub(super) fn check(nodes: &Nodes, vips: &[VipDraft], report: &mut Report) {
    check_addresses(&nodes.list, vips, report);
    check_groups(nodes, vips, report);
    check_subnets(&nodes.list, vips, report);
    check_hosts(&nodes.list, vips, report);
    for vip in vips {
        check_rules(vip, report);
        check_overlaps(vip, report);
    }
    check_rule_count(vips, report);
}

fn check_addresses(nodes: &[NodeDraft], vips: &[VipDraft], report: &mut Report) {
    let mut seen = HashMap::new();
    let in_vlan =
        |vip: &'_ VipDraft| vip.addresses.iter().map(|it| (vip.vlan, *it)).collect::<Vec<_>>();
    for (index, (vlan, address)) in vips.iter().flat_map(in_vlan).enumerate() {
        let addr = address.value.addr;
        if let Some(line) = seen.insert((vlan, addr), address.at.line) {
            report.error(
                address.at,
                format!("the VIP {addr} is there already, on line {line}"),
                "keep one of the two; put the rules of one address into one block",
            );
        }
        let own = |node: &&NodeDraft| node.addresses.iter().any(|own| own.value == addr);
        if let Some(node) = nodes.iter().find(own) {
            report.error(
                address.at,
                format!("the VIP {addr} is the own address of {}, whose heartbeats need it for that node alone", node.name.value),
                "choose a free address for the VIP",
            );
        }
        if index == MAX_VIPS {
            report.error(
                address.at,
                format!("too many VIP addresses: this is the first beyond {MAX_VIPS}, the size of the kernel table"),
                "remove addresses, or split the farm",
            );
        }
    }
}

/// Heartbeats run on the VIP's own network, so that nodes know whether its clients reach them: one
/// that all nodes have at the same place of their lists. The first of them decides who is in the farm.
fn check_subnets(nodes: &[NodeDraft], vips: &[VipDraft], report: &mut Report) {
    let links = nodes.iter().map(|node| node.links.len()).max().unwrap_or_default();
    let mut is_on_first = false;
    let mut all_right = true;
    for address in vips.iter().flat_map(|vip| &vip.addresses) {
        let Ok(net) = IpNet::new(address.value.addr, address.value.prefix) else { continue };
        let outside = (0..links).map(|link| (link, outside(nodes, net, link)));
        let Some((link, outside)) = outside.min_by_key(|(_, outside)| outside.len()) else {
            return;
        };
        is_on_first |= link == 0 && outside.is_empty();
        if !outside.is_empty() {
            all_right = false;
            report.error(
                address.at,
                format!("wrong subnet: {} does not contain the {} of {}", net.trunc(), place(link), outside.join(", ")),
                "put the VIP into the network of the nodes' first addresses, or of others at the same place of each node's list, or correct its prefix length",
            );
        }
    }
    let first = vips.iter().flat_map(|vip| &vip.addresses).next();
    if let Some(first) = first.filter(|_| all_right && !is_on_first) {
        report.error(
            first.at,
            "no VIP is in the network of the nodes' first addresses, which decides who is in the farm",
            "put the addresses in the network of a VIP first in each node's list",
        );
    }
}

/// A VIP's prefix length tells which addresses of the nodes' network are no host's.
fn check_hosts(nodes: &[NodeDraft], vips: &[VipDraft], report: &mut Report) {
    let vips = vips.iter().flat_map(|vip| &vip.addresses).map(|address| address.value);
    let nets: Vec<_> = vips.filter_map(|vip| IpNet::new(vip.addr, vip.prefix).ok()).collect();
    for own in nodes.iter().flat_map(|node| &node.addresses) {
        let role = |net: &IpNet| Some((net.trunc(), address::role(own.value, *net)?));
        if let Some((net, role)) = nets.iter().find_map(role) {
            report.error(
                own.at,
                format!(
                    "{} is the {role} address of {net}, a VIP's network, and no host's",
                    own.value
                ),
                "write the node's own address, or correct the prefix length of the VIP",
            );
        }
    }
}

/// The nodes whose address at that place is not in the network, in words.
fn outside(nodes: &[NodeDraft], net: IpNet, link: usize) -> Vec<String> {
    let outside = |node: &NodeDraft| {
        let name = &node.name.value;
        let address = match node.links.get(link) {
            Some(address) => (*address)?,
            // Its list is wrong anyway.
            None if node.links.is_empty() => return None,
            None => return Some(format!("{name} (none)")),
        };
        // A VIP of one family may live beside heartbeats of the other on the same network.
        let other_family = net.addr().is_ipv6() != address.is_ipv6();
        (!other_family && !net.contains(&address)).then(|| format!("{name} ({address})"))
    };
    nodes.iter().filter_map(outside).collect()
}

fn place(link: usize) -> String {
    match link {
        0 => "first address".into(),
        1 => "second address".into(),
        _ => format!("address number {}", link + 1),
    }
}

fn check_groups(nodes: &Nodes, vips: &[VipDraft], report: &mut Report) {
    let names: Vec<_> = nodes.list.iter().map(|node| node.name.value.as_str()).collect();
    let mut seen = HashMap::new();
    for (index, group) in vips.iter().flat_map(|vip| &vip.groups).enumerate() {
        let name = &group.name;
        if let Some(line) = seen.insert(&name.value, name.at.line) {
            report.error(
                name.at,
                format!("the group name `{}` is taken, on line {line}", name.value),
                "give each group of the file a name of its own",
            );
        }
        for (node, _) in group.powers.iter().flatten() {
            if nodes.complete && !names.contains(&node.value.as_str()) {
                let message = format!("`{}` is not a node of this farm", node.value);
                report.error(node.at, message, suggest::help(&node.value, &names));
            }
        }
        if index == MAX_GROUPS {
            report.error(
                name.at,
                format!("too many groups: this is the first beyond {MAX_GROUPS}, the size of the kernel table"),
                "put rules with the same powers into one group",
            );
        }
    }
}

fn check_rules(vip: &VipDraft, report: &mut Report) {
    let own: Vec<_> = vip.addresses.iter().map(|address| address.value.addr).collect();
    for rule in vip.groups.iter().flat_map(|group| &group.rules) {
        let Located { at, value } = rule;
        if let Some(addr) = value.virtual_addr
            && vip.addresses_complete
            && !own.contains(&addr)
        {
            let own: Vec<_> = own.iter().map(IpAddr::to_string).collect();
            report.error(
                *at,
                format!("`virtual_addr` {addr} is not an address of this VIP block, so the rule matches nothing"),
                format!("write one of: {}, or \"*\" for all", own.join(", ")),
            );
        }
        let v6 = value
            .virtual_addr
            .map_or_else(|| own.iter().any(IpAddr::is_ipv6), |addr| addr.is_ipv6());
        if value.filter == Filter::OnIpid && v6 {
            report.error(
                *at,
                "`on_ipid` is for IPv4 only: an IPv6 header carries no identification",
                "use on_port or on_addr, or name an IPv4 `virtual_addr`",
            );
        }
        if value.proto == Proto::Arp && vip.mode.value != Mode::VmacDirected {
            report.error(
                *at,
                "a `proto: arp` rule needs `mode: vmac_directed`: otherwise exactly one node answers \
                 each ARP request anyway",
                "remove the rule",
            );
        }
    }
}

/// The most specific rule wins; between two equal ones nothing decides.
fn check_overlaps(vip: &VipDraft, report: &mut Report) {
    let mut seen = HashMap::new();
    for group in &vip.groups {
        for Located { at, value } in &group.rules {
            let key = (value.virtual_addr, value.port, value.proto);
            if let Some((line, other)) = seen.insert(key, (at.line, &group.name.value)) {
                report.error(
                    *at,
                    format!("this rule of group `{}` matches the same packets as the rule of group `{other}` on line {line}, and neither is more specific", group.name.value),
                    "remove one of the two, or give one another `port` or `virtual_addr`",
                );
            }
        }
    }
}

fn check_rule_count(vips: &[VipDraft], report: &mut Report) {
    let mut entries = 0;
    for vip in vips {
        for rule in vip.groups.iter().flat_map(|group| &group.rules) {
            let before = entries;
            entries += if rule.value.virtual_addr.is_some() { 1 } else { vip.addresses.len() };
            if before <= MAX_RULES && entries > MAX_RULES {
                report.error(
                    rule.at,
                    format!("too many rules: with this one the kernel table has more than its {MAX_RULES} entries (a rule for all addresses takes one for each)"),
                    "merge rules with `port: \"*\"`, or split the farm",
                );
            }
        }
    }
}
