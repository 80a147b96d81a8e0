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
        icmp_error: false,
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
        let told: Vec<_> = (0..2).map(|node| explain(node, 0b11, &query).expect("a VIP")).collect();
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
    let error = explain(0, 0b11, &ask(ExplainProto::Udp, Some(1), Some(53))).expect_err("no id");
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
    offline(&farm, [7; 16], alive, Some(NodeId::new(0).expect("in range")), query).expect("a VIP")
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
    for (vlan, group, owner) in [("0", "a", "node1"), ("10", "b", "node2"), ("20.10", "c", "node1")]
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
    assert_eq!(by(OF_NODE2, ask(ExplainProto::Icmp, None, None)), FragmentBy::Address.sentence());
    let refused = ExplainQuery { fragment: true, ..ask(ExplainProto::Other(47), None, None) };
    assert!(!ask_file(OF_NODE2, &refused).text.contains("fragment"));
}

#[test]
fn an_icmp_error_goes_where_the_packet_went_whose_answer_it_quotes() {
    let error = |query: ExplainQuery| ExplainQuery { icmp_error: true, ..query };
    let v6 = |query: ExplainQuery| {
        let [client, vip] =
            ["fd00:1::1", "fd00::100"].map(|text| text.parse().expect("an address"));
        ExplainQuery { client, vip, ..query }
    };
    let both = "  groups: [{ name: g, rules: [{ port: 80, proto: tcp, filter: on_port }] }]\n";
    let (tcp, echo) = (ExplainProto::Tcp, ExplainProto::Icmp);
    let mut owners = std::collections::BTreeSet::new();
    for port in 1000..1050 {
        for query in [ask(tcp, Some(port), Some(80)), v6(ask(tcp, Some(port), Some(80)))] {
            let (told, about) = (ask_file(both, &error(query)), ask_file(both, &query));
            let owner = |told: &Explanation| (told.bucket, told.owner.clone(), told.reason.clone());
            assert_eq!(owner(&told), owner(&about), "{}", told.text);
            assert!(told.text.ends_with(text::QUOTES), "{told:?}");
            owners.insert(told.owner);
        }
    }
    assert_eq!(owners.len(), 2);
    for query in [ask(echo, None, None), v6(ask(echo, None, None))] {
        let told = ask_file(both, &error(query));
        assert_eq!((told.bucket, told.owner), {
            let about = ask_file(both, &query);
            (about.bucket, about.owner)
        });
    }
    let dns = "  groups: [{ name: g, rules: [{ virtual_addr: 10.0.0.100, port: 53, proto: udp, filter: on_ipid }] }]\n";
    let told = ask_file(dns, &error(ask(ExplainProto::Udp, Some(1), Some(53))));
    assert_eq!((told.reason.as_str(), told.bucket), ("icmp_shared", None), "{}", told.text);
}

#[test]
fn a_fragment_whose_port_has_no_rule_needs_what_the_other_rules_hash() {
    let farm = fixture::farm("[{ name: g, rules: [{ port: 53, proto: udp, filter: on_ipid }] }]");
    let query = ExplainQuery { fragment: true, ..ask(ExplainProto::Udp, Some(1), Some(99)) };
    let alive = farm.node_ids().collect();
    let node = NodeId::new(0).expect("in range");
    let error = offline(&farm, [7; 16], alive, Some(node), &query).expect_err("no id");
    assert!(error.contains("--ip-id"), "{error}");
}

#[test]
fn an_address_that_is_no_vip_is_said_to_be_none() {
    let query =
        ExplainQuery { vip: [10, 0, 0, 99].into(), ..ask(ExplainProto::Tcp, Some(1), Some(80)) };
    let error = explain(0, 0b11, &query).expect_err("no VIP");
    assert!(error.contains("the VIPs are 10.0.0.100"), "{error}");
}
