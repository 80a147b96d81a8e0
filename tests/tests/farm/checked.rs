//! Checks: a node serves what its checks allow, and says why not.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use vipfarm::status::{CheckState, CheckStatus, GroupStatus};
use vipfarm_lab::{Farm, Lab, require, skip};

use crate::{ONE_VIP, all, events, eventually, has_event, lab, operated::load, running};

/// How much longer than by its numbers a check may take on a machine that does other things too.
const SLACK: Duration = Duration::from_secs(2);

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

/// A file in the lab's directory.
fn file(lab: &Lab, name: &str) -> PathBuf {
    lab.directory().join(name)
}

#[test]
fn a_service_that_dies_drains_its_node_in_time_and_one_that_is_back_has_its_share_again() {
    let program = require!(skip::farm());
    let lab = lab("tcp", 2, 1);
    let mut services: Vec<_> =
        all(&lab).into_iter().map(|node| Some(service(&lab, node, 8080))).collect();
    let vips = with_checks(
        "{ tcp: \"127.0.0.1:8080\", interval: 200ms, timeout: 100ms, rise: 2, fall: 2 }",
    );
    let mut farm = running(&lab, &program, &vips);
    farm.ask(2, &["power", "all", "node1=3"]).unwrap();
    assert_eq!(load(&farm, 2, "node1"), 192);

    let died = boot_clock();
    drop(services[0].take());
    eventually("node1 is drained", || load(&farm, 2, "node1") == 0);
    farm.wait_converged(&[1, 2]).unwrap();
    let change = farm.status(2).unwrap().last_view_change.unwrap();
    let took = Duration::from_micros(change.acquired_us).saturating_sub(died);
    println!("from the service's death to its node's drain: {took:?}");
    assert!(took < Duration::from_millis(200 * 2 + 100) + SLACK, "{took:?}");

    let failed = check(&farm, 1);
    assert_eq!((failed.state, &*failed.about), (CheckState::Failing, "group all"));
    assert!(failed.last_error.unwrap().contains("refused"));
    assert!(has_event(&farm, 1, "check_failed"));
    let groups: Vec<GroupStatus> = farm.ask_json(2, &["bitmap", "--json"]).unwrap();
    assert_eq!(
        (&groups[0].abstaining[..], groups[0].powers["node1"]),
        (&["node1".to_owned()][..], 3)
    );

    services[0] = Some(service(&lab, 1, 8080));
    eventually("node1 has what the operator gave it", || load(&farm, 2, "node1") == 192);
    assert_eq!(check(&farm, 1).state, CheckState::Passing);
    farm.stop().unwrap();
}
