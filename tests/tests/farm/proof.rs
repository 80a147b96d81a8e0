//! The proof at run time that every bucket is accepted by exactly one node.

use vipfarm::{
    model::{BUCKETS, Bitmap},
    status::{FaultKind, ProofStatus, Verdict},
};
use vipfarm_lab::{
    Farm,
    farm::{PATIENCE, exit_code_and_words},
    process::Signal,
    require, skip,
    tables::Tables,
};

use crate::{ONE_VIP, all, events, eventually, has_event, lab, running};

/// The kernel group of the file's only one.
const ALL: usize = 1;

fn proof(farm: &Farm<'_>, node: usize) -> ProofStatus {
    farm.status(node).unwrap().proof
}

fn owned_once(farm: &Farm<'_>, nodes: &[usize]) {
    for &node in nodes {
        eventually("every bucket is owned once", || {
            proof(farm, node).verdict == Verdict::OwnedOnce
        });
        let proof = proof(farm, node);
        for group in &proof.groups {
            assert_eq!(group.once, BUCKETS, "{proof:?}");
        }
        let line =
            format!("256/256 owned once in 1 group, and for ARP and echo (view {})", proof.epoch);
        let text = farm.ask(node, &["status"]).unwrap();
        assert!(text.contains(&line), "{text}");
    }
}

fn blames(farm: &Farm<'_>, asked: usize, node: &str, kind: FaultKind) -> bool {
    let proof = proof(farm, asked);
    let is_it = |fault: &vipfarm::status::Fault| {
        fault.node.as_deref() == Some(node) && fault.kind == kind && fault.message.contains(node)
    };
    proof.verdict == Verdict::Wrong && proof.faults.len() == 1 && is_it(&proof.faults[0])
}

fn nobody_was_blamed(farm: &Farm<'_>, nodes: &[usize]) {
    for &node in nodes {
        let history = events(farm, node);
        assert!(history.iter().all(|event| event.kind != "not_owned_once"), "{history:#?}");
    }
}

fn tables(farm: &Farm<'_>, node: usize) -> Tables {
    Tables::of(farm.footprint(node).unwrap().xdp.expect("it filters")).unwrap()
}

fn restart(farm: &mut Farm<'_>, node: usize) {
    let agent = farm.agent(node).unwrap();
    agent.signal(Signal::SIGTERM).unwrap();
    assert_eq!(agent.wait_timeout(PATIENCE).unwrap().code(), Some(0));
    farm.start_node(node, &[]).unwrap();
}

#[test]
fn a_healthy_farm_owns_every_bucket_once_and_no_planned_change_is_a_fault() {
    const NAME: &str = "a_healthy_farm_owns_every_bucket_once_and_no_planned_change_is_a_fault";
    let program = require!(NAME, skip::farm());
    let lab = lab("proof", 3, 1);
    let mut farm = running(&lab, &program, ONE_VIP);
    owned_once(&farm, &all(&lab));
    let metrics = farm.ask(1, &["metrics"]).unwrap();
    for sample in [
        "vipfarm_buckets_owned_once{farm=\"test\",group=\"(resolve)\"} 256",
        "vipfarm_buckets_owned_once{farm=\"test\",group=\"all\"} 256",
        "vipfarm_up{farm=\"test\"} 1",
    ] {
        assert!(metrics.lines().any(|line| line == sample), "{sample} is not in: {metrics}");
    }

    farm.ask(1, &["power", "all", "node2=6"]).unwrap();
    farm.ask(2, &["drain", "node3"]).unwrap();
    owned_once(&farm, &all(&lab));
    farm.ask(2, &["undrain", "node3"]).unwrap();
    restart(&mut farm, 2);
    farm.wait_converged(&all(&lab)).unwrap();
    owned_once(&farm, &all(&lab));
    nobody_was_blamed(&farm, &all(&lab));
}

#[test]
fn a_node_whose_kernel_tables_were_changed_is_named_by_all_until_its_agent_is_restarted() {
    const NAME: &str =
        "a_node_whose_kernel_tables_were_changed_is_named_by_all_until_its_agent_is_restarted";
    let program = require!(NAME, skip::farm());
    let lab = lab("tampered", 3, 1);
    let mut farm = running(&lab, &program, ONE_VIP);
    owned_once(&farm, &all(&lab));
    let Bitmap(before) = farm.status(2).unwrap().groups[0].bitmap;
    let (own, strange) = (before[0] & before[0].wrapping_neg(), !before[0] & (before[0] + 1));
    assert!(own != 0 && strange != 0, "it has some buckets of the first 64, and not all");

    let changed = tables(&farm, 2);
    changed.flip(ALL, 0, own | strange);
    for node in all(&lab) {
        eventually("node2 is named", || blames(&farm, node, "node2", FaultKind::Tables));
        eventually("that is told", || has_event(&farm, node, "not_owned_once"));
        let event = events(&farm, node).into_iter().find(|it| it.kind == "not_owned_once");
        let event = event.expect("it is told as well");
        assert!(event.level == "warn" && event.message.contains("node2"), "{event:?}");
        let metrics = farm.ask(node, &["metrics"]).unwrap();
        let fault = r#"vipfarm_ownership_fault{farm="test",node="node2",kind="tables"} 1"#;
        assert!(metrics.contains(fault), "{metrics}");
    }
    let status = farm.status(2).unwrap();
    assert_eq!(status.groups[0].bitmap.0[0], before[0] ^ own ^ strange, "as the kernel has it");
    let group = &status.proof.groups[ALL];
    assert_eq!((group.once, group.twice, group.nobody, group.unknown), (254, 1, 1, 0));
    let message = &status.proof.faults[0].message;
    assert!(message.contains("all: 1 too many, 1 missing"), "{message}");
    let (code, text) = exit_code_and_words(&mut farm.ask_command(3, &["status"])).unwrap();
    assert!(code == Some(0) && text.starts_with("! node2: its kernel accepts"), "{text}");

    changed.flip(ALL, 0, own | strange);
    owned_once(&farm, &all(&lab));
    for node in all(&lab) {
        eventually("that is told", || has_event(&farm, node, "owned_once"));
    }

    // Who answers ARP and echo counts as well; and the advice helps.
    let told = |farm: &Farm<'_>| {
        let kinds = events(farm, 1).into_iter().map(|event| event.kind);
        kinds.filter(|kind| kind.ends_with("owned_once")).collect::<Vec<_>>()
    };
    changed.flip(0, 3, u64::MAX);
    eventually("that is told again", || {
        told(&farm) == ["not_owned_once", "owned_once", "not_owned_once"]
    });
    restart(&mut farm, 2);
    farm.wait_converged(&all(&lab)).unwrap();
    owned_once(&farm, &all(&lab));
    eventually("and that it helped", || told(&farm).len() == 4);
    assert_eq!(told(&farm)[3], "owned_once");
}

#[test]
fn a_frozen_agent_is_named_until_the_others_have_taken_over() {
    const NAME: &str = "a_frozen_agent_is_named_until_the_others_have_taken_over";
    let program = require!(NAME, skip::farm());
    let lab = lab("named", 3, 1);
    // Slow timers: between the end of a lease and the next view there is time to be told.
    let vips = format!("membership: {{ profile: relaxed }}\n{ONE_VIP}");
    let mut farm = running(&lab, &program, &vips);
    owned_once(&farm, &all(&lab));
    farm.freeze(3, true).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    owned_once(&farm, &[1, 2]);
    for node in [1, 2] {
        eventually("that is told", || has_event(&farm, node, "owned_once"));
        let history = events(&farm, node);
        let place = |kind| history.iter().position(|event| event.kind == kind);
        let named = place("not_owned_once").expect("it was told who is missing");
        let message = &history[named].message;
        assert!(message.contains("node3 has not been heard"), "{message}");
        assert!(place("owned_once") > Some(named), "{history:#?}");
    }
    farm.freeze(3, false).unwrap();
    farm.wait_converged(&all(&lab)).unwrap();
    owned_once(&farm, &all(&lab));
}
