//! T12, T13: old connections stay where they are when their buckets move.

use std::time::{Duration, Instant};

use vipfarm_lab::{
    Farm, Lab, require, skip,
    traffic::{Fate, StreamEcho, Streams},
};

use crate::{HTTP, ONE_VIP, lab, running};

/// With three nodes, every one has some of them.
const CONNECTIONS: usize = 120;
const PAUSE: Duration = Duration::from_millis(10);

/// Connections through all of what is done, which none of them notices.
async fn through(lab: &Lab, farm: &mut Farm<'_>, doing: impl FnOnce(&mut Farm<'_>)) -> Vec<Fate> {
    let echoes: Vec<_> =
        lab.nodes().iter().map(|node| StreamEcho::start(node, HTTP.port()).unwrap()).collect();
    let streams = Streams::start(lab.clients(), HTTP, CONNECTIONS, PAUSE).await.unwrap();
    let begin = Instant::now();
    doing(farm);
    std::thread::sleep(Duration::from_millis(500));
    let fates = streams.stop();
    let longest = fates.iter().map(|fate| fate.longest).max().unwrap_or_default();
    println!("{CONNECTIONS} connections for {:?}; the longest wait {longest:?}", begin.elapsed());
    drop(echoes);
    fates
}

fn nobody_noticed(fates: &[Fate]) {
    let broken: Vec<_> = fates.iter().filter(|fate| fate.broken.is_some()).collect();
    assert!(broken.is_empty(), "{} of {}: {broken:#?}", broken.len(), fates.len());
    assert!(fates.iter().all(|fate| fate.blocks > 10), "some hardly talked");
}

#[tokio::test(flavor = "multi_thread")]
async fn t12_connections_outlive_power_changes_and_drains() {
    let program = require!(skip::farm());
    let lab = lab("lingering", 3, 40);
    let mut farm = running(&lab, &program, ONE_VIP);
    let fates = through(&lab, &mut farm, |farm| {
        farm.ask(1, &["power", "all", "node2=6", "node1=2"]).unwrap();
        farm.ask(2, &["drain", "node3"]).unwrap();
        farm.ask(2, &["drain", "node2"]).unwrap();
        farm.ask(3, &["undrain"]).unwrap();
        for power in [1, 9, 2, 0, 5] {
            farm.ask(1, &["power", "all", &format!("node1={power}")]).unwrap();
        }
    })
    .await;
    nobody_noticed(&fates);
    farm.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn t12_connections_outlive_a_node_that_joins() {
    let program = require!(skip::farm());
    let lab = lab("joined", 3, 40);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    farm.start_node(1, &[]).unwrap();
    farm.start_node(2, &[]).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    let fates = through(&lab, &mut farm, |farm| {
        farm.start_node(3, &[]).unwrap();
        farm.wait_converged(&[1, 2, 3]).unwrap();
    })
    .await;
    nobody_noticed(&fates);
    farm.stop().unwrap();
}

/// Whose node dies is told so by a reset, as soon as the others have taken over; nobody else notices.
#[tokio::test(flavor = "multi_thread")]
async fn t13_a_dead_nodes_connections_are_reset_and_no_others() {
    let program = require!(skip::farm());
    let lab = lab("reset", 3, 40);
    let mut farm = running(&lab, &program, ONE_VIP);
    let fates = through(&lab, &mut farm, |farm| {
        // Some of what dies lingers there by then.
        farm.ask(1, &["power", "all", "node3=3"]).unwrap();
        farm.ask(1, &["power", "all", "node3=1"]).unwrap();
        lab.node(3).cut().unwrap();
        farm.kill(3).unwrap();
        farm.wait_converged(&[1, 2]).unwrap();
        std::thread::sleep(Duration::from_secs(2));
    })
    .await;
    let broken: Vec<_> = fates.iter().filter_map(|fate| fate.broken.as_deref()).collect();
    assert!((10..80).contains(&broken.len()), "a third of them: {}", broken.len());
    assert!(broken.iter().all(|why| why.contains("reset")), "{broken:?}");
    farm.stop_node(1).unwrap();
    farm.stop_node(2).unwrap();
}
