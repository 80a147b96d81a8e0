//! `keepalived.conf` (keepalived.conf(5)).
//!
//! A VRRP instance moves its addresses from node to node: `mode: failover`. Each node has a file of its
//! own, which says its own priority only.

mod tree;
mod vrrp;

use self::tree::Statement;
use super::{
    Supplement,
    account::{NO_CHECKS, Notes},
    draft::Draft,
};
use crate::config::Pos;

/// Reads a file.
pub(super) fn read(text: &str, supplement: &Supplement, notes: &mut Notes) -> Draft {
    let mut draft = Draft::default();
    let statements = tree::parse(text, notes);
    for statement in &statements {
        match statement.name() {
            "vrrp_instance" => vrrp::read(statement, supplement, &mut draft, notes),
            _ => other(statement, notes),
        }
    }
    if draft.vips.is_empty() {
        let at = statements.first().map_or(Pos { line: 1, column: 1 }, Statement::at);
        let help = "name a file with a `vrrp_instance` that has addresses";
        notes.missing(at, "there is no VIP in this file", help);
    }
    draft
}

/// A statement outside of the VRRP instances.
fn other(statement: &Statement, notes: &mut Notes) {
    let (at, shown) = (statement.at(), shown(statement));
    let why = match statement.name() {
        "virtual_server" | "virtual_server_group" => {
            "it is a load balancer in front of its real servers; a farm has none: there the real servers are the nodes, and hold the VIP themselves"
        }
        "vrrp_sync_group" => "a node of a farm that loses one of its VIPs leaves with all of them",
        "global_defs" => "it is about the keepalived daemon itself",
        "static_ipaddress" | "static_routes" | "static_rules" => {
            "vipfarm sets no addresses, routes or rules but the VIPs: leave that to the system"
        }
        "vrrp_script" | "vrrp_track_process" | "vrrp_track_file" | "track_file"
        | "bfd_instance" => {
            return notes.not_yet(at, &shown, NO_CHECKS);
        }
        name if name.starts_with("include") => {
            "other files are not read: put what is in it into this one, and import again"
        }
        name if name.starts_with(['@', '~', '$']) => {
            "conditions, sequences and parameters are not evaluated: write what they stand for, and import again"
        }
        _ => "it is not a statement known here",
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
