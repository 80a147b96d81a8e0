//! `vrrp_instance`.

use super::{
    super::{
        Supplement,
        account::{NO_CHECKS, Notes},
        draft::{Address, Draft, Node, Vip},
    },
    shown,
    tree::{Statement, Word},
};
use crate::model::Mode;

/// Reads an instance: its addresses become failover blocks, its peers nodes.
pub(super) fn read(
    instance: &Statement,
    supplement: &Supplement,
    draft: &mut Draft,
    notes: &mut Notes,
) {
    let name = instance.argument().map_or("vrrp", |word| &word.text);
    let interface = find(instance, "interface").map(|word| word.text.clone());
    let mut blocks: Vec<Vip> = Vec::new();
    let (mut peers, mut parameters) = (Vec::new(), Vec::new());
    for statement in instance.inner() {
        match statement.name() {
            "virtual_ipaddress" | "virtual_ipaddress_excluded" => {
                for address in statement.inner() {
                    read_address(address, interface.as_ref(), supplement, &mut blocks, notes);
                }
            }
            "unicast_src_ip" => peers.extend(statement.argument().map(|own| (own.clone(), true))),
            "unicast_peer" => {
                let words = statement.inner().iter().filter_map(|peer| peer.words.first());
                peers.extend(words.map(|peer| (peer.clone(), false)));
            }
            _ => parameters.push(statement),
        }
    }
    for statement in parameters {
        parameter(statement, &mut blocks, notes);
    }
    read_nodes(peers, draft, notes);
    let shown = format!("vrrp_instance {name}");
    match blocks.len() {
        0 => notes.dropped(instance.at(), &shown, "it has no addresses"),
        1 => notes.translated(instance.at(), &shown, "a VIP block, mode: failover"),
        count => {
            let into = format!("{count} VIP blocks, mode: failover");
            let why = "a block is on one interface, and each goes to a node by itself: give all of them the same `priorities`";
            notes.approximated(instance.at(), &shown, into, why);
        }
    }
    draft.vips.extend(blocks);
}

fn find<'a>(instance: &'a Statement, name: &str) -> Option<&'a Word> {
    instance.inner().iter().find(|it| it.name() == name).and_then(Statement::argument)
}

/// Options of an address that have a value.
const WITH_VALUE: [&str; 8] =
    ["dev", "label", "brd", "broadcast", "scope", "peer", "preferred_lft", "track_group"];

/// `192.168.1.222/24 dev eth0 label eth0:1`: without a length, keepalived has a host route.
fn read_address(
    statement: &Statement,
    interface: Option<&String>,
    supplement: &Supplement,
    blocks: &mut Vec<Vip>,
    notes: &mut Notes,
) {
    let mut words = statement.words.iter().peekable();
    let Some(address) = words.next() else { return };
    let (host, prefix) = match address.text.split_once('/') {
        Some((host, prefix)) => (host, prefix.parse().ok()),
        None => (address.text.as_str(), None),
    };
    let prefix = prefix.or_else(|| supplement.prefix_of(host));
    let mut device = interface.cloned();
    while let Some(option) = words.next() {
        let value = words.next_if(|_| WITH_VALUE.contains(&option.text.as_str()));
        if let Some(value) = value.filter(|_| option.text == "dev") {
            device = Some(value.text.clone());
        } else {
            let why = "a VIP has an address and a prefix length";
            notes.dropped(option.at, &format!("{} of {}", option.text, address.text), why);
        }
    }
    let address_of = Address { host: host.into(), prefix, check: true, connections: false };
    let shown = format!("address {}", address.text);
    notes.translated(address.at, &shown, address_of.text());
    let known = blocks.iter().position(|block| block.interface == device);
    let index = known.unwrap_or_else(|| {
        blocks.push(Vip::new(device, Mode::Failover));
        blocks.len() - 1
    });
    blocks[index].addresses.push(address_of);
}

/// The first instance that names its peers names the nodes of the farm.
fn read_nodes(peers: Vec<(Word, bool)>, draft: &mut Draft, notes: &mut Notes) {
    let named_before = !draft.nodes.is_empty();
    let silent = !peers.is_empty() && !peers.iter().any(|(_, own)| *own);
    for (word, own) in peers {
        let shown =
            format!("{} {}", if own { "unicast_src_ip" } else { "unicast_peer" }, word.text);
        let known = draft.nodes.iter().any(|node| node.addresses.contains(&word.text));
        if known {
            notes.translated(word.at, &shown, "the node with this address");
        } else if named_before {
            let why = "another instance has named the nodes: if it is one of theirs on another network, add it behind the first address";
            notes.dropped(word.at, &shown, why);
        } else {
            let name = format!("node{}", draft.nodes.len() + 1);
            let why = "keepalived has no names for nodes";
            notes.approximated(word.at, &shown, format!("the node {name}"), why);
            draft.nodes.push(Node { name, addresses: vec![word.text] });
        }
    }
    // The node whose file this is has not said its own address.
    if silent && !named_before {
        let name = format!("node{}", draft.nodes.len() + 1);
        draft.nodes.push(Node { name, addresses: Vec::new() });
    }
}

/// A parameter of an instance that is not about its addresses.
fn parameter(statement: &Statement, blocks: &mut [Vip], notes: &mut Notes) {
    let (at, text) = (statement.at(), shown(statement));
    let why = match statement.name() {
        "interface" => return notes.translated(at, &text, "interface"),
        "priority" => {
            let why = "each node's file has its own: write `priorities: { node1: 150, node2: 100 }` with those of all nodes";
            return notes.approximated(at, &text, "equal priorities", why);
        }
        "nopreempt" => {
            for block in blocks {
                block.preempt = false;
            }
            return notes.translated(at, &text, "preempt: false");
        }
        "preempt" => return notes.translated(at, &text, "preempt: true, the default"),
        "preempt_delay" => return preempt_delay(statement, blocks, notes),
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
        "track_interface" | "dont_track_primary" => {
            "the interface of a VIP is always watched, and no other one"
        }
        "track_script" | "track_process" | "track_file" | "track_bfd" => {
            return notes.not_yet(at, &text, NO_CHECKS);
        }
        "virtual_routes" | "virtual_rules" => {
            "vipfarm sets no routes or rules: leave that to the system"
        }
        name if name.starts_with("notify") || name == "smtp_alert" => {
            "vipfarm runs no scripts and sends no mail: follow `vipfarm events -f`"
        }
        name if name.starts_with("garp_") || name.starts_with("vrrp_garp") => {
            "who takes the VIP over tells all clients, three times within 300 ms"
        }
        _ => "it has no counterpart in a farm",
    };
    notes.dropped(at, &text, why);
}

/// Seconds, with a fraction perhaps.
fn preempt_delay(statement: &Statement, blocks: &mut [Vip], notes: &mut Notes) {
    const MOST: u64 = 3600;
    let (at, text) = (statement.at(), shown(statement));
    let value = statement.argument().map_or("", |word| &word.text);
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let Ok(seconds) = whole.parse::<u64>() else {
        return notes.dropped(at, &text, "it is not a number of seconds");
    };
    let has_fraction = fraction.chars().any(|c| c != '0');
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
