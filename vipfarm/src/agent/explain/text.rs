//! The sentences of an explanation.

use std::net::IpAddr;

use vipfarm_common::{Reason, Verdict};

use crate::{agent::judge::Judged, placement::RESOLVE_GROUP, status::Why};

/// What the sentences tell.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Told<'a> {
    /// The node whose verdict it is.
    pub(super) node: &'a str,
    pub(super) judged: Judged<'a>,
    /// Whether the node has agreed with the farm.
    pub(super) has_agreed: bool,
    /// Whether the farm was asked for, not the node.
    pub(super) of_farm: bool,
    /// Whether the client asks for an answer, not a service.
    pub(super) answers: bool,
    /// Whether nodes that are alive do not serve the group by their own word.
    pub(super) abstained: bool,
    /// The VIP, if it is closed, and all of it is about when it is open.
    pub(super) waits_for_open: Option<IpAddr>,
    /// Of a failover VIP.
    pub(super) held: Option<Held<'a>>,
}

/// Who has a failover VIP, which is the owner.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held<'a> {
    pub(super) vip: IpAddr,
    /// Why that one; `None` if no node has it.
    pub(super) why: Option<Why>,
    /// Another one that would have it if the holder had not had it before.
    pub(super) better: Option<&'a str>,
    /// Whether a better one takes over, at last.
    pub(super) preempt: bool,
    /// Whether another one may have it, and keep it, for nobody knows who has it now.
    pub(super) may_be_elsewhere: bool,
}

impl Told<'_> {
    /// What becomes of the packet, and why.
    pub(super) fn sentences(&self) -> Vec<String> {
        let sentence = self.by_owner().unwrap_or_else(|| {
            let does = match self.judged.reason.verdict() {
                Verdict::Pass => "passes it on to its own stack",
                Verdict::Accept => "accepts it",
                Verdict::Drop => "drops it",
                Verdict::Forward => "hands it over",
            };
            format!("{} {does}: {}", self.subject(), lower_first(self.judged.reason.text()))
        });
        let sentence = match self.waits_for_open {
            Some(vip) => format!(
                "{vip} is closed on each node until `vipfarm open` there (`open: manual`); once open, {sentence}"
            ),
            None => sentence,
        };
        let is_built_in = self.judged.group == Some(RESOLVE_GROUP);
        let built_in = is_built_in.then(|| {
            "By the built-in group all nodes share out ARP, echo requests and what has no ports."
                .to_owned()
        });
        [Some(sentence), built_in, self.why_held()].into_iter().flatten().collect()
    }

    /// Who does it.
    fn subject(&self) -> &str {
        if self.of_farm && Some(self.node) != self.judged.owner { "every node" } else { self.node }
    }

    /// The sentence where there is more to say than the reason's own.
    fn by_owner(&self) -> Option<String> {
        let Self { node, judged: Judged { reason, bucket, group, owner }, has_agreed, .. } = *self;
        let (bucket, group) = (bucket?, group?);
        let group = if group == RESOLVE_GROUP {
            "the built-in group".into()
        } else {
            format!("group {group}")
        };
        let place = format!("bucket {bucket} of {group}");
        let own = match self.held {
            Some(Held { vip, .. }) => format!("it has {vip}"),
            None => format!("{place} is its own"),
        };
        let theirs = |owner: &str| match self.held {
            Some(Held { vip, .. }) => format!("{owner} has {vip}"),
            None => format!("{place} belongs to {owner}"),
        };
        let does = if self.answers { "answers" } else { "serves" };
        if !has_agreed && matches!(reason, Reason::NotMine | Reason::Fenced | Reason::NoNextHop) {
            let place = if self.held.is_some() { String::new() } else { format!("; {place}") };
            return Some(format!(
                "{node} drops it: it serves nothing, because it has not agreed with the farm yet{place}."
            ));
        }
        Some(match (reason, owner) {
            (Reason::Fenced, Some(owner)) => format!(
                "{node} drops it, because its lease has ended and it serves nothing; {}.",
                theirs(owner)
            ),
            (Reason::Mine, Some(owner)) if owner == node => {
                let accepts =
                    if self.of_farm { format!("{does} this client") } else { "accepts it".into() };
                format!("{node} {accepts}: {own}.")
            }
            (Reason::Forwarded | Reason::NoNextHop | Reason::NotMine, Some(owner))
                if owner == node =>
            {
                format!(
                    "{node} drops it for the moment: {own}, but the farm has not yet agreed that it may serve it."
                )
            }
            (Reason::NotMine, Some(owner)) => {
                let and = if self.held.is_some() { " and" } else { ", which" };
                format!("{node} drops it: {}{and} {does} this client.", theirs(owner))
            }
            (Reason::Forwarded, Some(owner)) => {
                format!("{node} hands it to {owner}: {place} belongs to that node.")
            }
            (Reason::NoNextHop, Some(owner)) => {
                format!("{node} drops it: {place} belongs to {owner}, whose MAC it does not know.")
            }
            (Reason::NotMine | Reason::NoNextHop, None) => {
                let drops = if self.of_farm {
                    "every node drops it".to_owned()
                } else {
                    format!("{node} drops it, and so does every node")
                };
                format!("{drops}: {}.", self.why_nobody(&group))
            }
            _ => return None,
        })
    }

    /// Why no node owns the bucket.
    fn why_nobody(&self, group: &str) -> String {
        let of = self.held.map_or_else(|| group.to_owned(), |held| held.vip.to_string());
        if self.abstained {
            format!(
                "nodes with power for {of} are alive, but do not serve it for now: it is closed (`open: manual`), or a check fails; `vipfarm status` says which"
            )
        } else if self.held.is_some() {
            format!("no node that may have {of} is alive and serves")
        } else {
            format!("no node with power in {of} is alive")
        }
    }

    /// Why the owner has a failover VIP.
    fn why_held(&self) -> Option<String> {
        let (Held { vip, why, better, preempt, may_be_elsewhere }, owner) =
            (self.held?, self.judged.owner?);
        let why = match (why?, better) {
            (Why::Priority, _) => format!(
                "{owner} has it by priority: no node that is alive and may have it has a higher one."
            ),
            (Why::Spread, _) => format!(
                "{owner} has it because such VIPs are spread over the nodes that are alive (`balance: spread`)."
            ),
            (Why::Incumbent, None) => format!("{owner} has it because it has had it before."),
            (Why::Incumbent, Some(better)) => {
                let key = if preempt { "preempt_delay" } else { "preempt: false" };
                format!("{owner} keeps it because it has had it before {better} came (`{key}`).")
            }
            (Why::Pinned, _) => format!(
                "{owner} has it because an operator moved it there; `vipfarm move {vip} --back` takes that back."
            ),
        };
        Some(if may_be_elsewhere {
            format!("{why} Who has it now, and may keep it, the file does not tell.")
        } else {
            why
        })
    }
}

/// What an ICMP error goes by.
pub(super) const QUOTES: &str = "An ICMP error goes by the packet that it quotes, whoever sends it: to the node that has the flow.";

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

    /// What node1's agent says of that, all being well otherwise.
    fn told(judged: Judged<'_>) -> Told<'_> {
        Told {
            node: "node1",
            judged,
            has_agreed: true,
            of_farm: false,
            answers: false,
            abstained: false,
            waits_for_open: None,
            held: None,
        }
    }

    fn sentence(told: &Told<'_>) -> String {
        told.sentences().join(" ")
    }

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
                let sentence = sentence(&told(judged));
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
        let of = |reason, owner, has_agreed| {
            let judged = Judged { reason, bucket: Some(7), group: Some("g"), owner };
            sentence(&Told { has_agreed, ..told(judged) })
        };
        for (reason, owner, says) in [
            (Reason::Mine, Some("node1"), "accepts it: bucket 7 of group g is its own."),
            (Reason::NotMine, Some("node1"), "the farm has not yet agreed that it may serve it."),
            (Reason::Forwarded, Some("node2"), "hands it to node2: bucket 7 of group g belongs"),
            (Reason::NoNextHop, Some("node2"), "belongs to node2, whose MAC it does not know."),
            (Reason::NoNextHop, None, "no node with power in group g is alive."),
            (Reason::Fenced, Some("node2"), "its lease has ended"),
        ] {
            let told = of(reason, owner, true);
            assert!(told.contains(says), "{reason:?}: {told}");
        }
        assert!(of(Reason::NoNextHop, None, false).contains("has not agreed with the farm yet"));
    }

    #[test]
    fn the_farm_is_told_of_by_who_serves_or_by_all() {
        let mine = Judged {
            reason: Reason::Mine,
            bucket: Some(7),
            group: Some("g"),
            owner: Some("node1"),
        };
        let of_farm = |judged, answers| sentence(&Told { of_farm: true, answers, ..told(judged) });
        assert_eq!(
            of_farm(mine, false),
            "node1 serves this client: bucket 7 of group g is its own."
        );
        let built_in = Judged { group: Some(RESOLVE_GROUP), ..mine };
        assert_eq!(
            of_farm(built_in, true),
            "node1 answers this client: bucket 7 of the built-in group is its own. By the built-in group \
             all nodes share out ARP, echo requests and what has no ports."
        );
        let nobodys = Judged { reason: Reason::NotMine, owner: None, ..mine };
        let every = "every node drops it: no node with power in group g is alive.";
        assert_eq!(of_farm(nobodys, false), every);
        let no_rule = Judged { reason: Reason::NoRule, bucket: None, group: None, owner: None };
        let every = "every node drops it: no rule covers this protocol and port.";
        assert_eq!(of_farm(no_rule, false), every);
        let abstained = sentence(&Told { abstained: true, ..told(nobodys) });
        assert!(abstained.contains("do not serve it for now: it is closed"), "{abstained}");
    }

    #[test]
    fn who_has_a_failover_vip_is_told_with_the_reason() {
        let held = |why, better, preempt| Held {
            vip: [10, 0, 0, 100].into(),
            why: Some(why),
            better,
            preempt,
            may_be_elsewhere: false,
        };
        let not_mine = Judged {
            reason: Reason::NotMine,
            bucket: Some(7),
            group: Some("10.0.0.100"),
            owner: Some("node2"),
        };
        for (why, better, preempt, says) in [
            (Why::Priority, None, true, "node2 has it by priority"),
            (Why::Spread, None, true, "`balance: spread`"),
            (Why::Incumbent, None, true, "it has had it before."),
            (Why::Incumbent, Some("node1"), false, "before node1 came (`preempt: false`)"),
            (Why::Incumbent, Some("node1"), true, "before node1 came (`preempt_delay`)"),
            (Why::Pinned, None, true, "`vipfarm move 10.0.0.100 --back`"),
        ] {
            let held = Some(held(why, better, preempt));
            let text = sentence(&Told { held, ..told(not_mine) });
            let begins = "node1 drops it: node2 has 10.0.0.100 and serves this client. node2 ";
            assert!(text.starts_with(begins) && text.contains(says), "{text}");
            assert!(!text.contains("bucket"), "{text}");
        }
        let nobodys = Judged { owner: None, ..not_mine };
        let held = Some(Held { why: None, ..held(Why::Priority, None, true) });
        assert_eq!(
            sentence(&Told { held, ..told(nobodys) }),
            "node1 drops it, and so does every node: no node that may have 10.0.0.100 is alive and serves."
        );
    }
}
