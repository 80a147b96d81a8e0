//! `cargo xtask fuzz`: mutated heartbeats against the membership machine, and chance frames against
//! the packet decision, for a bounded time.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};

use crate::artifact::Artifact;
use crate::build;
use crate::workspace::Workspace;

/// What is fuzzed: a test without a clock, so that the time is kept here.
struct Target {
    /// What it is sent, as the test says how many there were.
    what: &'static str,
    /// Kind and name of the test program.
    program: (&'static str, &'static str),
    test: &'static str,
    /// Cases of one run of the test: about a second.
    batch: u64,
}

const HEARTBEATS: Target = Target {
    what: "datagrams",
    program: ("lib", "vipfarm"),
    test: "membership::tests::fuzz::mutated_heartbeats_do_no_harm",
    batch: 10_000,
};

const FRAMES: Target = Target {
    what: "frames",
    program: ("test", "owners"),
    test: "every_frame_is_served_once_at_most_and_keeps_all_but_its_macs",
    batch: 100_000,
};

/// Options of `fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long each of the two, building not counted.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// Seed of the first batch of cases; else chance decides.
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Run the heartbeats in this file alone, as a failed run has written them.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seconds", "seed"])]
    input: Option<PathBuf>,
}

/// Sends cases until the time is over; a failing one is in `target/fuzz/`.
pub(crate) fn verb(workspace: &Workspace, args: &Args) -> Result<()> {
    let built = build::tests(workspace)?;
    if let Some(input) = &args.input {
        let input = input.canonicalize().with_context(|| input.display().to_string())?;
        let output = HEARTBEATS.run(&HEARTBEATS.binary(&built)?, |command| {
            command.env("VIPFARM_FUZZ_INPUT", input);
        })?;
        print!("{output}");
        return Ok(());
    }
    let first = args.seed.map_or_else(random, Ok)?;
    for target in [HEARTBEATS, FRAMES] {
        target.fuzz(
            &target.binary(&built)?,
            workspace,
            first,
            Duration::from_secs(args.seconds),
        )?;
    }
    Ok(())
}

impl Target {
    fn binary(&self, built: &[Artifact]) -> Result<PathBuf> {
        let (kind, name) = self.program;
        let is_it = |it: &&Artifact| it.is_test && it.kind == kind && it.name == name;
        let found = built.iter().find(is_it);
        Ok(found.with_context(|| format!("cargo built no test {name}"))?.executable.clone())
    }

    fn fuzz(&self, binary: &Path, workspace: &Workspace, first: u64, time: Duration) -> Result<()> {
        let Self { what, batch, .. } = self;
        let started = Instant::now();
        let (mut seed, mut sent) = (first, 0);
        while started.elapsed() < time {
            let output = self.run(binary, |command| {
                command.env("VIPFARM_FUZZ_SEED", seed.to_string());
                command.env("VIPFARM_FUZZ_CASES", batch.to_string());
                command.env("VIPFARM_FUZZ_DIR", workspace.target().join("fuzz"));
            })?;
            sent += count(&output, what)
                .with_context(|| format!("the test did not say how many {what} there were"))?;
            seed += 1;
        }
        let elapsed = started.elapsed().as_secs_f64();
        eprintln!(
            "fuzz: {sent} {what} in {elapsed:.0} s did no harm, {batch} cases from each of the seeds {first} to {}",
            seed.saturating_sub(1)
        );
        Ok(())
    }

    /// Runs the test and returns what it said; prints that when it fails.
    fn run(&self, test: &Path, set: impl FnOnce(&mut Command)) -> Result<String> {
        let mut command = Command::new(test);
        command.args(["--exact", self.test, "--nocapture"]).stdin(Stdio::null());
        for variable in ["INPUT", "SEED", "CASES", "DIR"] {
            command.env_remove(format!("VIPFARM_FUZZ_{variable}"));
        }
        set(&mut command);
        let output =
            command.output().with_context(|| format!("cannot start {}", test.display()))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            eprintln!("{said}{}", String::from_utf8_lossy(&output.stderr));
            bail!("a case did harm: the file that has it is named above");
        }
        Ok(said)
    }
}

fn random() -> Result<u64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(u64::from(now.subsec_nanos()) << 8)
}

fn count(output: &str, what: &str) -> Option<u64> {
    let (_, rest) = output.split_once(&format!("fuzz: {what} "))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_what_the_test_says() {
        let output = "running 1 test\nfuzz: datagrams 25013 {\"accepted\": 9}\ntest fuzz ... ok\n";
        assert_eq!(count(output, "datagrams"), Some(25_013));
        assert_eq!(count(output, "frames"), None);
        assert_eq!(
            count("running 0 tests\n", "frames"),
            None,
            "a test of another name counts nothing"
        );
    }
}
