//! An element of one of `SafeKit`'s files: its attributes with macros replaced, and their places.

use std::{collections::HashMap, net::IpAddr};

use roxmltree::{Document, Node, ParsingOptions};

use super::Notes;
use crate::config::{Pos, is_host_name, nearest};

/// Far above any module's file; what a hostile one could cost stays small.
const MOST_NODES: u32 = 10_000;

/// Elements of which a farm has nothing anyway.
const NOT_OURS: [&str; 6] = ["heart", "rfs", "user", "vhost", "errd", "failover"];

/// Macros of a module by name.
pub(super) type Macros = HashMap<String, String>;

/// Parses a file; what is wrong with it goes to the notes.
pub(super) fn parse<'a>(text: &'a str, notes: &mut Notes) -> Option<Document<'a>> {
    // SafeKit's files may name a document type. Entities are limited by the parser.
    let options =
        ParsingOptions { allow_dtd: true, nodes_limit: MOST_NODES, entity_resolver: None };
    Document::parse_with_options(text, options)
        .map_err(|error| {
            let at = error.pos();
            notes.problem(
                Pos { line: at.row, column: at.col },
                format!("this is not well-formed XML: {error}"),
                "mend the file around this place; nothing was written",
            );
        })
        .ok()
}

/// The macros that a file defines.
pub(super) fn macros(document: &Document<'_>, notes: &mut Notes) -> Macros {
    let mut macros = Macros::new();
    for node in document.descendants().filter(|node| node.has_tag_name("macro")) {
        let element = Element { node, macros: &Macros::new() };
        let (name, value) = (element.require("name", notes), element.require("value", notes));
        if let (Some(name), Some(value)) = (name, value) {
            let shown = format!("macro name=\"{}\"", name.value);
            notes.translated(element.at(), &shown, "its value, in place of each use");
            macros.insert(name.value, value.value);
        }
    }
    macros
}

/// An element.
#[derive(Clone, Copy)]
pub(super) struct Element<'a> {
    pub(super) node: Node<'a, 'a>,
    pub(super) macros: &'a Macros,
}

/// An attribute.
pub(super) struct Attribute {
    pub(super) at: Pos,
    pub(super) value: String,
    /// Element, name and value, for the account.
    pub(super) shown: String,
}

impl<'a> Element<'a> {
    /// Its name without a prefix.
    pub(super) fn name(&self) -> &'a str {
        self.node.tag_name().name()
    }

    pub(super) fn at(&self) -> Pos {
        self.place(self.node.range().start)
    }

    pub(super) fn children(&self) -> impl DoubleEndedIterator<Item = Self> + use<'a> {
        let macros = self.macros;
        self.node.children().filter(Node::is_element).map(move |node| Self { node, macros })
    }

    /// The children with that name; the others are accounted for as unknown.
    pub(super) fn only(&self, names: &[&str], notes: &mut Notes) -> Vec<Self> {
        let (known, unknown): (Vec<_>, Vec<_>) =
            self.children().partition(|child| names.contains(&child.name()));
        for element in unknown {
            element.unknown(names, notes);
        }
        known
    }

    /// Accounts for an element that is not among `known`, with all that is in it.
    pub(super) fn unknown(&self, known: &[&str], notes: &mut Notes) {
        if let Some(near) = nearest(self.name(), known) {
            return notes.mistyped(
                self.at(),
                &self.with_content(),
                near,
                !NOT_OURS.contains(&near),
            );
        }
        let why = format!("it is not an element of <{}> known here", self.parent());
        notes.dropped(self.at(), &self.with_content(), why);
    }

    /// Accounts for attributes that are not among `known`.
    pub(super) fn attributes(&self, known: &[&str], notes: &mut Notes) {
        for attribute in self.node.attributes().filter(|it| !known.contains(&it.name())) {
            let shown = format!("{} {}", self.name(), attribute.name());
            let at = self.place(attribute.range().start);
            match nearest(attribute.name(), known) {
                Some(near) => notes.mistyped(at, &shown, near, true),
                None => notes.dropped(at, &shown, "it is not an attribute known here"),
            }
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<Attribute> {
        let attribute = self.node.attributes().find(|it| it.name() == name)?;
        let value = expand(attribute.value().trim(), self.macros);
        let shown = format!("{} {name}=\"{value}\"", self.name());
        Some(Attribute { at: self.place(attribute.range().start), value, shown })
    }

    /// An attribute without which the element makes no sense.
    pub(super) fn require(&self, name: &str, notes: &mut Notes) -> Option<Attribute> {
        let attribute = self.get(name).filter(|it| !it.value.is_empty());
        if attribute.is_none() {
            notes.problem(
                self.at(),
                format!("<{}> needs the attribute `{name}`", self.name()),
                format!("add {name}=\"...\", as SafeKit's manual has it, or remove the element"),
            );
        }
        attribute
    }

    /// An attribute that is `on` or `off`.
    pub(super) fn switch(&self, name: &str, notes: &mut Notes) -> Option<(Attribute, bool)> {
        let attribute = self.get(name)?;
        let on = one_of(&attribute, &[("on", true), ("off", false)], notes)?;
        Some((attribute, on))
    }

    /// The element as the account names it when all that is in it goes with it.
    pub(super) fn with_content(&self) -> String {
        let inner = self.node.descendants().filter(Node::is_element).count() - 1;
        match inner {
            0 => format!("<{}>", self.name()),
            1 => format!("<{}> and the element in it", self.name()),
            inner => format!("<{}> and the {inner} elements in it", self.name()),
        }
    }

    /// The element with its attributes.
    pub(super) fn shown(&self) -> String {
        let mut shown = self.name().to_owned();
        for attribute in self.node.attributes() {
            let value = expand(attribute.value(), self.macros);
            shown = format!("{shown} {}=\"{value}\"", attribute.name());
        }
        shown
    }

    fn parent(&self) -> &'a str {
        self.node.parent_element().map_or("the file", |parent| parent.tag_name().name())
    }

    fn place(&self, byte: usize) -> Pos {
        let at = self.node.document().text_pos_at(byte);
        Pos { line: at.row, column: at.col }
    }
}

/// The meaning of an attribute's word; another word is a problem.
pub(super) fn one_of<T: Copy>(
    attribute: &Attribute,
    words: &[(&str, T)],
    notes: &mut Notes,
) -> Option<T> {
    let found = words.iter().find(|(word, _)| *word == attribute.value);
    if found.is_none() {
        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        notes.problem(
            attribute.at,
            format!("`{}` is not a value of this attribute", attribute.value),
            format!("write one of: {}", words.join(", ")),
        );
    }
    found.map(|&(_, meaning)| meaning)
}

/// Whether the value can be a host's address or name; else it is a problem.
pub(super) fn is_host(attribute: &Attribute, notes: &mut Notes) -> bool {
    let value = &attribute.value;
    let usable = value.parse::<IpAddr>().is_ok() || is_host_name(value);
    if !usable {
        let message = format!("`{value}` is neither an IP address nor a host name");
        notes.problem(attribute.at, message, "write an address such as 192.168.1.222");
    }
    usable
}

/// The text with each `%NAME%` of a known macro replaced. Once: values are not looked through again.
fn expand(text: &str, macros: &Macros) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('%') {
        expanded.push_str(before);
        let known =
            behind.split_once('%').and_then(|(name, behind)| Some((macros.get(name)?, behind)));
        if let Some((value, behind)) = known {
            expanded.push_str(value);
            rest = behind;
        } else {
            expanded.push('%');
            rest = behind;
        }
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macros_are_replaced_once_and_other_percent_signs_stay() {
        let macros = Macros::from([("A".into(), "%B%".into()), ("B".into(), "b".into())]);
        for (text, expanded) in [
            ("%B%", "b"),
            ("1%B%2%B%", "1b2b"),
            ("%A%", "%B%"),
            ("%C% %B%", "%C% b"),
            ("100%", "100%"),
            ("%%B%", "%b"),
            ("", ""),
        ] {
            assert_eq!(expand(text, &macros), expanded, "{text}");
        }
    }
}
