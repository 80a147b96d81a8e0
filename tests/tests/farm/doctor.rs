//! `vipfarm doctor` on nodes where something is wrong, and on one where nothing is; and what an agent
//! says of it when it starts.

use std::process::Command;

use serde::Deserialize;
use vipfarm_lab::{Farm, Frame, farm::exit_code_and_words, lab::VIP, require, skip, tcx};

use crate::{ONE_VIP, events, lab, running, wire};

#[derive(Debug, Deserialize)]
struct Diagnosis {
    agent: bool,
    findings: Vec<Finding>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Finding {
    check: String,
    subject: Option<String>,
    severity: String,
    why: String,
    fix: Option<String>,
}

impl Diagnosis {
    /// What is not well.
    fn wrong(&self) -> Vec<(&str, &str)> {
        let wrong = self.findings.iter().filter(|it| it.severity != "ok");
        wrong.map(|it| (it.check.as_str(), it.severity.as_str())).collect()
    }
}

/// `vipfarm doctor` on node 1.
fn command(farm: &Farm<'_>, program: &std::path::Path) -> Command {
    let mut command = farm.lab().node(1).command(program);
    command.args(["doctor", "--json", "-c"]).arg(farm.config(1));
    command.arg("--run-dir").arg(farm.run_directory(1));
    command.arg("--bpf-dir").arg(farm.bpf_directory(1));
    command
}

/// Its exit code and what it finds.
fn asked(command: &mut Command) -> (i32, Diagnosis) {
    let (code, said) = exit_code_and_words(command).unwrap();
    (code.unwrap(), serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}")))
}

#[test]
fn each_disturbance_is_found_with_its_fix_and_nothing_else_is() {
    let program = require!(skip::farm());
    let object = require!(skip::lab_object());
    let lab = lab("doctor", 2, 1);
    let farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let node = lab.node(1);
    let before = farm.footprint(1).unwrap();
    let (code, healthy) = asked(&mut command(&farm, &program));
    assert_eq!((code, healthy.wrong(), healthy.agent), (0, vec![], false), "{healthy:?}");
    let xdp = healthy.findings.iter().find(|it| it.check == "xdp").unwrap();
    assert!(xdp.why.contains("driver veth: native XDP"), "{xdp:?}");

    // What is set, the finding, a part of its fix.
    let all = "net/ipv4/conf/all";
    let eth0 = "net/ipv4/conf/eth0";
    for (sysctl, value, normal, check, severity, fix) in [
        (format!("{all}/rp_filter"), "1", "0", "rp_filter", "warning", "eth0.rp_filter=2"),
        (format!("{eth0}/proxy_arp"), "1", "0", "proxy_arp", "warning", "eth0.proxy_arp=0"),
        (format!("{eth0}/proxy_arp_pvlan"), "1", "0", "proxy_arp", "warning", "proxy_arp_pvlan=0"),
        (format!("{all}/arp_filter"), "1", "0", "arp_filter", "warning", "all.arp_filter=0"),
        (format!("{all}/arp_ignore"), "8", "0", "arp_ignore", "error", "all.arp_ignore=1"),
    ] {
        node.set_sysctl(&sysctl, value).unwrap();
        let (code, found) = asked(&mut command(&farm, &program));
        assert_eq!(found.wrong(), [(check, severity)], "{sysctl}: {found:?}");
        assert_eq!(code, i32::from(severity == "error"), "{sysctl}");
        let finding = found.findings.iter().find(|it| it.check == check).unwrap();
        assert_eq!(finding.subject.as_deref(), Some("eth0"));
        assert!(finding.fix.as_ref().is_some_and(|it| it.contains(fix)), "{finding:?}");
        node.set_sysctl(&sysctl, normal).unwrap();
    }

    let other = node.occupy_xdp(&object).unwrap();
    let (code, found) = asked(&mut command(&farm, &program));
    assert_eq!((code, found.wrong()), (1, vec![("other_xdp", "error")]), "{found:?}");
    drop(other);

    node.run("ip link set eth0 down").unwrap();
    let (code, found) = asked(&mut command(&farm, &program));
    let fix = found.findings.iter().find_map(|it| it.fix.clone()).unwrap();
    assert!(code == 1 && fix.contains("ip link set eth0 up"), "{found:?}");
    node.run("ip link set eth0 up").unwrap();
    node.add_address(VIP.into(), 16).unwrap();
    let (code, found) = asked(&mut command(&farm, &program));
    assert_eq!((code, found.wrong()), (1, vec![("place", "error")]), "{found:?}");
    node.remove_address(VIP.into(), 16).unwrap();

    let (code, healthy) = asked(&mut command(&farm, &program));
    assert_eq!((code, healthy.wrong()), (0, vec![]), "{healthy:?}");
    assert_eq!(farm.footprint(1).unwrap(), before, "it changes nothing");
}

#[test]
fn a_program_before_the_farms_is_named() {
    let program = require!(skip::farm());
    let lab = lab("order", 1, 1);
    let farm = running(&lab, &program, ONE_VIP);
    let named = || {
        let (_, found) = asked(&mut command(&farm, &program));
        found.findings.into_iter().find(|it| it.check == "tc_order")
    };
    let behind = lab.node(1).in_ns(|| tcx::attach("eth0", false)).unwrap();
    assert_eq!(named(), None);
    let before = lab.node(1).in_ns(|| tcx::attach("eth0", true)).unwrap();
    let finding = named().unwrap();
    assert_eq!((finding.severity.as_str(), finding.subject.as_deref()), ("warning", Some("eth0")));
    assert!(finding.why.contains("stranger (ingress), stranger (egress)"), "{finding:?}");
    drop((behind, before));
}

#[test]
fn t22_a_bridge_that_would_keep_the_virtual_mac_to_itself_is_named() {
    let program = require!(skip::farm());
    let lab = lab("bridged", 1, 1);
    let node = lab.node(1);
    let farm = Farm::new(&lab, &program, "test", &ONE_VIP.replace("eth0", "br0")).unwrap();
    node.run("ip link add br0 type bridge").unwrap();
    node.run("ip link set eth0 master br0").unwrap();
    node.run("ip addr flush dev eth0").unwrap();
    node.run("ip link set br0 up").unwrap();
    node.run(&format!("ip addr add {}/16 dev br0", node.address())).unwrap();
    let (_, found) = asked(&mut command(&farm, &program));
    let finding = found.findings.iter().find(|it| it.check == "bridge").unwrap();
    assert_eq!((finding.severity.as_str(), finding.subject.as_deref()), ("warning", Some("br0")));
}

#[test]
fn rights_and_places_that_are_missing_are_found() {
    let program = require!(skip::farm());
    let lab = lab("poor", 2, 1);
    let farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let without = |rights: &str| {
        let doctor = command(&farm, &program);
        let mut command = lab.node(1).command("setpriv");
        command.arg(format!("--bounding-set={rights}")).arg(format!("--inh-caps={rights}"));
        command.arg(doctor.get_program()).args(doctor.get_args());
        asked(&mut command)
    };
    let (code, found) = without("-net_raw");
    assert_eq!((code, found.wrong()), (1, vec![("capabilities", "error")]), "{found:?}");
    let (code, found) = without("-ipc_lock");
    assert_eq!((code, found.wrong()), (0, vec![("memory", "warning")]), "{found:?}");
    let (code, found) = without("-sys_nice");
    assert_eq!((code, found.wrong()), (0, vec![("real_time", "warning")]), "{found:?}");
    let (code, found) = without("-bpf,-sys_admin");
    let checks = found.wrong();
    assert!(code == 1 && checks.contains(&("capabilities", "error")), "{found:?}");
    assert!(checks.contains(&("programs", "error")), "{found:?}");

    let mut elsewhere = lab.node(1).command(&program);
    elsewhere.args(["doctor", "--json", "-c"]).arg(farm.config(1));
    elsewhere.arg("--run-dir").arg(farm.run_directory(1));
    elsewhere.arg("--bpf-dir").arg(lab.directory().join("no-bpffs"));
    let (code, found) = asked(&mut elsewhere);
    assert_eq!((code, found.wrong()), (1, vec![("bpffs", "error")]), "{found:?}");
    std::fs::remove_file(farm.key()).unwrap();
    let (code, found) = asked(&mut command(&farm, &program));
    assert_eq!((code, found.wrong()), (1, vec![("key", "error")]), "{found:?}");
}

#[test]
fn what_checks_and_hooks_lack_is_found_and_a_wrong_node_is_no_fault_of_the_file() {
    let program = require!(skip::farm());
    let lab = lab("lacks", 1, 1);
    let farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let lacking = "checks: [{ exec: /nowhere/check }, { interface: eth7 }]\n\
                   hooks: { on_ready: /nowhere/ready }\nvips:";
    farm.edit(|text| text.replace("vips:", lacking)).unwrap();
    let (code, found) = asked(&mut command(&farm, &program));
    let wrong = vec![("check", "error"), ("check", "error"), ("hook", "warning")];
    assert_eq!((code, found.wrong()), (1, wrong), "{found:?}");
    let fix = |subject: &str| {
        let mut findings = found.findings.iter();
        findings.find(|it| it.subject.as_deref() == Some(subject)).and_then(|it| it.fix.clone())
    };
    assert!(fix("exec /nowhere/check").unwrap().contains("install /nowhere/check"));
    assert!(fix("interface eth7").unwrap().contains("this machine has lo, eth0"), "{found:?}");
    farm.edit(|text| text.replace(lacking, "vips:")).unwrap();
    let (code, found) = asked(command(&farm, &program).args(["--node", "zz"]));
    assert_eq!((code, found.wrong()), (1, vec![("place", "error")]), "{found:?}");
    let fixes: Vec<_> = found.findings.iter().filter_map(|it| it.fix.as_deref()).collect();
    assert_eq!(fixes, ["correct `--node`"]);
}

#[test]
fn t33_an_agent_says_what_doctor_says_of_answers_by_another_way_and_doctor_knows_the_agent() {
    let program = require!(skip::farm());
    let lab = lab("preflight", 2, 1);
    let node = lab.node(1);
    node.set_sysctl("net/ipv4/conf/eth0/rp_filter", "1").unwrap();
    let mut farm = running(&lab, &program, ONE_VIP);
    let told = events(&farm, 1);
    let told: Vec<_> = told.iter().filter(|event| event.kind == "preflight").collect();
    assert!(told.len() == 1 && told[0].message.contains("eth0.rp_filter=2"), "{told:?}");
    assert!(events(&farm, 2).iter().all(|event| event.kind != "preflight"));
    let (code, found) = asked(&mut command(&farm, &program));
    assert_eq!((code, found.wrong(), found.agent), (0, vec![("rp_filter", "warning")], true));
    let xdp = found.findings.iter().find(|it| it.check == "xdp").unwrap();
    assert!(xdp.why.contains("attached natively"), "{xdp:?}");
    farm.stop().unwrap();
}

/// What `arp_ignore` does is as bad as doctor says.
#[test]
fn a_node_that_answers_no_arp_request_is_what_doctor_says() {
    let program = require!(skip::farm());
    let lab = lab("mute", 1, 1);
    let node = lab.node(1);
    node.set_sysctl("net/ipv4/conf/all/arp_ignore", "8").unwrap();
    let mut farm = running(&lab, &program, ONE_VIP);
    let client = lab.client(1);
    let request = Frame::arp_request(client.mac(), client.address(), VIP).bytes();
    assert_eq!(wire::arp_replies(client, std::slice::from_ref(&request)), []);
    node.set_sysctl("net/ipv4/conf/all/arp_ignore", "1").unwrap();
    let replies = wire::arp_replies(client, &[request]);
    assert_eq!(replies.len(), 1, "by the fix");
    farm.stop().unwrap();
}

/// The file alone says what the agents agree on.
#[test]
fn what_was_planned_is_what_happens() {
    #[derive(Deserialize)]
    struct Outlook {
        groups: Vec<Group>,
    }
    #[derive(Deserialize)]
    struct Group {
        moved: usize,
        least: usize,
        nodes: Vec<Node>,
    }
    #[derive(Deserialize)]
    struct Node {
        node: String,
        after: Share,
    }
    #[derive(Deserialize)]
    struct Share {
        load: usize,
    }
    let program = require!(skip::farm());
    let lab = lab("planned", 3, 1);
    let vips = ONE_VIP.replace(
        "      - name: all\n",
        "      - name: all\n        powers: { node1: 2, node2: 3, node3: 1 }\n",
    );
    let mut farm = running(&lab, &program, &vips);
    let mut command = farm.command("plan");
    command
        .args(["--json", "--down", "node3", "--power", "all", "node1=5", "-c"])
        .arg(farm.config(1));
    let (code, said) = exit_code_and_words(&mut command).unwrap();
    assert_eq!(code, Some(0), "{said}");
    let outlook: Outlook = serde_json::from_str(&said).unwrap();
    let [group] = &outlook.groups[..] else { panic!("{said}") };
    assert!(group.moved >= group.least && group.moved > 0);

    farm.stop_node(3).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    farm.ask(1, &["power", "all", "node1=5"]).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    let status = farm.status(1).unwrap();
    for node in &group.nodes {
        let index = status.nodes.iter().position(|it| it.name == node.node).unwrap();
        let owned = status.groups[0].owners.iter().filter(|owner| **owner == Some(index)).count();
        assert_eq!(owned, node.after.load, "{}", node.node);
    }
    farm.stop().unwrap();
}
