//! A YAML document as a tree in which every value knows where it stands.
//!
//! Typed structs would stop at the first value of a wrong type; a tree lets the reader go on and
//! report every problem of a file at once. Scalars keep their text as written, so that a node
//! named `1.10` or `no` keeps its name.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_yaml::{
    Location, MessageFormatter, Options, Spanned, UserMessageFormatter,
    budget::BudgetBreach,
    options::{DuplicateKeyPolicy, NonFiniteFloatPolicy},
};

use super::diagnostic::{Located, Pos, Report};
use super::duplicates;

/// One value of the document.
#[derive(Debug)]
pub(super) struct Value {
    pub(super) at: Pos,
    pub(super) kind: Kind,
    /// Where an alias (`*name`) leads to; the value's own place otherwise.
    defined: Location,
}

/// What a value is.
#[derive(Debug)]
pub(super) enum Kind {
    Null,
    Scalar(String),
    List(Vec<Value>),
    Map(Vec<(Located<String>, Value)>),
    /// A number or boolean, as its reader prints it; replaced by its text before anybody sees it.
    Typed(String),
}

impl Kind {
    /// What to call it in an error.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Scalar(_) | Self::Typed(_) => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Reads one document; syntax errors and duplicate keys go to `report`.
pub(super) fn read(text: &str, report: &mut Report) -> Option<Value> {
    match serde_yaml::from_str_with_options::<Value>(text, options()) {
        Ok(mut value) => {
            // The deserializer kept the first of two equal keys: it would stop at the second.
            duplicates::report(text, report);
            value.restore_text(text);
            Some(value)
        }
        Err(error) => {
            report_syntax(&error, text, report);
            None
        }
    }
}

/// Values of a document, as they stand and again as aliases repeat them: far above any farm, far
/// below what a hostile file could cost.
const MAX_VALUES: usize = 50_000;

fn options() -> Options {
    serde_yaml::options! {
        budget: serde_yaml::budget! { max_nodes: MAX_VALUES, max_documents: 2 },
        alias_limits: serde_yaml::alias_limits! { max_total_replayed_events: MAX_VALUES },
        duplicate_keys: DuplicateKeyPolicy::FirstWins,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    }
}

fn report_syntax(error: &serde_yaml::Error, text: &str, report: &mut Report) {
    use serde_yaml::Error;

    let at = error.location().map_or(Pos::FILE, Pos::from);
    let mut cause = error;
    while let Error::AliasError { error, .. } = cause {
        cause = error;
    }
    let (message, help) = match cause {
        Error::MultipleDocuments { .. } => (
            "a second document starts here".into(),
            "keep one document: remove the `---` and what does not belong to this farm",
        ),
        Error::UnknownAnchor { .. } => (
            "this alias leads to no `&anchor` above it".into(),
            "define the anchor before its use; quote text that starts with `*`",
        ),
        Error::NullIntoString { .. } | Error::Unexpected { .. } => (
            "a key must be plain text".into(),
            "write `key: value`; quote a key with special characters",
        ),
        Error::Budget { breach: BudgetBreach::Nodes { .. }, .. } => {
            too_large(&format!("it has more than {MAX_VALUES} values"))
        }
        Error::AliasReplayLimitExceeded { .. } => {
            too_large(&format!("its aliases stand for more than {MAX_VALUES} values"))
        }
        Error::Budget { breach: BudgetBreach::AliasAnchorRatio { .. }, .. } => {
            too_large("it has too many aliases")
        }
        _ if is_lone_star(text, at) => (
            "this is not valid YAML: a `*` alone begins the name of an alias".into(),
            "quote it: `port: \"*\"`",
        ),
        error => (
            format!("this is not valid YAML: {}", UserMessageFormatter.format_message(error)),
            "check quotes, brackets and indentation around this place; nothing else was read",
        ),
    };
    report.error(at, message, help);
}

fn too_large(why: &str) -> (String, &'static str) {
    (format!("too large for a farm's file: {why}"), "check that this is the configuration file")
}

/// Whether a `*` stands there that nothing follows: all ports or addresses, not quoted.
fn is_lone_star(text: &str, at: Pos) -> bool {
    let index = |n: u32| n.checked_sub(1).and_then(|n| usize::try_from(n).ok());
    let line = index(at.line).and_then(|line| text.lines().nth(line)).unwrap_or_default();
    let mut rest = line.chars().skip(index(at.column).unwrap_or(usize::MAX));
    let star = rest.next() == Some('*');
    star && rest.next().is_none_or(|c| " ,}]\t\r".contains(c))
}

impl From<Location> for Pos {
    fn from(location: Location) -> Self {
        let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Self { line: number(location.line()), column: number(location.column()) }
    }
}

impl Value {
    /// Puts the text of the file in the place of what the reader understood of it.
    fn restore_text(&mut self, text: &str) {
        match &mut self.kind {
            Kind::Typed(printed) => {
                let span = self.defined.span();
                let source = span.byte_offset().zip(span.byte_len()).and_then(|(start, len)| {
                    let start = usize::try_from(start).ok()?;
                    let end = start.checked_add(usize::try_from(len).ok()?)?;
                    text.get(start..end)
                });
                // `!!int "5"`: the quotes are not part of the text.
                let source = source.filter(|source| !source.starts_with(['"', '\'']));
                self.kind =
                    Kind::Scalar(source.map_or_else(|| std::mem::take(printed), str::to_owned));
            }
            Kind::List(items) => items.iter_mut().for_each(|item| item.restore_text(text)),
            Kind::Map(entries) => {
                for (_, value) in entries {
                    value.restore_text(text);
                }
            }
            Kind::Null | Kind::Scalar(_) => {}
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, defined } = Spanned::deserialize(deserializer)?;
        Ok(Self { at: referenced.into(), kind: value, defined })
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or a mapping")
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Typed(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(Kind::Typed(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
        Ok(Kind::Typed(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
        Ok(Kind::Typed(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
        Ok(Kind::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Kind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Kind::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, Value>()? {
            entries.push((Located { at: key.referenced.into(), value: key.value }, value));
        }
        Ok(Kind::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_keep_their_text_as_written() {
        let list = items("[1.10, no, 0x10, 1e3, .nan, 'it''s', true, 080]");
        let texts: Vec<_> = list.iter().map(text).collect();
        assert_eq!(texts, ["1.10", "no", "0x10", "1e3", ".nan", "it's", "true", "080"]);
    }

    #[test]
    fn an_alias_has_the_text_of_its_anchor_and_its_own_place() {
        let list = items("[&port 0x50, *port]");
        assert_eq!(text(&list[1]), "0x50");
        assert_eq!(list[1].at, Pos { line: 1, column: 14 });
    }

    #[test]
    fn columns_count_characters() {
        let list = items("['\u{e9}\u{1f511}', x]");
        assert_eq!(list[1].at, Pos { line: 1, column: 8 });
    }

    fn items(text: &str) -> Vec<Value> {
        let mut report = Report::new("f");
        let value = read(text, &mut report).expect("valid YAML");
        let Kind::List(items) = value.kind else { panic!("a list") };
        items
    }

    fn text(value: &Value) -> &str {
        let Kind::Scalar(text) = &value.kind else { panic!("a scalar") };
        text
    }
}
