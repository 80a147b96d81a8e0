//! What the demo checks, and the numbers it leaves.

use std::collections::BTreeMap;

use serde::Serialize;

/// The checks so far and the report in the making.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    checks: Vec<Check>,
    report: Report,
}

/// One promise and whether it was kept.
#[derive(Debug, Clone)]
pub(super) struct Check {
    /// Whether it held.
    pub(super) held: bool,
    /// What was measured, as a sentence.
    pub(super) text: String,
}

/// The content of `--json FILE`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Report {
    /// Whether every check held.
    pub(super) ok: bool,
    /// HTTP requests, all of them.
    pub(super) requests: usize,
    /// Those that failed although their node was neither cut off, frozen nor just coming back.
    pub(super) failed: usize,
    /// Requests or datagrams that more than one node, or one node twice, answered.
    pub(super) duplicate_answers: usize,
    /// Share of the requests while all nodes were up, by node, `0.0..=1.0`.
    pub(super) shares: BTreeMap<String, Share>,
    /// What was done to the farm, in order.
    pub(super) events: Vec<Event>,
}

/// One node's share.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Share {
    /// By its buckets.
    pub(super) expected: f64,
    /// By the requests it answered.
    pub(super) actual: f64,
}

/// One event and what users noticed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Event {
    /// `power_cut`, `return` or `freeze`.
    pub(super) name: &'static str,
    /// Longest time for which a client of the node concerned was not served.
    pub(super) outage_ms: f64,
    /// Datagrams and requests of all other clients that were not answered.
    pub(super) survivor_failures: usize,
}

impl Verdict {
    /// Records a check.
    pub(super) fn check(&mut self, held: bool, text: String) -> Check {
        let check = Check { held, text };
        self.checks.push(check.clone());
        check
    }

    /// Records that the demo could not go on.
    pub(super) fn broke_off(&mut self, why: &str) {
        self.check(false, why.to_owned());
    }

    /// Whether there were checks and all of them held.
    pub(super) fn ok(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.held)
    }

    /// How many checks there were.
    pub(super) fn count(&self) -> usize {
        self.checks.len()
    }

    /// The checks that did not hold.
    pub(super) fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| !check.held)
    }

    /// The report, to be filled in.
    pub(super) fn report_mut(&mut self) -> &mut Report {
        &mut self.report
    }

    /// The report with its verdict.
    pub(super) fn report(&self) -> Report {
        Report { ok: self.ok(), ..self.report.clone() }
    }
}

impl Share {
    /// How far the actual share may be from the expected by chance alone.
    ///
    /// Which node a connection reaches is decided by a keyed hash of its address and port: `n`
    /// connections are `n` throws of a coin with probability `p`. The share then has the standard
    /// deviation `sqrt(p (1 - p) / n)`; a fair hash is more than four of them off once in 16,000
    /// demos.
    #[expect(clippy::cast_precision_loss, reason = "far less than 2^52 requests")]
    pub(super) fn bound(expected: f64, requests: usize) -> f64 {
        4.0 * (expected * (1.0 - expected) / requests.max(1) as f64).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_checked_is_not_a_success() {
        assert!(!Verdict::default().ok());
    }

    #[test]
    fn one_failed_check_fails_the_demo_and_its_report() {
        let mut verdict = Verdict::default();
        verdict.check(true, "fine".into());
        assert!(verdict.report().ok);
        verdict.check(false, "not fine".into());
        assert!(!verdict.report().ok);
        assert_eq!(verdict.failures().map(|check| &*check.text).collect::<Vec<_>>(), ["not fine"]);
    }

    #[test]
    fn the_report_has_the_promised_fields() {
        let mut verdict = Verdict::default();
        verdict.check(true, "fine".into());
        let report = verdict.report_mut();
        report.shares.insert("node1".into(), Share { expected: 0.5, actual: 0.25 });
        report.events.push(Event { name: "power_cut", outage_ms: 1.5, survivor_failures: 0 });
        let json = serde_json::to_string(&verdict.report()).expect("plain data");
        let expected = r#"{"ok":true,"requests":0,"failed":0,"duplicate_answers":0,"shares":{"node1":{"expected":0.5,"actual":0.25}},"events":[{"name":"power_cut","outage_ms":1.5,"survivor_failures":0}]}"#;
        assert_eq!(json, expected);
    }

    #[test]
    fn a_fair_share_of_many_requests_has_a_narrow_bound() {
        assert!((Share::bound(0.5, 2500) - 0.04).abs() < 1e-12);
        assert!(Share::bound(0.25, 100) > Share::bound(0.25, 1000));
    }
}
