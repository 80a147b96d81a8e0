//! The lab itself: that it isolates, measures and cleans up as it says.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::{IpAddr, UdpSocket},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use vipfarm::model::Mac;
use vipfarm_lab::{
    Captured, Direction, Frame, Host, Lab, Topology, lab::VIP, process::Signal, require, skip,
};

const SOON: Duration = Duration::from_secs(2);

fn netns_exists(id: &str) -> bool {
    std::fs::read_dir("/run/netns")
        .unwrap()
        .any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with(id))
}

fn is_mounted(path: &Path) -> bool {
    std::fs::read_to_string("/proc/self/mounts").unwrap().contains(&path.display().to_string())
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "it did not happen within {SOON:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a frame that the client sends reaches the node.
fn a_frame_arrives(lab: &Lab, payload: &[u8]) -> bool {
    a_frame_passes(lab.client(1), lab.node(1), payload)
}

fn a_frame_passes(from: &Host, to: &Host, payload: &[u8]) -> bool {
    let incoming = |frame: &Captured| frame.direction == Direction::Incoming;
    let arrived = to.capture_if(incoming).unwrap();
    let frame = Frame::udp((from.address(), 9), (to.address(), 9), payload);
    from.inject(&frame.macs(from.mac(), to.mac()).bytes()).unwrap();
    arrived.wait_for(Duration::from_millis(200), |frame| frame.bytes.ends_with(payload)).is_some()
}

/// A process of its own, for what must happen in one.
const CHILD: &str = env!("CARGO_BIN_EXE_lab-child");

#[test]
fn labs_made_at_once_have_names_and_networks_of_their_own() {
    require!(skip::lab());
    let make = || Lab::new("twin", &Topology::new(1, 1)).unwrap();
    let labs = thread::scope(|scope| {
        let makers: Vec<_> = (0..3).map(|_| scope.spawn(make)).collect();
        makers.into_iter().map(|maker| maker.join().unwrap()).collect::<Vec<_>>()
    });
    for lab in &labs {
        assert_eq!(labs.iter().filter(|other| other.id() == lab.id()).count(), 1);
        let others: Vec<_> = labs.iter().filter(|other| other.id() != lab.id()).collect();
        let heard: Vec<_> = others.iter().map(|other| other.node(1).capture().unwrap()).collect();
        assert!(a_frame_arrives(lab, b"only here"));
        for capture in heard {
            assert!(!capture.stop().iter().any(|frame| frame.bytes.ends_with(b"only here")));
        }
    }
}

#[test]
fn hosts_reach_each_other_and_the_switch_learns_them() {
    require!(skip::lab());
    let lab = Lab::new("reach", &Topology::new(2, 1)).unwrap();
    assert!(a_frame_arrives(&lab, b"hello"));
    let fdb = lab.fdb().unwrap();
    let client = lab.client(1);
    let port = fdb.iter().find(|entry| entry.mac == client.mac()).map(|entry| &*entry.port);
    assert_eq!(port, Some("client1"), "{fdb:?}");
}

#[test]
fn a_panic_leaves_no_namespace_mount_directory_or_child() {
    require!(skip::lab());
    let (sender, receiver) = std::sync::mpsc::channel();
    let panicked = thread::spawn(move || {
        let lab = Lab::new("panic", &Topology::new(1, 1)).unwrap();
        let mut sleep = lab.node(1).command("sleep");
        sleep.arg("1000");
        let process = lab.node(1).spawn("sleep", sleep).unwrap();
        assert!(netns_exists(lab.id()) && is_mounted(&lab.bpf_directory()));
        sender.send((lab.id().to_owned(), lab.directory(), process.id())).unwrap();
        panic!("on purpose");
    })
    .join();
    assert!(panicked.is_err());
    let (id, directory, pid) = receiver.recv().unwrap();
    assert!(!netns_exists(&id));
    assert!(!is_mounted(&directory) && !directory.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_killed_run_is_swept_by_the_next_lab() {
    require!(skip::lab());
    let mut run = Command::new(CHILD).arg("victim").stdout(Stdio::piped()).spawn().unwrap();
    let output = std::io::BufReader::new(run.stdout.take().unwrap());
    let told = std::io::BufRead::lines(output)
        .map(Result::unwrap)
        .find_map(|line| line.split_once("victim vfl").map(|(_, rest)| format!("vfl{rest}")))
        .unwrap();
    let [id, pid, directory] = told.split(' ').collect::<Vec<_>>()[..] else { panic!("{told}") };
    run.kill().unwrap();
    run.wait().unwrap();
    assert!(netns_exists(id), "a killed process cleans nothing up");

    let survivor = Lab::new("survivor", &Topology::new(1, 0)).unwrap();
    assert!(!netns_exists(id));
    assert!(!Path::new(directory).exists() && !is_mounted(Path::new(directory)));
    // Nobody reaps the orphan here: gone or a zombie is the same.
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
    assert!(netns_exists(survivor.id()), "a living lab is not swept");
}

#[test]
fn a_cut_is_silent_and_heals() {
    require!(skip::lab());
    let lab = Lab::new("cut", &Topology::new(1, 1)).unwrap();
    let node = lab.node(1);
    assert!(a_frame_arrives(&lab, b"before"));
    node.cut().unwrap();
    assert!(!a_frame_arrives(&lab, b"during"));
    assert!(node.run("ip link show eth0").unwrap().contains("LOWER_UP"), "the carrier stays");
    node.heal().unwrap();
    assert!(a_frame_arrives(&lab, b"after"));
}

#[test]
fn a_deaf_host_loses_what_one_other_sends_and_nothing_else() {
    require!(skip::lab());
    let lab = Lab::new("deaf", &Topology::new(3, 1)).unwrap();
    let (deaf, unheard) = (lab.node(1), lab.node(2));
    deaf.deafen(unheard).unwrap();
    deaf.deafen(lab.node(3)).unwrap();
    assert!(!a_frame_passes(unheard, deaf, b"unheard"));
    assert!(!a_frame_passes(lab.node(3), deaf, b"nor this"));
    assert!(a_frame_passes(deaf, unheard, b"the other way"));
    assert!(a_frame_passes(unheard, lab.node(3), b"elsewhere"));
    assert!(a_frame_passes(lab.client(1), deaf, b"from others"));
    deaf.undeafen().unwrap();
    assert!(a_frame_passes(unheard, deaf, b"after"));
}

#[test]
fn a_split_parts_the_hosts_of_two_switches_silently() {
    require!(skip::lab());
    let lab = Lab::new("split", &Topology::new(2, 1)).unwrap();
    let (here, there) = (lab.node(1), lab.node(2));
    lab.add_switch(&[there]).unwrap();
    assert!(a_frame_passes(here, there, b"before"));
    lab.split().unwrap();
    assert!(!a_frame_passes(here, there, b"during"));
    assert!(a_frame_passes(lab.client(1), here, b"on one side"));
    assert!(there.run("ip link show eth0").unwrap().contains("LOWER_UP"), "the carrier stays");
    lab.unite().unwrap();
    assert!(a_frame_passes(here, there, b"after"));
}

#[test]
fn a_pulled_cable_is_seen_by_the_node_and_comes_back() {
    require!(skip::lab());
    let lab = Lab::new("cable", &Topology::new(1, 1)).unwrap();
    let node = lab.node(1);
    node.link_down().unwrap();
    assert!(node.run("ip link show eth0").unwrap().contains("NO-CARRIER"));
    node.link_up().unwrap();
    assert!(node.run("ip link show eth0").unwrap().contains("LOWER_UP"));
    assert!(a_frame_arrives(&lab, b"after"));
}

#[test]
fn the_wire_and_the_node_record_the_same_frame_with_its_tag() {
    require!(skip::lab());
    let lab = Lab::new("wire", &Topology::new(1, 1)).unwrap();
    let (client, node) = (lab.client(1), lab.node(1));
    let tagged = Frame::udp((client.address(), 9), (node.address(), 9), b"tagged").vlan(10);
    let frame = tagged.macs(client.mac(), node.mac()).bytes();
    let (wire, inside) = (node.capture_on_wire().unwrap(), node.capture().unwrap());
    client.inject(&frame).unwrap();
    let on_wire = wire.wait_for(SOON, |seen| seen.bytes.ends_with(b"tagged")).unwrap();
    let at_node = inside.wait_for(SOON, |seen| seen.bytes.ends_with(b"tagged")).unwrap();
    assert_eq!((on_wire.direction, &on_wire.bytes), (Direction::Outgoing, &frame));
    assert_eq!((at_node.direction, &at_node.bytes), (Direction::Incoming, &frame));
    assert!(on_wire.at <= at_node.at);

    let path = lab.directory().join("wire.pcap");
    wire.write_pcap(&path).unwrap();
    let pcap = std::fs::read(path).unwrap();
    assert_eq!(pcap[..4], [0x4d, 0x3c, 0xb2, 0xa1]);
    assert!(pcap.windows(frame.len()).any(|window| window == frame));
}

#[test]
fn a_filter_decides_what_is_recorded_and_stop_loses_nothing() {
    require!(skip::lab());
    let lab = Lab::new("filter", &Topology::new(1, 1)).unwrap();
    let (client, node) = (lab.client(1), lab.node(1));
    let keep =
        |frame: &Captured| frame.direction == Direction::Incoming && frame.bytes.ends_with(b"keep");
    let capture = node.capture_if(keep).unwrap();
    for payload in [b"keep", b"drop", b"keep", b"keep"] {
        let frame = Frame::udp((client.address(), 9), (node.address(), 9), payload);
        client.inject(&frame.macs(client.mac(), node.mac()).bytes()).unwrap();
    }
    assert_eq!(capture.stop().len(), 3);
}

#[test]
fn a_socket_made_inside_a_namespace_works_outside_of_it() {
    require!(skip::lab());
    let lab = Lab::new("socket", &Topology::new(1, 1)).unwrap();
    let (client, node) = (lab.client(1), lab.node(1));
    let receiver = node.in_ns(|| UdpSocket::bind((node.address(), 7000))).unwrap();
    receiver.set_read_timeout(Some(SOON)).unwrap();
    let sender = client.in_ns(|| UdpSocket::bind((client.address(), 0))).unwrap();
    sender.send_to(b"across", receiver.local_addr().unwrap()).unwrap();
    let mut buffer = [0; 16];
    let (length, from) = receiver.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"across");
    assert_eq!(from, sender.local_addr().unwrap());
    let neighbour = client.neighbour(IpAddr::V4(node.address())).unwrap();
    assert_eq!(neighbour, Some(node.mac()));
    assert!(UdpSocket::bind((node.address(), 7000)).is_err(), "that address exists only inside");
}

#[test]
fn a_neighbour_entry_can_be_set_and_read() {
    require!(skip::lab());
    let lab = Lab::new("neighbour", &Topology::new(1, 1)).unwrap();
    let vmac = Mac::of_vip(VIP);
    assert_eq!(lab.client(1).neighbour(VIP.into()).unwrap(), None);
    lab.client(1).set_neighbour(VIP.into(), vmac).unwrap();
    assert_eq!(lab.client(1).neighbour(VIP.into()).unwrap(), Some(vmac));
}

#[test]
fn a_child_runs_in_its_namespace_and_hears_signals() {
    require!(skip::lab());
    let lab = Lab::new("child", &Topology::new(1, 0)).unwrap();
    let node = lab.node(1);
    let script = "trap 'echo told to stop; exit 0' TERM; ip -br addr show eth0; while :; do sleep 0.05; done";
    let mut shell = node.command("sh");
    shell.args(["-c", script]);
    let mut process = node.spawn("shell", shell).unwrap();
    wait_until(|| !process.last_lines(1).is_empty());
    assert!(process.last_lines(1)[0].contains(&node.address().to_string()));
    process.signal(Signal::SIGSTOP).unwrap();
    let stat = format!("/proc/{}/stat", process.id());
    wait_until(|| std::fs::read_to_string(&stat).unwrap().contains(") T "));
    process.signal(Signal::SIGCONT).unwrap();
    process.stop(SOON).unwrap();
    assert_eq!(process.last_lines(1), ["told to stop"]);
    assert!(process.signal(Signal::SIGTERM).is_err(), "an ended process gets no signals");
}

#[test]
fn a_failing_command_says_what_failed_where() {
    require!(skip::lab());
    let lab = Lab::new("fails", &Topology::new(1, 0)).unwrap();
    let error = format!("{:#}", lab.node(1).run("ip link show nothing0").unwrap_err());
    assert!(error.contains("node1") && error.contains("nothing0"), "{error}");
}

#[test]
fn programs_on_switch_ports_pass_or_lose_frames() {
    require!(skip::lab());
    let object = require!(skip::lab_object());
    let lab = Lab::new("ports", &Topology::new(1, 1)).unwrap();
    lab.pass_on_switch_ports(&object).unwrap();
    assert!(a_frame_arrives(&lab, b"passes"));
    lab.lose_on_switch_ports(&object, 1.0).unwrap();
    assert!(!a_frame_arrives(&lab, b"is lost"));
    lab.clear_switch_ports();
    assert!(a_frame_arrives(&lab, b"passes again"));
}

#[test]
fn a_missing_object_is_an_error_that_names_the_fix() {
    require!(skip::lab());
    let lab = Lab::new("object", &Topology::new(1, 0)).unwrap();
    let error = lab.pass_on_switch_ports(Path::new("/nowhere/lab-bpf")).unwrap_err();
    assert!(format!("{error:#}").contains("cargo xtask build"), "{error:#}");
}

#[test]
fn a_skipped_test_is_recorded_and_fails_in_ci() {
    let record = std::env::temp_dir().join(format!("skips-{}", std::process::id()));
    let run = |ci: &str| {
        Command::new(CHILD)
            .arg("skipper")
            .env("VIPFARM_SKIPS", &record)
            .env("CI", ci)
            .output()
            .unwrap()
    };
    let skipped = run("");
    assert!(skipped.status.success());
    assert!(String::from_utf8_lossy(&skipped.stdout).contains("SKIPPED skipper: on purpose"));
    assert!(!run("true").status.success());
    assert_eq!(std::fs::read_to_string(&record).unwrap(), "skipper: on purpose\n".repeat(2));
    std::fs::remove_file(record).unwrap();
}
