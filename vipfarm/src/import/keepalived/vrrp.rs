//! `vrrp_instance`.

use std::{net::IpAddr, ops::Range};

use super::{
    super::{
        Supplement,
        account::Notes,
        draft::{Address, Draft, Node, Vip},
    },
    interface_name, parameter,
    script::Scripts,
    tree::{Statement, Word},
    unread,
};
use crate::model::Mode;

/// Statements without which VIPs or nodes are not what they were.
pub(super) const PARTS: [&str; 5] = [
    "virtual_ipaddress",
    "virtual_ipaddress_excluded",
    "interface",
    "unicast_src_ip",
    "unicast_peer",
];

/// What an instance became.
pub(super) struct Instance {
    pub(super) name: String,
    /// Its blocks in the draft.
    pub(super) blocks: Range<usize>,
}

/// Reads an instance: its addresses become failover blocks, its peers nodes.
pub(super) fn read(
    instance: &Statement,
    supplement: &Supplement,
    scripts: &mut Scripts,
    draft: &mut Draft,
    notes: &mut Notes,
) -> Instance {
    let name = instance.argument().map_or("vrrp", |word| &word.text);
    let readable: Vec<_> =
        instance.inner().iter().filter(|statement| is_readable(statement, notes)).collect();
    let interface = readable.iter().find(|it| it.name() == "interface");
    let interface = interface.and_then(|it| interface_name(it.argument()?, notes));
    let mut blocks: Vec<Vip> = Vec::new();
    let (mut peers, mut parameters) = (Vec::new(), Vec::new());
    for statement in readable {
        match statement.name() {
            "virtual_ipaddress" | "virtual_ipaddress_excluded" => {
                for address in statement.inner() {
                    if !unread::account_for(address, true, notes) {
                        read_address(address, interface.as_ref(), supplement, &mut blocks, notes);
                    }
                }
            }
            "unicast_src_ip" => peers.extend(statement.argument().map(|own| (own, true))),
            "unicast_peer" => {
                for peer in statement.inner() {
                    if !unread::account_for(peer, true, notes) {
                        peers.extend(peer.words.first().map(|word| (word, false)));
                    }
                }
            }
            _ => parameters.push(statement),
        }
    }
    parameter::read(&parameters, &mut blocks.iter_mut().collect::<Vec<_>>(), scripts, notes);
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
    let first = draft.vips.len();
    draft.vips.extend(blocks);
    Instance { name: name.to_owned(), blocks: first..draft.vips.len() }
}

/// Whether the statement can be read as it stands; if not, it is accounted for.
fn is_readable(statement: &Statement, notes: &mut Notes) -> bool {
    // The shell that runs a script has parameters too.
    statement.name().starts_with("notify")
        || !unread::account_for(statement, unread::may_be(statement, &PARTS), notes)
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
    let Some(mut address_of) = address_and_prefix(address, supplement, notes) else { return };
    let shown = format!("address {}", address.text);
    notes.translated(address.at, &shown, address_of.text());
    let mut device = interface.cloned();
    while let Some(option) = words.next() {
        let value = words.next_if(|_| WITH_VALUE.contains(&option.text.as_str()));
        let shown = format!("{} of {}", option.text, address.text);
        if let Some(value) = value.filter(|_| option.text == "dev") {
            device = interface_name(value, notes);
        } else if option.text == "no_track" {
            address_of.check = false;
            notes.translated(option.at, &shown, "check: false");
        } else {
            notes.dropped(option.at, &shown, "a VIP has an address and a prefix length");
        }
    }
    let known = blocks.iter().position(|block| block.interface == device);
    let index = known.unwrap_or_else(|| {
        blocks.push(Vip::new(device, Mode::Failover));
        blocks.len() - 1
    });
    blocks[index].addresses.push(address_of);
}

/// `192.168.1.222/24`.
fn address_and_prefix(word: &Word, supplement: &Supplement, notes: &mut Notes) -> Option<Address> {
    let (host, length) = match word.text.split_once('/') {
        Some((host, length)) => (host, Some(length)),
        None => (word.text.as_str(), None),
    };
    let addr = ip(host, word, notes)?;
    let width = if addr.is_ipv4() { 32 } else { 128 };
    let prefix = match length {
        None => supplement.prefix_of(host),
        Some(length) => {
            let prefix = length.parse().ok().filter(|length| (1..=width).contains(length));
            if prefix.is_none() {
                let message = format!("`{length}` is not a prefix length for {addr}");
                notes.problem(word.at, message, format!("write a number from 1 to {width}"));
                return None;
            }
            prefix
        }
    };
    Some(Address { host: host.into(), prefix, check: true, connections: false })
}

/// keepalived knows no names of hosts here.
fn ip(host: &str, word: &Word, notes: &mut Notes) -> Option<IpAddr> {
    let addr = host.parse().ok();
    if addr.is_none() {
        let help = "write an address such as 192.168.1.222, or remove it";
        notes.problem(word.at, format!("`{host}` is not an IP address"), help);
    }
    addr
}

/// The first instance that names its peers names the nodes of the farm.
fn read_nodes(peers: Vec<(&Word, bool)>, draft: &mut Draft, notes: &mut Notes) {
    let named_before = !draft.nodes.is_empty();
    let silent = !peers.is_empty() && !peers.iter().any(|(_, own)| *own);
    for (word, own) in peers {
        if ip(&word.text, word, notes).is_none() {
            continue;
        }
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
            draft.nodes.push(Node { name, addresses: vec![word.text.clone()] });
        }
    }
    // The node whose file this is has not said its own address.
    if silent && !named_before {
        let name = format!("node{}", draft.nodes.len() + 1);
        draft.nodes.push(Node { name, addresses: Vec::new() });
    }
}
