//! A draft as the text of a farm's file.

use std::{
    fmt::{self, Write},
    time::Duration,
};

use super::{
    account::{Account, Outcome, shown},
    draft::{Address, Check, Draft, GAP, Group, Node, Probe, Rule, Vip},
};
use crate::model::{self, Filter, Mode, Proto};

/// The file's text.
pub(super) fn render(
    kind: &str,
    source: &str,
    draft: &Draft,
    account: &Account,
    farm: &str,
) -> String {
    let mut text = String::new();
    // A `String` takes everything.
    let _ = write(&mut text, kind, source, draft, account, farm);
    text
}

fn write(
    out: &mut String,
    kind: &str,
    source: &str,
    draft: &Draft,
    account: &Account,
    farm: &str,
) -> fmt::Result {
    writeln!(out, "# Made by `vipfarm import {kind}` from {}.", shown(source))?;
    writeln!(out, "# Fill in what says {GAP}, then run `vipfarm check` on this file.")?;
    let others: Vec<_> =
        account.elements.iter().filter(|entry| entry.outcome != Outcome::Translated).collect();
    if !others.is_empty() {
        writeln!(out, "#\n# What is not here as it was there:")?;
        for entry in others {
            write_comment(out, &shown(&entry.to_string()))?;
        }
    }
    writeln!(out, "\n# The name of sockets and files; the source has none. a-z, 0-9, -")?;
    writeln!(out, "farm: {}", scalar(farm))?;
    writeln!(out, "# Make it once with `vipfarm keygen`, and copy it to all nodes.")?;
    writeln!(out, "key_file: /etc/vipfarm/farm.key\n")?;
    write_checks(out, "", &draft.checks)?;
    write_nodes(out, &draft.nodes)?;
    write_vips(out, &draft.vips)
}

/// An item of a list in comments, in lines of readable length where its words allow that.
fn write_comment(out: &mut String, text: &str) -> fmt::Result {
    const WIDTH: usize = 100;
    let mut line = String::from("# -");
    for word in text.split(' ') {
        if line.chars().count() + 1 + word.chars().count() > WIDTH && line.len() > 3 {
            writeln!(out, "{line}")?;
            line = String::from("#  ");
        }
        line.push(' ');
        line.push_str(word);
    }
    writeln!(out, "{line}")
}

fn write_checks(out: &mut String, indent: &str, checks: &[Check]) -> fmt::Result {
    if !checks.is_empty() {
        writeln!(out, "{indent}checks:")?;
    }
    checks.iter().try_for_each(|check| writeln!(out, "{indent}  - {}", check_text(check)))
}

fn write_nodes(out: &mut String, nodes: &[Node]) -> fmt::Result {
    writeln!(out, "# First each node's address on the VIP's own network, then those for further")?;
    writeln!(out, "# heartbeats, in the same order of networks for all nodes.")?;
    writeln!(out, "nodes:")?;
    if nodes.is_empty() {
        writeln!(out, "  # The source does not name the nodes: one line for each of them.")?;
        writeln!(out, "  - {{ name: node1, addresses: [{GAP}] }}")?;
    }
    for Node { name, addresses } in nodes {
        let addresses: Vec<_> = addresses.iter().map(|address| scalar(address)).collect();
        let addresses = if addresses.is_empty() { GAP.to_owned() } else { addresses.join(", ") };
        writeln!(out, "  - {{ name: {}, addresses: [{addresses}] }}", scalar(name))?;
    }
    Ok(())
}

fn write_vips(out: &mut String, vips: &[Vip]) -> fmt::Result {
    out.push('\n');
    if vips.is_empty() {
        return writeln!(out, "# The source has no VIP: add `vips`.");
    }
    writeln!(out, "vips:")?;
    vips.iter().try_for_each(|vip| write_vip(out, vip))
}

fn write_vip(out: &mut String, vip: &Vip) -> fmt::Result {
    let mode = match vip.mode {
        Mode::VmacDirected => "vmac_directed",
        Mode::VmacInvisible => "vmac_invisible",
        Mode::Failover => "failover",
    };
    writeln!(out, "  - mode: {mode}")?;
    if let Some(interface) = &vip.interface {
        writeln!(out, "    interface: {}", scalar(interface))?;
    }
    if let Some(vmac) = vip.vmac {
        writeln!(out, "    vmac: \"{vmac}\"")?;
    }
    if !vip.check {
        writeln!(out, "    check: false")?;
    }
    if !vip.tcp_reset {
        writeln!(out, "    tcp_reset: false")?;
    }
    if vip.manual {
        writeln!(out, "    open: manual")?;
    }
    if let Some(refresh) = &vip.arp_refresh {
        writeln!(out, "    arp_refresh: {refresh}")?;
    }
    write_checks(out, "    ", &vip.checks)?;
    writeln!(out, "    addresses:")?;
    for address in &vip.addresses {
        writeln!(out, "      - {}", write_address(address, vip.check))?;
    }
    if vip.mode == Mode::Failover {
        return write_failover(out, vip);
    }
    if vip.groups.is_empty() {
        writeln!(out, "    # The source shares nothing of these addresses out: add groups.")?;
        return writeln!(out, "    groups: []");
    }
    writeln!(out, "    groups:")?;
    vip.groups.iter().try_for_each(|group| write_group(out, group))
}

fn write_failover(out: &mut String, vip: &Vip) -> fmt::Result {
    if !vip.preempt {
        writeln!(out, "    preempt: false")?;
    }
    if vip.preempt && vip.preempt_delay > 0 {
        writeln!(out, "    preempt_delay: {}s", vip.preempt_delay)?;
    }
    Ok(())
}

fn write_address(address: &Address, check: bool) -> String {
    let mut text = scalar(&address.text());
    if address.check != check || address.connections {
        text = format!("{{ addr: {text}");
        if address.check != check {
            let _ = write!(text, ", check: {}", address.check);
        }
        if address.connections {
            text.push_str(", connections: true");
        }
        text.push_str(" }");
    }
    text
}

fn write_group(out: &mut String, group: &Group) -> fmt::Result {
    writeln!(out, "      - name: {}", scalar(&group.name))?;
    if !group.powers.is_empty() {
        let powers: Vec<_> =
            group.powers.iter().map(|(node, power)| format!("{}: {power}", scalar(node))).collect();
        writeln!(out, "        powers: {{ {} }}", powers.join(", "))?;
    }
    writeln!(out, "        rules:")?;
    for rule in &group.rules {
        writeln!(out, "          - {}", rule_text(rule))?;
    }
    Ok(())
}

/// A rule as the file has it.
pub(super) fn rule_text(rule: &Rule) -> String {
    let mut keys = Vec::new();
    if let Some(addr) = &rule.virtual_addr {
        keys.push(format!("virtual_addr: {}", scalar(addr)));
    }
    let proto = match rule.proto {
        Proto::Tcp => "tcp",
        Proto::Udp => "udp",
        Proto::Arp => "arp",
    };
    if rule.proto != Proto::Arp {
        keys.push(rule.port.map_or_else(|| "port: \"*\"".into(), |port| format!("port: {port}")));
    }
    let filter = match rule.filter {
        Filter::OnAddr => "on_addr",
        Filter::OnPort => "on_port",
        Filter::OnIpid => "on_ipid",
    };
    keys.push(format!("proto: {proto}, filter: {filter}"));
    format!("{{ {} }}", keys.join(", "))
}

/// A check as the file has it; what the defaults say is left out.
pub(super) fn check_text(check: &Check) -> String {
    let mut keys = vec![match &check.probe {
        Probe::Tcp(address) => format!("tcp: {}", scalar(&address.to_string())),
        Probe::Exec { argv, .. } => {
            let words: Vec<_> = argv.iter().map(|word| scalar(word)).collect();
            format!("exec: [{}]", words.join(", "))
        }
        Probe::Interface(name) => format!("interface: {}", scalar(name)),
    }];
    let Check { interval, timeout, rise, fall, .. } = *check;
    if interval != model::Check::INTERVAL {
        keys.push(format!("interval: {}", time(interval)));
    }
    if timeout != interval.min(model::Check::TIMEOUT) {
        keys.push(format!("timeout: {}", time(timeout)));
    }
    if rise != model::Check::RISE {
        keys.push(format!("rise: {rise}"));
    }
    if fall != model::Check::FALL {
        keys.push(format!("fall: {fall}"));
    }
    if let Probe::Exec { user: Some(user), .. } = &check.probe {
        keys.push(format!("user: {}", scalar(user)));
    }
    format!("{{ {} }}", keys.join(", "))
}

/// Whole seconds, or milliseconds.
fn time(duration: Duration) -> String {
    match duration.subsec_millis() {
        0 => format!("{}s", duration.as_secs()),
        _ => format!("{}ms", duration.as_millis()),
    }
}

/// Text as a YAML scalar that means this text and nothing else.
pub(super) fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._/-".contains(c);
    let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && text.chars().all(plain) && !text.eq_ignore_ascii_case("null") {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            c => {
                let _ = write!(quoted, "\\U{:08x}", u32::from(c));
            }
        }
    }
    quoted.push('"');
    quoted
}
