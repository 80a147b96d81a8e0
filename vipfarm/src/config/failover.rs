//! The keys of a VIP block with `mode: failover`: they make its only group.

use std::{ops::RangeInclusive, time::Duration};

use crate::model::{Balance, Failover, Filter, Group, Mode, Proto, Rule, VipAddr, VlanTags};

use super::diagnostic::{Located, Report};
use super::duration;
use super::fields::{self, Fields};
use super::group::{self, GroupDraft, Sharing};

/// The keys that only such a block has.
pub(super) const KEYS: [&str; 5] = ["priorities", "preempt", "preempt_delay", "balance", "rules"];

/// A node that has just started is given time for what it serves, not the time until the next one.
const PREEMPT_DELAY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);

/// The groups of a block with those addresses: of a failover block one, else what the file says.
pub(super) fn groups(
    vip: &Fields<'_>,
    mode: Mode,
    vlan: VlanTags,
    addresses: &[Located<VipAddr>],
    report: &mut Report,
) -> Vec<GroupDraft> {
    if mode == Mode::Failover {
        for key in ["groups", "vmac", "arp_refresh"] {
            let why = "is not for `mode: failover`: one node has the VIP, with its own MAC, and all of its traffic";
            refuse(vip, key, why, report);
        }
        return vec![read(vip, name(vlan, addresses), report)];
    }
    for key in KEYS {
        refuse(vip, key, "is for `mode: failover`, in which one node has the VIP", report);
    }
    if mode == Mode::VmacDirected {
        let why = "is for `mode: vmac_invisible`: here each node answers with its own MAC";
        refuse(vip, "vmac", why, report);
    }
    group::read(vip, report)
}

/// Reports a key of `mapping` that is not for its mode.
pub(super) fn refuse(mapping: &Fields<'_>, key: &str, why: &str, report: &mut Report) {
    if let Some(value) = mapping.get(key) {
        report.error(value.at, format!("`{key}` {why}"), "remove the key");
    }
}

/// What the block's group is called: as its first address, which may be a VIP in several VLANs.
fn name(vlan: VlanTags, addresses: &[Located<VipAddr>]) -> String {
    let name = addresses.first().map(|address| address.value.addr.to_string());
    let name = name.unwrap_or_default();
    if vlan == VlanTags::default() { name } else { format!("{name}@{vlan}") }
}

fn read(vip: &Fields<'_>, name: String, report: &mut Report) -> GroupDraft {
    let priorities = vip.get("priorities");
    let powers = priorities.and_then(|it| group::read_powers(it, &group::PRIORITIES, report));
    let policy = policy(vip, report);
    let differ = |powers: &Vec<(_, u16)>| powers.windows(2).any(|two| two[0].1 != two[1].1);
    if let Some(value) = priorities
        && policy.balance == Balance::Spread
        && powers.as_ref().is_some_and(differ)
    {
        report.error(
            value.at,
            "with `balance: spread` no node is better than another: the VIPs are spread evenly over the nodes that `priorities` names",
            "give all of them one priority, or write `balance: priority`",
        );
    }
    let any = |proto| {
        let rule =
            Rule { virtual_addr: None, port: None, proto, filter: Filter::OnAddr, linger: None };
        Located { at: vip.at, value: rule }
    };
    let rules = vip.get("rules").map(|it| group::read_rules(it, Sharing::One, report));
    GroupDraft {
        name: Located { at: vip.at, value: name },
        powers,
        rules: rules.unwrap_or_else(|| vec![any(Proto::Tcp), any(Proto::Udp)]),
        handover_timeout: Group::HANDOVER_TIMEOUT,
        checks: Vec::new(),
        failover: Some(policy),
    }
}

fn policy(vip: &Fields<'_>, report: &mut Report) -> Failover {
    let balances = [("priority", Balance::Priority), ("spread", Balance::Spread)];
    let balance = vip.get("balance");
    let balance = balance.and_then(|it| fields::choice(it, "`balance`", &balances, report));
    let preempt = vip.get("preempt");
    let preempt = preempt.and_then(|it| fields::boolean(it, "`preempt`", report)).unwrap_or(true);
    let delay = vip.get("preempt_delay");
    if let Some(value) = delay.filter(|_| !preempt) {
        report.error(
            value.at,
            "`preempt_delay` is how long a better node waits before it takes over, and with `preempt: false` it never does",
            "remove one of the two keys",
        );
    }
    let delay = delay.and_then(|it| duration::read(it, "`preempt_delay`", PREEMPT_DELAY, report));
    Failover {
        preempt,
        preempt_delay: delay.unwrap_or_default(),
        balance: balance.map_or(Balance::Priority, |balance| balance.value),
    }
}
