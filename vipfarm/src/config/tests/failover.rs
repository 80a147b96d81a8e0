//! Blocks of `mode: failover`.

use super::*;
use crate::model::{Balance, Failover, Mode, NodeId, OtherProtocols, Proto};

/// The rest of [`BASE`]'s block.
const GROUPS: &str = "    groups:
      - name: http
        powers: { node1: 2, node2: 1 }
        rules:
          - { port: 80, proto: tcp, filter: on_port }
          - { port: \"*\", proto: tcp, filter: on_addr }
";

/// A failover block with those lines.
fn block(lines: &str) -> String {
    edited(GROUPS, lines).replace("vmac_invisible", "failover")
}

#[test]
fn a_failover_block_needs_nothing_but_its_address() {
    let farm = parse_text(&block("")).expect("valid");
    let vip = &farm.vips[0];
    let group = &vip.groups[0];
    assert_eq!((vip.mode, vip.virtual_mac(), vip.groups.len()), (Mode::Failover, None, 1));
    assert_eq!((vip.other, group.name.as_str()), (OtherProtocols::OnAddr, "192.168.1.222"));
    let policy =
        Failover { preempt: true, preempt_delay: Duration::ZERO, balance: Balance::Priority };
    assert_eq!((group.failover, group.lingers()), (Some(policy), false));
    assert_eq!(group.powers, [Some(1), Some(1)], "all are equal");
    for proto in [Proto::Tcp, Proto::Udp, Proto::Arp] {
        let rule = vip.rule_for(vip.addresses[0].addr, proto, Some(4711));
        assert!(rule.is_some(), "{proto:?} of any port");
    }
}

#[test]
fn priorities_and_what_becomes_of_the_holder_are_read() {
    let farm = parse_text(&block(
        "    priorities: { node2: 150 }\n    preempt_delay: 30s\n    balance: priority\n",
    ));
    let farm = farm.expect("valid");
    let group = &farm.vips[0].groups[0];
    let power = |index| group.power(NodeId::new(index).expect("in range"));
    assert_eq!((power(0), power(1)), (0, 150), "who is not named does not take part");
    let failover = group.failover.expect("it is one");
    assert_eq!((failover.preempt_delay, failover.stays()), (Duration::from_secs(30), true));
    let farm = parse_text(&block("    preempt: false\n    balance: spread\n")).expect("valid");
    let failover = farm.vips[0].groups[0].failover.expect("it is one");
    assert_eq!((failover.preempt, failover.balance), (false, Balance::Spread));
}

#[test]
fn rules_restrict_what_a_failover_vip_serves() {
    let farm = parse_text(&block("    rules: [{ port: 80, proto: tcp }]\n")).expect("valid");
    let vip = &farm.vips[0];
    let addr = vip.addresses[0].addr;
    assert_eq!(vip.other, OtherProtocols::Drop);
    assert!(vip.rule_for(addr, Proto::Tcp, Some(80)).is_some());
    assert!(vip.rule_for(addr, Proto::Tcp, Some(81)).is_none());
    assert!(vip.rule_for(addr, Proto::Arp, None).is_some(), "it answers for itself");
}

#[test]
fn what_goes_without_saying_or_not_together_is_refused() {
    for (text, expected) in [
        (
            block("    priorities: { node1: 0, node3: 5 }\n"),
            "farm.yaml:10:26: error: `0` is not a priority, a number from 1 to 1000\n\
             \x20 = help: write a whole number in that range\n\
             farm.yaml:10:29: error: `node3` is not a node of this farm\n\
             \x20 = help: did you mean `node1`?",
        ),
        (
            block("    preempt: false\n    preempt_delay: 30s\n"),
            "farm.yaml:11:20: error: `preempt_delay` is how long a better node waits before it takes over, and with `preempt: false` it never does\n\
             \x20 = help: remove one of the two keys",
        ),
        (
            block("    balance: spread\n    priorities: { node1: 150, node2: 100 }\n"),
            "farm.yaml:11:17: error: with `balance: spread` no node is better than another: the VIPs are spread evenly over the nodes that `priorities` names\n\
             \x20 = help: give all of them one priority, or write `balance: priority`",
        ),
        (
            block("    vmac: 5a:fe:00:00:00:01\n"),
            "farm.yaml:10:11: error: `vmac` is not for `mode: failover`: one node has the VIP, with its own MAC, and all of its traffic\n\
             \x20 = help: remove the key",
        ),
        (
            block("    rules: [{ port: 80, proto: udp, filter: on_port, linger: 30s }]\n"),
            "farm.yaml:10:45: error: `filter` is not for `mode: failover`: one node has all of a rule's traffic\n\
             \x20 = help: remove the key\n\
             farm.yaml:10:62: error: `linger` is not for `mode: failover`: its flows are all where the VIP is\n\
             \x20 = help: remove the key",
        ),
        (
            edited("    groups:\n", "    preempt: true\n    groups:\n"),
            "farm.yaml:10:14: error: `preempt` is for `mode: failover`, in which one node has the VIP\n\
             \x20 = help: remove the key",
        ),
        (
            block("    balance: evenly\n    preempt_delay: 2h\n"),
            "farm.yaml:10:14: error: `evenly` is not a value of `balance`\n\
             \x20 = help: write one of: priority, spread\n\
             farm.yaml:11:20: error: `2h` is out of range, 0s to 1h\n\
             \x20 = help: write a whole number with its unit, such as 60s or 20m",
        ),
    ] {
        assert_eq!(problems(&text), expected, "{text}");
    }
    let with_groups = problems(&edited("vmac_invisible", "failover"));
    assert!(with_groups.contains("`groups` is not for `mode: failover`"), "{with_groups}");
}
