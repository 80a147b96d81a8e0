//! What the heartbeat thread needs of its system, and what systemd learns of it.

use std::{
    os::unix::net::UnixDatagram,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use vipfarm::status::NodeState;
use vipfarm_lab::{
    Farm,
    farm::PATIENCE,
    process::{Process, Signal},
    require, skip,
};

use crate::{ONE_VIP, events, eventually, lab, refused::refuses, running};

/// The command that runs a node's agent without the right to real-time scheduling.
fn without_real_time(farm: &Farm<'_>, node: usize) -> Command {
    let agent = farm.agent_command(node);
    let mut command = farm.lab().node(node).command("prlimit");
    command.args(["--rtprio=0:0", "setpriv"]);
    command.args(["--bounding-set=-sys_nice", "--inh-caps=-sys_nice"]);
    command.arg(agent.get_program()).args(agent.get_args());
    command
}

fn is_up(farm: &Farm<'_>, node: usize) -> bool {
    farm.status(node).is_ok_and(|status| status.state == NodeState::Up)
}

#[test]
fn timers_that_need_a_real_time_thread_are_refused_without_and_the_default_ones_warned_of() {
    const NAME: &str =
        "timers_that_need_a_real_time_thread_are_refused_without_and_the_default_ones_warned_of";
    const RELAX: &str = "`membership: { profile: relaxed }` in the files of all nodes";
    const GRANT: &str = "grant CAP_SYS_NICE or, by systemd, LimitRTPRIO=10";
    let program = require!(NAME, skip::farm());
    let lab = lab("ordinary", 2, 1);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let profile = |name: &'static str| {
        move |yaml: &str| yaml.replace("nodes:", &format!("membership: {name}\nnodes:"))
    };
    for timers in [
        "{ profile: fast }",
        "{ period: 5ms, suspect: 11ms, lease: 20ms, fail: 30ms }",
        "{ period: 50ms, suspect: 110ms, lease: 160ms, fail: 250ms }",
    ] {
        farm.give_own_config(1, profile(timers)).unwrap();
        let words = ["no real-time scheduling", "balanced profile's", GRANT, RELAX];
        refuses(&farm, &mut without_real_time(&farm, 1), 1, &words);
    }

    for (name, warned) in [("{ profile: balanced }", true), ("{ profile: relaxed }", false)] {
        farm.give_own_config(1, profile(name)).unwrap();
        let mut agent = lab.node(1).spawn("agent", without_real_time(&farm, 1)).unwrap();
        eventually("it is up", || is_up(&farm, 1));
        let warnings = events(&farm, 1);
        let warnings: Vec<_> = warnings.iter().filter(|e| e.kind == "not_real_time").collect();
        assert_eq!(warnings.len(), usize::from(warned), "{name}: {warnings:?}");
        for warning in warnings {
            assert_eq!(warning.level, "warn");
            let message = &warning.message;
            assert!(message.contains(GRANT) && message.contains(RELAX), "{message}");
        }
        assert!(!farm.status(1).unwrap().lateness.real_time);
        agent.stop(PATIENCE).unwrap();
    }
}

#[test]
fn systemd_learns_that_the_agent_serves_goes_on_and_stops() {
    const NAME: &str = "systemd_learns_that_the_agent_serves_goes_on_and_stops";
    let program = require!(NAME, skip::farm());
    let lab = lab("systemd", 2, 1);
    let farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let path = lab.directory().join("notify.sock");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let next = || {
        let mut buffer = [0; 256];
        let length = systemd.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let until = |words: &str| while !next().contains(words) {};

    let mut command = farm.agent_command(1);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let mut agent = lab.node(1).spawn("agent", command).unwrap();
    assert_eq!(next(), "READY=1");
    let status = farm.status(1).unwrap();
    assert!(!status.heartbeats.is_empty(), "no turn yet: {status:?}");
    until("STATUS=up, 1 of 2 nodes alive");
    for _ in 0..5 {
        until("WATCHDOG=1");
    }
    let lateness = farm.status(1).unwrap().lateness;
    assert!(lateness.real_time && lateness.max_ms > 0.0, "{lateness:?}");

    // Whoever hangs gives no sign of life.
    agent.signal(Signal::SIGSTOP).unwrap();
    systemd.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    while systemd.recv(&mut [0; 256]).is_ok() {}
    agent.signal(Signal::SIGCONT).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    until("WATCHDOG=1");
    agent.stop(PATIENCE).unwrap();
    until("STOPPING=1\nEXTEND_TIMEOUT_USEC=40000000");
}

#[test]
fn a_log_in_json_is_an_object_a_line_to_the_last_word() {
    let program = require!(skip::farm());
    let lab = lab("jsonlog", 2, 1);
    let farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    // Each name has a log of its own.
    let lines = |agent: &Process| {
        let lines = agent.last_lines(usize::MAX);
        let object = |line: &String| {
            serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"))
        };
        lines.iter().map(object).collect::<Vec<_>>()
    };
    let mut command = farm.agent_command(1);
    command.args(["--log-format", "json"]);
    let mut agent = lab.node(1).spawn("json-agent", command).unwrap();
    eventually("it serves", || is_up(&farm, 1));
    let mut refused = farm.agent_command(1);
    refused.env("VIPFARM_LOG_FORMAT", "json");
    let mut refused = lab.node(1).spawn("refused-agent", refused).unwrap();
    assert!(!refused.wait_timeout(PATIENCE).unwrap().success(), "another one runs");
    let last = lines(&refused).pop().unwrap();
    assert_eq!(last["level"], "ERROR", "{last}");
    agent.stop(PATIENCE).unwrap();
    let lines = lines(&agent);
    for line in &lines {
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
        assert!(line["message"].is_string(), "{line}");
    }
    assert!(lines.iter().any(|line| line["kind"] == "view_installed"), "{lines:?}");
}

#[test]
fn how_long_heartbeats_waited_for_a_frozen_agent_is_told() {
    const NAME: &str = "how_long_heartbeats_waited_for_a_frozen_agent_is_told";
    const FROZEN: Duration = Duration::from_millis(400);
    let program = require!(NAME, skip::farm());
    let lab = lab("waits", 2, 1);
    let mut farm = running(&lab, &program, ONE_VIP);
    // The kernel begins to stamp a moment after it was asked to.
    eventually("waits are measured", || farm.status(1).unwrap().lateness.wait_mean_ms > 0.0);
    let begin = Instant::now();
    farm.freeze(1, true).unwrap();
    thread::sleep(FROZEN);
    farm.freeze(1, false).unwrap();
    let waited = || farm.status(1).unwrap().lateness.wait_max_ms;
    // Much longer than until the peer's first heartbeat after the freeze.
    let least = FROZEN.as_secs_f64() * 1e3 / 2.0;
    eventually("the wait is told", || waited() > least);
    assert!(waited() < begin.elapsed().as_secs_f64() * 1e3, "{}", waited());
    let told = farm.ask(1, &["status"]).unwrap();
    assert!(told.contains("heartbeats waited for it"), "{told}");
    farm.stop().unwrap();
}
