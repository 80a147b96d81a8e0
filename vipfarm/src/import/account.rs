//! What became of each element of a source.

use std::fmt;

use serde::Serialize;

use crate::config::{Diagnostic, Diagnostics, Pos, Report};

/// What became of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The farm's file says the same.
    Translated,
    /// The farm's file says something close to it.
    Approximated,
    /// The farm's file does not have it.
    Dropped,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Translated => "translated",
            Self::Approximated => "approximated",
            Self::Dropped => "dropped",
        })
    }
}

/// One element of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The file as it was named.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// The element, as the source writes it; secrets are left out.
    pub element: String,
    /// What became of it.
    pub outcome: Outcome,
    /// What stands for it in the farm's file.
    pub into: Option<String>,
    /// Why it is not there, or not the same.
    pub why: Option<String>,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, element, outcome, into, why } = self;
        write!(f, "{file}:{line}:{column}: {outcome}: {element}")?;
        if let Some(into) = into {
            write!(f, " -> {into}")?;
        }
        why.as_ref().map_or(Ok(()), |why| write!(f, ": {why}"))
    }
}

/// What became of a source.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Account {
    /// Its elements, in the order of the files.
    pub elements: Vec<Entry>,
    /// What has to be added or decided by hand: VIPs that could not be taken over, then what
    /// `vipfarm check` says of the new file.
    pub missing: Vec<Diagnostic>,
}

impl Account {
    /// How many elements had that outcome.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.elements.iter().filter(|entry| entry.outcome == outcome).count()
    }

    /// Brings the elements of each file into its order.
    pub(super) fn sort(&mut self) {
        let mut files: Vec<String> = Vec::new();
        for entry in &self.elements {
            if !files.contains(&entry.file) {
                files.push(entry.file.clone());
            }
        }
        let file = |entry: &Entry| files.iter().position(|file| *file == entry.file);
        self.elements.sort_by_key(|entry| (file(entry), entry.line, entry.column));
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for entry in &self.elements {
            writeln!(f, "{entry}")?;
        }
        for Diagnostic { file, line, column, message, help } in &self.missing {
            writeln!(f, "{file}:{line}:{column}: missing: {message}\n  = help: {help}")?;
        }
        for outcome in [Outcome::Translated, Outcome::Approximated, Outcome::Dropped] {
            write!(f, "{} {outcome}, ", self.count(outcome))?;
        }
        writeln!(f, "{} missing", self.missing.len())
    }
}

/// Collects the account of one file, and the problems that make it unreadable.
#[derive(Debug)]
pub(super) struct Notes {
    file: String,
    account: Account,
    problems: Report,
}

impl Notes {
    pub(super) fn new(file: &str) -> Self {
        let (account, problems) = (Account::default(), Report::new(file));
        Self { file: file.into(), account, problems }
    }

    pub(super) fn translated(&mut self, at: Pos, element: &str, into: impl Into<String>) {
        self.note(at, element, Outcome::Translated, Some(into.into()), None);
    }

    pub(super) fn approximated(
        &mut self,
        at: Pos,
        element: &str,
        into: impl Into<String>,
        why: impl Into<String>,
    ) {
        self.note(at, element, Outcome::Approximated, Some(into.into()), Some(why.into()));
    }

    pub(super) fn dropped(&mut self, at: Pos, element: &str, why: impl Into<String>) {
        self.note(at, element, Outcome::Dropped, None, Some(why.into()));
    }

    /// Something unknown whose name is nearly `near`; `has_part`: the new file lacks what it says.
    pub(super) fn mistyped(&mut self, at: Pos, element: &str, near: &str, has_part: bool) {
        let help = format!("did you mean `{near}`?");
        self.dropped(at, element, format!("it is not known here: {help}"));
        if has_part {
            let message =
                format!("`{}` is not known, and what it says is not in this file", shown(element));
            self.missing(at, message, format!("{help} Correct it, and import again"));
        }
    }

    /// Something without which the new file does not do what the source did.
    pub(super) fn missing(&mut self, at: Pos, message: impl Into<String>, help: impl Into<String>) {
        self.account.missing.push(Diagnostic {
            file: self.file.clone(),
            line: at.line,
            column: at.column,
            message: message.into(),
            help: help.into(),
        });
    }

    /// The source makes no sense here: nothing will be written.
    pub(super) fn problem(&mut self, at: Pos, message: impl Into<String>, help: impl Into<String>) {
        self.problems.error(at, message, help);
    }

    /// The account, unless the source made no sense.
    pub(super) fn finish(self) -> Result<Account, Diagnostics> {
        self.problems.finish(Some(self.account))
    }

    fn note(
        &mut self,
        at: Pos,
        element: &str,
        outcome: Outcome,
        into: Option<String>,
        why: Option<String>,
    ) {
        let Pos { line, column } = at;
        let (file, element) = (self.file.clone(), shown(element));
        self.account.elements.push(Entry { file, line, column, element, outcome, into, why });
    }
}

/// Text of a source as it may stand in a comment and on a terminal.
pub(super) fn shown(text: &str) -> String {
    let unseen = |c: char| c.is_control() || "\u{2028}\u{2029}\u{feff}".contains(c);
    text.chars().map(|c| if unseen(c) { '?' } else { c }).collect()
}
