//! What an agent refuses to start on: its exit code, words that name the fix, and nothing left.

use std::{
    fs::{self, Permissions},
    net::{Ipv4Addr, UdpSocket},
    os::unix::fs::{PermissionsExt, chown},
    process::Command,
};

use vipfarm_lab::{Farm, Footprint, Frame, farm::exit_code_and_words, lab::VIP, require, skip};

use crate::{ONE_VIP, lab, running, wire};

/// The port of the heartbeats.
const PORT: u16 = vipfarm::model::DEFAULT_PORT;

/// Runs an agent on node 1 that must refuse: with that exit code and these words, and the node is
/// as it was.
pub(crate) fn refuses(farm: &Farm<'_>, command: &mut Command, code: i32, words: &[&str]) {
    let before = farm.footprint(1).unwrap();
    let (ended, said) = exit_code_and_words(command).unwrap();
    assert_eq!(ended, Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
    assert!(!said.contains("panicked") && !said.contains("RUST_BACKTRACE"), "{said}");
    assert_eq!(farm.footprint(1).unwrap(), before, "after: {said}");
}

/// As [`refuses`], with another configuration.
fn refuses_config(farm: &mut Farm<'_>, edit: impl Fn(&str) -> String, words: &[&str]) {
    farm.give_own_config(1, edit).unwrap();
    refuses(farm, &mut farm.agent_command(1), 2, words);
    farm.give_own_config(1, str::to_owned).unwrap();
}

#[test]
fn a_wrong_configuration_is_refused_with_all_its_errors_and_their_places() {
    let program = require!(skip::farm());
    let lab = lab("wrong", 2, 1);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let swap = |from: &'static str, to: &'static str| {
        move |yaml: &str| {
            assert!(yaml.contains(from), "{yaml}");
            yaml.replace(from, to)
        }
    };
    refuses_config(
        &mut farm,
        |yaml| {
            let yaml = swap("proto: tcp, filter: on_port", "proto: tcp, filter: on_ipid")(yaml);
            swap("port: 7000", "port: 70000, color: red")(&yaml)
        },
        &["farm-1.yaml:12:45:", "farm-1.yaml:13:21:", "3 errors", "on_ipid", "70000", "color"],
    );
    refuses_config(&mut farm, |_| "farm: [".into(), &["farm-1.yaml:1:"]);
    refuses_config(&mut farm, swap("eth0", "eth7"), &["no interface `eth7`", "eth0", "lo"]);
    refuses_config(
        &mut farm,
        swap("10.77.0.100/16", "10.78.0.100/16"),
        &["wrong subnet: 10.78.0.0/16 does not contain", "correct its prefix length"],
    );
    refuses_config(&mut farm, swap("eth0", "lo"), &["outside the subnets of lo"]);
    refuses_config(
        &mut farm,
        swap("[10.77.0.11]", "[10.77.0.99]"),
        &["node1's first address 10.77.0.99 is not on this machine"],
    );

    let mut command = lab.node(1).command(&program);
    command.args(["agent", "--node", "node9", "-c"]).arg(farm.config(1));
    command.arg("--run-dir").arg(farm.run_directory(1)).arg("--bpf-dir").arg(farm.bpf_directory(1));
    command.arg("--state-dir").arg(farm.state_directory(1));
    refuses(&farm, &mut command, 2, &["no node `node9`", "node1, node2"]);

    lab.node(1).run("ip link set eth0 down").unwrap();
    refuses(&farm, &mut farm.agent_command(1), 2, &["eth0 is down", "ip link set eth0 up"]);
    lab.node(1).run("ip link set eth0 up").unwrap();
}

#[test]
fn an_unusable_key_is_refused() {
    let program = require!(skip::farm());
    let lab = lab("key", 2, 1);
    let farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let key = farm.key();
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    refuses(&farm, &mut farm.agent_command(1), 2, &["mode 0644", "chmod 600", "farm.yaml:2:"]);
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    fs::write(&key, "no key\n").unwrap();
    refuses(&farm, &mut farm.agent_command(1), 2, &["64 hex digits", "name the file"]);
    fs::remove_file(&key).unwrap();
    refuses(&farm, &mut farm.agent_command(1), 2, &["does not exist", "vipfarm keygen"]);
}

#[test]
fn a_node_without_what_the_agent_needs_is_left_as_it_was() {
    let program = require!(skip::farm());
    let object = require!(skip::lab_object());
    let lab = lab("needs", 2, 1);
    let farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let node = lab.node(1);

    let place = lab.directory().join("no-bpffs");
    let mut command = node.command(&program);
    command.args(["agent", "--node", "node1", "-c"]).arg(farm.config(1));
    command.arg("--run-dir").arg(farm.run_directory(1)).arg("--bpf-dir").arg(&place);
    command.arg("--state-dir").arg(farm.state_directory(1));
    refuses(&farm, &mut command, 1, &["not on a BPF file system", "mount -t bpf"]);
    assert!(!place.exists(), "a directory was left");

    let other = node.occupy_xdp(&object).unwrap();
    let words = ["another XDP program is attached to eth0", "xdp off", "bpftool net"];
    refuses(&farm, &mut farm.agent_command(1), 1, &words);
    assert!(farm.footprint(1).unwrap().xdp.is_some(), "the other program is still there");
    drop(other);

    let in_use = node.in_ns(|| UdpSocket::bind((node.address(), PORT))).unwrap();
    let words = [&format!("UDP port {PORT} is in use on 10.77.0.11"), "ss -ulpn"];
    refuses(&farm, &mut farm.agent_command(1), 1, &words);
    drop(in_use);

    fs::create_dir_all(farm.run_directory(1)).unwrap();
    let file = farm.run_directory(1).join("test.sock");
    fs::write(&file, "not a socket").unwrap();
    refuses(&farm, &mut farm.agent_command(1), 1, &["control socket", "not a socket"]);
    fs::remove_file(&file).unwrap();

    // The disturbances gone, it runs.
    let mut farm = farm;
    farm.start_node(1, &[]).unwrap();
    farm.wait_converged(&[1]).unwrap();
}

#[test]
fn an_agent_without_the_rights_it_needs_says_which() {
    const NOBODY: u32 = 65_534;
    let program = require!(skip::farm());
    let lab = lab("rights", 2, 1);
    let farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let (run, state) = (farm.run_directory(1), farm.state_directory(1));
    fs::create_dir_all(&run).unwrap();
    fs::create_dir_all(&state).unwrap();
    for theirs in [&run, &state, &farm.key()] {
        chown(theirs, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let agent = farm.agent_command(1);
    let mut command = lab.node(1).command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]);
    command.arg(agent.get_program()).args(agent.get_args());
    refuses(&farm, &mut command, 1, &["not permitted", "as root", "CAP_BPF"]);
}

#[test]
fn a_second_agent_on_a_node_is_refused_and_the_first_goes_on_unharmed() {
    let program = require!(skip::farm());
    let lab = lab("second", 2, 1);
    let mut farm = running(&lab, &program, ONE_VIP);
    let unharmed: Footprint = farm.footprint(1).unwrap();
    let first = farm.agent(1).unwrap().id();
    let words = [&format!("an agent of farm `test` already runs here (pid {first})"), "stop it"];
    refuses(&farm, &mut farm.agent_command(1), 1, &words);

    let elsewhere = |farm: &Farm<'_>| {
        let mut command = lab.node(1).command(&program);
        command.args(["agent", "--node", "node1", "-c"]).arg(farm.config(1));
        command.arg("--run-dir").arg(lab.directory().join("run-2"));
        command.arg("--state-dir").arg(lab.directory().join("state-2"));
        command.arg("--bpf-dir").arg(lab.bpf_directory().join("2"));
        command
    };
    // In directories of its own it finds the port or the VIP in use.
    let (code, words) = exit_code_and_words(&mut elsewhere(&farm)).unwrap();
    let in_use = words.contains("in use on 10.77.0.11") || words.contains("10.77.0.100 is an");
    assert!(matches!(code, Some(1 | 2)) && in_use, "{code:?} {words}");
    assert_eq!(farm.footprint(1).unwrap(), unharmed, "{words}");

    // Another farm on the same interface: elsewhere, and, as the defaults would have it, in the same
    // directories.
    let other_farm = |yaml: &str| {
        let port = format!("membership: {{ port: {} }}\nnodes:", PORT + 1);
        yaml.replace("farm: test", "farm: other").replace("nodes:", &port)
    };
    farm.give_own_config(1, |yaml| other_farm(yaml).replace("10.77.0.100", "10.77.0.150")).unwrap();
    refuses(&farm, &mut elsewhere(&farm), 1, &["another XDP program is attached to eth0"]);
    let words = ["farm test has VIPs on eth0 already", "in one file"];
    refuses(&farm, &mut farm.agent_command(1), 1, &words);
    let words = ["another agent filters eth0", "in one file"];
    refuses(&farm, &mut farm.down_command(1), 1, &words);
    // With the same VIP: above all it must not be taken back by the one that has not added it.
    farm.give_own_config(1, other_farm).unwrap();
    for mut command in [elsewhere(&farm), farm.agent_command(1), farm.down_command(1)] {
        let (code, words) = exit_code_and_words(&mut command).unwrap();
        assert!(matches!(code, Some(1 | 2)) && words.contains("eth0"), "{code:?} {words}");
        assert_eq!(farm.footprint(1).unwrap(), unharmed, "{words}");
    }
    for left in [lab.bpf_directory().join("2"), lab.directory().join("run-2/other.undo.json")] {
        assert!(!left.exists(), "{} was left", left.display());
    }
    farm.wait_converged(&[1, 2]).unwrap();
    farm.stop_node(1).unwrap();
}

#[test]
fn a_farm_is_refused_where_another_ones_agent_has_crashed() {
    let program = require!(skip::farm());
    let lab = lab("crashed", 2, 1);
    let mut farm = running(&lab, &program, ONE_VIP);
    farm.kill(1).unwrap();
    farm.wait_converged(&[2]).unwrap();
    farm.give_own_config(1, |yaml| {
        let port = format!("membership: {{ port: {} }}\nnodes:", PORT + 1);
        let yaml = yaml.replace("farm: test", "farm: other").replace("nodes:", &port);
        yaml.replace("10.77.0.100", "10.77.0.150")
    })
    .unwrap();
    let words = ["farm test has VIPs on eth0 already", "`vipfarm down` with its file"];
    refuses(&farm, &mut farm.agent_command(1), 1, &words);
    let client = lab.client(1);
    let request = |i| Frame::arp_request(client.mac(), Ipv4Addr::new(10, 77, 9, i), VIP).bytes();
    let replies = wire::arp_replies(client, &(0..50).map(request).collect::<Vec<_>>());
    let by_survivor = replies.iter().filter(|reply| reply.mac == lab.node(2).mac()).count();
    assert_eq!((replies.len(), by_survivor), (50, 50), "the dead agent's node stays fenced");

    farm.give_own_config(1, str::to_owned).unwrap();
    farm.start_node(1, &[]).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
}
