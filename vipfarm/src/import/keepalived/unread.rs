//! What keepalived evaluates or reads before it looks at a statement: conditions, sequences,
//! parameters, other files. None of it is done here, so that nothing may be taken for what it is not.

use super::{super::account::Notes, shown, tree::Statement};

/// Keywords that read another file.
const INCLUDES: [&str; 6] = ["include", "includer", "includem", "includew", "includeb", "includea"];

/// Why none of it is done.
pub(super) const NOT_EVALUATED: &str = "conditions, sequences and parameters are not evaluated: write what they stand for, and import again";

/// Accounts for a statement that cannot be read as it stands; whether it was one. `has_part`: what it
/// says, or what stands for it, has part in VIPs or nodes, so that the new file lacks it.
pub(super) fn account_for(statement: &Statement, has_part: bool, notes: &mut Notes) -> bool {
    let Some(why) = reason(statement) else { return false };
    let (at, shown) = (statement.at(), shown(statement));
    notes.dropped(at, &shown, why);
    if has_part {
        let message = format!("`{shown}` is not read, and what it stands for is not in this file");
        notes.missing(at, message, why);
    }
    true
}

/// Whether a statement may bring in one of the keywords: it reads a file, stands for any text, or is
/// one of them behind a condition.
pub(super) fn may_be(statement: &Statement, keywords: &[&str]) -> bool {
    let name = statement.name();
    if is_definition(name) {
        return false;
    }
    let meant = match name.strip_prefix('@') {
        Some(_) => statement.argument().map_or("", |word| &word.text),
        None => name,
    };
    INCLUDES.contains(&meant) || meant.starts_with(['$', '~']) || keywords.contains(&meant)
}

/// Why the statement cannot be read as it stands; `None` if it can.
fn reason(statement: &Statement) -> Option<&'static str> {
    if INCLUDES.contains(&statement.name()) {
        return Some("other files are not read: put what is in it into this one, and import again");
    }
    let evaluated = statement.name().starts_with(['@', '~', '$'])
        || statement.words.iter().any(|word| has_parameter(&word.text));
    evaluated.then_some(NOT_EVALUATED)
}

/// `$NAME=`.
fn is_definition(word: &str) -> bool {
    word.strip_prefix('$')
        .and_then(|rest| rest.split_once('='))
        .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

/// `$NAME`, `${NAME}`, `~SEQ(...)` or `~LST(...)` in a word.
fn has_parameter(word: &str) -> bool {
    let starts =
        |rest: &str| rest.starts_with(|c: char| c.is_ascii_alphabetic() || "_{".contains(c));
    word.split('$').skip(1).any(starts) || word.contains("~SEQ") || word.contains("~LST")
}

/// The names of the parameters that the file defines.
pub(super) fn defined(statements: &[Statement]) -> Vec<String> {
    let names = statements.iter().map(Statement::name).filter(|name| is_definition(name));
    let name = |word: &str| word[1..].split('=').next().unwrap_or_default().to_owned();
    names.map(name).collect()
}

/// Whether the text has one of the parameters.
pub(super) fn uses(text: &str, parameters: &[String]) -> bool {
    parameters.iter().any(|name| {
        let behind = text.match_indices('$').map(|(at, _)| &text[at + 1..]);
        let mut behind = behind.map(|rest| rest.strip_prefix('{').unwrap_or(rest));
        behind.any(|rest| {
            rest.strip_prefix(name.as_str()).is_some_and(|rest| {
                !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            })
        })
    })
}
