//! From the YAML file to the model: [`load`] and [`parse`] refuse what cannot work and tell every
//! problem of a file at once, each with its place, the reason and the fix.
//!
//! Reading is separate from checking: the file becomes a tree that knows positions (`yaml`), the
//! tree becomes drafts (`nodes`, `vip`, `group`, ...), drafts are checked against each other
//! (`check`), and only a file without any problem becomes a [`Farm`].

mod address;
mod arp_refresh;
mod check;
mod checks;
mod diagnostic;
mod digest;
mod duplicates;
mod duration;
mod failover;
mod fields;
mod group;
pub mod key;
pub mod keys;
mod membership;
mod nodes;
mod outside;
mod source;
mod suggest;
#[cfg(test)]
mod tests;
mod vip;
mod yaml;

use std::{
    net::{IpAddr, ToSocketAddrs},
    ops::RangeInclusive,
    path::Path,
    time::Duration,
};

use crate::model::{Check, Farm, Hooks, Http, Node};

pub(crate) use address::{Resolve, is_host_name};
pub use diagnostic::{Diagnostic, Diagnostics};
pub(crate) use diagnostic::{Located, Pos, Report};
pub use digest::{differing_parts, digest};
use fields::Fields;
pub(crate) use fields::{FARM_NAME, INTERFACE, NAME};
use keys::{KeyFiles, Keys};
pub(crate) use source::read as read_text;
pub(crate) use suggest::nearest;

/// Reads the farm of a configuration file. Host names are looked up; no key file is opened.
pub fn load(path: &Path) -> Result<Farm, Diagnostics> {
    let file = path.display().to_string();
    parse(&file, &read_text(path)?)
}

/// Reads the farm and the keys in the files that it names; an unusable key file is a problem of the
/// file among the others.
pub fn load_with_keys(path: &Path) -> Result<(Farm, Keys), Diagnostics> {
    let mut report = Report::new(&path.display().to_string());
    let draft = read(&read_text(path)?, &resolve, &mut report);
    let keys = draft.as_ref().and_then(|draft| draft.key_files.load(&mut report));
    let farm = draft.and_then(Draft::build);
    report.finish(farm.zip(keys))
}

/// Reads the farm out of the text of a configuration file; `file` names it in problems, and its
/// directory is where a relative key file lies. Host names are looked up.
pub fn parse(file: &str, text: &str) -> Result<Farm, Diagnostics> {
    parse_with(file, text, &resolve)
}

/// The same with a resolver of host names.
pub(crate) fn parse_with(
    file: &str,
    text: &str,
    resolve: Resolve<'_>,
) -> Result<Farm, Diagnostics> {
    let mut report = Report::new(file);
    let draft = read(text, resolve, &mut report);
    report.finish(draft.and_then(Draft::build))
}

/// Asks the system for the addresses of a host name.
pub(crate) fn resolve(host: &str) -> std::io::Result<Vec<IpAddr>> {
    Ok((host, 0).to_socket_addrs()?.map(|found| found.ip()).collect())
}

/// A farm as read: complete only when nothing was reported.
struct Draft {
    name: Option<Located<String>>,
    key_files: KeyFiles,
    membership: crate::model::Membership,
    stop_timeout: Duration,
    checks: Vec<Check>,
    hooks: Hooks,
    http: Http,
    nodes: nodes::Nodes,
    vips: Vec<vip::VipDraft>,
}

impl Draft {
    fn build(self) -> Option<Farm> {
        let nodes: Vec<_> = self.nodes.list.into_iter().map(Node::from).collect();
        let names: Vec<_> = nodes.iter().map(|node| node.name.as_str()).collect();
        Some(Farm {
            name: self.name?.value,
            key_file: self.key_files.own?.value,
            accept_key_file: self.key_files.accepted.map(|file| file.value),
            hash_key_file: self.key_files.hash.map(|file| file.value),
            membership: self.membership,
            stop_timeout: self.stop_timeout,
            checks: self.checks,
            hooks: self.hooks,
            http: self.http,
            vips: self.vips.into_iter().map(|vip| vip.build(&names)).collect::<Option<_>>()?,
            nodes,
        })
    }
}

const KEYS: [&str; 11] = [
    "farm",
    "key_file",
    "accept_key_file",
    "hash_key_file",
    "membership",
    "stop_timeout",
    "checks",
    "hooks",
    "http",
    "nodes",
    "vips",
];

/// Whoever waits for longer drains the node first.
const STOP_TIMEOUT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);

fn read(text: &str, resolve: Resolve<'_>, report: &mut Report) -> Option<Draft> {
    let value = yaml::read(text, report)?;
    let fields = Fields::of(&value, "the file", &KEYS, report)?;
    let draft = Draft {
        name: fields
            .require("farm", "farm: web", report)
            .and_then(|value| fields::name(value, "a farm's name", &FARM_NAME, report)),
        key_files: KeyFiles::read(&fields, report),
        membership: fields
            .get("membership")
            .map_or(membership::DEFAULT, |value| membership::read(value, report)),
        stop_timeout: fields
            .get("stop_timeout")
            .and_then(|value| duration::read(value, "`stop_timeout`", STOP_TIMEOUT, report))
            .unwrap_or(Farm::STOP_TIMEOUT),
        checks: checks::read(&fields, report),
        hooks: fields
            .get("hooks")
            .map_or_else(Hooks::default, |value| outside::read_hooks(value, report)),
        http: fields
            .get("http")
            .map_or_else(Http::default, |value| outside::read_http(value, report)),
        nodes: fields
            .require("nodes", "nodes: [{ name: node1, addresses: [192.168.1.11] }]", report)
            .map_or_else(nodes::Nodes::default, |value| nodes::read(value, report)),
        vips: fields
            .require("vips", "vips: [{ addresses: [192.168.1.222/24], groups: [...] }]", report)
            .map_or_else(Vec::new, |value| vip::read(value, resolve, report)),
    };
    check::check(&draft.nodes, &draft.vips, report);
    Some(draft)
}
