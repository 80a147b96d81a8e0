//! What an instance or a sync group says besides addresses, nodes and members.

use super::{
    super::{
        account::Notes,
        draft::{Check, Probe, Vip},
    },
    interface_name, number,
    script::{Scripts, Weight},
    shown,
    tree::Statement,
    unread,
};
use crate::config::nearest;

/// Words of instances and sync groups (keepalived.conf(5)), to tell mistyped ones from unknown ones.
const KNOWN: [&str; 59] = [
    "accept",
    "advert_int",
    "authentication",
    "check_unicast_src",
    "checksum_compatibility",
    "debug",
    "dont_track_primary",
    "down_timer_adverts",
    "garp_extra_if",
    "garp_master_delay",
    "garp_master_refresh",
    "garp_master_repeat",
    "global_tracking",
    "group",
    "higher_prio_send_advert",
    "interface",
    "kernel_rx_buf_size",
    "linkbeat_interfaces",
    "linkbeat_use_polling",
    "lower_prio_no_advert",
    "lvs_sync_daemon_interface",
    "mcast_dst_ip",
    "mcast_src_ip",
    "native_ipv6",
    "no_accept",
    "nopreempt",
    "notify",
    "notify_backup",
    "notify_fault",
    "notify_master",
    "notify_stop",
    "old_unicast_checksum",
    "preempt",
    "preempt_delay",
    "priority",
    "promote_secondaries",
    "skip_check_adv_addr",
    "smtp_alert",
    "state",
    "strict_mode",
    "track_bfd",
    "track_file",
    "track_interface",
    "track_process",
    "track_script",
    "track_src_ip",
    "unicast_fault_no_peer",
    "unicast_peer",
    "unicast_src_ip",
    "unicast_ttl",
    "use_ipvlan",
    "use_vmac",
    "use_vmac_addr",
    "version",
    "virtual_ipaddress",
    "virtual_ipaddress_excluded",
    "virtual_router_id",
    "virtual_routes",
    "virtual_rules",
];

/// Reads the parameters of those blocks.
pub(super) fn read(
    statements: &[&Statement],
    blocks: &mut [&mut Vip],
    scripts: &mut Scripts,
    notes: &mut Notes,
) {
    let has = |name| statements.iter().any(|statement| statement.name() == name);
    let (preempts, watches) = (!has("nopreempt"), !has("dont_track_primary"));
    for block in &mut *blocks {
        block.preempt &= preempts;
        block.check &= watches;
        for address in &mut block.addresses {
            address.check &= watches;
        }
    }
    for statement in statements {
        match statement.name() {
            "preempt_delay" => preempt_delay(statement, preempts, blocks, notes),
            "priority" => priority(statement, notes),
            "track_interface" => track_interface(statement, blocks, notes),
            "track_script" => {
                for check in scripts.tracked(statement, notes) {
                    for block in &mut *blocks {
                        check.clone().add_to(&mut block.checks);
                    }
                }
            }
            _ => plain(statement, notes),
        }
    }
}

/// A statement whose value does not matter, or has been read.
fn plain(statement: &Statement, notes: &mut Notes) {
    let (at, text) = (statement.at(), shown(statement));
    let why = match statement.name() {
        "interface" => return notes.translated(at, &text, "interface"),
        "nopreempt" => return notes.translated(at, &text, "preempt: false"),
        "preempt" => return notes.translated(at, &text, "preempt: true, the default"),
        "dont_track_primary" => {
            let why = "nothing watches the addresses of the block either";
            return notes.approximated(at, &text, "check: false", why);
        }
        "state" => "the nodes agree on who has the VIP",
        "accept" => "the node that has the VIP takes all that is for it",
        "virtual_router_id" | "version" | "vrrp_version" | "mcast_src_ip" | "mcast_dst_ip" => {
            "nodes of a farm talk by heartbeats of their own, not by VRRP"
        }
        "advert_int" | "down_timer_adverts" => {
            "how soon a failure is noticed is for `membership` to say, and takes a fraction of a second"
        }
        "authentication" => "heartbeats are authenticated by the key in `key_file`",
        "use_vmac" | "vmac_xmit_base" | "use_ipvlan" => "a failover VIP has its node's MAC",
        "track_process" | "track_file" | "track_bfd" => super::BY_HAND,
        "virtual_routes" | "virtual_rules" => {
            "vipfarm sets no routes or rules: leave that to the system"
        }
        "smtp_alert" => "vipfarm sends no mail: a program of `hooks` can, as docs/checks.md has it",
        name if name.starts_with("notify") => {
            "it is not translated: see `hooks` in docs/checks.md, of which `on_view` is told in VIPFARM_VIPS which VIPs the node has now"
        }
        name if name.starts_with("garp_") || name.starts_with("vrrp_garp") => {
            "who takes the VIP over tells all clients, three times within 300 ms"
        }
        name if KNOWN.contains(&name) => "it has no counterpart in a farm",
        name => return unknown(name, statement, notes),
    };
    notes.dropped(at, &text, why);
}

fn unknown(name: &str, statement: &Statement, notes: &mut Notes) {
    let (at, text) = (statement.at(), shown(statement));
    match nearest(name, &KNOWN) {
        Some(near) => notes.mistyped(at, &text, near, super::vrrp::PARTS.contains(&near)),
        None => notes.dropped(at, &text, "it is not a statement known here"),
    }
}

fn priority(statement: &Statement, notes: &mut Notes) {
    let Some(word) = statement.argument() else {
        return notes.dropped(statement.at(), "priority", "it has no value");
    };
    if number(word, 1..=255_u16, "a priority", notes).is_some() {
        let why = "each node's file has its own: write `priorities: { node1: 150, node2: 100 }` with those of all nodes";
        notes.approximated(statement.at(), &shown(statement), "equal priorities", why);
    }
}

/// Interfaces that a node must have up besides that of the VIP.
fn track_interface(statement: &Statement, blocks: &mut [&mut Vip], notes: &mut Notes) {
    for entry in statement.inner() {
        if unread::account_for(entry, false, notes) {
            continue;
        }
        let Some(name) = entry.words.first().and_then(|word| interface_name(word, notes)) else {
            continue;
        };
        let mut weight = Weight::default();
        if let [_, keyword, rest @ ..] = &entry.words[..]
            && keyword.text == "weight"
        {
            weight = Weight::read(rest, notes).unwrap_or_default();
        }
        let (at, element) = (entry.at(), format!("track_interface {}", shown(entry)));
        if weight.reverse {
            let why = "a check of an interface passes while it is up, and never while it is down";
            notes.dropped(at, &element, why);
            continue;
        }
        let check = Check::new(Probe::Interface(name.clone()));
        let into = format!("checks: [{}]", super::super::yaml::check_text(&check));
        let watched = |block: &&mut Vip| block.check && block.interface.as_ref() == Some(&name);
        let mut added = false;
        for block in blocks.iter_mut().filter(|block| !watched(block)) {
            check.clone().add_to(&mut block.checks);
            added = true;
        }
        let into = if added { into.as_str() } else { "check: true, the default" };
        match weight.differs() {
            Some(why) => notes.approximated(at, &element, into, why),
            None => notes.translated(at, &element, into),
        }
    }
}

/// Seconds, with a fraction perhaps.
fn preempt_delay(
    statement: &Statement,
    preempts: bool,
    blocks: &mut [&mut Vip],
    notes: &mut Notes,
) {
    const MOST: u64 = 3600;
    let (at, text) = (statement.at(), shown(statement));
    let Some(word) = statement.argument() else {
        return notes.dropped(at, &text, "it has no value");
    };
    let (whole, fraction) = word.text.split_once('.').unwrap_or((&word.text, ""));
    let digits = fraction.bytes().all(|c| c.is_ascii_digit());
    let Some(seconds) = whole.parse::<u64>().ok().filter(|_| digits) else {
        let message = format!("`{}` is not a number of seconds", word.text);
        return notes.problem(word.at, message, "write a number such as 30");
    };
    if !preempts {
        return notes.dropped(at, &text, "with `nopreempt` there is nothing to wait for");
    }
    let has_fraction = fraction.bytes().any(|c| c != b'0');
    let rounded = seconds.saturating_add(u64::from(has_fraction)).min(MOST);
    for block in blocks {
        block.preempt_delay = rounded;
    }
    let into = format!("preempt_delay: {rounded}s");
    if rounded == seconds {
        notes.translated(at, &text, into);
    } else {
        notes.approximated(at, &text, into, "it is whole seconds here, an hour at most");
    }
}
