//! Agents come and go: what they leave on their nodes is nothing.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use vipfarm_lab::{
    Farm, Footprint, Lab,
    farm::{PATIENCE, exit_code_and_words},
    process::Signal,
    require, skip,
};

use crate::{ONE_VIP, lab, probed::Probed, running, vmac};

/// The footprint of a node before its agent came, with values of its own in the sysctls.
fn untouched(lab: &Lab, farm: &Farm<'_>, node: usize) -> Footprint {
    for (key, value) in [("arp_announce", "1"), ("arp_ignore", "0")] {
        let path = format!("/proc/sys/net/ipv4/conf/eth0/{key}");
        lab.node(node).in_ns(|| std::fs::write(path, value)).unwrap();
    }
    farm.footprint(node).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_agent_takes_everything_back_and_its_peers_take_over_at_once() {
    let program = require!(skip::farm());
    let lab = lab("stop", 3, 40);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let before = untouched(&lab, &farm, 2);
    farm.start().unwrap();
    farm.wait_converged(&[1, 2, 3]).unwrap();
    let during = farm.footprint(2).unwrap();
    assert!(during.addresses.contains(&vipfarm_lab::lab::VIP.into()), "{during:?}");
    assert!(during.macs.contains(&vmac().to_string()), "{during:?}");
    let set = [("arp_announce", "2"), ("arp_ignore", "1"), ("keep_addr_on_down", "0")];
    assert_eq!(during.sysctls, set.map(|(name, value)| (name, value.to_owned())));
    assert!(during.xdp.is_some() && during.tc.len() == 2 && during.links.len() == 3);

    let traffic = Probed::start(&lab).await;
    let from = Instant::now();
    let agent = farm.agent(2).unwrap();
    agent.signal(Signal::SIGTERM).unwrap();
    let status = agent.wait_timeout(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(farm.footprint(2).unwrap(), before);
    farm.wait_converged(&[1, 3]).unwrap();
    sleep(Duration::from_millis(300)).await;
    let until = Instant::now();
    let log = traffic.stop().await;
    let outage = log.outage(from, until, "node2");
    println!("clients of the stopped node waited {:?} at most", outage.longest);
    assert!(outage.flows > 0, "no client of node2 was probed");
    assert_eq!(outage.survivor_failures, 0, "the others' clients noticed");
    // Far less than it takes to miss a node that did not say goodbye.
    assert!(outage.longest < Duration::from_millis(150), "{outage:?}");
    assert!(crate::has_event(&farm, 1, "node_left"));
}

#[test]
fn down_removes_what_a_killed_agent_left_and_is_harmless_when_nothing_is() {
    let program = require!(skip::farm());
    let lab = lab("down", 2, 1);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let before = untouched(&lab, &farm, 1);
    farm.start_node(1, &[]).unwrap();
    farm.wait_converged(&[1]).unwrap();
    farm.kill(1).unwrap();
    assert_ne!(farm.footprint(1).unwrap(), before);

    let (code, words) = exit_code_and_words(&mut farm.down_command(1)).unwrap();
    assert_eq!(code, Some(0), "{words}");
    for what in
        ["VIP 10.77.0.100 on eth0", "5a:fe:0a:4d:00:64", "arp_announce", "the filter on eth0"]
    {
        assert!(words.contains(what), "`{what}` is not in: {words}");
    }
    assert_eq!(farm.footprint(1).unwrap(), before);
    let (code, words) = exit_code_and_words(&mut farm.down_command(1)).unwrap();
    assert_eq!((code, words.as_str()), (Some(0), "nothing was left\n"));
    assert_eq!(farm.footprint(1).unwrap(), before);
}

#[test]
fn a_crash_in_between_does_not_hide_what_a_later_clean_stop_must_take_back() {
    let program = require!(skip::farm());
    let lab = lab("crash", 2, 1);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let before = untouched(&lab, &farm, 1);
    for _ in 0..2 {
        farm.start_node(1, &[]).unwrap();
        farm.wait_converged(&[1]).unwrap();
        farm.kill(1).unwrap();
    }
    farm.start_node(1, &[]).unwrap();
    farm.wait_converged(&[1]).unwrap();
    farm.stop().unwrap();
    assert_eq!(farm.footprint(1).unwrap(), before);
}

#[test]
fn down_leaves_no_vip_without_a_filter_even_if_the_record_is_lost() {
    let program = require!(skip::farm());
    let lab = lab("lost", 2, 1);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let before = untouched(&lab, &farm, 1);
    farm.start_node(1, &[]).unwrap();
    farm.wait_converged(&[1]).unwrap();
    farm.kill(1).unwrap();
    std::fs::remove_dir_all(farm.run_directory(1)).unwrap();

    let (code, words) = exit_code_and_words(&mut farm.down_command(1)).unwrap();
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains("VIP 10.77.0.100 on eth0"), "{words}");
    // What the sysctls were is known to nobody any more.
    let after = farm.footprint(1).unwrap();
    assert_eq!(after, Footprint { sysctls: after.sysctls.clone(), ..before });
}

#[test]
fn down_is_refused_while_the_agent_runs() {
    let program = require!(skip::farm());
    let lab = lab("refused", 2, 1);
    let mut farm = running(&lab, &program, ONE_VIP);
    let before = farm.footprint(1).unwrap();
    let (code, words) = exit_code_and_words(&mut farm.down_command(1)).unwrap();
    let pid = farm.agent(1).unwrap().id();
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains(&format!("already runs here (pid {pid})")), "{words}");
    assert_eq!(farm.footprint(1).unwrap(), before);
    farm.wait_converged(&[1, 2]).unwrap();
}
