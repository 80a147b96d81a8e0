//! `vrrp_sync_group`: instances that move together.

use super::{
    super::{account::Notes, draft::Draft},
    parameter,
    script::Scripts,
    shown,
    tree::Statement,
    unread,
    vrrp::Instance,
};

/// Reads a group, once its instances are in the draft.
pub(super) fn read(
    group: &Statement,
    instances: &[Instance],
    scripts: &mut Scripts,
    draft: &mut Draft,
    notes: &mut Notes,
) {
    let (mut members, mut strangers) = (Vec::new(), Vec::new());
    let mut parameters = Vec::new();
    for statement in group.inner() {
        let script = statement.name().starts_with("notify");
        if !script && unread::account_for(statement, false, notes) {
            continue;
        }
        if statement.name() != "group" {
            parameters.push(statement);
            continue;
        }
        for entry in statement.inner() {
            if unread::account_for(entry, false, notes) {
                continue;
            }
            for word in &entry.words {
                match instances.iter().find(|instance| instance.name == word.text) {
                    Some(instance) => members.push(instance),
                    None => strangers.push(format!("`{}`", word.text)),
                }
            }
        }
    }
    let is_member = |index: &usize| members.iter().any(|member| member.blocks.contains(index));
    let blocks = draft.vips.iter_mut().enumerate().filter(|(index, _)| is_member(index));
    let mut blocks: Vec<_> = blocks.map(|(_, block)| block).collect();
    parameter::read(&parameters, &mut blocks, scripts, notes);

    let mut why = String::from(
        "each instance becomes a block that moves by itself; to keep them together put their addresses into one block (same interface), or give all the same `priorities`, `preempt` and `preempt_delay`",
    );
    let mut differ = blocks.iter().map(|block| (block.preempt, block.preempt_delay));
    let first = differ.next();
    if differ.any(|other| Some(other) != first) {
        why.push_str(". In this file they differ in `preempt` or `preempt_delay`");
    }
    if !strangers.is_empty() {
        why = format!("{why}. This file has no instance {}", strangers.join(", "));
    }
    let into = format!("{} VIP blocks", blocks.len());
    notes.approximated(group.at(), &shown(group), into, why);
}
