//! What keeps an agent from serving on this machine, or may: [`gather`] looks at the machine and changes
//! nothing, [`judge`] says what it means and what to do about it. `vipfarm doctor` shows that; an agent
//! that starts has it in its history.

pub mod facts;
pub mod gather;
pub mod judge;

use std::fmt;

use serde::Serialize;

pub use self::{
    facts::Facts,
    gather::{Scope, gather},
    judge::judge,
};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// The agent serves, but not as well as it could, or not in all cases.
    Warning,
    /// The agent refuses to start, or clients are not served.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, by a word of its own for each.
    pub check: &'static str,
    /// The interface or file that it is about, if any.
    pub subject: Option<String>,
    /// How much it matters.
    pub severity: Severity,
    /// What was found and what follows.
    pub why: String,
    /// What to do: a command, as far as there is one. None where all is well.
    pub fix: Option<String>,
}

/// A line for logs.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { check, subject, why, fix, .. } = self;
        let subject = subject.as_ref().map_or_else(String::new, |subject| format!(" of {subject}"));
        let fix = fix.as_ref().map_or_else(String::new, |fix| format!(": {fix}"));
        write!(f, "{check}{subject}: {why}{fix}")
    }
}
