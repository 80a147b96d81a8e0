//! `<loadbalancing_list>`: groups, powers and rules.
//!
//! `SafeKit`'s groups are for all addresses of the module, vipfarm's for one block: each block gets
//! the rules that concern it.

use std::{collections::HashSet, net::IpAddr};

use super::{
    super::{
        account::Notes,
        draft::{Group, Rule, Vip, usable_name},
        yaml::rule_text,
    },
    element::{Attribute, Element, is_host, one_of},
};
use crate::{
    config::Pos,
    model::{Filter, MAX_POWER, Mode, Proto},
};

/// A group as read.
struct Read {
    at: Pos,
    name: String,
    powers: Vec<(String, u16)>,
    /// With their places and as they are written.
    rules: Vec<(Pos, String, Rule)>,
}

/// Reads the groups of a `<vip>` into its blocks; adds the nodes that they name to `hosts`.
pub(super) fn read(
    vip: Element<'_>,
    blocks: &mut [Vip],
    hosts: &mut Vec<String>,
    notes: &mut Notes,
) {
    let mut taken = HashSet::new();
    let lists = vip.children().filter(|child| child.name() == "loadbalancing_list");
    for element in lists.flat_map(|list| list.only(&["group"], notes)).collect::<Vec<_>>() {
        if let Some(group) = read_group(element, hosts, notes) {
            share_out(&group, blocks, &mut taken, notes);
        }
    }
}

fn read_group(element: Element<'_>, hosts: &mut Vec<String>, notes: &mut Notes) -> Option<Read> {
    element.attributes(&["name"], notes);
    let name = element.require("name", notes);
    let (mut powers, mut rules) = (Vec::new(), Vec::new());
    for child in element.only(&["cluster", "rule"], notes) {
        if child.name() == "rule" {
            rules.extend(read_rule(child, notes).map(|rule| (child.at(), child.shown(), rule)));
            continue;
        }
        child.attributes(&[], notes);
        for host in child.only(&["host"], notes) {
            powers.extend(read_host(host, notes));
        }
    }
    for (host, _) in &powers {
        if !hosts.contains(host) {
            hosts.push(host.clone());
        }
    }
    Some(Read { at: element.at(), name: name?.value, powers, rules })
}

fn read_host(element: Element<'_>, notes: &mut Notes) -> Option<(String, u16)> {
    element.attributes(&["name", "power"], notes);
    let (name, power) = (element.require("name", notes), element.require("power", notes));
    let (name, power) = (name?, power?);
    let number = power.value.parse().ok().filter(|power| *power <= MAX_POWER);
    let Some(number) = number else {
        notes.problem(
            power.at,
            format!("`{}` is not a power from 0 to {MAX_POWER}", power.value),
            "write a whole number; powers are relative to each other",
        );
        return None;
    };
    let shown = format!("{} power=\"{number}\"", name.shown);
    notes.translated(element.at(), &shown, format!("powers: {{ {}: {number} }}", name.value));
    Some((name.value, number))
}

fn read_rule(element: Element<'_>, notes: &mut Notes) -> Option<Rule> {
    element.attributes(&["virtual_addr", "port", "proto", "filter"], notes);
    let protos = [("tcp", Proto::Tcp), ("udp", Proto::Udp), ("arp", Proto::Arp)];
    let filters =
        [("on_addr", Filter::OnAddr), ("on_port", Filter::OnPort), ("on_ipid", Filter::OnIpid)];
    let proto = element.require("proto", notes).and_then(|it| one_of(&it, &protos, notes));
    let filter = element.require("filter", notes).and_then(|it| one_of(&it, &filters, notes));
    let port = match element.get("port") {
        Some(port) if port.value != "*" => read_port(&port, notes).map(Some),
        _ => Some(None),
    };
    let virtual_addr = element.get("virtual_addr").filter(|it| it.value != "*");
    let virtual_addr = virtual_addr.filter(|it| is_host(it, notes)).map(|it| it.value);
    Some(Rule { virtual_addr, port: port?, proto: proto?, filter: filter? })
}

fn read_port(port: &Attribute, notes: &mut Notes) -> Option<u16> {
    let number = port.value.parse().ok().filter(|port| *port > 0);
    if number.is_none() {
        let message = format!("`{}` is not a port", port.value);
        notes.problem(port.at, message, "write a number from 1 to 65535, or \"*\" for all ports");
    }
    number
}

/// Gives each block the group's rules that concern it.
fn share_out(group: &Read, blocks: &mut [Vip], taken: &mut HashSet<String>, notes: &mut Notes) {
    let mut names = Vec::new();
    for block in blocks.iter_mut().filter(|block| block.mode != Mode::Failover) {
        let rules: Vec<_> =
            group.rules.iter().filter_map(|(_, _, rule)| rule_of(rule, block)).collect();
        if rules.is_empty() {
            continue;
        }
        let name = free_name(&group.name, taken);
        names.push(format!("`{name}`"));
        block.groups.push(Group { name, powers: group.powers.clone(), rules });
    }
    for (at, shown, rule) in &group.rules {
        account_for(*at, shown, rule, blocks, notes);
    }
    let shown = format!("group name=\"{}\"", group.name);
    match &names[..] {
        [] => notes.dropped(group.at, &shown, "none of its rules is in the file"),
        [name] if *name == format!("`{}`", group.name) => {
            notes.translated(group.at, &shown, format!("group {name}"));
        }
        [name] => {
            let why = "names are unique in the file, of A-Z, a-z, 0-9, ., _ and -";
            notes.approximated(group.at, &shown, format!("group {name}"), why);
        }
        names => notes.approximated(
            group.at,
            &shown,
            format!("groups {}", names.join(", ")),
            "a group is of one VIP block, so that a client may be served by different nodes at different blocks",
        ),
    }
}

/// The rule as a block has it; `None` if it does not concern the block.
fn rule_of(rule: &Rule, block: &Vip) -> Option<Rule> {
    if rule.proto == Proto::Arp && block.mode != Mode::VmacDirected {
        return None;
    }
    let mut rule = rule.clone();
    if let Some(addr) = &rule.virtual_addr {
        let same = |host: &String| {
            host == addr || host.parse::<IpAddr>().is_ok_and(|it| Ok(it) == addr.parse())
        };
        if !block.addresses.iter().any(|address| same(&address.host)) {
            return None;
        }
        // A name could not stand there, and of a single address nothing has to be said.
        if block.addresses.len() == 1 {
            rule.virtual_addr = None;
        }
    }
    Some(rule)
}

fn account_for(at: Pos, shown: &str, rule: &Rule, blocks: &[Vip], notes: &mut Notes) {
    let shared = || blocks.iter().filter(|block| block.mode != Mode::Failover);
    if let Some(written) = shared().find_map(|block| rule_of(rule, block)) {
        return notes.translated(at, shown, rule_text(&written));
    }
    if shared().next().is_none() {
        return notes.dropped(at, shown, "one node has the VIP, and all of its traffic");
    }
    let why = if rule.proto == Proto::Arp {
        "no VIP that it is for is `vmac_directed`, and of the others exactly one node answers each ARP request anyway"
    } else {
        "its virtual_addr is none of this file's, so that it matches nothing"
    };
    notes.dropped(at, shown, why);
}

/// A name that no other group of the file has.
fn free_name(name: &str, taken: &mut HashSet<String>) -> String {
    let usable = usable_name(name);
    let mut free = usable.clone();
    let mut number = 1;
    while !taken.insert(free.clone()) {
        number += 1;
        free = format!("{usable}-{number}");
    }
    free
}
