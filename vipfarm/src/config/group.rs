//! The `groups` key of a VIP block: powers and rules.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use crate::model::{Check, Failover, Filter, Group, MAX_POWER, Proto, Rule};

use super::checks;
use super::diagnostic::{Located, Report};
use super::duration;
use super::failover::refuse;
use super::fields::{self, Fields, NAME};
use super::yaml::Value;

/// Old connections are looked at once a second.
const HANDOVER_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_hours(24);

/// Idle flows are looked at once a second, too, and the longer they are remembered the more there are.
const LINGER: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_mins(10);

/// A group as read.
#[derive(Debug)]
pub(super) struct GroupDraft {
    pub(super) name: Located<String>,
    /// Power by node name; `None` = the key is absent, and all nodes have power 1.
    pub(super) powers: Option<Vec<(Located<String>, u16)>>,
    pub(super) rules: Vec<Located<Rule>>,
    pub(super) handover_timeout: Duration,
    pub(super) checks: Vec<Check>,
    pub(super) failover: Option<Failover>,
}

impl GroupDraft {
    /// The model's group; `names` are the nodes' in the order of the file.
    pub(super) fn build(self, names: &[&str]) -> Group {
        let power = |name: &&str| match &self.powers {
            None => Some(1),
            Some(powers) => {
                powers.iter().find(|(node, _)| node.value == *name).map(|&(_, power)| power)
            }
        };
        let rules = self.rules.iter().map(|rule| rule.value);
        // Who has the VIP has all that is about it.
        let arp = Rule {
            virtual_addr: None,
            port: None,
            proto: Proto::Arp,
            filter: Filter::OnAddr,
            linger: None,
        };
        Group {
            powers: names.iter().map(power).collect(),
            rules: rules.chain(self.failover.map(|_| arp)).collect(),
            name: self.name.value,
            handover_timeout: self.handover_timeout,
            checks: self.checks,
            failover: self.failover,
        }
    }
}

/// Reads the groups of a VIP block.
pub(super) fn read(vip: &Fields<'_>, report: &mut Report) -> Vec<GroupDraft> {
    let example = "- { name: http, rules: [{ port: 80, proto: tcp, filter: on_port }] }";
    let items = vip
        .require("groups", &format!("groups: [{}]", example.trim_start_matches("- ")), report)
        .and_then(|groups| fields::list(groups, "`groups`", example, report));
    items.unwrap_or_default().iter().filter_map(|item| read_group(item, report)).collect()
}

fn read_group(value: &Value, report: &mut Report) -> Option<GroupDraft> {
    let known = ["name", "powers", "handover_timeout", "checks", "rules"];
    let fields = Fields::of(value, "a group", &known, report)?;
    let powers = fields.get("powers").and_then(|it| read_powers(it, &POWERS, report));
    let rules = fields
        .require("rules", &format!("rules: [{EXAMPLE}]"), report)
        .map_or_else(Vec::new, |rules| read_rules(rules, Sharing::All, report));
    let handover_timeout = fields
        .get("handover_timeout")
        .and_then(|value| duration::read(value, "`handover_timeout`", HANDOVER_TIMEOUT, report))
        .unwrap_or(Group::HANDOVER_TIMEOUT);
    let checks = checks::read(&fields, report);
    let name = fields.require("name", "name: http", report)?;
    let name = fields::name(name, "a group's name", &NAME, report)?;
    Some(GroupDraft { name, powers, rules, handover_timeout, checks, failover: None })
}

/// How powers are called where they are read.
pub(super) struct Words {
    key: &'static str,
    example: &'static str,
    one: &'static str,
    range: RangeInclusive<u16>,
}

const POWERS: Words = Words {
    key: "`powers`",
    example: "powers: { node1: 2, node2: 1 }",
    one: "a power",
    range: 0..=MAX_POWER,
};

/// Those of a failover VIP.
pub(super) const PRIORITIES: Words = Words {
    key: "`priorities`",
    example: "priorities: { node1: 150, node2: 100 }",
    one: "a priority",
    range: 1..=MAX_POWER,
};

/// Reads the powers of nodes.
pub(super) fn read_powers(
    value: &Value,
    words: &Words,
    report: &mut Report,
) -> Option<Vec<(Located<String>, u16)>> {
    let entries = fields::entries(value, words.key, words.example, report)?;
    let read = |(node, power): &(Located<String>, Value)| {
        let power = fields::integer(power, words.one, words.range.clone(), report);
        // The node stays known; the file is refused anyway.
        (node.clone(), power.unwrap_or(1))
    };
    let powers: Vec<_> = entries.iter().map(read).collect();
    if powers.iter().all(|&(_, power)| power == 0) {
        report.error(
            value.at,
            "all powers are 0: no node would serve this group, its clients would time out",
            "give one node a power, or remove the group; `vipfarm drain` empties a node for a while",
        );
    }
    Some(powers)
}

const EXAMPLE: &str = "{ port: 80, proto: tcp, filter: on_port }";

/// Whether several nodes share what a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// By a filter.
    All,
    /// One node at a time has it: `mode: failover`.
    One,
}

/// Reads rules.
pub(super) fn read_rules(
    value: &Value,
    sharing: Sharing,
    report: &mut Report,
) -> Vec<Located<Rule>> {
    let rules = fields::list(value, "`rules`", &format!("- {EXAMPLE}"), report);
    let rules = rules.unwrap_or_default().iter();
    rules.filter_map(|rule| read_rule(rule, sharing, report)).collect()
}

fn read_rule(value: &Value, sharing: Sharing, report: &mut Report) -> Option<Located<Rule>> {
    let known = ["virtual_addr", "port", "proto", "filter", "linger"];
    let fields = Fields::of(value, "a rule", &known, report)?;
    let protos = [("tcp", Proto::Tcp), ("udp", Proto::Udp), ("arp", Proto::Arp)];
    let proto = fields
        .require("proto", "proto: tcp", report)
        .and_then(|value| fields::choice(value, "`proto`", &protos, report));
    let filters =
        [("on_addr", Filter::OnAddr), ("on_port", Filter::OnPort), ("on_ipid", Filter::OnIpid)];
    let filter = match sharing {
        Sharing::One => {
            let why = "is not for `mode: failover`: one node has all of a rule's traffic";
            refuse(&fields, "filter", why, report);
            Some(Located { at: fields.at, value: Filter::OnAddr })
        }
        Sharing::All => fields
            .require("filter", "filter: on_addr", report)
            .and_then(|value| fields::choice(value, "`filter`", &filters, report)),
    };
    let virtual_addr = fields.get("virtual_addr").map(|value| read_virtual_addr(value, report));
    let port = read_port(&fields, proto, report);
    let (proto, filter) = (proto?, filter?);
    check_filter(proto, filter, report);
    let linger = match sharing {
        Sharing::One => {
            let why = "is not for `mode: failover`: its flows are all where the VIP is";
            refuse(&fields, "linger", why, report);
            None
        }
        Sharing::All => fields
            .get("linger")
            .and_then(|value| read_linger(value, proto.value, filter.value, report)),
    };
    let rule = Rule {
        virtual_addr: virtual_addr.unwrap_or(Some(None))?,
        port: port?,
        proto: proto.value,
        filter: filter.value,
        linger,
    };
    Some(Located { at: fields.at, value: rule })
}

/// `Some(None)` = all addresses of the block.
#[expect(clippy::option_option, reason = "unreadable, all, one: three different things")]
fn read_virtual_addr(value: &Value, report: &mut Report) -> Option<Option<IpAddr>> {
    let text = fields::text(value, "`virtual_addr`", "192.168.1.222", report)?;
    if text == "*" {
        return Some(None);
    }
    if let Ok(addr) = text.parse() {
        return Some(Some(addr));
    }
    report.error(
        value.at,
        fields::is_not(text, "an IP address"),
        "write one address of this VIP block without its prefix length, or \"*\" for all",
    );
    None
}

/// `Some(None)` = all ports. The key must be there: forgotten, it would open every port.
#[expect(clippy::option_option, reason = "unreadable, all, one: three different things")]
fn read_port(
    fields: &Fields<'_>,
    proto: Option<Located<Proto>>,
    report: &mut Report,
) -> Option<Option<u16>> {
    if proto.is_some_and(|proto| proto.value == Proto::Arp) {
        if let Some(port) = fields.get("port") {
            report.error(port.at, "ARP has no ports", "remove `port` from this rule");
        }
        return Some(None);
    }
    let value = fields.require("port", "port: 80` or `port: \"*\"", report)?;
    let text = fields::text(value, "`port`", "port: 80", report)?;
    if text == "*" {
        return Some(None);
    }
    let port = text.parse().ok().filter(|&port: &u16| port > 0);
    if port.is_none() {
        report.error(
            value.at,
            format!("`{text}` is not a port"),
            "write a number from 1 to 65535, or \"*\" for all ports",
        );
    }
    port.map(Some)
}

fn read_linger(
    value: &Value,
    proto: Proto,
    filter: Filter,
    report: &mut Report,
) -> Option<Duration> {
    let linger = duration::read(value, "`linger`", LINGER, report)?;
    let (problem, help) = match (proto, filter) {
        (Proto::Tcp, _) => (
            "`linger` is for UDP: a TCP connection stays with its node anyway, by its socket",
            "remove `linger` from this rule; a group's `handover_timeout` says for how long",
        ),
        (Proto::Arp, _) => ("ARP has no flows that could linger", "remove `linger` from this rule"),
        (Proto::Udp, Filter::OnIpid) => (
            "`linger` keeps flows where they are, and `on_ipid` gives each datagram of a flow to another \
             node",
            "remove `linger`, or use on_port or on_addr",
        ),
        (Proto::Udp, _) if linger.subsec_nanos() > 0 => {
            ("`linger` counts whole seconds", "write it in seconds, such as 30s")
        }
        (Proto::Udp, Filter::OnAddr | Filter::OnPort) => return Some(linger),
    };
    report.error(value.at, problem, help);
    None
}

fn check_filter(proto: Located<Proto>, filter: Located<Filter>, report: &mut Report) {
    match (proto.value, filter.value) {
        (Proto::Tcp, Filter::OnIpid) => report.error(
            filter.at,
            "`on_ipid` is for UDP only: the identification changes with every packet, so the packets \
             of one TCP connection would go to different nodes",
            "use on_port or on_addr for TCP",
        ),
        (Proto::Arp, Filter::OnPort | Filter::OnIpid) => report.error(
            filter.at,
            "ARP has neither ports nor an IP identification to hash",
            "use `filter: on_addr` for ARP",
        ),
        _ => {}
    }
}
