//! What becomes of one client's packet, and why: the kernel's own decision on a packet made up from
//! the question.

mod frame;
mod text;

use std::net::IpAddr;

use vipfarm_common::Reason;

use self::{
    frame::Part,
    text::{FragmentBy, Held, Told},
};
use super::{
    judge::{self, Judge, Judged},
    ports::Port,
};
use crate::{
    assign::floating::Floating,
    host::HostTables,
    model::{
        Bitmap, Farm, Filter, Mac, Mode, NodeId, NodeSet, Open, Proto, Rule, View, Vip, VlanTags,
    },
    status::{ExplainProto, ExplainQuery, Explanation},
};

/// A node's point of view.
pub struct Viewpoint<'a> {
    /// The configuration.
    pub farm: &'a Farm,
    /// The node whose verdict it is.
    pub node: NodeId,
    /// Who is asked.
    pub asked: Asked,
    /// The view in force; nobody is alive in it before the first.
    pub view: &'a View,
    /// The farm's hash key.
    pub hash_key: [u8; 16],
    /// The tables' structure; its interface has the VIP.
    pub port: &'a Port,
    /// What the node accepts, by kernel group.
    pub accept: &'a [Bitmap],
    /// Whether its lease has ended.
    pub fenced: bool,
}

/// Who is asked, and about whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The node's agent.
    Agent,
    /// The file, about the node.
    File,
    /// The file, about the farm as a whole: the node is the one that serves the client, if one does.
    FileOfFarm,
}

/// The explanation from the file alone: with `alive` up and agreed, at `node`; `None` = at the node that
/// serves the client.
pub fn offline(
    farm: &Farm,
    hash_key: [u8; 16],
    alive: NodeSet,
    node: Option<NodeId>,
    query: &ExplainQuery,
) -> Result<Explanation, String> {
    let explain = |node, asked| {
        let (port, accept) =
            judge::imagined_port(farm, alive, Some(node)).map_err(|error| error.to_string())?;
        let view = &View::of(alive);
        let (port, accept) = (&port, &accept[..]);
        Viewpoint { farm, node, asked, view, hash_key, port, accept, fenced: false }.explain(query)
    };
    if let Some(node) = node {
        return explain(node, Asked::File);
    }
    let first = alive.iter().next().ok_or("no node is alive")?;
    let told = explain(first, Asked::FileOfFarm)?;
    match told.owner.as_ref().and_then(|owner| farm.node_named(owner)) {
        Some(owner) if owner != first => explain(owner, Asked::FileOfFarm),
        _ => Ok(told),
    }
}

impl Viewpoint<'_> {
    /// The verdict on such a packet, and how it comes about.
    pub fn explain(&self, query: &ExplainQuery) -> Result<Explanation, String> {
        let (index, block) = block_of(self.farm, query)?;
        let rule = rule(block, query);
        if let Some(client) = self.client_here(block, query) {
            return Ok(of_own_client(client, block, rule, query));
        }
        check_fields(block, rule, query)?;
        let mut plan = self.port.plan();
        plan.bitmaps = self.accept.to_vec();
        let tables = HostTables::new(&plan, self.hash_key, OWN);
        let judge = Judge::new(self.farm, self.view, self.port, tables);
        let (first, mut asked) = frames(block, query);
        let alone = judge.judge(&mut asked.clone());
        let fragment_by = match alone.reason {
            Reason::EarlyFragment => Some(FragmentBy::First),
            Reason::CopiedFragment => Some(FragmentBy::FirstCopied),
            _ if !query.fragment || alone.bucket.is_none() => None,
            _ if has_filter(block, rule, query, Filter::OnIpid) => Some(FragmentBy::Identification),
            _ => Some(FragmentBy::Address),
        };
        if let Some(mut first) = first {
            judge.judge(&mut first);
        }
        let served = judge.judge(&mut asked.clone());
        // Bucket and owner do not depend on the lease.
        let reason = if self.fenced {
            judge.with(HostTables::fenced).judge(&mut asked).reason
        } else {
            served.reason
        };
        let judged = Judged { reason, ..served };
        let held = judged.bucket.and_then(|_| self.held(index, block, query.vip));
        let fragment_by = fragment_by.filter(|_| block.mode != Mode::Failover);
        let told = Told {
            node: self.name(self.node),
            judged,
            has_agreed: !self.view.alive.is_empty(),
            of_farm: self.asked == Asked::FileOfFarm,
            answers: matches!(query.proto, ExplainProto::Arp | ExplainProto::Icmp),
            abstained: judged.group.is_some_and(|group| self.abstained(group)),
            waits_for_open: self.assumes_open(block).then_some(query.vip),
            held,
        };
        let fragment_by = fragment_by.map(|by| by.sentence().to_owned());
        let quotes = query.icmp_error && judged.bucket.is_some();
        let quotes = quotes.then(|| text::QUOTES.to_owned());
        let sentences = told.sentences().into_iter().chain(fragment_by).chain(quotes);
        Ok(Explanation {
            assumes_open: self.assumes_open(block),
            group: judged.group.map(str::to_owned),
            bucket: judged.bucket.filter(|_| block.mode != Mode::Failover),
            owner: judged.owner.map(str::to_owned),
            why: held.and_then(|held| held.why),
            verdict: reason.verdict().as_str().into(),
            reason: reason.as_str().into(),
            text: sentences.collect::<Vec<_>>().join(" "),
            ..unexplained(self.name(self.node), block, rule, query)
        })
    }

    fn name(&self, node: NodeId) -> &str {
        self.farm.node(node).map_or("", |node| &node.name)
    }

    /// The node that is the client itself: what it sends to a VIP that its own interface has does not
    /// leave it. A failover VIP is on one node alone, and the others are its clients.
    fn client_here(&self, block: &Vip, query: &ExplainQuery) -> Option<&str> {
        let mut nodes = self.farm.nodes.iter().filter(|_| block.mode != Mode::Failover);
        nodes.find(|node| node.addresses.contains(&query.client)).map(|node| &*node.name)
    }

    /// Whether the VIP is closed until somebody opens it, and nobody can tell whether one has.
    fn assumes_open(&self, block: &Vip) -> bool {
        block.open == Open::Manual && self.asked != Asked::Agent
    }

    /// Whether nodes that are alive have a power in that group, and do not serve it by their own word.
    fn abstained(&self, group: &str) -> bool {
        let placement = self.port.placement();
        let number = (0..placement.groups()).find(|&number| placement.name(number) == group);
        number.is_some_and(|number| {
            let mut alive = self.view.alive.iter();
            alive.any(|node| {
                placement.power(number, node, self.view) > 0 && self.view.abstains(node, number)
            })
        })
    }

    /// Who has the failover VIP of that block, by its index in the file; `None` of another block.
    fn held(&self, index: usize, block: &Vip, vip: IpAddr) -> Option<Held<'_>> {
        let failover = block.groups.first()?.failover?;
        // The first kernel group is the built-in one.
        let number = 1 + self.farm.vips[..index].iter().map(|it| it.groups.len()).sum::<usize>();
        let placement = self.port.placement();
        let holder = placement.holder(number, self.view);
        let better = placement.favourite(number, self.view);
        let better = better.filter(|&node| holder.is_some_and(|holder| holder.node != node));
        let remembers = placement.floating(number).is_some_and(Floating::remembers);
        Some(Held {
            vip,
            why: holder.map(|holder| holder.why),
            better: better.map(|node| self.name(node)),
            preempt: failover.preempt,
            may_be_elsewhere: remembers && self.asked != Asked::Agent,
        })
    }
}

/// What a node sends to a VIP that it has itself.
fn of_own_client(
    client: &str,
    block: &Vip,
    rule: Option<&Rule>,
    query: &ExplainQuery,
) -> Explanation {
    let ExplainQuery { client: address, vip, .. } = query;
    Explanation {
        owner: Some(client.to_owned()),
        verdict: "local".into(),
        reason: "own_client".into(),
        text: format!(
            "{client} serves itself: {address} is its own address, and what a node sends to {vip}, which it has too, does not leave it."
        ),
        ..unexplained(client, block, rule, query)
    }
}

/// The question, before there is an answer.
fn unexplained(node: &str, block: &Vip, rule: Option<&Rule>, query: &ExplainQuery) -> Explanation {
    Explanation {
        client: query.client.to_string(),
        client_port: query.client_port,
        vip: query.vip.to_string(),
        vip_port: query.vip_port,
        proto: query.proto.to_string(),
        fragment: query.fragment,
        icmp_error: query.icmp_error,
        vlan: block.vlan.ids(),
        assumes_open: false,
        group: None,
        rule: rule.map(describe),
        bucket: None,
        owner: None,
        why: None,
        node: node.to_owned(),
        verdict: String::new(),
        reason: String::new(),
        text: String::new(),
    }
}

/// The block of the VIP that a packet is for, and its place in the file.
pub(super) fn block_of<'f>(
    farm: &'f Farm,
    query: &ExplainQuery,
) -> Result<(usize, &'f Vip), String> {
    let vip = query.vip;
    let has = |block: &Vip| block.addresses.iter().any(|address| address.addr == vip);
    let with: Vec<_> = farm.vips.iter().enumerate().filter(|(_, block)| has(block)).collect();
    let each = |words: fn(VlanTags) -> String, last: &str| {
        let words: Vec<_> = with.iter().map(|(_, block)| words(block.vlan)).collect();
        words.join(last)
    };
    match (query.vlan, &with[..]) {
        (_, []) => {
            let addresses = farm.vips.iter().flat_map(|block| &block.addresses);
            let addresses: Vec<_> = addresses.map(|address| address.addr.to_string()).collect();
            Err(format!(
                "{vip} is no VIP of farm {}: its packets pass untouched; the VIPs are {}",
                farm.name,
                addresses.join(", ")
            ))
        }
        (None, &[only]) => Ok(only),
        (None, _) => Err(format!(
            "{vip} is a VIP {}, each with rules of its own: say which with {}",
            each(place, " and "),
            each(|vlan| format!("--vlan {vlan}"), " or ")
        )),
        (Some(asked), _) => {
            with.iter().find(|(_, block)| block.vlan == asked).copied().ok_or_else(|| {
                format!(
                    "{vip} is no VIP {}, whose packets for it pass untouched: it is one {}",
                    place(asked),
                    each(place, " and ")
                )
            })
        }
    }
}

/// Where frames with those tags are.
fn place(vlan: VlanTags) -> String {
    if vlan == VlanTags::default() { "without a VLAN".into() } else { format!("in VLAN {vlan}") }
}

/// The MAC of the node that is asked, in the frames made up here.
const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// The frame of the question, and the first fragment that comes before it if it is another one.
/// Where nodes answer with their own MACs, it comes to this node.
pub(crate) fn frames(block: &Vip, query: &ExplainQuery) -> (Option<Vec<u8>>, Vec<u8>) {
    let target = block.virtual_mac().unwrap_or(OWN);
    let part = |part| frame::frame(query, part, target, block.vlan);
    if query.fragment {
        (Some(part(Part::First)), part(Part::Later))
    } else {
        (None, part(Part::Whole))
    }
}

/// The rule that the kernel will find. None for what goes by the built-in group.
fn rule<'b>(block: &'b Vip, query: &ExplainQuery) -> Option<&'b Rule> {
    let (_, rule) = block.rule_for(query.vip, proto(query)?, query.vip_port)?;
    Some(rule)
}

fn proto(query: &ExplainQuery) -> Option<Proto> {
    match query.proto {
        ExplainProto::Tcp => Some(Proto::Tcp),
        ExplainProto::Udp => Some(Proto::Udp),
        ExplainProto::Arp => Some(Proto::Arp),
        ExplainProto::Icmp | ExplainProto::Other(_) => None,
    }
}

/// Whether the packet is judged by a rule with that filter. A fragment may be without having a rule
/// of its own, if all that it could have say the same.
fn has_filter(block: &Vip, rule: Option<&Rule>, query: &ExplainQuery, filter: Filter) -> bool {
    let mut rules = block.groups.iter().flat_map(|group| &group.rules);
    match rule {
        Some(rule) => rule.filter == filter,
        None if query.fragment => {
            rules.any(|rule| Some(rule.proto) == proto(query) && rule.filter == filter)
        }
        None => false,
    }
}

/// Whether the question has what the rule hashes: a made-up port would explain a made-up client.
fn check_fields(block: &Vip, rule: Option<&Rule>, query: &ExplainQuery) -> Result<(), String> {
    if rule.is_some_and(|rule| rule.filter == Filter::OnPort) && query.client_port.is_none() {
        let port = if query.client.is_ipv6() { "[ADDRESS]:PORT" } else { "ADDRESS:PORT" };
        let ask = port.replace("ADDRESS", &query.client.to_string());
        return Err(format!("the rule hashes the client's source port: ask for {ask}"));
    }
    let needs_id = has_filter(block, rule, query, Filter::OnIpid) && !query.icmp_error;
    if needs_id && query.ip_id.is_none() {
        return Err("the rule hashes the IP identification: add --ip-id N".into());
    }
    Ok(())
}

/// The rule as in the file.
pub(super) fn describe(rule: &Rule) -> String {
    let any = || "*".to_owned();
    let word = |value: serde_json::Result<serde_json::Value>| {
        value.ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    };
    format!(
        "virtual_addr: {}, port: {}, proto: {}, filter: {}",
        rule.virtual_addr.map_or_else(any, |addr| addr.to_string()),
        rule.port.map_or_else(any, |port| port.to_string()),
        word(serde_json::to_value(rule.proto)),
        word(serde_json::to_value(rule.filter)),
    )
}

#[cfg(test)]
mod tests;
