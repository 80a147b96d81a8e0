//! From an error to the process's exit code.

use std::io;

use crate::{
    agent::{site::SiteError, trust::Untrusted},
    config::Diagnostics,
    plan::PlanError,
};

/// A failure whose kind decides the exit code; any other error counts as [`Failure::Refused`].
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The request was understood and refused, or failed.
    #[error("{0}")]
    Refused(String),
    /// The operator's words or files must change first.
    #[error("{0}")]
    Usage(String),
    /// No agent answers.
    #[error("{0}")]
    NoAgent(String),
    /// All of it has been told already; the exit code is what is left.
    #[error("exit code {0}")]
    Told(u8),
}

/// The exit code for a verb's outcome; 0 also where nobody reads on (`vipfarm events | head`).
pub fn exit_code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref() {
            return match failure {
                Failure::Refused(_) => 1,
                Failure::Usage(_) => 2,
                Failure::NoAgent(_) => 3,
                Failure::Told(code) => *code,
            };
        }
        let of_site = cause.is::<SiteError>() || cause.is::<Untrusted>();
        if cause.is::<Diagnostics>() || of_site || cause.is::<PlanError>() {
            return 2;
        }
        if is_closed_pipe(cause) {
            return 0;
        }
    }
    1
}

/// Whether nothing is left to say about the error.
pub(super) fn is_told(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Failure::Told(_)))
}

/// Whether standard output was closed by its reader.
fn is_closed_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn the_code_is_found_beneath_added_context() {
        let no_agent =
            Err::<(), _>(Failure::NoAgent("gone".into())).context("asking").expect_err("it is");
        assert_eq!(exit_code(&no_agent), 3);
        assert_eq!(exit_code(&Failure::Usage("which?".into()).into()), 2);
        assert_eq!(exit_code(&Failure::Refused("no".into()).into()), 1);
        assert_eq!(exit_code(&anyhow!("anything else")), 1);
    }

    #[test]
    fn a_reader_that_goes_away_is_no_failure() {
        assert_eq!(exit_code(&io::Error::from(io::ErrorKind::BrokenPipe).into()), 0);
    }
}
