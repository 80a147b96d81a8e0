//! A farm that changes its key while it runs.

use std::time::Duration;

use tokio::time::sleep;
use vipfarm::model::DEFAULT_PORT;
use vipfarm_lab::{
    Farm, Frame,
    farm::exit_code_and_words,
    require, skip,
    traffic::{GRACE, UdpEcho, UdpProbe},
};

use crate::{ECHO, ONE_VIP, all, eventually, heartbeats::recorded, lab};

/// What the nodes' files say of keys, one step after the other; the farm starts with `farm.key`.
const STEPS: [&str; 3] = [
    "key_file: farm.key\naccept_key_file: new.key",
    "key_file: new.key\naccept_key_file: farm.key\nhash_key_file: farm.key",
    "key_file: new.key\nhash_key_file: farm.key",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_rotated_node_by_node_and_the_old_one_is_worth_nothing_then() {
    const FORGED: u64 = 50;
    let program = require!(skip::farm());
    let lab = lab("rotate", 3, 40);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    for node in all(&lab) {
        farm.give_own_config(node, ToOwned::to_owned).unwrap();
    }
    farm.start().unwrap();
    farm.wait_converged(&all(&lab)).unwrap();
    let new = lab.directory().join("new.key");
    let (code, words) = exit_code_and_words(farm.command("keygen").arg(&new)).unwrap();
    assert_eq!(code, Some(0), "{words}");
    let sealed_with_the_old_key = recorded(lab.node(2), lab.node(1), 1).remove(0);
    let before = farm_owners(&farm);
    let _echoes: Vec<_> =
        lab.nodes().iter().map(|node| UdpEcho::start(node, ECHO).unwrap()).collect();
    let probe = UdpProbe::start(lab.clients(), ECHO, 40, Duration::from_millis(4)).unwrap();

    for (number, step) in STEPS.into_iter().enumerate() {
        for node in all(&lab) {
            farm.give_own_config(node, |yaml| with_keys(yaml, step)).unwrap();
            if number == 1 {
                // Another way to have the file read.
                farm.stop_node(node).unwrap();
                farm.start_node(node, &[]).unwrap();
                farm.wait_converged(&all(&lab)).unwrap();
                continue;
            }
            let epoch = farm.status(node).unwrap().epoch;
            let words = farm.ask(node, &["reload"]).unwrap();
            assert!(words.contains("keys"), "{words}");
            sleep(Duration::from_millis(400)).await;
            assert_eq!(farm.status(node).unwrap().epoch, epoch, "nobody missed anybody");
        }
    }
    sleep(GRACE).await;
    let log = probe.stop().await;
    assert!(log.counts().0 > 1000, "{:?}", log.counts());
    assert!(log.duplicates().is_empty(), "{:?}", log.duplicates());
    assert_eq!(farm_owners(&farm), before, "no client has another node than before");

    let (stranger, victim, peer) = (lab.client(1), lab.node(1), lab.node(2));
    let addresses = [(peer.address(), DEFAULT_PORT), (victim.address(), DEFAULT_PORT)];
    let forged = Frame::udp(addresses[0], addresses[1], &sealed_with_the_old_key);
    let forged = forged.macs(stranger.mac(), victim.mac()).bytes();
    let earlier = farm.status(1).unwrap();
    assert_eq!(earlier.heartbeats["dropped_tag"], 0, "{:?}", earlier.heartbeats);
    stranger.inject_all(&vec![forged; FORGED.try_into().unwrap()]).unwrap();
    eventually("all are counted", || farm.status(1).unwrap().heartbeats["dropped_tag"] == FORGED);
    assert_eq!(farm.status(1).unwrap().epoch, earlier.epoch);
    farm.wait_converged(&all(&lab)).unwrap();
    farm.stop().unwrap();
}

/// The file with other lines for its keys, which lie beside it.
fn with_keys(yaml: &str, keys: &str) -> String {
    let (before, rest) = yaml.split_once("key_file: ").expect("every file has a key");
    let (_, after) = rest.split_once('\n').expect("nodes follow");
    format!("{before}{keys}\n{after}")
}

/// Whose each bucket is, as the first node says.
fn farm_owners(farm: &Farm<'_>) -> Vec<Option<usize>> {
    farm.status(1).unwrap().groups.remove(0).owners
}
