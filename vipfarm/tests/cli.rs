//! The binary's messages and exit codes.

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixListener,
    process::{Command, Output, Stdio},
    time::Duration,
};

use support::{RunDir, Served, status};
use vipfarm::{
    agent::history::Level,
    status::{EventRecord, Explanation, GroupStatus, NodeStatus, Status},
};

fn text(dir: &RunDir, name: &str) -> String {
    dir.path(name).to_str().expect("UTF-8").to_owned()
}

fn vipfarm(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vipfarm")).args(args).output().expect("the binary runs")
}

/// Runs it, asserts the exit code, and returns standard error.
fn fails_with(code: i32, args: &[&str]) -> String {
    let output = vipfarm(args);
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    stderr
}

/// Runs a verb against a served socket, asserts success, and returns standard output.
fn asks(served: &Served, args: &[&str]) -> String {
    let output = vipfarm(&[args, &["--run-dir", &text(&served.dir, "")]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn parse<T: serde::de::DeserializeOwned>(json: &str) -> T {
    serde_json::from_str(json).expect("the structure of the control socket")
}

const TALKING: [&[&str]; 6] = [
    &["status"],
    &["metrics"],
    &["nodes"],
    &["bitmap"],
    &["events"],
    &["explain", "192.0.2.1:9", "192.168.1.222:80"],
];

#[test]
fn without_an_agent_every_talking_verb_exits_3_and_says_how_to_start_one() {
    let dir = RunDir::new();
    for verb in TALKING {
        for place in [&text(&dir, ""), &text(&dir, "missing")] {
            let stderr = fails_with(3, &[verb, &["--run-dir", place]].concat());
            assert!(stderr.contains("no agent runs here"), "{stderr}");
            assert!(stderr.contains("vipfarm agent -c FILE"), "{stderr}");
        }
    }
}

#[test]
fn the_socket_of_a_dead_agent_counts_as_no_agent() {
    let dir = RunDir::new();
    drop(UnixListener::bind(dir.path("web.sock")).expect("a fresh directory"));
    let stderr = fails_with(3, &["status", "--run-dir", &text(&dir, "")]);
    assert!(stderr.contains("nobody listens at"), "{stderr}");
    let stderr = fails_with(3, &["status", "--socket", &text(&dir, "dns.sock")]);
    assert!(stderr.contains("dns.sock does not exist"), "{stderr}");
}

#[test]
fn an_agent_that_does_not_answer_is_given_up() {
    let dir = RunDir::new();
    let _frozen = UnixListener::bind(dir.path("web.sock")).expect("a fresh directory");
    let stderr = fails_with(3, &["status", "--run-dir", &text(&dir, "")]);
    assert!(stderr.contains("does not answer within 5s"), "{stderr}");
}

#[test]
fn of_several_farms_one_must_be_named() {
    let dir = RunDir::new();
    for farm in ["web.sock", "dns.sock"] {
        drop(UnixListener::bind(dir.path(farm)).expect("a fresh directory"));
    }
    let stderr = fails_with(2, &["nodes", "--run-dir", &text(&dir, "")]);
    assert!(stderr.contains("several farms run here: dns, web"), "{stderr}");
    let stderr = fails_with(3, &["nodes", "--run-dir", &text(&dir, ""), "--farm", "mail"]);
    assert!(stderr.contains("no agent of farm `mail`"), "{stderr}");
}

#[test]
fn bad_usage_exits_2() {
    for args in [
        &[][..],
        &["serve"],
        &["status", "--verbose"],
        &["agent"],
        &["bitmap", "--hex", "--json"],
        &["explain", "web", "192.168.1.222:80"],
        &["explain", "192.0.2.1", "192.168.1.222"],
        &["explain", "192.0.2.1:9", "[fd00::1]:80"],
        &["explain", "192.0.2.1:9", "192.168.1.222:80", "--down", "node2"],
        &["explain", "192.0.2.1:9", "192.168.1.222:80", "--proto", "icmp"],
        &["explain", "192.0.2.1:9", "192.168.1.222:80", "--proto", "sctp"],
        &["explain", "192.0.2.1:9", "192.168.1.222:80", "--vlan", "4095"],
        &["explain", "192.0.2.1:9", "192.168.1.222:80", "--vlan", "20.0"],
        &["replay", "clients.pcap"],
        &["replay", "clients.pcap", "-c", "farm.yaml", "--mac", "node1"],
    ] {
        fails_with(2, args);
    }
}

#[test]
fn a_configuration_with_errors_exits_2_and_names_the_file() {
    let dir = RunDir::new();
    let file = text(&dir, "farm.yaml");
    fs::write(&file, "farm: 7\nnodes: none\n").expect("a fresh directory");
    let stderr = fails_with(2, &["check", &file]);
    assert!(stderr.contains("farm.yaml:"), "{stderr}");
    let missing = text(&dir, "missing.yaml");
    let stderr = fails_with(2, &["check", &missing]);
    assert!(stderr.contains("missing.yaml"), "{stderr}");
    fails_with(2, &["explain", "192.0.2.1:9", "192.168.1.222:80", "-c", &missing]);

    let output = vipfarm(&["check", "--json", &file]);
    assert_eq!(output.status.code(), Some(2));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["ok"], false);
    assert!(json["errors"].as_array().is_some_and(|errors| !errors.is_empty()), "{json}");
}

#[test]
fn check_reads_a_pipe_and_standard_input() {
    let dir = RunDir::new();
    let yaml = fs::read(farm_file(&dir)).expect("written");
    let check = |file: &str, yaml: &[u8]| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_vipfarm"))
            .args(["check", file])
            .current_dir(dir.path(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        child.stdin.take().expect("piped").write_all(yaml).expect("it reads");
        child.wait_with_output().expect("it ends")
    };
    let words = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let output = check("-", &yaml);
    let stdout = words(output.stdout);
    assert!(output.status.success(), "{}", words(output.stderr));
    assert!(stdout.starts_with("<stdin>: ok"), "{stdout}");
    assert!(stdout.contains("\nkey: farm.key\nheartbeats"), "the key is found here: {stdout}");
    let output = check("/dev/stdin", &yaml);
    let stdout = words(output.stdout);
    assert!(output.status.success(), "{}", words(output.stderr));
    assert!(stdout.starts_with("/dev/stdin: ok"), "{stdout}");
    let output = check("-", b"farm: 7!\n");
    assert_eq!(output.status.code(), Some(2));
    let stderr = words(output.stderr);
    assert!(stderr.contains("<stdin>:1:7: error: `7!` cannot be a farm's name"), "{stderr}");
}

/// A farm's file with its key in that directory.
fn farm_file(dir: &RunDir) -> String {
    assert!(vipfarm(&["keygen", &text(dir, "farm.key")]).status.success());
    let file = text(dir, "farm.yaml");
    let yaml = "farm: web
key_file: farm.key
nodes:
  - { name: node1, addresses: [192.168.1.11] }
  - { name: node2, addresses: [192.168.1.12] }
vips:
  - addresses: [192.168.1.222/24, \"fd00::222/64\"]
    groups: [{ name: http, rules: [{ port: 80, proto: tcp, filter: on_port }] }]
";
    fs::write(&file, yaml).expect("a fresh directory");
    file
}

/// A capture of one TCP segment to the VIP and one frame that is nobody's.
fn capture() -> Vec<u8> {
    let mut tcp = vec![0x5a, 0xfe, 192, 168, 1, 222, 2, 0, 0, 0, 0, 9, 8, 0];
    tcp.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
    tcp.extend([203, 0, 113, 7, 192, 168, 1, 222]);
    tcp.extend([51_000_u16.to_be_bytes(), 80_u16.to_be_bytes()].concat());
    tcp.resize(54, 0);
    let other = [[2; 12].as_slice(), &[0x88, 0xcc], &[0; 46]].concat();
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0002_0004, 0, 0, 65_535, 1] {
        bytes.extend(word.to_be_bytes());
    }
    for frame in [tcp, other] {
        let length = u32::try_from(frame.len()).expect("a small frame");
        for word in [1_700_000_000, 0, length, length] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(frame);
    }
    bytes
}

#[test]
fn a_capture_is_replayed_from_a_file_and_from_standard_input() {
    let dir = RunDir::new();
    let farm = farm_file(&dir);
    let file = text(&dir, "clients.pcap");
    fs::write(&file, capture()).expect("a fresh directory");
    let told = |args: &[&str]| {
        let output = vipfarm(&[&["replay", &file, "-c", &farm], args].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let lines = told(&["--json"]);
    let lines: Vec<serde_json::Value> = lines.lines().map(parse).collect();
    assert_eq!(lines.len(), 3, "two packets and the totals");
    assert_eq!(lines[0]["time"], "1700000000.000000000");
    assert_eq!(lines[1]["reason"], "not_ip");
    assert_eq!(lines[2]["totals"]["packets"], 2);

    let asked = ["explain", "203.0.113.7:51000", "192.168.1.222:80", "-c", &farm, "--json"];
    let explained: Explanation = parse(&String::from_utf8(vipfarm(&asked).stdout).expect("UTF-8"));
    assert_eq!(lines[0]["owner"].as_str(), explained.owner.as_deref());
    assert_eq!(lines[0]["bucket"], explained.bucket.expect("a bucket"));

    let owner = explained.owner.expect("both nodes are alive");
    let other = if owner == "node1" { "node2" } else { "node1" };
    assert!(told(&["--down", &owner]).contains(&format!("{other}  tcp 203.0.113.7:51000 -> ")));
    assert!(told(&["--node", other]).contains("drop     not_mine"));

    let mut child = Command::new(env!("CARGO_BIN_EXE_vipfarm"))
        .args(["replay", "-", "-c", &farm])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().expect("piped").write_all(&capture()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8(output.stdout).expect("UTF-8"), told(&[]));
}

#[test]
fn what_cannot_be_replayed_is_told_with_the_exit_code() {
    let dir = RunDir::new();
    let farm = farm_file(&dir);
    let file = text(&dir, "clients.pcap");
    let replay = |args: &[&'static str]| [&["replay", &*file, "-c", &farm], args].concat();
    assert!(fails_with(2, &replay(&[])).contains("cannot open"));
    fs::write(&file, b"\x0a\x0d\x0d\x0a\0\0\0\0").expect("a fresh directory");
    assert!(fails_with(2, &replay(&[])).contains("editcap -F pcap"));
    let cut = &capture()[..100];
    fs::write(&file, cut).expect("a fresh directory");
    assert!(fails_with(1, &replay(&[])).contains("cut off at byte 100"));
    assert!(fails_with(2, &replay(&["--node", "node3"])).contains("has no node `node3`"));
    assert!(fails_with(2, &replay(&["--down", "node1,node2"])).contains("nobody serves"));
}

#[test]
fn an_ipv6_client_and_a_fragment_are_explained_from_the_file() {
    let dir = RunDir::new();
    let farm = farm_file(&dir);
    let explain = |args: &[&str]| {
        let output = vipfarm(&[&["explain"], args, &["-c", &farm]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let client = ["[2001:db8::7]:51000", "[fd00::222]:80"];
    assert!(explain(&client).contains("packet   tcp from [2001:db8::7]:51000 to [fd00::222]:80\n"));
    let fragment = explain(&[&client[..], &["--fragment"]].concat());
    assert!(fragment.contains("goes the way of its packet's first one"), "{fragment}");
    let gre = explain(&["203.0.113.7", "192.168.1.222", "--proto", "47"]);
    assert!(gre.contains("protocol 47 from 203.0.113.7"), "{gre}");
}

#[test]
fn of_a_vip_in_two_vlans_explain_asks_which() {
    let dir = RunDir::new();
    let farm = farm_file(&dir);
    let text = fs::read_to_string(&farm).expect("it is there");
    let (nodes, vips) = text.split_once("vips:\n").expect("a file with VIPs");
    let tagged = vips.replace("name: ", "name: tagged-").replacen("  - ", "  - vlan: 10\n    ", 1);
    fs::write(&farm, format!("{nodes}vips:\n{vips}{tagged}")).expect("a file");
    let asked = ["explain", "203.0.113.7:51000", "192.168.1.222:80", "-c", &farm];
    assert!(fails_with(1, &asked).contains("say which with --vlan 0 or --vlan 10"));
    let told = |vlan| {
        let output = vipfarm(&[&asked[..], &["--vlan", vlan]].concat());
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let packet = "packet   tcp from 203.0.113.7:51000 to 192.168.1.222:80";
    assert!(told("10").contains(&format!("{packet} in VLAN 10\n  group    tagged-")));
    assert!(told("0").contains(&format!("{packet}\n  group    ")));
}

#[test]
fn a_key_is_made_once_and_replaced_only_by_force() {
    let dir = RunDir::new();
    let key = text(&dir, "farm.key");
    assert!(vipfarm(&["keygen", &key]).status.success());
    let first = fs::read(&key).expect("a key");
    let stderr = fails_with(1, &["keygen", &key]);
    assert!(stderr.contains("--force"), "{stderr}");
    assert_eq!(fs::read(&key).expect("still there"), first);
    assert!(vipfarm(&["keygen", &key, "--force"]).status.success());
    assert_ne!(fs::read(&key).expect("another"), first);
}

#[test]
fn help_ends_with_the_exit_codes_and_is_no_error() {
    let output = vipfarm(&["--help"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.trim_end().ends_with("3  no agent answers on this node"), "{text}");
    assert!(!text.contains('\x1b'), "no colour into a pipe");
}

#[test]
fn errors_are_painted_only_where_colour_is_welcome() {
    let run = |variable: &str| {
        Command::new(env!("CARGO_BIN_EXE_vipfarm"))
            .args(["status", "--socket", "/nonexistent"])
            .env(variable, "1")
            .output()
            .expect("the binary runs")
            .stderr
    };
    assert!(run("CLICOLOR_FORCE").contains(&0x1b));
    assert!(!run("NO_COLOR").contains(&0x1b));
}

#[test]
fn every_talking_verb_prints_for_people_and_for_scripts() {
    let served = Served::start();
    served.history.push(Level::Info, "started", "agent started");
    assert!(asks(&served, &["status"]).contains("farm load: 255/256 (group FarmProto)"));
    assert_eq!(parse::<Status>(&asks(&served, &["status", "--json"])), status());
    assert!(asks(&served, &["metrics"]).contains("\nvipfarm_up{farm=\"web\"} 1\n"));
    assert!(asks(&served, &["nodes"]).contains("192.168.1.11"));
    assert_eq!(parse::<Vec<NodeStatus>>(&asks(&served, &["nodes", "--json"])), status().nodes);
    assert!(asks(&served, &["bitmap"]).contains("0_ A A A A A A A A A . A A A A A A"));
    assert!(asks(&served, &["bitmap", "--hex"]).contains("    fffffdff ffffffff"));
    let groups: Vec<GroupStatus> = parse(&asks(&served, &["bitmap", "FarmProto", "--json"]));
    assert_eq!(groups, status().groups);
    assert!(asks(&served, &["events"]).contains("agent started"));
    let events: Vec<EventRecord> = parse(&asks(&served, &["events", "--json"]));
    assert_eq!(events.len(), 1);
    let question = ["explain", "203.0.113.7:51000", "192.168.1.222:80"];
    assert!(asks(&served, &question).starts_with("node1 serves it."));
    let answer: Explanation = parse(&asks(&served, &[&question[..], &["--json"]].concat()));
    assert_eq!(answer.client_port, Some(51_000));
}

#[test]
fn what_the_farm_does_not_know_is_told_by_the_exit_code() {
    let served = Served::start();
    let place = text(&served.dir, "");
    let stderr = fails_with(1, &["explain", "192.0.2.1:9", "192.0.2.9:80", "--run-dir", &place]);
    assert!(stderr.contains("192.0.2.9 is no VIP of farm web"), "{stderr}");
    let stderr = fails_with(2, &["bitmap", "Farm", "--run-dir", &place]);
    assert!(stderr.contains("no group `Farm`; its groups are FarmProto"), "{stderr}");
}

#[test]
fn following_prints_events_as_they_come_and_goes_on_with_the_next_agent() {
    let served = Served::start();
    served.history.push(Level::Info, "started", "agent started");
    let mut follower = Command::new(env!("CARGO_BIN_EXE_vipfarm"))
        .args(["events", "-f", "--json", "--run-dir", &text(&served.dir, "")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut lines = BufReader::new(follower.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().expect("a line").expect("UTF-8");
    assert_eq!(parse::<EventRecord>(&next()).kind, "started");
    served.history.push(Level::Warn, "node_lost", "node2 is lost");
    assert_eq!(parse::<EventRecord>(&next()).kind, "node_lost");

    // Another agent, whose numbers begin anew.
    let Served { runtime, dir, .. } = served;
    runtime.shutdown_timeout(Duration::from_secs(5));
    let mut told = BufReader::new(follower.stderr.take().expect("piped")).lines();
    let told = told.next().expect("a line").expect("UTF-8");
    assert!(told.ends_with("waiting for the next agent"), "{told}");
    let served = Served::start_in(dir);
    served.history.push(Level::Info, "started", "agent started again");
    assert_eq!(parse::<EventRecord>(&next()).message, "agent started again");
    served.history.push(Level::Info, "view", "view 2");
    assert_eq!(parse::<EventRecord>(&next()).seq, 2);
    follower.kill().expect("it runs");
    follower.wait().expect("it ends");

    let only = |since| asks(&served, &["events", "--since", since]).lines().count();
    assert_eq!([only("0"), only("1"), only("1h"), only("2999-01-01")], [2, 1, 2, 0]);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let served = Served::start();
    for _ in 0..1000 {
        served.history.push(Level::Info, "view", "x".repeat(200));
    }
    let mut events = Command::new(env!("CARGO_BIN_EXE_vipfarm"))
        .args(["events", "--run-dir", &text(&served.dir, "")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(events.stdout.take());
    let output = events.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}
