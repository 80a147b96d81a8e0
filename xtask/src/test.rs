//! `cargo xtask test`: every test of the workspace, on the host, in the kernel and in the lab.
//!
//! The test programs are run one by one rather than by `cargo test`: so each has a time, what loads the
//! machine or counts milliseconds has it to itself, and skips are counted.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use self::libtest::Outcome;
use self::report::{Report, Skip, Suite};
use crate::artifact::{self, Artifact};
use crate::build;
use crate::process;
use crate::setup;
use crate::workspace::Workspace;

mod libtest;
mod report;

/// The lab's tests with agents, by far the longest.
const FARM: &str = "tests test farm";

/// Its modules that need the machine to themselves, because they load it themselves or count milliseconds.
const ALONE: [&str; 5] = ["hostile::", "lease::", "stopped::", "traps::offloads::", "upgraded::"];

/// Options of `test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only the tests whose name contains this.
    filter: Option<String>,
}

/// Builds and runs all tests, and prints what became of them. The last line is the one with the
/// counts, whatever happened.
pub(crate) fn verb(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let strict = env::var("CI").is_ok_and(|value| value == "true");
    if let Err(error) = setup::lab_tools() {
        if strict || process::is_root() {
            return Err(error);
        }
        eprintln!("setup: {error:#}\nsetup: the tests of the lab will be skipped");
    }
    // First: both are built in the same place.
    let other_layout = build::other_layout(workspace)?;
    let built = build::tests(workspace)?;
    let runner = Runner {
        workspace,
        filter: args.filter.as_deref(),
        other_layout,
        vipfarm: artifact::program(&built, "vipfarm")?,
        skips: workspace.target().join("test-skips"),
    };

    let mut report = Report::new(strict);
    for suite in suites(workspace, built)? {
        runner.run_suite(&suite, &mut report)?;
    }
    report.add(runner.run_doc_tests()?);
    print!("{report}");
    Ok(if report.failure().is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Runner<'a> {
    workspace: &'a Workspace,
    filter: Option<&'a str>,
    vipfarm: PathBuf,
    other_layout: PathBuf,
    /// Tests that cannot run here append a line to this file: `name: reason`.
    skips: PathBuf,
}

impl Runner<'_> {
    fn run_suite(&self, suite: &Artifact, report: &mut Report) -> Result<()> {
        let name = suite_name(self.workspace, suite);
        let mut run = |name: String, arguments: Vec<&str>| {
            let mut command = Command::new(&suite.executable);
            command.args(["-Z", "unstable-options", "--report-time", "--color=never"]);
            command.args(arguments);
            // Where `cargo test` would run it. `--report-time` is not stable.
            command.current_dir(&suite.package_dir).env("RUSTC_BOOTSTRAP", "1");
            command.env("CARGO_MANIFEST_DIR", &suite.package_dir);
            report.add(self.run(name, command)?);
            Ok(())
        };
        if !is_lab(self.workspace, suite) {
            return run(name, self.filter.into_iter().collect());
        }
        // A lab is many processes with deadlines of milliseconds.
        let one = "--test-threads=1";
        if name != FARM || self.filter.is_some() {
            return run(name, self.filter.into_iter().chain([one]).collect());
        }
        let two = ["--test-threads=2"].into_iter();
        let others = two.chain(ALONE.iter().flat_map(|module| ["--skip", module])).collect();
        run(format!("{name}, two at a time"), others)?;
        run(format!("{name}, one at a time"), ALONE.into_iter().chain([one]).collect())
    }

    fn run_doc_tests(&self) -> Result<Suite> {
        let mut command = process::host_cargo();
        command.args(["test", "--quiet", "--locked", "--doc", "--workspace"]);
        command.args(["--exclude", "vipfarm-ebpf", "--", "--color=never", "--format=pretty"]);
        command.args(self.filter);
        command.current_dir(self.workspace.root()).env("CARGO_TARGET_DIR", self.workspace.target());
        self.run("doc tests".to_owned(), command)
    }

    fn run(&self, name: String, mut command: Command) -> Result<Suite> {
        fs::write(&self.skips, "")
            .with_context(|| format!("cannot write {}", self.skips.display()))?;
        // With CI=true a skipping test fails by itself; here skips are counted first, then judged.
        command.env("VIPFARM_SKIPS", &self.skips).env_remove("CI");
        command.env("VIPFARM_BIN", &self.vipfarm);
        command.env("VIPFARM_OTHER_LAYOUT_BIN", &self.other_layout);
        command.env("VIPFARM_LAB_OBJECT", self.workspace.lab_object());
        command.stdin(Stdio::null()).stdout(Stdio::piped());

        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let output = child.stdout.take().context("the test's output is not connected")?;
        let mut outcome = Outcome::default();
        let mut titled = false;
        for line in BufReader::new(output).split(b'\n') {
            let line = line.with_context(|| format!("cannot read the output of {name}"))?;
            let line = String::from_utf8_lossy(&line);
            outcome.read_line(&line);
            if titled || !libtest::says_nothing(&line) {
                if !titled {
                    println!("\n== {name}");
                }
                titled = true;
                println!("{line}");
            }
        }
        let status = child.wait().with_context(|| format!("cannot wait for {name}"))?;
        if !status.success() && outcome.failed == 0 {
            outcome.crashed(&status.to_string());
        }
        Ok(Suite { name, time: started.elapsed(), outcome, skips: self.read_skips()? })
    }

    fn read_skips(&self) -> Result<Vec<Skip>> {
        let text = fs::read_to_string(&self.skips)
            .with_context(|| format!("cannot read {}", self.skips.display()))?;
        Ok(report::parse_skips(&text))
    }
}

/// All test programs; the lab's last, because they take longest and fail when others do.
fn suites(workspace: &Workspace, mut suites: Vec<Artifact>) -> Result<Vec<Artifact>> {
    suites.retain(|artifact| artifact.is_test);
    suites.sort_by_key(|suite| (is_lab(workspace, suite), suite_name(workspace, suite)));
    if suites.is_empty() {
        bail!("cargo built no test at all");
    }
    Ok(suites)
}

fn is_lab(workspace: &Workspace, suite: &Artifact) -> bool {
    suite.package_dir == workspace.root().join("tests")
}

fn suite_name(workspace: &Workspace, suite: &Artifact) -> String {
    let package: &Path =
        suite.package_dir.strip_prefix(workspace.root()).unwrap_or(&suite.package_dir);
    format!("{} {} {}", package.display(), suite.kind, suite.name)
}
