//! Agents are replaced: their clients lose nothing, unless the next one does not come.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, SocketAddrV4},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use aya::maps::loaded_maps;
use tokio::net::TcpSocket;
use vipfarm_lab::{
    Farm, Lab,
    farm::{PATIENCE, exit_code_and_words},
    lab::{VIP, VIP_V6},
    process::Signal,
    require, skip,
    traffic::{Fate, HttpLoad, HttpServer, StreamEcho},
};

use crate::{
    HTTP, ONE_VIP, asks_in_vain, directed, eventually,
    handover::{nobody_noticed, through, through_to},
    has_event, lab, running,
};

/// For short connections, beside the long ones.
const SHORT: SocketAddrV4 = SocketAddrV4::new(VIP, 81);

fn with_short(vips: &str) -> String {
    let rule = "          - { port: 80, proto: tcp, filter: on_port }\n";
    vips.replace(rule, &[rule, &rule.replace("80", "81")].concat())
}

/// All that a node's agent has counted: packets and corrected frames.
fn counted(farm: &Farm<'_>, node: usize) -> BTreeMap<String, u64> {
    let status = farm.status(node).unwrap();
    status.packets.into_iter().chain(status.guard).collect()
}

/// Replaces a node's agent; in place, nothing but the program changes.
fn upgrade(farm: &mut Farm<'_>, node: usize) {
    let (before, counts) = (farm.footprint(node).unwrap(), counted(farm, node));
    let pid = farm.agent(node).unwrap().id();
    print!("node{node}:\n{}", farm.ask(node, &["upgrade"]).unwrap());
    let after = farm.footprint(node).unwrap();
    assert_eq!((after.links, after.tc), (before.links, before.tc), "by an update in place");
    assert_ne!(after.xdp, before.xdp, "another program");
    assert_eq!((after.addresses, after.macs), (before.addresses, before.macs));
    assert_eq!((after.sysctls, after.files), (before.sysctls, before.files));
    for (word, count) in counted(farm, node) {
        assert!(count >= counts[&word], "{word}: {count} after {}", counts[&word]);
    }
    assert!(counts["mine"] > 0);
    assert_eq!(farm.agent(node).unwrap().id(), pid);
    assert!(farm.agent(node).unwrap().try_wait().unwrap().is_none());
}

/// Ends a node's agent, whose connections are held for so long.
fn end_with_hold(farm: &mut Farm<'_>, node: usize, hold: &str) {
    print!("node{node}:\n{}", farm.ask(node, &["upgrade", "--exit", "--hold", hold]).unwrap());
    let status = farm.agent(node).unwrap().wait_timeout(PATIENCE).unwrap();
    assert!(status.success(), "{status}");
}

/// Long and short connections through all of what is done, which none of them notices.
async fn unnoticed(
    lab: &Lab,
    farm: &mut Farm<'_>,
    targets: &[SocketAddr],
    doing: impl FnOnce(&mut Farm<'_>),
) {
    let servers: Vec<_> =
        lab.nodes().iter().map(|node| HttpServer::start(node, SHORT.port()).unwrap()).collect();
    let load = HttpLoad::start(lab.clients(), SHORT, 100, Duration::from_secs(8)).unwrap();
    let fates = through_to(lab, farm, targets, doing).await;
    // One segment sent again takes 200 ms. A node that joins, which takes longer, goes on handing over.
    assert!(fates.iter().all(|fate| fate.longest < Duration::from_millis(1200)), "{fates:#?}");
    let requests = load.stop().await.unwrap();
    nobody_noticed(&fates);
    let failed: Vec<_> = requests.iter().filter(|request| request.outcome.is_err()).collect();
    println!("{} short connections", requests.len());
    assert!(failed.is_empty() && requests.len() > 200, "{} {failed:?}", failed.len());
    drop(servers);
}

#[tokio::test(flavor = "multi_thread")]
async fn t12_every_agent_is_replaced_in_turn_and_no_client_notices() {
    let program = require!(skip::farm());
    let lab = lab("upgraded", 3, 40);
    let mut farm = Farm::new(&lab, &program, "test", &with_short(ONE_VIP)).unwrap();
    let before = [1, 2, 3].map(|node| farm.footprint(node).unwrap());
    farm.start().unwrap();
    farm.wait_converged(&[1, 2, 3]).unwrap();
    unnoticed(&lab, &mut farm, &[HTTP.into()], |farm| {
        for node in 1..=3 {
            upgrade(farm, node);
            farm.wait_converged(&[1, 2, 3]).unwrap();
        }
        // At once, so that what lingers here and there is all over the farm.
        upgrade(farm, 2);
        farm.wait_converged(&[1, 2, 3]).unwrap();
    })
    .await;
    farm.stop().unwrap();
    assert_eq!([1, 2, 3].map(|node| farm.footprint(node).unwrap()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn t12_agents_are_replaced_where_nodes_hand_over_for_both_families() {
    const NAME: &str = "t12_agents_are_replaced_where_nodes_hand_over_for_both_families";
    let (program, object) = require!(NAME, directed::needs());
    let lab = directed::lab("upgradedir", 2, 40, &object);
    let mut farm = running(&lab, &program, &with_short(&directed::directed()));
    let targets = [HTTP.into(), SocketAddr::from((VIP_V6, HTTP.port()))];
    unnoticed(&lab, &mut farm, &targets, |farm| {
        for node in 1..=3 {
            upgrade(farm, node);
            farm.wait_converged(&[1, 2, 3]).unwrap();
        }
    })
    .await;
    farm.stop().unwrap();
}

/// The next version's programs and tables look different, and the one after is as before.
#[tokio::test(flavor = "multi_thread")]
async fn t12_an_agent_with_another_layout_of_memory_takes_over_and_gives_back() {
    const NAME: &str = "t12_an_agent_with_another_layout_of_memory_takes_over_and_gives_back";
    let (program, object) = require!(NAME, directed::needs());
    let other = require!(NAME, skip::other_layout());
    let lab = directed::lab("layouts", 2, 40, &object);
    let installed = copy(&lab, &program);
    let mut farm = running(&lab, &installed, &with_short(&directed::directed()));
    let targets = [HTTP.into(), SocketAddr::from((VIP_V6, HTTP.port()))];
    let size = shared_memory();
    unnoticed(&lab, &mut farm, &targets, |farm| {
        for next in [&other, &program] {
            install(&installed, |new| fs::copy(next, new).map(drop));
            for node in 1..=3 {
                upgrade(farm, node);
                farm.wait_converged(&[1, 2, 3]).unwrap();
            }
            assert_eq!(shared_memory() > size, *next == other, "as the program has it");
        }
    })
    .await;
    farm.stop().unwrap();
}

/// How much memory agents share with the kernel, in bytes: the most of those that run.
fn shared_memory() -> u32 {
    let maps = loaded_maps().filter_map(Result::ok);
    let states = maps.filter(|map| map.name_as_str() == Some("STATE"));
    states.map(|map| map.value_size()).max().expect("an agent runs")
}

/// Somebody else starts the next agent; one that dies before it has joined does no harm.
#[tokio::test(flavor = "multi_thread")]
async fn t12_connections_outlive_a_restart_with_a_hold() {
    let program = require!(skip::farm());
    let lab = lab("held", 3, 40);
    let mut farm = running(&lab, &program, &with_short(ONE_VIP));
    unnoticed(&lab, &mut farm, &[HTTP.into()], |farm| {
        for node in 1..=3 {
            end_with_hold(farm, node, "20s");
            farm.start_node(node, &[]).unwrap();
            farm.wait_converged(&[1, 2, 3]).unwrap();
        }
        end_with_hold(farm, 3, "20s");
        for _ in 0..3 {
            farm.start_node(3, &[]).unwrap();
            thread::sleep(Duration::from_millis(300));
            farm.kill(3).unwrap();
        }
        farm.start_node(3, &[]).unwrap();
        farm.wait_converged(&[1, 2, 3]).unwrap();
    })
    .await;
    farm.stop().unwrap();
}

/// Nobody comes back: until the hold ends the connections go on, then they are reset.
#[tokio::test(flavor = "multi_thread")]
async fn t13_connections_are_reset_when_the_hold_has_run_out_and_not_before() {
    let program = require!(skip::farm());
    let lab = lab("ranout", 3, 40);
    let mut farm = running(&lab, &program, ONE_VIP);
    let mut left = None;
    let fates = through(&lab, &mut farm, |farm| {
        end_with_hold(farm, 3, "3s");
        left = Some(Instant::now());
        farm.wait_converged(&[1, 2]).unwrap();
        thread::sleep(Duration::from_secs(5));
    })
    .await;
    let left = left.unwrap();
    let broken: Vec<&Fate> = fates.iter().filter(|fate| fate.broken.is_some()).collect();
    assert!((10..80).contains(&broken.len()), "a third of them: {}", broken.len());
    for fate in broken {
        let (why, at) = (fate.broken.as_deref().unwrap(), fate.broken_at.unwrap());
        let after = at.saturating_duration_since(left);
        assert!(why.contains("reset") && after > Duration::from_millis(2500), "{after:?} {fate:?}");
        assert!(after < Duration::from_millis(4500), "{after:?} {fate:?}");
    }
    farm.stop_node(1).unwrap();
    farm.stop_node(2).unwrap();
}

/// The next agent comes, and the farm does not take it in: what it was left to serve ends when its peers
/// believe that it does.
#[tokio::test(flavor = "multi_thread")]
async fn t13_an_agent_that_cannot_join_serves_no_longer_than_was_said_before() {
    let program = require!(skip::farm());
    let lab = lab("outside", 3, 40);
    let mut farm = running(&lab, &program, ONE_VIP);
    through(&lab, &mut farm, |farm| {
        end_with_hold(farm, 3, "5s");
        let left = Instant::now();
        farm.give_own_config(3, |text| text.replace("port: 7000", "port: 7001")).unwrap();
        farm.start_node(3, &["--stop-timeout", "0s"]).unwrap();
        // It may answer before its heartbeat thread has said anything.
        let (mut lease, mut asked) = (0.0, left);
        eventually("it serves old connections", || {
            asked = Instant::now();
            lease = farm.status(3).map_or(0.0, |status| status.lease_ms / 1e3);
            lease > 0.0
        });
        let asked = asked.duration_since(left).as_secs_f64();
        assert!(asked + lease < 5.5, "{lease} s, {asked} s after it left");
    })
    .await;
    farm.stop_node(3).unwrap();
    farm.stop_node(1).unwrap();
    farm.stop_node(2).unwrap();
}

/// A crash is no upgrade: its clients are told so, as soon as the others have taken over.
#[tokio::test(flavor = "multi_thread")]
async fn t13_a_killed_agent_holds_nothing() {
    let program = require!(skip::farm());
    let lab = lab("nohold", 3, 40);
    let mut farm = running(&lab, &program, ONE_VIP);
    let mut killed = None;
    let fates = through(&lab, &mut farm, |farm| {
        farm.kill(3).unwrap();
        killed = Some(Instant::now());
        thread::sleep(Duration::from_secs(2));
        farm.start_node(3, &[]).unwrap();
        farm.wait_converged(&[1, 2, 3]).unwrap();
    })
    .await;
    let broken: Vec<&Fate> = fates.iter().filter(|fate| fate.broken.is_some()).collect();
    assert!((10..80).contains(&broken.len()), "a third of them: {}", broken.len());
    for fate in broken {
        let after = fate.broken_at.unwrap().saturating_duration_since(killed.unwrap());
        assert!(fate.broken.as_deref().unwrap().contains("reset"), "{fate:?}");
        // A segment is sent again 200 ms after one that was lost.
        assert!(after < Duration::from_millis(800), "{after:?} {fate:?}");
    }
    farm.stop().unwrap();
}

/// Who was silent meanwhile has lost nothing: the socket is still there.
#[tokio::test(flavor = "multi_thread")]
async fn t12_a_silent_connection_outlives_a_crash_and_a_restart() {
    let program = require!(skip::farm());
    let lab = lab("silent", 2, 8);
    let mut farm = running(&lab, &program, ONE_VIP);
    let _echoes: Vec<_> =
        lab.nodes().iter().map(|node| StreamEcho::start(node, HTTP.port()).unwrap()).collect();
    let mut streams = Vec::new();
    for _ in 0..20 {
        let socket = lab.client(1).in_ns(TcpSocket::new_v4).unwrap();
        let stream = socket.connect(HTTP.into()).await.unwrap().into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        streams.push(stream);
    }
    for node in [1, 2] {
        farm.kill(node).unwrap();
        thread::sleep(Duration::from_secs(1));
        farm.start_node(node, &[]).unwrap();
        farm.wait_converged(&[1, 2]).unwrap();
    }
    for stream in &mut streams {
        stream.write_all(b"still there?").unwrap();
        let mut back = [0; 12];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"still there?");
    }
    drop(streams);
    farm.stop().unwrap();
}

/// Nobody can take over: the connections go on nevertheless, and new ones wait. The file has changed,
/// in a way that a reload refuses.
#[tokio::test(flavor = "multi_thread")]
async fn t12_connections_outlive_the_upgrade_of_a_node_that_is_alone_and_its_changed_file() {
    let program = require!(skip::farm());
    let lab = lab("alone", 1, 40);
    let mut farm = running(&lab, &program, &with_short(ONE_VIP));
    unnoticed(&lab, &mut farm, &[HTTP.into()], |farm| {
        upgrade(farm, 1);
        farm.wait_converged(&[1]).unwrap();
        farm.edit(|text| {
            let text = text.replace("[10.77.0.100/16]", "[10.77.0.100/16, 10.77.0.101/16]");
            text.replace("nodes:\n", "membership: { profile: relaxed }\nnodes:\n")
        })
        .unwrap();
        let (code, words) = exit_code_and_words(&mut farm.ask_command(1, &["reload"])).unwrap();
        assert_eq!(code, Some(1), "{words}");
        print!("{}", farm.ask(1, &["upgrade"]).unwrap());
        assert!(farm.footprint(1).unwrap().addresses.contains(&[10, 77, 0, 101].into()));
        farm.edit(|text| text.replace(", 10.77.0.101/16]", "]")).unwrap();
        farm.ask(1, &["upgrade"]).unwrap();
        assert!(!farm.footprint(1).unwrap().addresses.contains(&[10, 77, 0, 101].into()));
    })
    .await;
    farm.stop().unwrap();
}

/// A copy of the program, which can be replaced.
fn copy(lab: &Lab, program: &Path) -> PathBuf {
    let copy = lab.directory().join("vipfarm");
    fs::copy(program, &copy).unwrap();
    copy
}

/// What an agent says that it did, asked by a program that is in its place.
fn events(program: &Path, farm: &Farm<'_>) -> String {
    let mut command = Command::new(program);
    command.args(["events", "--json", "--run-dir"]).arg(farm.run_directory(1));
    exit_code_and_words(&mut command).unwrap().1
}

/// Puts what that writes in the program's place, as an installer does.
fn install(program: &Path, write: impl FnOnce(&Path) -> io::Result<()>) {
    let new = program.with_extension("new");
    write(&new).unwrap();
    fs::rename(new, program).unwrap();
}

/// Puts a shell script in the program's place.
fn replace(program: &Path, script: &str) {
    install(program, |new| {
        fs::write(new, format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(new, fs::Permissions::from_mode(0o755))
    });
}

#[test]
fn an_upgrade_to_what_cannot_serve_is_refused_and_changes_nothing() {
    let program = require!(skip::farm());
    let lab = lab("unfit", 2, 1);
    let installed = copy(&lab, &program);
    let mut farm = running(&lab, &installed, ONE_VIP);
    let before = farm.footprint(1).unwrap();
    let ask = |arguments: &[&str], code: i32, expected: &str| {
        let mut command = Command::new(&program);
        command.args(["upgrade", "--timeout", "9s"]).args(arguments);
        command.arg("--run-dir").arg(farm.run_directory(1));
        let (ended, words) = exit_code_and_words(&mut command).unwrap();
        assert!(ended == Some(code) && words.contains(expected), "`{expected}` {ended:?} {words}");
    };
    let common = farm.text().unwrap();
    farm.edit(|text| text.replace("farm: ", "farm: other-")).unwrap();
    ask(&["--all-at-once"], 1, "another farm name");
    farm.edit(|text| text.replace("on_port", "on_starboard")).unwrap();
    ask(&[], 1, "on_starboard");
    farm.edit(|_| common.clone()).unwrap();
    ask(&["--hold", "2m"], 1, "a hold is at most 60s");
    replace(&installed, "echo built for another machine >&2; exit 126");
    ask(&[], 1, "built for another machine");
    assert_eq!(farm.footprint(1).unwrap(), before);
    assert!(!events(&program, &farm).contains("upgrading"), "it goes on as if nothing had been");
    // It passes the test and is gone then.
    replace(&installed, "[ $1 = check ] || { echo vipfarm 9.9.9; rm $0; }");
    // The file may be one that only the next program understands.
    farm.edit(|text| text.replace("on_port", "on_starboard")).unwrap();
    ask(&[], 1, "the former agent goes on");
    assert!(events(&program, &farm).contains("the file is not taken over"));
    farm.edit(|_| common.clone()).unwrap();
    fs::copy(&program, &installed).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    let links = farm.footprint(1).unwrap().links;
    assert_eq!(links, before.links);
    farm.stop().unwrap();
}

/// Its next agent would be a farm of its own, and what it takes along lost.
#[test]
fn an_upgrade_to_a_file_that_the_others_do_not_serve_is_refused_unless_it_is_to_be() {
    let program = require!(skip::farm());
    let lab = lab("unserved", 2, 1);
    let mut farm = running(&lab, &program, ONE_VIP);
    let common = farm.text().unwrap();
    farm.edit(|text| text.replace("nodes:\n", "membership: { profile: relaxed }\nnodes:\n"))
        .unwrap();
    asks_in_vain(&farm, 1, &["upgrade"], 1, "is not the file by which node2 serve");
    assert!(!has_event(&farm, 1, "upgrading"));
    farm.edit(|_| common.replace("port: 7000", "port: 7001")).unwrap();
    asks_in_vain(&farm, 1, &["upgrade"], 1, "`vipfarm reload` on all nodes first");
    let before = farm.status(1).unwrap().configuration;
    farm.agent(1).unwrap().signal(Signal::SIGHUP).unwrap();
    eventually("one has read it", || has_event(&farm, 1, "file_read"));
    asks_in_vain(&farm, 1, &["upgrade"], 1, "is not the file by which node2 serve");
    farm.agent(2).unwrap().signal(Signal::SIGHUP).unwrap();
    eventually("both have gone over", || {
        [1, 2].iter().all(|&node| farm.status(node).unwrap().configuration != before)
    });
    farm.ask(1, &["upgrade"]).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    farm.stop().unwrap();
}

/// What the kernel shows of the filters on a node's clsact qdisc.
fn on_clsact(lab: &Lab) -> [String; 2] {
    let show = |direction| lab.node(1).run(&format!("tc filter show dev eth0 {direction}"));
    ["ingress", "egress"].map(|direction| show(direction).unwrap())
}

#[test]
fn programs_on_clsact_are_replaced_in_place() {
    let program = require!(skip::farm());
    let lab = lab("clsact", 1, 1);
    let farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let filter = || directed::filter(&lab, &farm, (1, 1), true);
    drop(filter());
    let before = on_clsact(&lab);
    let second = filter();
    let after = on_clsact(&lab);
    for (before, after) in before.iter().zip(&after) {
        assert_ne!(before, after, "another program");
        for shown in [before, after] {
            assert_eq!(shown.matches("handle 0x5afe").count(), 1, "{shown}");
            assert!(shown.contains("pref 1 "), "before others: {shown}");
        }
    }
    lab.node(1).in_ns(|| second.remove()).unwrap();
    assert!(on_clsact(&lab).iter().all(|shown| !shown.contains("vipfarm")));
}

/// A file that no reload takes: all nodes go over to it at once.
#[tokio::test(flavor = "multi_thread")]
async fn t12_a_file_that_no_reload_takes_comes_in_by_upgrades_of_all_nodes_at_once() {
    let program = require!(skip::farm());
    let lab = lab("rolling", 3, 40);
    let mut farm = running(&lab, &program, &with_short(ONE_VIP));
    let (plain, relaxed) = ("nodes:\n", "membership: { profile: relaxed }\nnodes:\n");
    unnoticed(&lab, &mut farm, &[HTTP.into()], |farm| {
        for (from, to) in [(plain, relaxed), (relaxed, plain)] {
            farm.edit(|text| text.replace(from, to)).unwrap();
            let (code, words) = exit_code_and_words(&mut farm.ask_command(1, &["reload"])).unwrap();
            assert_eq!(code, Some(1), "{words}");
            let upgrade = |node| farm.ask(node, &["upgrade", "--all-at-once"]).unwrap();
            thread::scope(|scope| {
                let upgrades = [1, 2, 3].map(|node| scope.spawn(move || upgrade(node)));
                for words in upgrades {
                    print!("{}", words.join().unwrap());
                }
            });
            farm.wait_converged(&[1, 2, 3]).unwrap();
            thread::sleep(Duration::from_secs(1));
        }
    })
    .await;
    farm.stop().unwrap();
}
