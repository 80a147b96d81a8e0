//! `cluster.xml`: the nodes and their addresses on each network.

use super::{
    super::{
        Source,
        account::{Account, Notes},
    },
    element::{self, Element, Macros, is_host},
};
use crate::config::{Diagnostics, Pos};

/// A network.
pub(super) struct Lan {
    at: Pos,
    pub(super) name: String,
    /// Names and addresses, in the order of the file.
    pub(super) nodes: Vec<(String, String)>,
}

impl Lan {
    /// The address of a node.
    pub(super) fn address(&self, node: &str) -> Option<&str> {
        self.nodes.iter().find(|(name, _)| name == node).map(|(_, address)| address.as_str())
    }
}

/// Reads the networks that all nodes are on; if `used` names any of them, only those.
pub(super) fn read(
    source: Source<'_>,
    used: &[(Pos, String)],
) -> Result<(Vec<Lan>, Account), Diagnostics> {
    let mut notes = Notes::new(source.file);
    let mut lans = element::parse(source.text, &mut notes)
        .map_or_else(Vec::new, |document| read_lans(document.root_element(), &mut notes));
    let names: Vec<_> =
        lans.iter().flat_map(|lan| &lan.nodes).map(|(name, _)| name.clone()).collect();
    let is_used = |lan: &Lan| used.iter().any(|(_, name)| *name == lan.name);
    let any = !lans.iter().any(is_used);
    lans.retain(|lan| {
        let shown = format!("lan name=\"{}\"", lan.name);
        let why = if !names.iter().all(|name| lan.address(name).is_some()) {
            "not all nodes are in it, and heartbeats need networks with all of them"
        } else if !any && !is_used(lan) {
            "the module's <farm> does not name it"
        } else {
            notes.translated(lan.at, &shown, "an address of each node");
            return true;
        };
        notes.dropped(lan.at, &shown, why);
        false
    });
    Ok((lans, notes.finish()?))
}

fn read_lans(root: roxmltree::Node<'_, '_>, notes: &mut Notes) -> Vec<Lan> {
    let macros = Macros::new();
    let mut lans = Vec::new();
    // Not by recursion: a file may nest as deeply as it likes.
    let mut todo = vec![Element { node: root, macros: &macros }];
    while let Some(element) = todo.pop() {
        match element.name() {
            "cluster" | "lans" => {
                element.attributes(&[], notes);
                todo.extend(element.children().rev());
            }
            "lan" => lans.extend(read_lan(element, notes)),
            _ => element.unknown(&["cluster", "lans", "lan"], notes),
        }
    }
    if lans.is_empty() {
        let at = Element { node: root, macros: &macros }.at();
        notes.missing(at, "there is no <lan> in this file", "name a cluster's file, cluster.xml");
    }
    lans
}

fn read_lan(lan: Element<'_>, notes: &mut Notes) -> Option<Lan> {
    lan.attributes(&["name"], notes);
    let name = lan.require("name", notes);
    let mut nodes = Vec::new();
    for node in lan.only(&["node"], notes) {
        node.attributes(&["name", "addr"], notes);
        let addr = node.require("addr", notes).filter(|addr| is_host(addr, notes));
        nodes.extend(node.require("name", notes).zip(addr));
    }
    let nodes = nodes.into_iter().map(|(name, addr)| (name.value, addr.value)).collect();
    Some(Lan { at: lan.at(), name: name?.value, nodes })
}
