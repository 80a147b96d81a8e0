use serde_json::Value;

use super::*;
use crate::{
    agent::{explain, ports::Port},
    model::Vip,
    plan::OwnAddresses,
    status::{ExplainProto, ExplainQuery, Explanation, HostPort},
};

const KEY: [u8; 16] = [7; 16];

/// Addresses of both families, in a VLAN and in two, and one that nodes hand over.
const FARM: &str = "
farm: web
key_file: k
nodes:
  - { name: node1, addresses: [10.0.0.11] }
  - { name: node2, addresses: [10.0.0.12] }
  - { name: node3, addresses: [10.0.0.13] }
vips:
  - addresses: [10.0.0.100/24, \"fd00::100/64\"]
    other: on_addr
    groups:
      - name: web
        rules:
          - { port: 80, proto: tcp, filter: on_port }
          - { port: 514, proto: udp, filter: on_addr }
      - name: idle
        powers: { node3: 1 }
        rules: [{ port: 22, proto: tcp, filter: on_addr }]
  - addresses: [10.0.0.101/24]
    vlan: 10
    groups:
      - name: dns
        rules: [{ port: 53, proto: udp, filter: on_ipid }]
  - addresses: [\"fd00::102/64\"]
    vlan: [7, 10]
    icmp_echo: drop
    groups: [{ name: by-address, rules: [{ port: 80, proto: tcp, filter: on_addr }] }]
  - addresses: [10.0.0.103/24, \"fd00::103/64\"]
    mode: vmac_directed
    groups:
      - name: handed
        rules: [{ port: 80, proto: tcp, filter: on_port }, { proto: arp, filter: on_addr }]
      - name: rare
        powers: { node3: 1 }
        rules: [{ port: 22, proto: tcp, filter: on_addr }]
";

fn farm() -> Farm {
    config::parse("farm.yaml", FARM).unwrap_or_else(|error| panic!("{error}"))
}

/// A capture of whole packets, a second apart.
fn capture(frames: &[Vec<u8>]) -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut bytes: Vec<u8> = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1]);
    for (second, frame) in (1_700_000_000..).zip(frames) {
        let length = u32::try_from(frame.len()).expect("a small frame");
        bytes.extend::<Vec<u8>>(words(&[second, 5, length, length]));
        bytes.extend(frame);
    }
    bytes
}

fn replay(farm: &Farm) -> Replay<'_> {
    let alive = farm.node_ids().collect();
    Replay { farm, hash_key: KEY, alive, node: None, macs: &[] }
}

/// The JSON lines of the packets and the totals, and what was wrong with the capture.
fn lines(replay: Replay<'_>, capture: &[u8]) -> (Vec<Value>, anyhow::Result<()>) {
    let mut out = Vec::new();
    let end = replay.write(capture, Form::Json, &mut out);
    let out = String::from_utf8(out).expect("UTF-8");
    (out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect(), end)
}

/// The line of the last frame.
fn judged(replay: Replay<'_>, frames: &[Vec<u8>]) -> Value {
    let (mut lines, end) = lines(replay, &capture(frames));
    end.expect("a whole capture");
    assert_eq!(lines.pop().expect("totals")["totals"]["packets"], frames.len());
    lines.pop().expect("a packet")
}

fn query(client: &str, vip: &str, proto: &str) -> ExplainQuery {
    let (client, vip): (HostPort, HostPort) =
        (client.parse().expect("an address"), vip.parse().expect("an address"));
    let proto: ExplainProto = proto.parse().expect("a protocol");
    let query = ExplainQuery {
        client: client.addr,
        client_port: client.port,
        vip: vip.addr,
        vip_port: vip.port,
        proto,
        ip_id: (vip.port == Some(53)).then_some(77),
        fragment: false,
        icmp_error: false,
        vlan: None,
    };
    query.check().expect("it can exist");
    query
}

/// Packets of every kind.
fn queries() -> Vec<ExplainQuery> {
    let plain = [
        query("10.1.0.1:4000", "10.0.0.100:80", "tcp"),
        query("10.1.0.2:4000", "10.0.0.100:22", "tcp"),
        query("10.1.0.3:4000", "10.0.0.100:99", "tcp"),
        query("10.1.0.4:4000", "10.0.0.100:514", "udp"),
        query("10.1.0.5", "10.0.0.100", "icmp"),
        query("10.1.0.6", "10.0.0.100", "47"),
        query("[fd00::1]:4000", "[fd00::100]:80", "tcp"),
        query("[fd00::2]:4000", "[fd00::100]:514", "udp"),
        query("fd00::3", "fd00::100", "icmp"),
        query("fd00::4", "fd00::100", "132"),
        query("10.1.0.7:4000", "10.0.0.101:53", "udp"),
        query("10.1.0.8", "10.0.0.101", "47"),
        query("[fd00::5]:4000", "[fd00::102]:80", "tcp"),
        query("fd00::6", "fd00::102", "icmp"),
        query("10.1.0.9:4000", "10.0.0.103:80", "tcp"),
        query("10.1.0.9:4000", "10.0.0.103:22", "tcp"),
        query("[fd00::7]:4000", "[fd00::103]:80", "tcp"),
    ];
    let fragments = plain.map(|query| ExplainQuery { fragment: true, ..query });
    let resolution = [
        query("10.0.0.1", "10.0.0.100", "arp"),
        query("10.0.0.2", "10.0.0.101", "arp"),
        query("10.0.0.3", "10.0.0.103", "arp"),
        query("fd00::8", "fd00::100", "arp"),
        query("fd00::9", "fd00::102", "arp"),
        query("fd00::a", "fd00::103", "arp"),
    ];
    plain.into_iter().chain(fragments).chain(resolution).collect()
}

/// What an agent says when those have agreed.
fn live(farm: &Farm, alive: NodeSet, node: NodeId, query: &ExplainQuery) -> Explanation {
    let mut port = Port::new(farm, |_| true, OwnAddresses::default()).expect("it fits");
    let view = View::of(alive);
    port.settle(node, &view);
    for (index, peer) in (1..).zip(farm.node_ids()).filter(|&(_, peer)| peer != node) {
        port.learn(peer, Mac([2, 0, 0, 0, 0, index]));
    }
    let accept = port.accept();
    let viewpoint = explain::Viewpoint {
        farm,
        node,
        asked: explain::Asked::Agent,
        view: &view,
        hash_key: KEY,
        port: &port,
        accept,
        fenced: false,
    };
    viewpoint.explain(query).expect("a VIP")
}

/// What the query is about as frames.
fn frames(farm: &Farm, query: &ExplainQuery) -> Vec<Vec<u8>> {
    let has = |block: &&Vip| block.addresses.iter().any(|vip| vip.addr == query.vip);
    let block = farm.vips.iter().find(has).expect("a VIP");
    let (first, asked) = explain::frames(block, query);
    first.into_iter().chain([asked]).collect()
}

#[test]
fn a_capture_is_judged_as_explain_says_from_the_file_and_at_an_agent() {
    let farm = farm();
    let mut seen = std::collections::BTreeSet::new();
    let all: NodeSet = farm.node_ids().collect();
    let last = farm.node_ids().last().expect("three nodes");
    for alive in [all, all.without(last)] {
        for query in queries() {
            let frames = frames(&farm, &query);
            for node in alive.iter() {
                let told = explain::offline(&farm, KEY, alive, Some(node), &query).expect("a VIP");
                assert_eq!(told, live(&farm, alive, node, &query));
                let line = judged(Replay { alive, node: Some(node), ..replay(&farm) }, &frames);
                let line = |field: &str| line[field].as_str().map(str::to_owned);
                assert_eq!(line("reason").as_ref(), Some(&told.reason), "{query:?}");
                assert_eq!(line("verdict").as_ref(), Some(&told.verdict), "{query:?}");
                assert_eq!((line("group"), line("owner")), (told.group, told.owner), "{query:?}");
                seen.insert(told.reason);
            }
        }
    }
    let expected =
        ["echo_denied", "forwarded", "mine", "no_next_hop", "no_rule", "not_mine", "other_proto"];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn the_farm_as_a_whole_accepts_what_one_node_does_and_names_it() {
    let farm = farm();
    for query in queries() {
        let frames = frames(&farm, &query);
        let whole = judged(replay(&farm), &frames);
        let accepting: Vec<_> = farm
            .node_ids()
            .map(|node| judged(Replay { node: Some(node), ..replay(&farm) }, &frames))
            .zip(&farm.nodes)
            .filter(|(line, _)| line["verdict"] == "accept")
            .map(|(_, node)| &*node.name)
            .collect();
        assert_eq!(accepting, whole["owner"].as_str().into_iter().collect::<Vec<_>>());
        assert_eq!(whole["verdict"] == "accept", accepting.len() == 1, "{query:?}");
    }
}

#[test]
fn nobody_owns_what_no_living_node_has_power_for() {
    let farm = farm();
    let node3 = farm.node_named("node3").expect("a node");
    let query = query("10.1.0.2:4000", "10.0.0.100:22", "tcp");
    let (_, frame) = explain::frames(&farm.vips[0], &query);
    let replay = Replay { alive: replay(&farm).alive.without(node3), ..replay(&farm) };
    let (lines, end) = lines(replay, &capture(&[frame]));
    end.expect("a whole capture");
    assert_eq!((&lines[0]["reason"], &lines[0]["owner"]), (&"not_mine".into(), &Value::Null));
    let totals = serde_json::json!(
        { "packets": 1, "cut": 0, "reasons": { "not_mine": 1 }, "owners": {}, "nobody": 1 }
    );
    assert_eq!(lines[1]["totals"], totals);
}

#[test]
fn a_vip_that_is_opened_by_hand_is_judged_as_open_which_is_said() {
    let by_hand = FARM.replace("    other: on_addr\n", "    open: manual\n    other: on_addr\n");
    let by_hand = config::parse("farm.yaml", &by_hand).unwrap_or_else(|error| panic!("{error}"));
    let query = query("10.1.0.1:4000", "10.0.0.100:80", "tcp");
    let (_, frame) = explain::frames(&by_hand.vips[0], &query);
    let capture = capture(&[frame]);
    let (opened, auto) = (lines(replay(&by_hand), &capture).0, lines(replay(&farm()), &capture).0);
    assert_eq!(opened[0], auto[0]);
    assert_eq!(opened[1]["totals"]["assumed_open"], serde_json::json!(["10.0.0.100", "fd00::100"]));
    assert_eq!(auto[1]["totals"].get("assumed_open"), None);
    let mut text = Vec::new();
    replay(&by_hand).write(&capture[..], Form::Table(Ink::Plain), &mut text).expect("whole");
    let text = String::from_utf8(text).expect("UTF-8");
    assert!(text.contains("(`open: manual`): 10.0.0.100, fd00::100"), "{text}");
}

#[test]
fn a_known_mac_tells_a_nodes_frames_from_a_clients() {
    let farm = farm();
    let node = |name| farm.node_named(name).expect("a node");
    let (one, two) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
    let macs = [(node("node1"), one), (node("node2"), two)];
    let query = query("10.1.0.9:4000", "10.0.0.103:80", "tcp");
    let (_, frame) = explain::frames(&farm.vips[3], &query);
    let owner = judged(replay(&farm), std::slice::from_ref(&frame))["owner"].clone();
    let [judging, other] = if owner == "node1" { [1, 0] } else { [0, 1] };
    let replay = Replay { node: Some(macs[judging].0), macs: &macs, ..replay(&farm) };
    let reason = |target: Mac, source: Option<Mac>| {
        let mut frame = frame.clone();
        frame[..6].copy_from_slice(&target.0);
        if let Some(source) = source {
            frame[6..12].copy_from_slice(&source.0);
        }
        judged(replay, &[frame])["reason"].clone()
    };
    assert_eq!(reason(macs[judging].1, None), "forwarded");
    assert_eq!(reason(macs[judging].1, Some(macs[other].1)), "handed_over");
    assert_eq!(reason(macs[other].1, None), "other_mac");
    assert_eq!(reason(Mac([2, 0, 0, 0, 0, 9]), None), "other_mac");
}

#[test]
fn a_frame_to_another_vips_mac_is_another_stations() {
    let farm = farm();
    let query = query("10.1.0.1:4000", "10.0.0.100:80", "tcp");
    let reason = |target: Mac| {
        let (_, mut frame) = explain::frames(&farm.vips[0], &query);
        frame[..6].copy_from_slice(&target.0);
        judged(replay(&farm), &[frame])["reason"].clone()
    };
    assert_eq!(reason(farm.vips[0].vmac), "mine");
    assert_eq!(reason(Mac([2, 0, 0, 0, 0, 9])), "mine", "of a node, as captured there");
    assert_eq!(reason(farm.vips[1].vmac), "other_mac");
}

#[test]
fn fragments_wait_for_the_first_one_of_the_capture() {
    let farm = farm();
    let query = ExplainQuery { fragment: true, ..query("10.1.0.1:4000", "10.0.0.100:80", "tcp") };
    let (first, later) = explain::frames(&farm.vips[0], &query);
    let frames = [later.clone(), first.expect("of two"), later];
    let (lines, end) = lines(replay(&farm), &capture(&frames));
    end.expect("a whole capture");
    let reasons: Vec<_> = lines[..3].iter().map(|line| &line["reason"]).collect();
    assert_eq!(reasons, ["early_fragment", "mine", "mine"]);
    assert_eq!(lines[1]["owner"], lines[2]["owner"]);
}

#[test]
fn packets_cut_short_are_judged_as_far_as_they_go_and_a_capture_to_its_last_packet() {
    let farm = farm();
    let (_, frame) =
        explain::frames(&farm.vips[0], &query("10.1.0.1:4000", "10.0.0.100:80", "tcp"));
    let mut bytes = capture(&[frame[..40].to_vec(), frame[..32].to_vec(), frame.clone()]);
    for record in [24, 24 + 16 + 40] {
        bytes[record + 12..record + 16].copy_from_slice(&54_u32.to_le_bytes());
    }
    bytes.pop();
    let (lines, end) = lines(replay(&farm), &bytes);
    let error = end.expect_err("the last packet is not whole");
    assert_eq!(crate::commands::exit_code(&error), 1);
    assert!(error.to_string().contains("begins at byte 128"), "{error}");
    let told: Vec<_> = lines.iter().map(|line| (&line["cut"], &line["reason"])).collect();
    let cut = Value::Bool(true);
    assert_eq!(told[..2], [(&cut, &"mine".into()), (&cut, &"not_vip".into())]);
    assert_eq!(lines[2]["totals"]["cut"], 2);
    let mut text = Vec::new();
    replay(&farm).write(&bytes[..], Form::Table(Ink::Plain), &mut text).expect_err("likewise");
    let text = String::from_utf8(text).expect("UTF-8");
    assert!(text.contains("packets: 2, 2 of them cut short"), "{text}");
}

#[test]
fn a_file_that_is_no_capture_is_bad_usage() {
    let farm = farm();
    let (lines, end) = lines(replay(&farm), b"farm: web\nkey_file: k\nnodes: []\n");
    assert!(lines.is_empty());
    assert_eq!(crate::commands::exit_code(&end.expect_err("no capture")), 2);
}

#[test]
fn times_are_told_from_the_first_packet_on() {
    let since = |now_ns, first_ns| Since { now_ns, first_ns }.seconds();
    assert_eq!(since(2_500_000_000, 1_000_000_000), "1.500000");
    assert_eq!(since(1_000_000_000, 1_000_001_000), "-0.000001");
}
