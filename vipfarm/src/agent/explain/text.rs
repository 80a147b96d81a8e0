//! The sentence of an explanation.

use vipfarm_common::{Reason, Verdict};

use crate::agent::judge::Judged;

/// What one sentence tells.
pub(super) struct Told<'a> {
    /// The node whose verdict it is.
    pub(super) node: &'a str,
    pub(super) judged: Judged<'a>,
    /// Whether the node has agreed with the farm.
    pub(super) has_agreed: bool,
}

impl Told<'_> {
    /// What the node does, and why.
    pub(super) fn sentence(&self) -> String {
        self.by_bucket().unwrap_or_else(|| {
            let does = match self.judged.reason.verdict() {
                Verdict::Pass => "passes it on to its own stack",
                Verdict::Accept => "accepts it",
                Verdict::Drop => "drops it",
                Verdict::Forward => "hands it over",
            };
            format!("{} {does}: {}", self.node, lower_first(self.judged.reason.text()))
        })
    }

    /// The sentence where there is more to say than the reason's own.
    fn by_bucket(&self) -> Option<String> {
        let Self { node, judged: Judged { reason, bucket, group, owner }, has_agreed } = *self;
        let (bucket, group) = (bucket?, group?);
        let place = format!("bucket {bucket} of group {group}");
        if !has_agreed && matches!(reason, Reason::NotMine | Reason::Fenced | Reason::NoNextHop) {
            return Some(format!(
                "{node} drops it: it serves nothing, because it has not agreed with the farm yet; {place}."
            ));
        }
        Some(match (reason, owner) {
            (Reason::Fenced, Some(owner)) => format!(
                "{node} drops it, because its lease has ended and it serves nothing; {place} belongs to {owner}."
            ),
            (Reason::Mine, Some(owner)) if owner == node => {
                format!("{node} accepts it: {place} is its own.")
            }
            (Reason::Forwarded | Reason::NoNextHop | Reason::NotMine, Some(owner))
                if owner == node =>
            {
                format!(
                    "{node} drops it for the moment: {place} is its own, but the farm has not yet agreed that it may serve it."
                )
            }
            (Reason::NotMine, Some(owner)) => {
                format!("{node} drops it: {place} belongs to {owner}, which serves this client.")
            }
            (Reason::Forwarded, Some(owner)) => {
                format!("{node} hands it to {owner}: {place} belongs to that node.")
            }
            (Reason::NoNextHop, Some(owner)) => {
                format!("{node} drops it: {place} belongs to {owner}, whose MAC it does not know.")
            }
            (Reason::NotMine | Reason::NoNextHop, None) => format!(
                "{node} drops it, and so does every node: no node with power in group {group} is alive."
            ),
            _ => return None,
        })
    }
}

/// What a fragment without the transport header goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FragmentBy {
    /// The client's address.
    Address,
    /// The same and the IPv4 identification.
    Identification,
    /// What the first fragment of its packet was judged by; one that comes before it is kept.
    First,
    /// The same; one that comes before it is copied to the other nodes.
    FirstCopied,
}

impl FragmentBy {
    /// What decides, as a sentence that follows another.
    pub(super) fn sentence(self) -> &'static str {
        match self {
            Self::Address => {
                "A fragment without ports goes by the client's address here, like its whole packet."
            }
            Self::Identification => {
                "A fragment without ports goes by the client's address and the IP identification here, like its whole packet."
            }
            Self::First => {
                "A fragment without ports goes the way of its packet's first one; if it comes before that, every node keeps it."
            }
            Self::FirstCopied => {
                "A fragment without ports goes the way of its packet's first one; if it comes before that, it is copied to all nodes, which keep it."
            }
        }
    }
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_a_sentence_of_its_own_that_tells_the_verdict() {
        let mut sentences = BTreeSet::new();
        for &reason in Reason::ALL {
            let says = match reason.verdict() {
                Verdict::Pass => "node1 passes it on",
                Verdict::Accept => "node1 accepts it",
                Verdict::Drop => "node1 drops it",
                Verdict::Forward => "node1 hands it",
            };
            for (bucket, owner) in [(None, None), (Some(7), None), (Some(7), Some("node2"))] {
                let judged = Judged { reason, bucket, group: bucket.map(|_| "g"), owner };
                let sentence = Told { node: "node1", judged, has_agreed: true }.sentence();
                assert!(sentence.starts_with(says), "{reason:?}: {sentence}");
                assert!(sentence.ends_with('.'), "{reason:?}: {sentence}");
                if bucket.is_none() {
                    assert!(sentences.insert(sentence.clone()), "twice: {sentence}");
                }
            }
        }
    }

    #[test]
    fn a_bucket_is_told_with_its_owner() {
        let told = |reason, owner, has_agreed| {
            let judged = Judged { reason, bucket: Some(7), group: Some("g"), owner };
            Told { node: "node1", judged, has_agreed }.sentence()
        };
        for (reason, owner, sentence) in [
            (Reason::Mine, Some("node1"), "accepts it: bucket 7 of group g is its own."),
            (Reason::NotMine, Some("node1"), "the farm has not yet agreed that it may serve it."),
            (Reason::Forwarded, Some("node2"), "hands it to node2: bucket 7 of group g belongs"),
            (Reason::NoNextHop, Some("node2"), "belongs to node2, whose MAC it does not know."),
            (Reason::NoNextHop, None, "no node with power in group g is alive."),
            (Reason::Fenced, Some("node2"), "its lease has ended"),
        ] {
            let told = told(reason, owner, true);
            assert!(told.contains(sentence), "{reason:?}: {told}");
        }
        assert!(told(Reason::NoNextHop, None, false).contains("has not agreed with the farm yet"));
    }
}
