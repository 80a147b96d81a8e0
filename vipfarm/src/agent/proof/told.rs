//! One event when it goes wrong, one when it is right again.

use std::collections::BTreeSet;

use crate::{
    agent::history::Level,
    membership::BootTime,
    status::{Fault, FaultKind, ProofStatus, Verdict},
};

/// An event for the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// How grave.
    pub level: Level,
    /// `not_owned_once` or `owned_once`.
    pub kind: &'static str,
    /// The sentence for people.
    pub message: String,
}

/// What has been told since the farm was right.
#[derive(Debug, Default)]
pub(super) struct Told {
    faults: BTreeSet<(Option<String>, Option<String>, FaultKind)>,
    since: BootTime,
}

impl Told {
    /// A fault that was not told of yet, or that all are gone. What nobody knows is not told.
    pub(super) fn news(&mut self, now: BootTime, status: &ProofStatus) -> Option<News> {
        match status.verdict {
            Verdict::Wrong => {
                let was_right = self.faults.is_empty();
                let mut fresh = Vec::new();
                for Fault { node, group, kind, message } in &status.faults {
                    if self.faults.insert((node.clone(), group.clone(), *kind)) {
                        fresh.push(message.as_str());
                    }
                }
                if was_right {
                    self.since = now;
                }
                (!fresh.is_empty()).then(|| News {
                    level: Level::Warn,
                    kind: "not_owned_once",
                    message: fresh.join("; "),
                })
            }
            Verdict::OwnedOnce if !self.faults.is_empty() => {
                self.faults.clear();
                let (epoch, after) = (status.epoch, now.saturating_since(self.since));
                let message = format!(
                    "every bucket is accepted by exactly one node again (view {epoch}), after {:.1} s",
                    after.as_secs_f64()
                );
                Some(News { level: Level::Info, kind: "owned_once", message })
            }
            Verdict::OwnedOnce | Verdict::Changing | Verdict::Unknown => None,
        }
    }
}
