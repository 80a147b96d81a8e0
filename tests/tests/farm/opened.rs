//! VIPs that are opened by hand; the programs that are told, and who asks by HTTP.

use std::{
    fs::{self, Permissions},
    io::{Read, Write},
    net::{Shutdown, SocketAddr, SocketAddrV4, TcpStream},
    ops::Range,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use vipfarm::model::Mac;
use vipfarm_lab::{Farm, Frame, Lab, farm::PATIENCE, frame::SYN, lab::VIP, require, skip};

use crate::{
    HTTP, ONE_VIP, all, asks_in_vain, events, eventually, has_event, lab,
    operated::load,
    running,
    wire::{Packet, What, answers, node_of},
};

/// As [`ONE_VIP`], but closed until somebody opens it.
fn by_hand() -> String {
    ONE_VIP.replace("    groups:", "    open: manual\n    groups:")
}

fn shares(farm: &Farm<'_>) -> [usize; 2] {
    [load(farm, 1, "node1"), load(farm, 1, "node2")]
}

/// Who answers connections from many ports to the VIP, whose nodes refuse them.
fn replies(lab: &Lab) -> Vec<(u16, String)> {
    let client = lab.client(1);
    let frame = |port: u16| {
        let from = SocketAddrV4::new(client.address(), port);
        Frame::tcp(from, HTTP, SYN).macs(client.mac(), Mac::of_vip(VIP)).bytes()
    };
    let frames: Vec<_> = PORTS.map(frame).collect();
    let reply = |answer: Packet| {
        let What::Reset { target } = answer.what else { panic!("{answer:?}") };
        (target, node_of(lab, answer.mac).to_owned())
    };
    let mut replies: Vec<_> = answers(client, &frames, VIP).into_iter().map(reply).collect();
    replies.sort();
    replies
}

const PORTS: Range<u16> = 4000..4020;

/// What was said from the file of the VIP as it is open.
fn assert_served_as_explained(farm: &Farm<'_>) {
    let client = farm.lab().client(1).address();
    let owner = |port| (port, farm.owner((client, port).into(), HTTP).unwrap());
    assert_eq!(replies(farm.lab()), PORTS.map(owner).collect::<Vec<_>>());
}

#[test]
fn a_vip_that_is_opened_by_hand_is_closed_until_then_on_each_node() {
    let program = require!(skip::farm());
    let lab = lab("manual", 2, 1);
    let mut farm = running(&lab, &program, &by_hand());
    assert_eq!(shares(&farm), [0, 0]);
    let words = farm.ask(1, &["status"]).unwrap();
    assert!(words.contains("! closed here: 10.77.0.100/16, until `vipfarm open`"), "{words}");
    let asked = ["10.77.1.1:4000", "10.77.0.100:80"];
    let told = farm.ask(1, &[&["explain"], &asked[..]].concat()).unwrap();
    assert!(told.contains("do not serve it for now: it is closed"), "{told}");
    assert_eq!(replies(&lab), []);
    let offline = farm.explain_offline(&asked).unwrap();
    assert!(offline.assumes_open && offline.text.contains("once open, node"), "{offline:?}");
    farm.ask(1, &["open", "all"]).unwrap();
    assert_eq!(shares(&farm), [256, 0], "in force when it returns");
    farm.ask(2, &["open", "10.77.0.100"]).unwrap();
    assert_eq!(shares(&farm), [128, 128]);
    assert_served_as_explained(&farm);
    farm.ask(1, &["close"]).unwrap();
    assert_eq!(shares(&farm), [0, 256]);
    farm.ask(1, &["open"]).unwrap();
    assert_eq!(shares(&farm), [128, 128]);
    let words = "no group or VIP `some`; its groups are all, its VIPs 10.77.0.100";
    asks_in_vain(&farm, 1, &["open", "some"], 1, words);

    // A reload of the same file closes nothing, nor does another agent in the place of this one.
    farm.ask(1, &["reload"]).unwrap();
    farm.ask(1, &["upgrade"]).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    eventually("node1 has its share again", || shares(&farm) == [128, 128]);
    farm.stop_node(1).unwrap();
    farm.start_node(1, &[]).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    assert_eq!(shares(&farm), [0, 256], "another start closes it");
    farm.stop().unwrap();
}

#[test]
fn what_was_drained_for_maintenance_is_not_opened_by_a_services_start() {
    let program = require!(skip::farm());
    let lab = lab("maintained", 2, 1);
    let mut farm = running(&lab, &program, ONE_VIP);
    farm.ask(2, &["drain", "node1", "--persist"]).unwrap();
    let refused = |farm: &Farm<'_>| {
        for what in [&["open"][..], &["open", "all"]] {
            asks_in_vain(farm, 1, what, 1, "node1 is drained");
        }
        asks_in_vain(farm, 1, &["open"], 1, "`vipfarm undrain node1`");
    };
    refused(&farm);
    farm.ask(1, &["close"]).unwrap();
    refused(&farm);
    farm.stop_node(1).unwrap();
    farm.start_node(1, &[]).unwrap();
    eventually("it can be asked", || farm.status(1).is_ok());
    refused(&farm);
    farm.wait_converged(&[1, 2]).unwrap();
    refused(&farm);
    assert_eq!(shares(&farm), [0, 256]);
    farm.ask(1, &["undrain"]).unwrap();
    assert_eq!(shares(&farm), [128, 128]);

    farm.ask(1, &["power", "all", "node1=3"]).unwrap();
    for what in [&[][..], &["all"]] {
        farm.ask(1, &[&["close"], what].concat()).unwrap();
        assert_eq!(shares(&farm), [0, 256]);
        farm.ask(1, &[&["open"], what].concat()).unwrap();
        assert_eq!(shares(&farm), [192, 64], "the power that it had");
    }
    farm.stop().unwrap();
}

/// A program that writes down what it is told, for each node.
fn recorder(lab: &Lab) -> (String, impl Fn(usize) -> Vec<String>) {
    recorder_of(lab, "$VIPFARM_HOOK $VIPFARM_STATE $VIPFARM_READY $VIPFARM_EPOCH $VIPFARM_ALIVE")
}

fn recorder_of(lab: &Lab, what: &str) -> (String, impl Fn(usize) -> Vec<String>) {
    let directory = lab.directory();
    let path = directory.join("hook");
    let text =
        format!("#!/bin/sh\necho \"{what}\" >> {}/$VIPFARM_NODE.told\n", directory.display());
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    let told = move |node: usize| {
        let text = fs::read_to_string(directory.join(format!("node{node}.told")));
        text.unwrap_or_default().lines().map(str::to_owned).collect()
    };
    (path.display().to_string(), told)
}

#[test]
fn hooks_are_told_of_each_view_and_when_the_node_serves() {
    let program = require!(skip::farm());
    let lab = lab("hooks", 2, 1);
    let (hook, told) = recorder(&lab);
    let hooks =
        format!("hooks: {{ on_view: {hook}, on_ready: [{hook}], on_closed: {hook} }}\nvips:");
    let mut farm = running(&lab, &program, &ONE_VIP.replace("vips:", &hooks));
    let last = |node: usize, of: &str| {
        told(node).into_iter().rfind(|line| line.starts_with(of)).unwrap_or_default()
    };
    let in_view = |farm: &Farm<'_>, alive: &str| {
        format!("on_view up yes {} {alive}", farm.status(1).unwrap().epoch)
    };
    eventually("the first views are told", || {
        last(1, "on_view") == in_view(&farm, "node1 node2") && !last(1, "on_ready").is_empty()
    });
    farm.ask(2, &["power", "all", "node2=3"]).unwrap();
    eventually("another view is told", || last(1, "on_view") == in_view(&farm, "node1 node2"));
    farm.kill(2).unwrap();
    farm.wait_converged(&[1]).unwrap();
    eventually("a loss is told", || last(1, "on_view") == in_view(&farm, "node1"));
    farm.start_node(2, &[]).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();

    let count = |of: &str| told(1).iter().filter(|line| line.starts_with(of)).count();
    // Its lease may have lapsed for an instant when the other one died.
    eventually("that it serves is told", || count("on_ready") == count("on_closed") + 1);
    let before = count("on_ready");
    farm.ask(1, &["close"]).unwrap();
    eventually("that it is closed is told", || count("on_closed") == before);
    farm.ask(1, &["open"]).unwrap();
    eventually("that it is open is told", || count("on_ready") == before + 1);
    farm.stop().unwrap();
    assert_eq!((count("on_ready"), count("on_closed")), (before + 1, before + 1), "{:?}", told(1));
}

/// Two VIPs, of which each node has one.
const ONE_EACH: &str = "vips:
  - interface: eth0
    mode: failover
    addresses: [10.77.0.100/16]
    priorities: { node1: 2, node2: 1 }
  - interface: eth0
    mode: failover
    addresses: [10.77.0.101/16]
    priorities: { node1: 1, node2: 2 }
";

#[test]
fn hooks_are_told_which_vips_the_node_has() {
    let program = require!(skip::farm());
    let lab = lab("notified", 2, 1);
    let (hook, told) = recorder_of(&lab, "$VIPFARM_HOOK: $VIPFARM_VIPS ($VIPFARM_GROUPS)");
    let hooks = format!("hooks: {{ on_view: {hook}, on_closed: {hook} }}\nvips:");
    let mut farm = running(&lab, &program, &ONE_EACH.replace("vips:", &hooks));
    let last = |node: usize| {
        told(node).into_iter().rfind(|line| line.starts_with("on_view")).unwrap_or_default()
    };
    let has = |node: usize, vips: &str| {
        eventually(&format!("node{node} is told that it has {vips}"), || {
            last(node) == format!("on_view: {vips} ({vips})")
        });
    };
    has(1, "10.77.0.100");
    has(2, "10.77.0.101");
    farm.ask(1, &["move", "10.77.0.101", "node1"]).unwrap();
    has(1, "10.77.0.100 10.77.0.101");
    has(2, "");
    farm.ask(1, &["move", "10.77.0.101", "--back"]).unwrap();
    has(1, "10.77.0.100");
    has(2, "10.77.0.101");
    farm.stop().unwrap();
    let closed = told(1).into_iter().rfind(|line| line.starts_with("on_closed"));
    assert_eq!(closed.as_deref(), Some("on_closed:  ()"));
}

#[test]
fn a_hook_that_hangs_or_is_not_there_holds_nobody_up() {
    let program = require!(skip::farm());
    let lab = lab("badhooks", 2, 1);
    let hooks =
        "hooks: { on_view: [/bin/sleep, '1000'], on_ready: /nowhere/ready, timeout: 500ms }\nvips:";
    let begin = Instant::now();
    let mut farm = running(&lab, &program, &ONE_VIP.replace("vips:", hooks));
    eventually("both are told of", || {
        let failed: Vec<_> =
            events(&farm, 1).into_iter().filter(|it| it.kind == "hook_failed").collect();
        let says = |words: &str| failed.iter().any(|event| event.message.contains(words));
        says("killed after 500ms") && says("cannot run /nowhere/ready")
    });
    farm.ask(1, &["power", "all", "node1=2"]).unwrap();
    assert!(!has_event(&farm, 1, "stall") && !has_event(&farm, 2, "node_lost"));
    farm.stop().unwrap();
    println!("all of it took {:?}", begin.elapsed());
}

/// Asks a node's agent by HTTP, from the client.
fn ask(lab: &Lab, node: usize, line: &str) -> String {
    let address = SocketAddr::from((lab.node(node).address(), 9010));
    let client = lab.client(1);
    let Ok(mut stream) = client.in_ns(|| TcpStream::connect_timeout(&address, PATIENCE)) else {
        return String::new();
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{line} HTTP/1.1\r\nhost: farm\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn status_of(lab: &Lab, node: usize, path: &str) -> Option<u16> {
    let answer = ask(lab, node, &format!("GET {path}"));
    answer.split(' ').nth(1)?.parse().ok()
}

const LISTENING: &str =
    "http: { listen: ['10.77.0.11:9010', '10.77.0.12:9010'], safekit_module: farm }\nvips:";

#[test]
fn balancers_outside_the_farm_see_by_http_whether_a_node_is_ready() {
    let program = require!(skip::farm());
    let lab = lab("ready", 2, 1);
    let mut farm = running(&lab, &program, &ONE_VIP.replace("vips:", LISTENING));
    let safekit = "/var/modules/farm/ready.txt";
    let is = |node: usize, path: &str, code: u16| {
        eventually(&format!("{path} of node{node} is {code}"), || {
            status_of(&lab, node, path) == Some(code)
        });
    };
    for path in ["/ready", "/ready/all", "/ready/10.77.0.100", safekit, "/metrics", "/status"] {
        is(1, path, 200);
        is(2, path, 200);
    }
    assert!(ask(&lab, 1, "GET /ready").ends_with("\r\n\r\nUP\n"));
    for request in ["POST /v1/power", "GET /v1/power", "POST /v1/open", "GET /v1/events"] {
        assert!(ask(&lab, 1, request).starts_with("HTTP/1.1 404 "), "{request}");
    }
    assert!(ask(&lab, 1, "POST /ready").starts_with("HTTP/1.1 405 "));

    for (close, open) in [("close", "open"), ("drain", "undrain")] {
        farm.ask(1, &[close]).unwrap();
        for path in ["/ready", "/ready/all", "/ready/10.77.0.100", safekit] {
            assert_eq!(status_of(&lab, 1, path), Some(404), "{path} after {close}");
        }
        assert_eq!(status_of(&lab, 2, "/ready"), Some(200));
        farm.ask(1, &[open]).unwrap();
        is(1, "/ready", 200);
    }
    farm.freeze(2, true).unwrap();
    farm.wait_converged(&[1]).unwrap();
    farm.freeze(2, false).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    is(2, "/ready", 200);

    farm.stop_node(1).unwrap();
    assert_eq!(status_of(&lab, 1, "/ready"), None, "nobody listens");
    assert_eq!(status_of(&lab, 2, "/ready"), Some(200));
    farm.stop().unwrap();
}

#[test]
fn a_thousand_connections_that_say_nothing_hurt_neither_the_farm_nor_who_asks() {
    let program = require!(skip::farm());
    let lab = lab("slowloris", 2, 1);
    let mut farm = running(&lab, &program, &ONE_VIP.replace("vips:", LISTENING));
    let before = farm.status(1).unwrap().epoch;
    let address = SocketAddr::from((lab.node(1).address(), 9010));
    let idle: Vec<_> = lab.client(1).in_ns(|| {
        let connect = |number: usize| {
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
            // Half of them begin a request that they will not end.
            if number.is_multiple_of(2) {
                let _ = stream.write_all(b"GET /ready HTTP/1.1\r\nhost:");
            }
            stream
        };
        (0..1000).map(connect).collect()
    });
    let begin = Instant::now();
    assert_eq!(status_of(&lab, 1, "/ready"), Some(200));
    println!("answered in {:?} beside {} others", begin.elapsed(), idle.len());
    assert!(begin.elapsed() < Duration::from_secs(4), "it does not wait for them");
    let directory = format!("/proc/{}/fd", farm.agent(1).unwrap().id());
    let open = || fs::read_dir(&directory).unwrap().count();
    eventually("the agent has closed most of them", || open() < 250);
    for node in all(&lab) {
        assert!(!has_event(&farm, node, "lease_lapsed") && !has_event(&farm, node, "node_lost"));
    }
    assert_eq!(farm.status(1).unwrap().epoch, before);
    for stream in idle {
        let _ = stream.shutdown(Shutdown::Both);
    }
    farm.stop().unwrap();
}
