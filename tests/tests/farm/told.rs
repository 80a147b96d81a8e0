//! What agents tell at the command line, while they serve.

use vipfarm::{
    model::{BUCKETS, Bitmap},
    status::{GroupStatus, NodeState, NodeStatus},
};
use vipfarm_lab::{require, skip};

use crate::{all, asks_in_vain, events, eventually, lab, running};

const POWERS: &str = "vips:
  - interface: eth0
    addresses: [10.77.0.100/16]
    groups:
      - name: web
        powers: { node1: 2, node2: 1, node3: 1 }
        rules: [{ port: 80, proto: tcp, filter: on_port }]
      - name: rest
        rules: [{ port: '*', proto: tcp, filter: on_addr }]
";

#[test]
fn the_nodes_agree_about_themselves_and_share_the_buckets_without_overlap() {
    let program = require!(skip::farm());
    let lab = lab("told", 3, 1);
    let farm = running(&lab, &program, POWERS);
    let statuses: Vec<_> = all(&lab).into_iter().map(|node| farm.status(node).unwrap()).collect();
    for (group, loads) in [(0, [128, 64, 64]), (1, [85, 85, 86])] {
        let in_force = statuses.iter().map(|status| status.groups[group].bitmap);
        assert_partition(&in_force.collect::<Vec<_>>());
        let mut shares: Vec<_> = statuses[0].groups[group].load.values().copied().collect();
        assert_eq!(shares.iter().sum::<usize>(), BUCKETS);
        if group == 1 {
            shares.sort_unstable();
        }
        assert_eq!(shares, loads);
        assert!(
            statuses.iter().all(|s| s.groups[group].owners == statuses[0].groups[group].owners)
        );
    }
    for (status, node) in statuses.iter().zip(lab.nodes()) {
        assert_eq!((status.farm.as_str(), status.node.as_str()), ("test", node.name()));
        assert_eq!(status.epoch, statuses[0].epoch);
        assert!(status.lease_ms > 0.0 && status.lease_ms <= 250.0, "{}", status.lease_ms);
        assert_eq!(
            (status.vips[0].vmac.as_deref(), status.vips[0].open),
            (Some("5a:fe:0a:4d:00:64"), true)
        );
    }
}

#[test]
fn every_verb_answers_in_json_and_in_text() {
    let program = require!(skip::farm());
    let lab = lab("verbs", 3, 1);
    let mut farm = running(&lab, &program, POWERS);
    let nodes = || farm.ask_json::<Vec<NodeStatus>>(1, &["nodes", "--json"]).unwrap();
    // That a peer serves is known when its next heartbeat has come.
    eventually("all are up", || nodes().iter().all(|node| node.state == NodeState::Up));
    for (row, host) in nodes().iter().zip(lab.nodes()) {
        assert_eq!((row.name.as_str(), row.alive), (host.name(), true));
        assert_eq!(row.mac.as_ref(), Some(&host.mac().to_string()));
        assert_eq!(row.own, row.name == "node1");
    }
    let groups: Vec<GroupStatus> = farm.ask_json(1, &["bitmap", "web", "--json"]).unwrap();
    assert_eq!(groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>(), ["web"]);

    let hex = farm.ask(1, &["bitmap", "web", "--hex"]).unwrap();
    let words = hex.lines().filter_map(bitmap_of_hex).collect::<Vec<_>>();
    assert_partition(&words);
    assert_eq!(words[0], groups[0].bitmap, "node1's words are what its kernel accepts");
    for (verb, told) in [
        ("status", &["farm test on node1: up", "farm load: 128/256 (group web)", "not_vip"][..]),
        ("nodes", &["node3", "10.77.0.13"]),
        ("bitmap", &["group rest", "farm load: 128/256"]),
        ("events", &["farm membership: node1 node2 node3", "farm_load", "node2 is heard"]),
    ] {
        let text = farm.ask(1, &[verb]).unwrap();
        assert!(!text.contains('\x1b'), "colour into a pipe: {text:?}");
        for words in told {
            assert!(text.contains(words), "`{words}` is not in: {text}");
        }
    }

    let history = events(&farm, 2);
    assert!(history.is_sorted_by(|a, b| a.seq + 1 == b.seq), "{history:?}");
    let asked = &["explain", "10.77.1.1:4000", "10.77.0.99:80"];
    asks_in_vain(&farm, 1, asked, 1, "is no VIP of farm test");
    farm.stop().unwrap();
    asks_in_vain(&farm, 1, &["status"], 3, "vipfarm agent -c FILE");
}

/// Each bucket is in exactly one of the bitmaps.
fn assert_partition(bitmaps: &[Bitmap]) {
    assert_eq!(bitmaps.len(), 3);
    for word in 0..4 {
        let words = || bitmaps.iter().map(|bitmap| bitmap.0[word]);
        assert_eq!(words().fold(0, |all, word| all | word), u64::MAX, "{bitmaps:?}");
        assert_eq!(words().map(u64::count_ones).sum::<u32>(), 64, "{bitmaps:?}");
    }
}

/// A line of eight words of 32 bits, lowest buckets first.
fn bitmap_of_hex(line: &str) -> Option<Bitmap> {
    let words = line.split_whitespace().map(|word| u64::from_str_radix(word, 16).ok());
    let words: Vec<_> = words.collect::<Option<_>>()?;
    let (pairs, []) = words.as_chunks::<2>() else { return None };
    let words: [_; 4] =
        pairs.iter().map(|[low, high]| low | high << 32).collect::<Vec<_>>().try_into().ok()?;
    Some(Bitmap(words))
}
