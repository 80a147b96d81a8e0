//! The guided tour: three nodes hold one address, serve it by their powers, lose a node to a power
//! cut, get it back, and survive a frozen agent; every claim is measured on real connections.
//!
//! - [`tour`]: the chapters, in order. [`farm`]: the agents. [`traffic`]: what is measured.
//! - [`verdict`]: the checks and the numbers that come out. [`screen`]: how it looks.

mod farm;
mod screen;
mod tour;
mod traffic;
mod verdict;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Parser;

use self::{farm::Farm, screen::Screen, tour::Tour, traffic::Traffic, verdict::Verdict};
use crate::{
    interrupt::Interrupt,
    lab::{Lab, Topology},
};

const NODES: u8 = 3;
const CLIENTS: u8 = 2;
const CLIENT_ADDRESSES: u8 = 60;

/// Lines of each agent's log that a failed demo shows.
const LAST_LINES: usize = 12;

/// Shows a farm of three nodes at work on this machine, in network namespaces of its own
///
/// Needs root. Takes less than a minute, touches nothing outside the namespaces it makes, and
/// removes them at the end, also when interrupted. Exits 0 if everything went as promised.
#[derive(Debug, Parser)]
#[command(name = "demo")]
pub struct Options {
    /// The `vipfarm` program
    #[arg(long, value_name = "PATH")]
    vipfarm: PathBuf,

    /// The lab's eBPF object
    #[arg(long, value_name = "PATH")]
    lab_object: PathBuf,

    /// Write what was measured to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs the demo: exit code 0 if all checks held, 1 otherwise.
pub fn run(options: &Options) -> ExitCode {
    let screen = Screen::new();
    let mut verdict = Verdict::default();
    if let Err(error) = show(options, &screen, &mut verdict) {
        verdict.broke_off(&format!("{error:#}"));
    }
    screen.summary(&verdict);
    if let Some(file) = &options.json
        && let Err(error) = write_json(file, &verdict)
    {
        screen.error(&format!("{error:#}"));
        return ExitCode::FAILURE;
    }
    if verdict.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The lab from its making to its end; the agents' logs outlive it when something failed.
fn show(options: &Options, screen: &Screen, verdict: &mut Verdict) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    // The tour itself is plain blocking code on this thread; only the traffic is asynchronous.
    let _inside = runtime.enter();
    let interrupt = Interrupt::on_signals()?;
    let topology = Topology { client_addresses: CLIENT_ADDRESSES, ..Topology::new(NODES, CLIENTS) };
    let lab = Lab::new("demo", &topology)?;
    lab.pass_on_switch_ports(&options.lab_object)?;
    let mut farm = Farm::new(&lab, &options.vipfarm)?;

    let traffic = Traffic::new(&lab, &runtime)?;
    let tour = Tour {
        lab: &lab,
        farm: &mut farm,
        screen,
        interrupt: &interrupt,
        verdict,
        disturbed: Vec::new(),
    };
    let result = tour.run(traffic);
    if (result.is_err() || !verdict.ok()) && !interrupt.is_told() {
        screen.agents_last_words(&farm.agents.last_lines(LAST_LINES));
        let kept = lab.keep_logs("vipfarm-demo-logs")?;
        screen.note(&format!("the agents' logs: {}", kept.display()));
    }
    result
}

fn write_json(file: &Path, verdict: &Verdict) -> Result<()> {
    let text = serde_json::to_string_pretty(&verdict.report()).context("write JSON")?;
    std::fs::write(file, text + "\n").with_context(|| format!("write {}", file.display()))
}
