//! Reading what a test program prints.

use std::time::Duration;

/// What became of the tests of one program.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// Tests that passed, those included that said they skip.
    pub passed: usize,
    /// Tests that failed.
    pub failed: usize,
    /// Names of the failed ones.
    pub failures: Vec<String>,
    /// `#[ignore]`d tests: name and reason.
    pub ignored: Vec<(String, String)>,
    /// Tests with a time.
    pub times: Vec<(String, Duration)>,
}

impl Outcome {
    /// Takes in one line of output. The counts come from the `test result:` line: a line of a test
    /// may be torn by what the test itself prints.
    pub(crate) fn read_line(&mut self, line: &str) {
        if let Some(start) = line.find("test result: ") {
            let count = |what: &str| number_before(&line[start..], what).unwrap_or(0);
            self.passed += count(" passed");
            self.failed += count(" failed");
        } else if let Some((name, result)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
        {
            self.read_test(name, result);
        }
    }

    /// The program ended without a word about a failed test.
    pub(crate) fn crashed(&mut self, status: &str) {
        self.failed += 1;
        self.failures.push(format!("the test program itself: {status}"));
    }

    fn read_test(&mut self, name: &str, result: &str) {
        if let Some(reason) = result.strip_prefix("ignored") {
            let reason = reason.trim_start_matches(',').trim();
            self.ignored.push((name.to_owned(), reason.to_owned()));
            return;
        }
        if result.starts_with("FAILED") {
            self.failures.push(name.to_owned());
        }
        if let Some(time) = time(result) {
            self.times.push((name.to_owned(), time));
        }
    }
}

/// Whether the line belongs to a run in which no test was run: most programs under a filter.
pub(crate) fn says_nothing(line: &str) -> bool {
    let line = line.trim();
    line.is_empty()
        || line == "running 0 tests"
        || line.starts_with("test result: ok. 0 passed; 0 failed; 0 ignored;")
}

/// The number in front of `what`: `"ok. 12 passed; ..."`.
fn number_before(line: &str, what: &str) -> Option<usize> {
    line.split_once(what)?.0.rsplit(' ').next()?.parse().ok()
}

/// The time in `ok <0.123s>`.
fn time(result: &str) -> Option<Duration> {
    let seconds = result.split_once('<')?.1.strip_suffix("s>")?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_run_is_counted_and_timed() {
        let outcome = read(
            "running 3 tests\n\
             test a::works ... ok <0.250s>\n\
             test b::breaks ... FAILED <1.500s>\n\
             test c::waits ... ignored, needs a second machine\n\
             \n\
             test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; \
             finished in 1.75s\n",
        );
        assert_eq!((outcome.passed, outcome.failed), (1, 1));
        assert_eq!(outcome.failures, ["b::breaks"]);
        assert_eq!(outcome.ignored, [("c::waits".into(), "needs a second machine".into())]);
        assert_eq!(outcome.times[1], ("b::breaks".into(), Duration::from_millis(1500)));
    }

    #[test]
    fn results_of_several_crates_add_up() {
        let line = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(read(&line.repeat(3)).passed, 6);
    }

    #[test]
    fn what_a_test_prints_itself_does_not_hide_the_counts() {
        let outcome = read(
            "test lab::noisy ... server: ready\n\
             bye test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n",
        );
        assert_eq!(outcome.passed, 7);
        assert!(outcome.failures.is_empty());
    }

    #[test]
    fn a_program_that_dies_counts_as_a_failure() {
        let mut outcome = read("running 2 tests\n");
        outcome.crashed("signal: 11 (SIGSEGV)");
        assert_eq!(outcome.failed, 1);
        assert!(outcome.failures[0].contains("SIGSEGV"));
    }

    #[test]
    fn a_run_without_a_test_says_nothing() {
        let silence = "\nrunning 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; \
                       0 measured; 9 filtered out; finished in 0.00s\n\n";
        assert!(silence.lines().all(says_nothing));
        assert!(!says_nothing("running 1 test"));
        assert!(!says_nothing("test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured"));
    }

    fn read(text: &str) -> Outcome {
        let mut outcome = Outcome::default();
        text.lines().for_each(|line| outcome.read_line(line));
        outcome
    }
}
