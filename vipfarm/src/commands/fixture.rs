//! A farm in trouble, for the tests of what the verbs print.

use std::collections::BTreeMap;

use crate::{
    model::{Bitmap, Effect, Filter, Mode, Proto},
    status::{
        ChangedPower, ChangedPowers, CheckState, CheckStatus, EventRecord, Explanation, Fault,
        FaultKind, GroupProof, GroupStatus, HandoverStatus, Lateness, NodeState, NodeStatus,
        ProofStatus, RuleStatus, Status, Verdict, VipStatus,
    },
};

/// A name as long as names may be.
pub(super) const LONGEST: &str = "node3-in-the-second-machine-room";

/// Three nodes with powers 2, 1 and 1; all up, all buckets owned.
pub(crate) fn healthy() -> Status {
    let owners: Vec<Option<usize>> =
        (0..256).map(|bucket| Some(if bucket % 4 < 2 { 0 } else { bucket % 4 - 1 })).collect();
    Status {
        farm: "web".into(),
        node: "node1".into(),
        version: "0.1.0".into(),
        state: NodeState::Up,
        epoch: 7,
        converged: true,
        powers_version: 0,
        powers_saved: 0,
        configuration: "a0".repeat(16),
        staged: None,
        abstention_agreed: true,
        checks: Vec::new(),
        lease_ms: 143.2,
        detour: false,
        uptime_s: 11_520.0,
        nodes: vec![
            node("node1", NodeState::Up, None),
            node("node2", NodeState::Up, Some(12.3)),
            node(LONGEST, NodeState::Up, Some(48.9)),
        ],
        vips: vec![VipStatus {
            interface: "eth0".into(),
            mode: Mode::VmacInvisible,
            vmac: Some("5a:fe:c0:a8:01:de".into()),
            addresses: vec!["192.168.1.222/24".into(), "fd00:1::222/64".into()],
            connections: BTreeMap::new(),
            xdp: "native".into(),
            jumbo: true,
            vlan: vec![],
            open: true,
            failover: None,
        }],
        groups: vec![group("FarmProto", owners)],
        packets: BTreeMap::from([
            ("accept".into(), 1_200_345),
            ("fenced".into(), 0),
            ("no_rule".into(), 7),
            ("not_mine".into(), 1_198_002),
        ]),
        guard: BTreeMap::from([("corrected".into(), 3), ("passed".into(), 0)]),
        announcements: ["broadcast", "moved", "refreshed"].map(|word| (word.into(), 0)).into(),
        heartbeats: BTreeMap::from([("received".into(), 460_800), ("sent".into(), 460_804)]),
        lateness: Lateness {
            real_time: true,
            mean_ms: 0.062,
            max_ms: 1.91,
            wait_mean_ms: 0.031,
            wait_max_ms: 2.08,
        },
        proof: ProofStatus {
            verdict: Verdict::OwnedOnce,
            epoch: 7,
            groups: vec![owned("(resolve)", 256), owned("FarmProto", 256)],
            ..ProofStatus::default()
        },
        last_view_change: None,
    }
}

/// So many of a group's buckets are accepted once, and the others by nobody.
fn owned(name: &str, once: usize) -> GroupProof {
    GroupProof { name: name.into(), once, twice: 0, nobody: 256 - once, unknown: 0 }
}

/// The same farm as a member sees it whose peer serves nothing.
pub(crate) fn wrong() -> Status {
    let mut status = healthy();
    status.proof.verdict = Verdict::Wrong;
    status.proof.groups = vec![owned("(resolve)", 171), owned("FarmProto", 192)];
    status.nodes[1].state = NodeState::Fenced;
    status.proof.faults.push(Fault {
        node: Some("node2".into()),
        group: None,
        kind: FaultKind::NotServing,
        message: "node2 serves nothing, so nobody serves its buckets (64 of FarmProto): look at `vipfarm status` there".into(),
    });
    status
}

/// The same farm: node2 is dead, node3 has another file, this node is fenced.
pub(crate) fn troubled() -> Status {
    let mut status = healthy();
    status.state = NodeState::Fenced;
    status.nodes[0].state = NodeState::Fenced;
    status.converged = false;
    status.lease_ms = 0.0;
    status.nodes[1] =
        NodeStatus { alive: false, load: 0, ..node("node2", NodeState::Down, Some(3410.0)) };
    status.nodes[2].config_differs = vec!["nodes or timers".into(), "groups".into()];
    status.nodes[2].alive = false;
    let group = &mut status.groups[0];
    for owner in &mut group.owners {
        *owner = owner.filter(|&index| index != 1);
    }
    group.load.insert("node2".into(), 0);
    group.bitmap = Bitmap::default();
    status.packets.insert("fenced".into(), 12);
    status.lateness = Lateness {
        real_time: false,
        mean_ms: 0.4,
        max_ms: 37.0,
        wait_mean_ms: 0.9,
        wait_max_ms: 41.0,
    };
    status.proof = ProofStatus { epoch: 7, ..ProofStatus::default() };
    status
}

/// The healthy farm with checks, of which one fails at this node, and a VIP that is not open yet.
pub(crate) fn unwell() -> Status {
    let mut status = healthy();
    let check = |about: &str, check: &str, state, last_error: Option<&str>| CheckStatus {
        about: about.into(),
        check: check.into(),
        state,
        since_s: 75,
        effect: Some(Effect::Drain),
        last_error: last_error.map(Into::into),
    };
    let refused = "Connection refused (os error 111)";
    status.checks = vec![
        check("all", "no file /run/maintenance", CheckState::Passing, None),
        check("group FarmProto", "tcp 127.0.0.1:80", CheckState::Failing, Some(refused)),
        check("vip 192.168.1.222", "interface eth1", CheckState::Starting, None),
    ];
    status.vips[0].open = false;
    status.groups[0].abstaining = vec!["node1".into()];
    status
}

/// The healthy farm after its operators: node1 is closed until its agent starts anew, node2 has
/// another power for good.
pub(super) fn operated() -> Status {
    let mut status = healthy();
    let group = &mut status.groups[0];
    for (node, power, file, persist) in [("node1", 0, 2, false), ("node2", 5, 1, true)] {
        group.powers.insert(node.into(), power);
        group.changed.insert(node.into(), ChangedPower { file, persist });
    }
    for node in &mut status.nodes {
        node.changed_powers = ChangedPowers::of(&node.name, &status.groups);
    }
    status
}

/// The healthy farm, where buckets have moved from and to node1 and connections are counted.
pub(crate) fn moved() -> Status {
    let mut status = healthy();
    status.groups[0].handover = HandoverStatus {
        lingering: 37,
        connections: Some(120),
        flows: Some(0),
        since_s: Some(12),
        inherited: 5,
    };
    status.groups[0].connections = Some((0..256).map(|bucket| bucket % 3).collect());
    status.vips[0].connections =
        BTreeMap::from([("192.168.1.222".into(), 250), ("fd00:1::222".into(), 5)]);
    status.nodes[0].lingering = Some(37);
    status.nodes[1].lingering = Some(5);
    status
}

pub(super) fn events() -> Vec<EventRecord> {
    let event = |seq, level: &str, kind: &str, message: &str| EventRecord {
        seq,
        time: format!("2026-11-20T08:14:0{seq}.123Z"),
        level: level.into(),
        kind: kind.into(),
        message: message.into(),
    };
    vec![
        event(1, "info", "started", "agent 0.1.0 of node1 started"),
        event(2, "info", "view", "farm membership: node1 node2 (view 1)"),
        event(3, "warn", "node_lost", "node2 was not heard for 250 ms"),
    ]
}

pub(super) fn explanation() -> Explanation {
    Explanation {
        client: "203.0.113.7".into(),
        client_port: Some(51_000),
        vip: "192.168.1.222".into(),
        vip_port: Some(80),
        proto: "tcp".into(),
        fragment: false,
        icmp_error: false,
        vlan: vec![],
        assumes_open: false,
        group: Some("FarmProto".into()),
        rule: Some("port 80, tcp, on_port".into()),
        bucket: Some(0x89),
        owner: Some("node2".into()),
        why: None,
        node: "node1".into(),
        verdict: "drop".into(),
        reason: "not_mine".into(),
        text: "node1 drops it: bucket 137 belongs to node2.".into(),
    }
}

fn node(name: &str, state: NodeState, heard_ms: Option<f64>) -> NodeStatus {
    NodeStatus {
        name: name.into(),
        addresses: vec!["192.168.1.11".into(), "10.0.0.11".into()],
        own: heard_ms.is_none(),
        state,
        alive: true,
        heard_ms,
        mac: heard_ms.map(|_| "02:00:00:00:00:0b".into()),
        load: if heard_ms.is_none() { 128 } else { 64 },
        lingering: Some(0),
        changed_powers: None,
        configuration: None,
        staged: None,
        config_differs: Vec::new(),
    }
}

fn group(name: &str, owners: Vec<Option<usize>>) -> GroupStatus {
    let names = ["node1", "node2", LONGEST];
    GroupStatus {
        name: name.into(),
        vip: 0,
        rules: vec![RuleStatus {
            virtual_addr: "*".into(),
            port: "80".into(),
            proto: Proto::Tcp,
            filter: Filter::OnPort,
        }],
        powers: names.iter().zip([2, 1, 1]).map(|(name, power)| ((*name).into(), power)).collect(),
        changed: BTreeMap::new(),
        abstaining: Vec::new(),
        handover: HandoverStatus {
            connections: Some(0),
            flows: Some(0),
            ..HandoverStatus::default()
        },
        connections: None,
        load: names.iter().zip([128, 64, 64]).map(|(name, load)| ((*name).into(), load)).collect(),
        owners,
        // Buckets 0 and 1 of every four.
        bitmap: Bitmap([0x3333_3333_3333_3333; 4]),
    }
}

/// The text with its escape codes made visible, so that a snapshot shows what is painted.
pub(super) fn visible(text: &str) -> String {
    text.replace('\x1b', "ESC")
}

/// Fails when a line is wider than a terminal.
pub(super) fn assert_fits(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= super::screen::WIDTH, "too wide: {line}");
    }
}
