//! Whether what must be right on a node is.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::Effect;

/// One check of the file, or something that the agent watches by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// What is served only if it passes: `all`, `vip ADDRESS` or `group NAME`.
    pub about: String,
    /// What is looked at, such as `tcp 127.0.0.1:80`.
    pub check: String,
    /// What it has come to.
    pub state: CheckState,
    /// For how many seconds it has been so.
    pub since_s: u64,
    /// What follows when it fails; absent if it is only told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
    /// What was wrong the last time that something was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

impl CheckStatus {
    /// The same without what may be a secret of the operator's: a program's arguments and what it says, a
    /// URL's query.
    #[must_use]
    pub fn for_strangers(mut self) -> Self {
        let mut words = self.check.splitn(3, ' ');
        let known = [words.next().unwrap_or_default(), words.next().unwrap_or_default()];
        self.check = match known {
            ["exec", program] => format!("exec {program}"),
            ["http", url] => format!("http {}", url.split('?').next().unwrap_or_default()),
            _ => self.check,
        };
        self.last_error = None;
        self
    }
}

/// What a check has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// It has not been looked yet: nothing that it is about is served.
    Starting,
    /// All is well.
    Passing,
    /// Something is wrong.
    Failing,
}

impl CheckState {
    /// The word used everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Passing => "passing",
            Self::Failing => "failing",
        }
    }
}

impl fmt::Display for CheckState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_see_no_arguments_and_no_queries() {
        for (check, seen) in [
            ("exec /usr/local/bin/check --password x", "exec /usr/local/bin/check"),
            ("http https://localhost/health?token=x", "http https://localhost/health"),
            ("no file /run/stop", "no file /run/stop"),
            ("tcp 127.0.0.1:80", "tcp 127.0.0.1:80"),
        ] {
            let status = CheckStatus {
                about: "all".into(),
                check: check.into(),
                state: CheckState::Failing,
                since_s: 1,
                effect: None,
                last_error: Some("the password x is wrong".into()),
            };
            let found = status.for_strangers();
            assert_eq!((&*found.check, found.last_error), (seen, None));
        }
    }
}
