//! Checks: a node serves what its checks allow, and says why not.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};
use vipfarm::status::{CheckState, CheckStatus, GroupStatus, NodeState};
use vipfarm_lab::{Farm, Lab, farm::exit_code_and_words, require, skip};

use crate::{
    HTTP, ONE_VIP, all, asks_in_vain, drained::Servers, events, eventually, has_event, lab,
    operated::load, running,
};

/// Often, so that tests are short.
const FAST: &str = "interval: 300ms, timeout: 300ms, rise: 2, fall: 2";

/// [`ONE_VIP`] with checks at its only group.
fn with_checks(checks: &str) -> String {
    ONE_VIP.replace("rules:\n", &format!("checks: [{checks}]\n        rules:\n"))
}

/// A service of a node that accepts connections, and does nothing with them.
fn service(lab: &Lab, node: usize, port: u16) -> TcpListener {
    lab.node(node).in_ns(|| TcpListener::bind((Ipv4Addr::LOCALHOST, port))).unwrap()
}

fn boot_clock() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap().into()
}

/// The only check of a node.
fn check(farm: &Farm<'_>, node: usize) -> CheckStatus {
    let checks = farm.status(node).unwrap().checks;
    let [check] = <[_; 1]>::try_from(checks).unwrap();
    check
}

/// A file in the lab's directory: its name begins with that of the node which is to look at it.
fn file(lab: &Lab, name: &str) -> PathBuf {
    lab.directory().join(name)
}

/// A check by a shell script, in which `FILE` is that file of the node itself.
fn script(lab: &Lab, text: &str, name: &str) -> String {
    let of_node = format!("{}/$VIPFARM_NODE-{name}", lab.directory().display());
    let text = text.replace("FILE", &of_node);
    format!("{{ exec: [/bin/sh, -c, '{text}'], {FAST} }}")
}

/// The agent has given up what it takes to become another user, unless the file needs that.
#[test]
fn a_program_runs_as_the_user_that_the_file_names() {
    let program = require!(skip::farm());
    let lab = lab("user", 2, 1);
    let test = script(&lab, "test $(id -u) = $(id -u root)", "user");
    let mut farm = serving(&lab, &program, &with_checks(&test));
    let as_nobody = |text: &str| {
        text.replace("exec: [/bin/sh", "user: nobody, exec: [/bin/sh")
            .replace("-u root", "-u nobody")
    };
    farm.edit(as_nobody).unwrap();
    for verb in ["reload", "upgrade"] {
        let (code, words) = exit_code_and_words(&mut farm.ask_command(1, &[verb])).unwrap();
        assert!(code == Some(1) && words.contains("`user`"), "{verb}: {words}");
    }
    farm.stop().unwrap();
    farm.start().unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    eventually("the node serves", || load(&farm, 2, "node1") > 0);
    assert_eq!(check(&farm, 1).last_error, None);
    farm.stop().unwrap();
}

/// A farm on the two nodes of the lab, whose checks have passed.
fn serving<'a>(lab: &'a Lab, program: &Path, vips: &str) -> Farm<'a> {
    let farm = running(lab, program, vips);
    eventually("both nodes serve", || {
        let loads = ["node1", "node2"].map(|node| loads(&farm, node));
        loads.iter().flatten().all(|&load| load > 0)
    });
    farm
}

/// The buckets that a node owns, by group.
fn loads(farm: &Farm<'_>, node: &str) -> Vec<usize> {
    let groups: Vec<GroupStatus> = farm.ask_json(2, &["bitmap", "--json"]).unwrap();
    groups.iter().map(|group| group.load[node]).collect()
}

#[test]
fn a_service_that_dies_drains_its_node_in_time_and_one_that_is_back_has_its_share_again() {
    let program = require!(skip::farm());
    let lab = lab("tcp", 2, 1);
    let mut services: Vec<_> =
        all(&lab).into_iter().map(|node| Some(service(&lab, node, 8080))).collect();
    let vips = with_checks(&format!("{{ tcp: \"127.0.0.1:8080\", {FAST} }}"));
    let mut farm = serving(&lab, &program, &vips);
    farm.ask(2, &["power", "all", "node1=3"]).unwrap();
    assert_eq!(load(&farm, 2, "node1"), 192);

    let mut reaction = || {
        services[0].get_or_insert_with(|| service(&lab, 1, 8080));
        eventually("node1 has its share", || load(&farm, 2, "node1") == 192);
        let died = boot_clock();
        drop(services[0].take());
        eventually("node1 is drained", || load(&farm, 2, "node1") == 0);
        farm.wait_converged(&[1, 2]).unwrap();
        let change = farm.status(2).unwrap().last_view_change.unwrap();
        Duration::from_micros(change.acquired_us).saturating_sub(died)
    };
    let mut took: Vec<_> = (0..5).map(|_| reaction()).collect();
    took.sort_unstable();
    println!("from a service's death to its node's drain: {took:?}");
    // By `interval` and `fall`, and what the change takes; now and then the machine does other things.
    assert!(took[took.len() / 2] < Duration::from_millis(300 * 2 + 100), "{took:?}");

    let failed = check(&farm, 1);
    assert_eq!((failed.state, &*failed.about), (CheckState::Failing, "group all"));
    assert!(failed.last_error.unwrap().contains("refused"));
    assert!(has_event(&farm, 1, "check_failed"));
    let words = farm.ask(1, &["status"]).unwrap();
    assert!(words.starts_with("! tcp 127.0.0.1:8080 (group all) fails: "), "{words}");
    let groups: Vec<GroupStatus> = farm.ask_json(2, &["bitmap", "--json"]).unwrap();
    assert_eq!((&*groups[0].abstaining, groups[0].powers["node1"]), (&["node1".into()][..], 3));

    services[0] = Some(service(&lab, 1, 8080));
    eventually("node1 has what the operator gave it", || load(&farm, 2, "node1") == 192);
    assert_eq!(check(&farm, 1).state, CheckState::Passing);
    farm.stop().unwrap();
}

#[test]
fn a_page_that_tells_of_an_error_drains_its_node() {
    let program = require!(skip::farm());
    let lab = lab("http", 2, 1);
    let code = Arc::new(AtomicU16::new(200));
    for node in 1..=2 {
        let (listener, code) = (service(&lab, node, 8080), Arc::clone(&code));
        thread::spawn(move || {
            // Ends with the process: nothing else ends the wait for clients.
            for mut client in listener.incoming().flatten() {
                let code = if node == 1 { code.load(Ordering::Relaxed) } else { 200 };
                let _ = client.read(&mut [0; 1024]);
                let _ = write!(client, "HTTP/1.1 {code} Word\r\ncontent-length: 0\r\n\r\n");
            }
        });
    }
    let vips = with_checks(&format!("{{ http: \"http://127.0.0.1:8080/health\", {FAST} }}"));
    let mut farm = serving(&lab, &program, &vips);
    assert!(load(&farm, 2, "node1") > 0);
    code.store(500, Ordering::Relaxed);
    eventually("node1 is drained", || load(&farm, 2, "node1") == 0);
    assert_eq!(check(&farm, 1).last_error.as_deref(), Some("answered with 500"));
    code.store(200, Ordering::Relaxed);
    eventually("node1 is back", || load(&farm, 2, "node1") > 0);
    farm.stop().unwrap();
}

#[test]
fn an_interface_that_goes_down_or_loses_its_carrier_drains_its_node() {
    let program = require!(skip::farm());
    let lab = lab("uplink", 2, 1);
    for node in lab.nodes() {
        node.run("ip link add up0 type veth peer name up1").unwrap();
        node.run("ip link set up0 up").unwrap();
        node.run("ip link set up1 up").unwrap();
    }
    let mut farm = serving(&lab, &program, &with_checks(&format!("{{ interface: up0, {FAST} }}")));
    for (end, words) in [("up0", "it is down"), ("up1", "it has no carrier")] {
        lab.node(1).run(&format!("ip link set {end} down")).unwrap();
        eventually("node1 is drained", || load(&farm, 2, "node1") == 0);
        assert_eq!(load(&farm, 2, "node2"), 256);
        let failing = check(&farm, 1);
        assert!(failing.last_error.as_deref().unwrap().contains(words), "{failing:?}");
        lab.node(1).run(&format!("ip link set {end} up")).unwrap();
        eventually("node1 serves again", || load(&farm, 2, "node1") > 0);
    }
    farm.stop().unwrap();
}

#[test]
fn a_program_that_hangs_is_killed_and_harms_nothing_but_its_check() {
    let program = require!(skip::farm());
    let lab = lab("hang", 2, 1);
    // The number tells this test's processes from others.
    let number = 100_000_000 + u64::from(std::process::id());
    let vips = with_checks(&script(
        &lab,
        &format!("test ! -e FILE || {{ sleep {number} & sleep {number}; }}"),
        "hang",
    ));
    let mut farm = serving(&lab, &program, &vips);
    File::create(file(&lab, "node1-hang")).unwrap();
    eventually("node1 is drained", || load(&farm, 2, "node1") == 0);
    assert_eq!(check(&farm, 1).last_error.as_deref(), Some("killed after 300ms"));
    let sleepers = || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let command = |it: &fs::DirEntry| fs::read(it.path().join("cmdline")).unwrap_or_default();
        let wanted = format!("sleep\0{number}\0");
        processes.filter(|process| command(process) == wanted.as_bytes()).count()
    };
    // Each look starts two, and no look begins before those of the former one are about to end.
    assert!(sleepers() <= 4, "{}", sleepers());
    fs::remove_file(file(&lab, "node1-hang")).unwrap();
    eventually("node1 is back", || load(&farm, 2, "node1") > 0);
    eventually("nothing of it is left", || sleepers() == 0);
    for node in 1..=2 {
        assert!(!has_event(&farm, node, "lease_lapsed") && !has_event(&farm, node, "node_lost"));
    }
    farm.stop().unwrap();
}

#[test]
fn a_check_takes_its_own_group_and_one_that_fails_everywhere_takes_it_from_everybody() {
    let program = require!(skip::farm());
    let lab = lab("groups", 2, 1);
    let own = script(&lab, "test ! -e FILE", "bad");
    let maintenance = file(&lab, "maintenance");
    let vips = format!(
        "vips:
  - addresses: [10.77.0.100/16]
    groups:
      - {{ name: one, checks: [{own}], rules: [{{ port: 80, proto: tcp, filter: on_port }}] }}
      - name: two
        checks: [{{ file: {}, present: false, {FAST} }}]
        rules: [{{ port: 81, proto: tcp, filter: on_port }}]
",
        maintenance.display()
    );
    let mut farm = serving(&lab, &program, &vips);
    let before = loads(&farm, "node1");
    File::create(file(&lab, "node1-bad")).unwrap();
    eventually("node1 gives the first group up", || loads(&farm, "node1")[0] == 0);
    assert_eq!(loads(&farm, "node1")[1], before[1], "and no other");

    File::create(&maintenance).unwrap();
    eventually("nobody has the second", || {
        loads(&farm, "node1")[1] + loads(&farm, "node2")[1] == 0
    });
    assert_eq!(loads(&farm, "node1"), [0, 0]);
    assert_eq!(loads(&farm, "node2"), [256, 0]);
    eventually("it is said loudly", || {
        let words = farm.ask(2, &["status"]).unwrap();
        words.starts_with("! ") && words.contains("group two")
    });

    fs::remove_file(&maintenance).unwrap();
    fs::remove_file(file(&lab, "node1-bad")).unwrap();
    eventually("all is as before", || loads(&farm, "node1") == before);
    farm.stop().unwrap();
}

#[test]
fn a_node_joins_when_its_checks_pass_and_not_before() {
    let program = require!(skip::farm());
    let lab = lab("join", 2, 1);
    File::create(file(&lab, "node1-bad")).unwrap();
    let check = script(&lab, "test ! -e FILE", "bad");
    let vips = ONE_VIP.replace("groups:", &format!("checks: [{check}]\n    groups:"));
    let mut farm = running(&lab, &program, &vips);
    eventually("node2 has it all", || load(&farm, 1, "node2") == 256);
    assert_eq!(load(&farm, 1, "node1"), 0);
    let status = farm.status(1).unwrap();
    assert_eq!(status.state, NodeState::Up, "a member like others");
    let loads: Vec<_> =
        events(&farm, 1).into_iter().filter(|event| event.kind == "farm_load").collect();
    assert!(loads.iter().all(|it| it.message.contains("farm load: 0/256")), "{loads:?}");
    fs::remove_file(file(&lab, "node1-bad")).unwrap();
    eventually("node1 has its share", || load(&farm, 1, "node1") > 0);
    farm.stop().unwrap();
}

#[test]
fn a_check_that_flaps_faster_than_it_counts_moves_nothing() {
    let program = require!(skip::farm());
    let lab = lab("flap", 2, 1);
    // Every other look is good.
    let flaps = "test -e FILE && rm FILE && exit 1; touch FILE";
    let slowly = script(&lab, flaps, "flag").replace("fall: 2", "fall: 4");
    let mut farm = serving(&lab, &program, &with_checks(&slowly));
    let epoch = farm.status(1).unwrap().epoch;
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        let check = check(&farm, 1);
        assert_eq!(check.state, CheckState::Passing);
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(farm.status(1).unwrap().epoch, epoch);
    assert!(check(&farm, 1).last_error.is_some(), "it has looked bad all the while");
    farm.stop().unwrap();
}

#[test]
fn a_check_that_asks_for_it_resets_the_connections_that_are_open_and_another_keeps_them() {
    let program = require!(skip::farm());
    let lab = lab("leave", 2, 1);
    let drains = script(&lab, "test ! -e FILE", "drain");
    let leaves = script(&lab, "test ! -e FILE", "leave").replace(" }", ", effect: leave }");
    let mut farm = serving(&lab, &program, &with_checks(&format!("{drains}, {leaves}")));
    let servers = Servers::start(&lab);
    let mut open = servers.open(&lab, HTTP, 1, 2);
    let mut elsewhere = servers.open(&lab, HTTP, 2, 1);
    File::create(file(&lab, "node1-drain")).unwrap();
    eventually("node1 is drained", || load(&farm, 2, "node1") == 0);
    for open in &mut open {
        open.assert_lives();
    }
    fs::remove_file(file(&lab, "node1-drain")).unwrap();
    eventually("node1 is back", || load(&farm, 2, "node1") > 0);
    for open in &mut open {
        open.assert_lives();
    }

    // Though the farm has nothing more to agree on then.
    File::create(file(&lab, "node1-drain")).unwrap();
    eventually("node1 is drained again", || load(&farm, 2, "node1") == 0);
    File::create(file(&lab, "node1-leave")).unwrap();
    for one in &mut open {
        let took = one.reset_after();
        println!("reset after {took:?}");
    }
    elsewhere[0].assert_lives();
    assert_eq!(load(&farm, 2, "node1"), 0);
    // No stop is to wait for them.
    drop((open, elsewhere, servers));
    farm.stop().unwrap();
}

#[test]
fn a_changed_check_takes_effect_by_a_reload() {
    let program = require!(skip::farm());
    let lab = lab("newcheck", 2, 1);
    let mut farm = serving(&lab, &program, ONE_VIP);
    let reload = |farm: &Farm<'_>| {
        asks_in_vain(farm, 1, &["reload", "--timeout", "0s"], 1, "node2");
        farm.ask(2, &["reload"]).unwrap();
    };
    File::create(file(&lab, "node1-bad")).unwrap();
    let checked = with_checks(&script(&lab, "test ! -e FILE", "bad"));
    farm.edit(|text| text.replace(ONE_VIP, &checked)).unwrap();
    reload(&farm);
    eventually("node1 is drained", || load(&farm, 2, "node1") == 0);
    // What fails goes on failing although somebody edits when that is said of it.
    let edited = checked.replace("fall: 2", "fall: 9");
    farm.edit(|text| text.replace(&checked, &edited)).unwrap();
    reload(&farm);
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        assert_eq!(load(&farm, 2, "node1"), 0);
        thread::sleep(Duration::from_millis(20));
    }
    farm.edit(|text| text.replace(&edited, ONE_VIP)).unwrap();
    reload(&farm);
    assert!(load(&farm, 2, "node1") > 0, "with the file that no longer asks for it");
    farm.stop().unwrap();
}
