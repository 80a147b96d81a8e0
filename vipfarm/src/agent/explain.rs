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
        let sentences = told.sentences().into_iter().chain(fragment_by);
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
    if has_filter(block, rule, query, Filter::OnIpid) && query.ip_id.is_none() {
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
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        agent::fixture,
        config,
        model::{Abstention, Abstentions},
        placement::RESOLVE_GROUP,
        plan::OwnAddresses,
        status::Why,
    };

    const GROUPS: &str = "[{ name: http, rules: [{ port: 80, proto: tcp, filter: on_port }, { port: 53, proto: udp, filter: on_ipid }] }, { name: idle, powers: { node2: 1 }, rules: [{ port: 22, proto: tcp, filter: on_addr }] }]";

    fn ask(proto: ExplainProto, client_port: Option<u16>, vip_port: Option<u16>) -> ExplainQuery {
        ExplainQuery {
            client: [10, 1, 0, 1].into(),
            client_port,
            vip: [10, 0, 0, 100].into(),
            vip_port,
            proto,
            ip_id: None,
            fragment: false,
            vlan: None,
        }
    }

    fn explain(node: usize, alive: u64, query: &ExplainQuery) -> Result<Explanation, String> {
        let farm = fixture::farm(GROUPS);
        let mut port = Port::new(&farm, |_| true, OwnAddresses::default()).expect("it fits");
        let node = NodeId::new(node).expect("in range");
        let view = View::of(NodeSet::from_bits(alive));
        port.settle(node, &view);
        Viewpoint {
            farm: &farm,
            node,
            asked: Asked::Agent,
            view: &view,
            hash_key: [7; 16],
            port: &port,
            accept: port.accept(),
            fenced: false,
        }
        .explain(query)
    }

    #[test]
    fn both_nodes_name_the_same_bucket_and_owner_and_only_the_owner_accepts() {
        for client_port in 1000..1100 {
            let query = ask(ExplainProto::Tcp, Some(client_port), Some(80));
            let told: Vec<_> =
                (0..2).map(|node| explain(node, 0b11, &query).expect("a VIP")).collect();
            assert_eq!((told[0].bucket, &told[0].owner), (told[1].bucket, &told[1].owner));
            let accepting: Vec<_> = told.iter().filter(|told| told.verdict == "accept").collect();
            assert_eq!(accepting.len(), 1);
            assert_eq!(Some(&accepting[0].node), accepting[0].owner.as_ref());
        }
    }

    #[test]
    fn the_sentence_says_who_serves_or_why_nobody_does() {
        let query = ask(ExplainProto::Tcp, None, Some(22));
        let told = explain(0, 0b11, &query).expect("a VIP");
        assert!(
            told.text.ends_with("of group idle belongs to node2, which serves this client."),
            "{}",
            told.text
        );
        let told = explain(0, 0b01, &query).expect("a VIP");
        assert_eq!(told.owner, None);
        assert!(told.text.contains("no node with power in group idle is alive"), "{}", told.text);
        let told = explain(0, 0b11, &ask(ExplainProto::Tcp, Some(1), Some(99))).expect("a VIP");
        assert_eq!((told.reason.as_str(), told.verdict.as_str()), ("no_rule", "drop"));
        assert_eq!(told.text, "node1 drops it: no rule covers this protocol and port.");
    }

    #[test]
    fn a_fenced_node_says_so_and_whose_the_bucket_is() {
        let farm = fixture::farm(GROUPS);
        let port = Port::new(&farm, |_| true, OwnAddresses::default()).expect("it fits");
        let told = |alive: u64| {
            let view = View::of(NodeSet::from_bits(alive));
            let viewpoint = Viewpoint {
                farm: &farm,
                node: NodeId::new(0).expect("in range"),
                asked: Asked::Agent,
                view: &view,
                hash_key: [7; 16],
                port: &port,
                accept: port.accept(),
                fenced: true,
            };
            viewpoint.explain(&ask(ExplainProto::Tcp, None, Some(22))).expect("a VIP")
        };
        assert_eq!(told(0b11).owner.as_deref(), Some("node2"));
        assert!(told(0b11).text.contains("its lease has ended"), "{}", told(0b11).text);
        assert!(told(0).text.contains("has not agreed with the farm yet"), "{}", told(0).text);
        assert_eq!(told(0).reason, "fenced");
    }

    #[test]
    fn what_the_rule_hashes_must_be_in_the_question() {
        let error = explain(0, 0b11, &ask(ExplainProto::Tcp, None, Some(80))).expect_err("no port");
        assert!(error.contains("ask for 10.1.0.1:PORT"), "{error}");
        let error =
            explain(0, 0b11, &ask(ExplainProto::Udp, Some(1), Some(53))).expect_err("no id");
        assert!(error.contains("--ip-id"), "{error}");
    }

    #[test]
    fn arp_and_echo_go_by_the_built_in_group() {
        for proto in [ExplainProto::Arp, ExplainProto::Icmp] {
            let told = explain(0, 0b01, &ask(proto, None, None)).expect("a VIP");
            assert_eq!(told.group.as_deref(), Some(RESOLVE_GROUP));
            assert_eq!((told.verdict.as_str(), told.rule), ("accept", None));
        }
    }

    /// Asks node1 while node1 and node2 are alive, from a file with these further keys of the block.
    fn ask_file(block: &str, query: &ExplainQuery) -> Explanation {
        let text = format!(
            "farm: web\nkey_file: k\nnodes:\n\
             - {{ name: node1, addresses: [10.0.0.11] }}\n\
             - {{ name: node2, addresses: [10.0.0.12] }}\nvips:\n\
             - addresses: [10.0.0.100/24, \"fd00::100/64\"]\n{block}"
        );
        let farm = config::parse("farm.yaml", &text).unwrap_or_else(|error| panic!("{error}"));
        let alive = farm.node_ids().collect();
        offline(&farm, [7; 16], alive, Some(NodeId::new(0).expect("in range")), query)
            .expect("a VIP")
    }

    const OF_NODE2: &str = "  groups: [{ name: g, powers: { node2: 1 }, rules: [{ port: 80, proto: tcp, filter: on_port }, \
         { port: 514, proto: udp, filter: on_addr }] }]\n";

    /// Asks the farm of such a file, while both nodes are alive.
    fn ask_farm(vip: &str, query: &ExplainQuery) -> Explanation {
        let text = format!(
            "farm: web\nkey_file: k\nnodes:\n\
             - {{ name: node1, addresses: [10.0.0.11, 10.9.0.11] }}\n\
             - {{ name: node2, addresses: [10.0.0.12, 10.9.0.12] }}\nvips:\n\
             - addresses: [10.0.0.100/24]\n{vip}"
        );
        let farm = config::parse("farm.yaml", &text).unwrap_or_else(|error| panic!("{error}"));
        offline(&farm, [7; 16], farm.node_ids().collect(), None, query).expect("a VIP")
    }

    const OF_NODE2_IN_V4: &str = "  groups: [{ name: g, powers: { node2: 1 }, rules: [{ port: 80, proto: tcp, filter: on_port }] }]\n";

    #[test]
    fn the_farm_is_asked_for_who_serves() {
        let tcp = ask(ExplainProto::Tcp, Some(1), Some(80));
        let told = ask_farm(OF_NODE2_IN_V4, &tcp);
        assert!(told.text.starts_with("node2 serves this client: bucket "), "{}", told.text);
        assert_eq!((&*told.node, &*told.verdict), ("node2", "accept"));
        let told = ask_farm(OF_NODE2_IN_V4, &ask(ExplainProto::Arp, None, None));
        assert!(told.text.contains(" answers this client: bucket "), "{}", told.text);
        assert_eq!((Some(&told.node), &*told.verdict), (told.owner.as_ref(), "accept"));
        let told = ask_farm(OF_NODE2_IN_V4, &ask(ExplainProto::Tcp, Some(1), Some(99)));
        assert!(told.text.starts_with("every node drops it: no rule"), "{}", told.text);
    }

    #[test]
    fn what_is_opened_by_hand_is_told_as_open_from_the_file_and_as_it_is_by_an_agent() {
        let tcp = ask(ExplainProto::Tcp, Some(1), Some(80));
        let manual = format!("  open: manual\n{OF_NODE2_IN_V4}");
        let told = ask_farm(&manual, &tcp);
        assert!(told.assumes_open);
        assert_eq!(told.bucket, ask_farm(OF_NODE2_IN_V4, &tcp).bucket);
        let begins = "10.0.0.100 is closed on each node until `vipfarm open` there (`open: manual`); \
                      once open, node2 serves this client: bucket ";
        assert!(told.text.starts_with(begins), "{}", told.text);

        let mut farm = fixture::farm(GROUPS);
        farm.vips[0].open = Open::Manual;
        let port = Port::new(&farm, |_| true, OwnAddresses::default()).expect("it fits");
        let mut view = View::of(farm.node_ids().collect());
        let closed = farm.node_ids().map(|node| (node, Abstention::NONE.and_from(1)));
        view.abstentions = Arc::new(Abstentions::new(closed).expect("in order"));
        let node = NodeId::new(0).expect("in range");
        let (asked, accept) = (Asked::Agent, port.accept());
        let (view, farm, port) = (&view, &farm, &port);
        let told =
            Viewpoint { farm, node, asked, view, hash_key: [7; 16], port, accept, fenced: false }
                .explain(&tcp)
                .expect("a VIP");
        assert!(!told.assumes_open);
        assert_eq!((told.owner, &*told.reason), (None, "not_mine"));
        assert!(told.text.contains("do not serve it for now: it is closed"), "{}", told.text);
    }

    #[test]
    fn of_a_failover_vip_the_holder_is_told_and_why() {
        let vip = "  mode: failover\n  priorities: { node1: 1, node2: 2 }\n";
        let tcp = ask(ExplainProto::Tcp, Some(1), Some(80));
        let told = ask_farm(vip, &tcp);
        assert_eq!(
            told.text,
            "node2 serves this client: it has 10.0.0.100. node2 has it by priority: no node that is \
             alive and may have it has a higher one."
        );
        assert_eq!((told.owner.as_deref(), told.why), (Some("node2"), Some(Why::Priority)));
        assert_eq!((told.bucket, &*told.verdict), (None, "accept"));
        let told = ask_farm(&format!("{vip}  preempt: false\n"), &tcp);
        assert!(told.text.ends_with("may keep it, the file does not tell."), "{}", told.text);
        let of_node = ExplainQuery { client: [10, 0, 0, 11].into(), ..tcp };
        assert_eq!(ask_farm(vip, &of_node).why, Some(Why::Priority), "a client like others");
        let told = ask_farm(&format!("{vip}  rules: [{{ port: 25, proto: tcp }}]\n"), &tcp);
        assert_eq!((&*told.reason, told.why), ("no_rule", None));
    }

    #[test]
    fn what_a_node_sends_to_its_own_vip_stays_there() {
        let tcp = ask(ExplainProto::Tcp, Some(1), Some(80));
        for address in [[10, 0, 0, 11], [10, 9, 0, 11]] {
            let told = ask_farm(OF_NODE2_IN_V4, &ExplainQuery { client: address.into(), ..tcp });
            assert!(told.text.starts_with("node1 serves itself: "), "{}", told.text);
            assert_eq!((&*told.verdict, told.owner.as_deref()), ("local", Some("node1")));
            assert_eq!((told.bucket, told.group), (None, None));
        }
    }

    #[test]
    fn a_node_that_hands_over_says_to_whom() {
        let query = ask(ExplainProto::Tcp, Some(1), Some(80));
        let told = ask_file(&format!("  mode: vmac_directed\n{OF_NODE2}"), &query);
        assert_eq!((&*told.verdict, &*told.reason), ("forward", "forwarded"));
        assert!(told.text.starts_with("node1 hands it to node2: bucket "), "{}", told.text);
    }

    #[test]
    fn an_ipv6_client_is_explained_like_an_ipv4_one() {
        let v6 = |query: ExplainQuery| ExplainQuery {
            client: "fd00::1".parse().expect("an address"),
            vip: "fd00::100".parse().expect("an address"),
            ..query
        };
        let told = ask_file(OF_NODE2, &v6(ask(ExplainProto::Tcp, Some(1), Some(80))));
        assert_eq!(told.owner.as_deref(), Some("node2"));
        for proto in [ExplainProto::Arp, ExplainProto::Icmp] {
            let told = ask_file(OF_NODE2, &v6(ask(proto, None, None)));
            assert_eq!(told.group.as_deref(), Some(RESOLVE_GROUP), "{told:?}");
        }
        let farm = fixture::farm(GROUPS).vips.remove(0);
        let rule = rule(&farm, &ask(ExplainProto::Tcp, None, Some(80)));
        let error = check_fields(&farm, rule, &v6(ask(ExplainProto::Tcp, None, Some(80))));
        assert!(error.expect_err("no port").ends_with("ask for [fd00::1]:PORT"));
    }

    #[test]
    fn the_tags_of_the_file_are_on_the_frame() {
        for vlan in ["10", "[7, 10]"] {
            let block = format!("  vlan: {vlan}\n{OF_NODE2}");
            let told = ask_file(&block, &ask(ExplainProto::Tcp, Some(1), Some(80)));
            assert_eq!(told.owner.as_deref(), Some("node2"), "{vlan}: {told:?}");
        }
    }

    #[test]
    fn of_a_vip_in_several_vlans_the_question_says_which() {
        let block = |vlan, node, name| {
            format!(
                "- addresses: [10.0.0.100/24]\n{vlan}  groups: [{{ name: {name}, powers: {{ {node}: 1 }}, rules: [{{ port: 80, proto: tcp, filter: on_addr }}] }}]\n"
            )
        };
        let nodes = "nodes:\n- { name: node1, addresses: [10.0.0.11] }\n- { name: node2, addresses: [10.0.0.12] }\n";
        let vips = block("", "node1", "a")
            + &block("  vlan: 10\n", "node2", "b")
            + &block("  vlan: [20, 10]\n", "node1", "c");
        let text = format!("farm: web\nkey_file: k\n{nodes}vips:\n{vips}");
        let farm = config::parse("farm.yaml", &text).unwrap_or_else(|error| panic!("{error}"));
        let tcp = ask(ExplainProto::Tcp, Some(1), Some(80));
        let told = |vlan: Option<&str>| {
            let vlan = vlan.map(|vlan| vlan.parse().expect("a VLAN"));
            let node = NodeId::new(0).expect("in range");
            let query = ExplainQuery { vlan, ..tcp };
            offline(&farm, [7; 16], farm.node_ids().collect(), Some(node), &query)
        };
        for (vlan, group, owner) in
            [("0", "a", "node1"), ("10", "b", "node2"), ("20.10", "c", "node1")]
        {
            let told = told(Some(vlan)).expect("it is one");
            let (group, owner) = (Some(group.to_owned()), Some(owner.to_owned()));
            assert_eq!((told.group, told.owner), (group, owner));
            let ids: Vec<_> = told.vlan.iter().map(u16::to_string).collect();
            assert_eq!(ids.join("."), if vlan == "0" { "" } else { vlan });
        }
        assert_eq!(
            told(None).expect_err("which?"),
            "10.0.0.100 is a VIP without a VLAN and in VLAN 10 and in VLAN 20.10, each with rules of its own: \
             say which with --vlan 0 or --vlan 10 or --vlan 20.10"
        );
        assert_eq!(
            told(Some("11")).expect_err("in another"),
            "10.0.0.100 is no VIP in VLAN 11, whose packets for it pass untouched: it is one without a VLAN \
             and in VLAN 10 and in VLAN 20.10"
        );
    }

    #[test]
    fn another_protocol_goes_by_the_address_where_the_file_says_so() {
        let gre = ask(ExplainProto::Other(47), None, None);
        assert_eq!(ask_file(OF_NODE2, &gre).reason, "other_proto");
        let told = ask_file(&format!("  other: on_addr\n{OF_NODE2}"), &gre);
        assert_eq!((told.group.as_deref(), told.proto.as_str()), (Some(RESOLVE_GROUP), "47"));
    }

    #[test]
    fn a_fragment_is_told_with_what_it_goes_by() {
        let by = |block: &str, query: ExplainQuery| {
            let whole = ask_file(block, &query);
            let told = ask_file(block, &ExplainQuery { fragment: true, ..query });
            assert_eq!((told.bucket, &told.reason), (whole.bucket, &whole.reason));
            told.text.strip_prefix(&whole.text).expect("more is told").trim().to_owned()
        };
        let tcp = ask(ExplainProto::Tcp, Some(1), Some(80));
        assert_eq!(by(OF_NODE2, tcp), FragmentBy::First.sentence());
        let directed = format!("  mode: vmac_directed\n{OF_NODE2}");
        assert_eq!(by(&directed, tcp), FragmentBy::FirstCopied.sentence());
        let udp = ask(ExplainProto::Udp, Some(1), Some(514));
        assert_eq!(by(OF_NODE2, udp), FragmentBy::Address.sentence());
        let dns = "  groups: [{ name: g, rules: [{ virtual_addr: 10.0.0.100, port: 53, proto: udp, filter: on_ipid }] }]\n";
        let by_id = ExplainQuery { ip_id: Some(9), ..ask(ExplainProto::Udp, Some(1), Some(53)) };
        assert_eq!(by(dns, by_id), FragmentBy::Identification.sentence());
        assert_eq!(
            by(OF_NODE2, ask(ExplainProto::Icmp, None, None)),
            FragmentBy::Address.sentence()
        );
        let refused = ExplainQuery { fragment: true, ..ask(ExplainProto::Other(47), None, None) };
        assert!(!ask_file(OF_NODE2, &refused).text.contains("fragment"));
    }

    #[test]
    fn a_fragment_whose_port_has_no_rule_needs_what_the_other_rules_hash() {
        let farm =
            fixture::farm("[{ name: g, rules: [{ port: 53, proto: udp, filter: on_ipid }] }]");
        let query = ExplainQuery { fragment: true, ..ask(ExplainProto::Udp, Some(1), Some(99)) };
        let alive = farm.node_ids().collect();
        let node = NodeId::new(0).expect("in range");
        let error = offline(&farm, [7; 16], alive, Some(node), &query).expect_err("no id");
        assert!(error.contains("--ip-id"), "{error}");
    }

    #[test]
    fn an_address_that_is_no_vip_is_said_to_be_none() {
        let query = ExplainQuery {
            vip: [10, 0, 0, 99].into(),
            ..ask(ExplainProto::Tcp, Some(1), Some(80))
        };
        let error = explain(0, 0b11, &query).expect_err("no VIP");
        assert!(error.contains("the VIPs are 10.0.0.100"), "{error}");
    }
}
