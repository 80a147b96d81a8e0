//! What is printed after the last test.

use std::fmt;
use std::time::Duration;

use super::libtest::Outcome;

/// How many of the slowest tests are listed, and from what time on.
const SLOWEST: usize = 10;
const SLOW: Duration = Duration::from_millis(500);

/// One test program, after it ran.
#[derive(Debug)]
pub(crate) struct Suite {
    /// Package, kind and name.
    pub name: String,
    /// Wall-clock time.
    pub time: Duration,
    /// What its output says.
    pub outcome: Outcome,
    /// Tests that passed only because they did nothing.
    pub skips: Vec<Skip>,
}

/// A test that could not run here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Skip {
    /// The test.
    pub test: String,
    /// What is missing.
    pub reason: String,
}

/// All suites of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Whether a skip is a failure.
    strict: bool,
    suites: Vec<Suite>,
}

impl Report {
    /// An empty one; `strict`: a skip is a failure.
    pub(crate) fn new(strict: bool) -> Self {
        Self { strict, ..Self::default() }
    }

    /// Takes in one more suite.
    pub(crate) fn add(&mut self, mut suite: Suite) {
        // To the test harness a skipping test is one that passed.
        suite.outcome.passed = suite.outcome.passed.saturating_sub(suite.skips.len());
        let ignored = std::mem::take(&mut suite.outcome.ignored);
        suite.skips.extend(ignored.into_iter().map(|(test, reason)| Skip { test, reason }));
        self.suites.push(suite);
    }

    /// Why the run as a whole failed.
    pub(crate) fn failure(&self) -> Option<&'static str> {
        if self.failed() > 0 {
            Some("tests failed")
        } else if self.strict && self.skipped() > 0 {
            Some("tests were skipped, and with CI=true none may be")
        } else if self.passed() + self.skipped() == 0 {
            Some("no test ran: does the filter match any name?")
        } else {
            None
        }
    }

    fn passed(&self) -> usize {
        self.suites.iter().map(|suite| suite.outcome.passed).sum()
    }

    fn failed(&self) -> usize {
        self.suites.iter().map(|suite| suite.outcome.failed).sum()
    }

    fn skipped(&self) -> usize {
        self.suites.iter().map(|suite| suite.skips.len()).sum()
    }

    fn fmt_times(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.suites.iter().any(Suite::has_run) {
            writeln!(f, "\nTimes")?;
        }
        for suite in self.suites.iter().filter(|suite| suite.has_run()) {
            let Outcome { passed, failed, .. } = suite.outcome;
            let skipped = suite.skips.len();
            let seconds = suite.time.as_secs_f64();
            write!(f, "{seconds:8.2} s  {}: {passed} passed", suite.name)?;
            write_count(f, failed, "failed")?;
            write_count(f, skipped, "skipped")?;
            writeln!(f)?;
        }
        let tests = self.suites.iter().flat_map(|suite| &suite.outcome.times);
        let mut slow: Vec<_> = tests.filter(|(_, time)| *time >= SLOW).collect();
        slow.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        if !slow.is_empty() {
            writeln!(f, "\nSlowest")?;
        }
        for (name, time) in slow.into_iter().take(SLOWEST) {
            writeln!(f, "{:8.2} s  {name}", time.as_secs_f64())?;
        }
        Ok(())
    }

    fn fmt_list(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.skipped() > 0 {
            writeln!(f, "\nSkipped")?;
        }
        for suite in &self.suites {
            for Skip { test, reason } in &suite.skips {
                writeln!(f, "  {}: {test}: {reason}", suite.name)?;
            }
        }
        if self.failed() > 0 {
            writeln!(f, "\nFailed")?;
        }
        for suite in &self.suites {
            for test in &suite.outcome.failures {
                writeln!(f, "  {}: {test}", suite.name)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_times(f)?;
        self.fmt_list(f)?;
        if let Some(failure) = self.failure() {
            writeln!(f, "\n{failure}")?;
        }
        let (passed, failed, skipped) = (self.passed(), self.failed(), self.skipped());
        writeln!(f, "\n{passed} passed, {failed} failed, {skipped} skipped")
    }
}

impl Suite {
    fn has_run(&self) -> bool {
        self.outcome.passed + self.outcome.failed + self.skips.len() > 0
    }
}

/// Reads the lines that skipping tests wrote: `name: reason`. A test that says so twice (once
/// per case of a property, say) was skipped once.
pub(crate) fn parse_skips(text: &str) -> Vec<Skip> {
    let mut skips: Vec<Skip> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (test, reason) = line.split_once(": ").unwrap_or((line, ""));
        if skips.iter().all(|skip| skip.test != test) {
            skips.push(Skip { test: test.to_owned(), reason: reason.to_owned() });
        }
    }
    skips
}

fn write_count(f: &mut fmt::Formatter<'_>, count: usize, what: &str) -> fmt::Result {
    if count == 0 { Ok(()) } else { write!(f, ", {count} {what}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts_a_skip_as_a_skip_and_not_as_passed() {
        let text = report(5, 0, &[("farm::starts", "needs root")]).to_string();
        assert!(text.ends_with("\n4 passed, 0 failed, 1 skipped\n"), "{text}");
        assert!(text.contains("farm::starts: needs root"), "{text}");
    }

    #[test]
    fn a_skip_fails_the_run_only_where_none_is_allowed() {
        let mut report = report(5, 0, &[("farm::starts", "needs root")]);
        assert_eq!(report.failure(), None);
        report.strict = true;
        assert!(report.failure().is_some());
    }

    #[test]
    fn an_ignored_test_is_a_skip() {
        let mut suite = suite(5, 0);
        suite.outcome.ignored.push(("soak".into(), "takes a day".into()));
        let mut report = Report::default();
        report.add(suite);
        let text = report.to_string();
        assert!(text.ends_with("\n5 passed, 0 failed, 1 skipped\n"), "{text}");
        assert!(text.contains("soak: takes a day"), "{text}");
    }

    #[test]
    fn failures_are_named_and_fail_the_run() {
        let mut suite = suite(5, 1);
        suite.outcome.failures.push("wire::round_trip".into());
        let mut report = Report::default();
        report.add(suite);
        assert_eq!(report.failure(), Some("tests failed"));
        assert!(report.to_string().contains("wire::round_trip"));
    }

    #[test]
    fn a_filter_that_matches_nothing_is_not_a_success() {
        assert!(report(0, 0, &[]).failure().is_some());
    }

    #[test]
    fn a_test_that_reports_its_skip_twice_is_counted_once() {
        let skips = parse_skips("m::a: no root\nm::a: no root\n\nb: no bpffs: mount it\n");
        assert_eq!(skips.len(), 2);
        assert_eq!(skips[0], Skip { test: "m::a".into(), reason: "no root".into() });
        assert_eq!(skips[1], Skip { test: "b".into(), reason: "no bpffs: mount it".into() });
    }

    fn report(passed: usize, failed: usize, skips: &[(&str, &str)]) -> Report {
        let mut suite = suite(passed, failed);
        suite.skips.extend(
            skips
                .iter()
                .map(|(test, reason)| Skip { test: (*test).into(), reason: (*reason).into() }),
        );
        let mut report = Report::default();
        report.add(suite);
        report
    }

    fn suite(passed: usize, failed: usize) -> Suite {
        let outcome = Outcome { passed, failed, ..Outcome::default() };
        Suite { name: "s".into(), time: Duration::from_secs(1), outcome, skips: Vec::new() }
    }
}
