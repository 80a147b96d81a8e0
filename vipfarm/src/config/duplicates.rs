//! Keys that appear twice in one mapping: every one of them, where a deserializer tells the first.

use std::{borrow::Cow, collections::HashMap};

use serde_yaml::granit_parser::{Event, Parser, Span};

use super::diagnostic::{Pos, Report};

/// Reports each key that repeats an earlier one of its mapping. Syntax errors end the search:
/// they are reported by whoever reads the values.
pub(super) fn report(text: &str, report: &mut Report) {
    let mut open: Vec<Collection> = Vec::new();
    for (event, span) in Parser::new_from_str(text).map_while(Result::ok) {
        match event {
            Event::Scalar(key, ..) => {
                if let Some(Collection::Map(map)) = open.last_mut() {
                    map.scalar(&key, position(&span), report);
                }
            }
            Event::Alias(_) => child(&mut open),
            Event::SequenceStart(..) => {
                child(&mut open);
                open.push(Collection::List);
            }
            Event::MappingStart(..) => {
                child(&mut open);
                open.push(Collection::Map(Mapping::default()));
            }
            Event::SequenceEnd | Event::MappingEnd => {
                open.pop();
            }
            _ => {}
        }
    }
}

enum Collection {
    List,
    Map(Mapping),
}

#[derive(Default)]
struct Mapping {
    seen: HashMap<String, Pos>,
    /// The next child is the value of a key.
    value_next: bool,
}

impl Mapping {
    fn scalar(&mut self, text: &str, at: Pos, report: &mut Report) {
        if !self.value_next {
            match self.seen.get(identity(text).as_ref()) {
                Some(first) => report.error(
                    at,
                    format!("the key `{text}` stands here again, first on line {}", first.line),
                    "keep one of the two",
                ),
                None => {
                    self.seen.insert(identity(text).into_owned(), at);
                }
            }
        }
        self.value_next = !self.value_next;
    }
}

/// What makes two keys equal: the reader holds `11` and `0xB` for one.
fn identity(key: &str) -> Cow<'_, str> {
    match serde_yaml::from_str::<i128>(key) {
        Ok(number) => number.to_string().into(),
        Err(_) => key.into(),
    }
}

/// Notes that a child which cannot be a plain key begins.
fn child(open: &mut [Collection]) {
    if let Some(Collection::Map(map)) = open.last_mut() {
        map.value_next = !map.value_next;
    }
}

/// The parser counts columns from 0.
fn position(span: &Span) -> Pos {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Pos { line: number(span.start.line()), column: number(span.start.col() + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_repeated_key_is_found_where_it_stands() {
        let found = places("a: 1\nb: { c: 1, d: [c, c], c: 2 }\n? a\n: a\nb: {}\n");
        assert_eq!(found, [(2, 23), (3, 3), (5, 1)]);
    }

    #[test]
    fn equal_values_are_no_repeated_keys() {
        assert_eq!(places("a: b\nb: a\nc: [a, a, { a: a }, { a: a }]\n&x d: *x\ne: b"), []);
    }

    #[test]
    fn numbers_are_equal_however_they_are_written() {
        assert_eq!(places("11: 1\n0xB: 2\n"), [(2, 1)]);
    }

    fn places(text: &str) -> Vec<(u32, u32)> {
        let mut found = Report::new("f");
        report(text, &mut found);
        match found.finish(Some(())) {
            Ok(()) => Vec::new(),
            Err(problems) => problems.iter().map(|p| (p.line, p.column)).collect(),
        }
    }
}
