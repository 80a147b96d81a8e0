//! What is wrong with a configuration: where, what, why, and how to mend it.

use std::fmt;

use serde::Serialize;

/// A place in the file: line and column, both from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pos {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl Pos {
    /// The file as a whole.
    pub(crate) const FILE: Self = Self { line: 0, column: 0 };
}

/// A value and the place it was read from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Located<T> {
    pub(crate) at: Pos,
    pub(crate) value: T,
}

/// One problem of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// The file as it was named.
    pub file: String,
    /// Line, from 1; 0 when the file as a whole is meant.
    pub line: u32,
    /// Column in characters, from 1; 0 when the file as a whole is meant.
    pub column: u32,
    /// What is wrong and why.
    pub message: String,
    /// What to do about it.
    pub help: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": error: {}\n  = help: {}", self.message, self.help)
    }
}

/// All problems of a configuration file, in the order of the file; never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// The problems, in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            let line_break = if index == 0 { "" } else { "\n" };
            write!(f, "{line_break}{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Collects the problems of one file while it is read.
#[derive(Debug)]
pub(crate) struct Report {
    file: String,
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    pub(crate) fn new(file: &str) -> Self {
        Self { file: file.into(), diagnostics: Vec::new() }
    }

    /// The file as it was named.
    pub(super) fn file(&self) -> &str {
        &self.file
    }

    /// Notes one problem.
    pub(crate) fn error(&mut self, at: Pos, message: impl Into<String>, help: impl Into<String>) {
        self.diagnostics.push(Diagnostic {
            file: self.file.clone(),
            line: at.line,
            column: at.column,
            message: message.into(),
            help: help.into(),
        });
    }

    /// `value` when it is there and nothing was wrong; else what was.
    pub(crate) fn finish<T>(mut self, value: Option<T>) -> Result<T, Diagnostics> {
        match value {
            Some(value) if self.diagnostics.is_empty() => Ok(value),
            _ => {
                self.diagnostics.sort_by_key(|problem| (problem.line, problem.column));
                debug_assert!(!self.diagnostics.is_empty(), "a missing value must be explained");
                Err(Diagnostics(self.diagnostics))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_printed_in_the_order_of_the_file() {
        let mut report = Report::new("farm.yaml");
        report.error(Pos { line: 12, column: 9 }, "b", "mend b");
        report.error(Pos { line: 3, column: 1 }, "a", "mend a");
        report.error(Pos::FILE, "whole", "mend it");
        let problems = report.finish(Some(())).expect_err("three problems");
        assert_eq!(
            problems.to_string(),
            "farm.yaml: error: whole\n  = help: mend it\n\
             farm.yaml:3:1: error: a\n  = help: mend a\n\
             farm.yaml:12:9: error: b\n  = help: mend b"
        );
        assert_eq!(problems.iter().count(), 3);
    }

    #[test]
    fn scripts_get_a_list_of_objects() {
        let mut report = Report::new("farm.yaml");
        report.error(Pos { line: 1, column: 2 }, "a", "mend a");
        let problems = report.finish(None::<()>).expect_err("one problem");
        assert_eq!(
            serde_json::to_string(&problems).expect("plain data"),
            r#"[{"file":"farm.yaml","line":1,"column":2,"message":"a","help":"mend a"}]"#
        );
    }
}
