//! Taking values out of the tree: mappings with a closed set of keys, lists, scalars.
//!
//! Every reader reports what it cannot use and returns `None`; the caller goes on with the rest.

use std::ops::RangeInclusive;

use super::diagnostic::{Located, Pos, Report};
use super::suggest;
use super::yaml::{Kind, Value};

/// A mapping whose keys are known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) at: Pos,
    what: &'static str,
    entries: &'a [(Located<String>, Value)],
}

impl<'a> Fields<'a> {
    /// Takes `value` as a mapping; reports each key that is not among `known`. `what` names the
    /// mapping in errors, with its article.
    pub(super) fn of(
        value: &'a Value,
        what: &'static str,
        known: &[&str],
        report: &mut Report,
    ) -> Option<Self> {
        #[cfg(test)]
        super::tests::documented::note(what, known);
        let Kind::Map(entries) = &value.kind else {
            let message =
                format!("{what} is a mapping of keys to values, not {}", value.kind.name());
            report.error(value.at, message, format!("write its keys: {}", known.join(", ")));
            return None;
        };
        for (key, _) in entries {
            if !known.contains(&key.value.as_str()) {
                let message = format!("`{}` is not a key of {what}", key.value);
                report.error(key.at, message, suggest::help(&key.value, known));
            }
        }
        Some(Self { at: value.at, what, entries })
    }

    /// The value of an optional key.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.entries.iter().find(|(name, _)| name.value == key).map(|(_, value)| value)
    }

    /// The value of a key that must be there; `example` completes "add ...".
    pub(super) fn require(
        &self,
        key: &str,
        example: &str,
        report: &mut Report,
    ) -> Option<&'a Value> {
        let value = self.get(key);
        if value.is_none() {
            report.error(
                self.at,
                format!("{} needs the key `{key}`", self.what),
                format!("add `{example}`"),
            );
        }
        value
    }
}

/// The entries of a mapping whose keys are names; `what` names it in errors.
pub(super) fn entries<'a>(
    value: &'a Value,
    what: &str,
    example: &str,
    report: &mut Report,
) -> Option<&'a [(Located<String>, Value)]> {
    match &value.kind {
        Kind::Map(entries) if !entries.is_empty() => Some(entries),
        Kind::Map(_) | Kind::Null => {
            report.error(
                value.at,
                format!("{what} is empty"),
                format!("write `{example}`, or remove the key"),
            );
            None
        }
        kind => {
            let message = format!("{what} is a mapping, not {}", kind.name());
            report.error(value.at, message, format!("write `{example}`"));
            None
        }
    }
}

/// The items of a list that must not be empty.
pub(super) fn list<'a>(
    value: &'a Value,
    what: &str,
    example: &str,
    report: &mut Report,
) -> Option<&'a [Value]> {
    match &value.kind {
        Kind::List(items) if !items.is_empty() => Some(items),
        Kind::List(_) | Kind::Null => {
            report.error(
                value.at,
                format!("{what} is empty"),
                format!("write at least one: `{example}`"),
            );
            None
        }
        kind => {
            let message = format!("{what} is a list, not {}", kind.name());
            report.error(value.at, message, format!("write `{example}`"));
            None
        }
    }
}

/// The text of a scalar; `example` completes "write a value such as ...".
pub(super) fn text<'a>(
    value: &'a Value,
    what: &str,
    example: &str,
    report: &mut Report,
) -> Option<&'a str> {
    let problem = match &value.kind {
        Kind::Scalar(text) if !text.is_empty() => return Some(text),
        Kind::Scalar(_) | Kind::Null => format!("{what} has no value"),
        kind => format!("{what} is one value, not {}", kind.name()),
    };
    report.error(value.at, problem, format!("write a value such as `{example}`"));
    None
}

/// A word out of a closed set.
pub(super) fn choice<T: Copy>(
    value: &Value,
    what: &str,
    choices: &[(&str, T)],
    report: &mut Report,
) -> Option<Located<T>> {
    let words: Vec<_> = choices.iter().map(|&(word, _)| word).collect();
    let text = text(value, what, words.first().unwrap_or(&""), report)?;
    let found = choices.iter().find(|&&(word, _)| word == text);
    if found.is_none() {
        report.error(
            value.at,
            format!("`{text}` is not a value of {what}"),
            suggest::help(text, &words),
        );
    }
    found.map(|&(_, choice)| Located { at: value.at, value: choice })
}

/// `true` or `false`.
pub(super) fn boolean(value: &Value, what: &str, report: &mut Report) -> Option<bool> {
    let choice = choice(value, what, &[("true", true), ("false", false)], report);
    choice.map(|choice| choice.value)
}

/// A whole number in a range.
pub(super) fn integer(
    value: &Value,
    what: &str,
    range: RangeInclusive<u16>,
    report: &mut Report,
) -> Option<u16> {
    let (low, high) = (range.start(), range.end());
    let text = text(value, what, &high.to_string(), report)?;
    let number = text.parse().ok().filter(|number| range.contains(number));
    if number.is_none() {
        report.error(
            value.at,
            format!("`{text}` is not {what}, a number from {low} to {high}"),
            "write a whole number in that range",
        );
    }
    number
}

/// A name: it stands in commands, in metrics and in file names, so its characters are few.
pub(super) fn name(
    value: &Value,
    what: &str,
    rule: &NameRule,
    report: &mut Report,
) -> Option<Located<String>> {
    let text = text(value, what, rule.example, report)?;
    if text.len() > rule.longest || !text.bytes().all(rule.allows) {
        report.error(
            value.at,
            format!("`{text}` cannot be {what}: {}", rule.why),
            format!("use 1 to {} of: {}", rule.longest, rule.characters),
        );
    }
    Some(Located { at: value.at, value: text.into() })
}

/// What a kind of name may look like.
pub(crate) struct NameRule {
    pub(crate) longest: usize,
    pub(crate) allows: fn(u8) -> bool,
    pub(crate) characters: &'static str,
    pub(super) why: &'static str,
    pub(super) example: &'static str,
}

/// A farm's name.
pub(crate) const FARM_NAME: NameRule = NameRule {
    longest: 32,
    allows: |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-',
    characters: "a-z, 0-9, -",
    why: "it names files and sockets",
    example: "web",
};

/// A node's or group's name.
pub(crate) const NAME: NameRule = NameRule {
    longest: 63,
    allows: |c| c.is_ascii_alphanumeric() || b"._-".contains(&c),
    characters: "A-Z, a-z, 0-9, ., _, -",
    why: "commands and metrics carry it",
    example: "node1",
};

/// A network interface's name (`dev_valid_name` of the kernel).
pub(crate) const INTERFACE: NameRule = NameRule {
    longest: 15,
    allows: |c| c.is_ascii_graphic() && c != b'/' && c != b':',
    characters: "letters, digits and punctuation without / and :",
    why: "the kernel allows no such interface name",
    example: "eth0",
};
