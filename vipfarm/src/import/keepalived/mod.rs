//! `keepalived.conf` (keepalived.conf(5)).
//!
//! A VRRP instance moves its addresses from node to node: `mode: failover`. Each node has a file of its
//! own, which says its own priority only.

mod parameter;
mod script;
mod sync;
mod tree;
mod unread;
mod vrrp;

use std::{fmt::Display, ops::RangeInclusive, str::FromStr};

use self::{
    script::Scripts,
    tree::{Statement, Word},
};
use super::{Supplement, account::Notes, draft::Draft};
use crate::config::{INTERFACE, Pos, nearest};

/// Of what keepalived tracks and a farm looks at in another way.
const BY_HAND: &str = "checks are of other kinds here: write one with `exec`, `file` or `interface`, as docs/checks.md has it";

/// Statements outside of blocks, to tell mistyped ones from unknown ones.
const KNOWN: [&str; 10] = [
    "bfd_instance",
    "global_defs",
    "static_ipaddress",
    "static_routes",
    "static_rules",
    "virtual_server",
    "virtual_server_group",
    "vrrp_instance",
    "vrrp_script",
    "vrrp_sync_group",
];

/// Reads a file.
pub(super) fn read(text: &str, supplement: &Supplement, notes: &mut Notes) -> Draft {
    let mut draft = Draft::default();
    let statements = tree::parse(text, notes);
    let mut scripts = Scripts::read(&statements, notes);
    let mut instances = Vec::new();
    for statement in &statements {
        match statement.name() {
            "vrrp_instance" => {
                instances.push(vrrp::read(statement, supplement, &mut scripts, &mut draft, notes));
            }
            "vrrp_script" | "vrrp_sync_group" => {}
            _ => other(statement, notes),
        }
    }
    for group in statements.iter().filter(|it| it.name() == "vrrp_sync_group") {
        sync::read(group, &instances, &mut scripts, &mut draft, notes);
    }
    scripts.finish(notes);
    if draft.vips.is_empty() {
        let at = statements.first().map_or(Pos { line: 1, column: 1 }, Statement::at);
        let help = "name a file with a `vrrp_instance` that has addresses";
        notes.missing(at, "there is no VIP in this file", help);
    }
    draft
}

/// A statement outside of the VRRP instances.
fn other(statement: &Statement, notes: &mut Notes) {
    if unread::account_for(statement, unread::may_be(statement, &["vrrp_instance"]), notes) {
        return;
    }
    let (at, shown) = (statement.at(), shown(statement));
    let why = match statement.name() {
        "virtual_server" | "virtual_server_group" => {
            "it is a load balancer in front of its real servers; a farm has none: there the real servers are the nodes, and hold the VIP themselves"
        }
        "global_defs" => "it is about the keepalived daemon itself",
        "static_ipaddress" | "static_routes" | "static_rules" => {
            "vipfarm sets no addresses, routes or rules but the VIPs: leave that to the system"
        }
        "vrrp_track_process" | "vrrp_track_file" | "track_file" | "bfd_instance" => BY_HAND,
        name => match nearest(name, &KNOWN) {
            Some(near) => return notes.mistyped(at, &shown, near, near == "vrrp_instance"),
            None => "it is not a statement known here",
        },
    };
    notes.dropped(at, &shown, why);
}

/// The statement's words, and how much is in its block. What may be a secret is left out: the values
/// of parameters and blocks.
fn shown(statement: &Statement) -> String {
    let keyword = statement.name().split('=').next().unwrap_or_default();
    let mut text = if keyword.starts_with(['@', '~', '$']) || keyword.starts_with("auth") {
        keyword.to_owned()
    } else {
        let words: Vec<_> = statement.words.iter().map(|word| word.text.as_str()).collect();
        words.join(" ")
    };
    match statement.inner().len() {
        0 => {}
        1 => text.push_str(" and the statement in it"),
        inner => text = format!("{text} and the {inner} statements in it"),
    }
    text
}

/// A number in its range; another word is a problem.
fn number<T: FromStr + PartialOrd + Display>(
    word: &Word,
    range: RangeInclusive<T>,
    what: &str,
    notes: &mut Notes,
) -> Option<T> {
    let number = word.text.parse().ok().filter(|number| range.contains(number));
    if number.is_none() {
        let (least, most) = range.into_inner();
        let message = format!("`{}` is not {what} from {least} to {most}", word.text);
        notes.problem(word.at, message, "write a whole number in this range");
    }
    number
}

/// The name of an interface; another word is a problem.
fn interface_name(word: &Word, notes: &mut Notes) -> Option<String> {
    let name = &word.text;
    if name.is_empty() || name.len() > INTERFACE.longest || !name.bytes().all(INTERFACE.allows) {
        let message = format!("`{name}` cannot be the name of a network interface");
        notes.problem(word.at, message, "write its name on the nodes, such as bond0");
        return None;
    }
    Some(name.clone())
}
