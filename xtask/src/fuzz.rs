//! `cargo xtask fuzz`: mutated heartbeats against the membership machine, for a bounded time.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};

use crate::artifact;
use crate::workspace::Workspace;

/// The test that mutates and sends: without a clock, so that the time is kept here.
const TEST: &str = "membership::tests::fuzz::mutated_heartbeats_do_no_harm";

/// Cases of one run of the test: about a second.
const BATCH: u64 = 10_000;

/// Options of `fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long, building not counted.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// Seed of the first batch of cases; else chance decides.
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Run the case in this file alone, as a failed run has written it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seconds", "seed"])]
    input: Option<PathBuf>,
}

/// Sends cases until the time is over; a failing one is in `target/fuzz/`.
pub(crate) fn verb(workspace: &Workspace, args: &Args) -> Result<()> {
    let build = ["test", "--locked", "--no-run", "--package", "vipfarm", "--lib"];
    let tests = artifact::build(workspace, &build)?;
    let test = tests.iter().find(|artifact| artifact.is_test).context("cargo built no test")?;
    if let Some(input) = &args.input {
        let input = input.canonicalize().with_context(|| input.display().to_string())?;
        let output = run(&test.executable, |command| {
            command.env("VIPFARM_FUZZ_INPUT", input);
        })?;
        print!("{output}");
        return Ok(());
    }
    let first = args.seed.map_or_else(random, Ok)?;
    let (started, time) = (Instant::now(), Duration::from_secs(args.seconds));
    let (mut seed, mut datagrams) = (first, 0);
    while started.elapsed() < time {
        let output = run(&test.executable, |command| {
            command.env("VIPFARM_FUZZ_SEED", seed.to_string());
            command.env("VIPFARM_FUZZ_CASES", BATCH.to_string());
            command.env("VIPFARM_FUZZ_DIR", workspace.target().join("fuzz"));
        })?;
        datagrams += count(&output).context("the test did not say how many datagrams it sent")?;
        seed += 1;
    }
    let elapsed = started.elapsed().as_secs_f64();
    eprintln!(
        "fuzz: {datagrams} datagrams in {elapsed:.0} s did no harm, {BATCH} cases from each of the seeds {first} to {}",
        seed.saturating_sub(1)
    );
    Ok(())
}

/// Runs the test and returns what it said; prints that when it fails.
fn run(test: &Path, set: impl FnOnce(&mut Command)) -> Result<String> {
    let mut command = Command::new(test);
    command.args(["--exact", TEST, "--nocapture"]).stdin(Stdio::null());
    for variable in ["INPUT", "SEED", "CASES", "DIR"] {
        command.env_remove(format!("VIPFARM_FUZZ_{variable}"));
    }
    set(&mut command);
    let output = command.output().with_context(|| format!("cannot start {}", test.display()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        eprintln!("{said}{}", String::from_utf8_lossy(&output.stderr));
        bail!("a case did harm: run it alone with `cargo xtask fuzz --input FILE`");
    }
    Ok(said)
}

fn random() -> Result<u64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(u64::from(now.subsec_nanos()) << 8)
}

fn count(output: &str) -> Option<u64> {
    let (_, rest) = output.split_once("fuzz: datagrams ")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_what_the_test_says() {
        let output = "running 1 test\nfuzz: datagrams 25013 {\"accepted\": 9}\ntest fuzz ... ok\n";
        assert_eq!(count(output), Some(25_013));
        assert_eq!(count("running 0 tests\n"), None, "a test of another name counts nothing");
    }
}
