//! `SafeKit`'s `userconfig.xml` (user's guide 8.2, section 13) and `cluster.xml` (section 12).
//!
//! A farm module's VIP is what vipfarm's is, and most words are the same. A mirror module's VIP is
//! where one node is: `mode: failover`.

mod checks;
mod cluster;
mod element;
mod groups;
mod vip;

use std::net::IpAddr;

use ipnet::IpNet;

use self::{cluster::Lan, element::Element};
use super::{
    Source, Supplement,
    account::{Account, Notes},
    draft::{Address, Check, Draft, Node, Vip},
};
use crate::config::{Diagnostics, Pos};

/// Elements of a module, outside of `<vip>`.
const KNOWN: [&str; 13] = [
    "safe", "service", "farm", "lan", "macro", "vip", "check", "failover", "heart", "rfs", "user",
    "vhost", "errd",
];

/// Reads a module's file and, if it is there, the cluster's.
pub(super) fn read(
    module: Source<'_>,
    cluster: Option<Source<'_>>,
    supplement: &Supplement,
) -> Result<(Draft, Account), Diagnostics> {
    let mut notes = Notes::new(module.file);
    let mut found = Module::default();
    if let Some(document) = element::parse(module.text, &mut notes) {
        let macros = element::macros(&document, &mut notes);
        let root = Element { node: document.root_element(), macros: &macros };
        found = Module::read(root, supplement, &mut notes);
    }
    let (lans, more) = match cluster {
        Some(source) => cluster::read(source, &found.lans)?,
        None => (Vec::new(), Account::default()),
    };
    let nodes = found.nodes(lans, &mut notes);
    let mut account = notes.finish()?;
    account.elements.extend(more.elements);
    account.missing.extend(more.missing);
    Ok((Draft { nodes, vips: found.vips, checks: found.checks }, account))
}

/// What is found in a module's file.
#[derive(Default)]
struct Module {
    mirror: bool,
    vips: Vec<Vip>,
    checks: Vec<Check>,
    /// Names of the networks that the module uses.
    lans: Vec<(Pos, String)>,
    /// Nodes that groups name, in their order.
    hosts: Vec<String>,
}

impl Module {
    fn read(root: Element<'_>, supplement: &Supplement, notes: &mut Notes) -> Self {
        let mut module = Self::default();
        let (mut vips, mut checks) = (Vec::new(), Vec::new());
        // Not by recursion: a file may nest as deeply as it likes.
        let mut todo = vec![root];
        while let Some(element) = todo.pop() {
            match element.name() {
                "safe" | "farm" => {
                    element.attributes(&[], notes);
                    todo.extend(element.children().rev());
                }
                "service" => {
                    module.service(element, notes);
                    todo.extend(element.children().rev());
                }
                "lan" => {
                    element.attributes(&["name"], notes);
                    let name = element.require("name", notes);
                    module.lans.extend(name.map(|name| (name.at, name.value)));
                }
                "macro" => element.attributes(&["name", "value"], notes),
                "vip" => vips.push(element),
                "check" => checks.push(element),
                _ => outside(element, notes),
            }
        }
        for vip in vips {
            vip::read(vip, module.mirror, supplement, &mut module.vips, &mut module.hosts, notes);
        }
        for check in checks {
            checks::read(check, module.mirror, &module.vips, &mut module.checks, notes);
        }
        if module.vips.is_empty() {
            notes.missing(
                root.at(),
                "there is no VIP in this file",
                "import a module with a <vip>",
            );
        }
        module
    }

    fn service(&mut self, element: Element<'_>, notes: &mut Notes) {
        for attribute in element.node.attributes().filter(|it| it.name() != "mode") {
            if let Some(attribute) = element.get(attribute.name()) {
                let why = "vipfarm starts no service: the agent runs under systemd";
                notes.dropped(attribute.at, &attribute.shown, why);
            }
        }
        let Some(mode) = element.get("mode") else { return };
        match mode.value.as_str() {
            "farm" => notes.translated(mode.at, &mode.shown, "all nodes serve at the same time"),
            "mirror" => {
                self.mirror = true;
                notes.translated(mode.at, &mode.shown, "VIP blocks with mode: failover");
            }
            _ => notes.dropped(mode.at, &mode.shown, "it is not a mode known here"),
        }
    }

    /// The nodes, with an address for each network.
    fn nodes(&self, mut lans: Vec<Lan>, notes: &mut Notes) -> Vec<Node> {
        for (at, name) in &self.lans {
            let shown = format!("lan name=\"{name}\"");
            if lans.iter().any(|lan| lan.name == *name) {
                notes.translated(*at, &shown, "an address of each node");
            } else {
                let why = "the addresses of this network are not known: --cluster names the file that has them, cluster.xml";
                notes.dropped(*at, &shown, why);
            }
        }
        // The first address is on the VIP's own network; else the module's order counts.
        let order = |lan: &Lan| self.lans.iter().position(|(_, name)| *name == lan.name);
        lans.sort_by_key(|lan| (!self.is_on(lan), order(lan)));
        let Some(first) = lans.first() else {
            let named = self.hosts.iter();
            return named.map(|name| Node { name: name.clone(), addresses: Vec::new() }).collect();
        };
        let address = |name: &str| {
            lans.iter().filter_map(|lan| Some(lan.address(name)?.to_owned())).collect()
        };
        let names = first.nodes.iter().map(|(name, _)| name);
        names.map(|name| Node { name: name.clone(), addresses: address(name) }).collect()
    }

    /// Whether a VIP is in the network.
    fn is_on(&self, lan: &Lan) -> bool {
        let contains = |address: &Address| {
            let net = IpNet::new(address.host.parse().ok()?, address.prefix?).ok()?;
            let node: IpAddr = lan.nodes.first()?.1.parse().ok()?;
            Some(net.contains(&node))
        };
        self.vips
            .iter()
            .flat_map(|vip| &vip.addresses)
            .any(|address| contains(address) == Some(true))
    }
}

/// What is not about VIPs.
fn outside(element: Element<'_>, notes: &mut Notes) {
    let why = match element.name() {
        "heart" => "vipfarm's heartbeats go between the addresses under `nodes`",
        "rfs" => "vipfarm replicates no files",
        "user" => {
            "vipfarm starts no service: leave that to systemd, and run `vipfarm close` and `vipfarm open` in its scripts"
        }
        "vhost" => "vipfarm changes no host names",
        "errd" => "vipfarm watches no processes: leave that to systemd (Restart=)",
        "failover" => "what follows from a check that fails is always the same: other nodes serve",
        _ => return element.unknown(&KNOWN, notes),
    };
    notes.dropped(element.at(), &element.with_content(), why);
}
