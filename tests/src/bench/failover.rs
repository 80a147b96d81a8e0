//! What clients notice when a node of a farm fails, stops, comes back or changes its share, and the
//! same of keepalived in a lab of the same shape, in one run.
//!
//! - [`events`]: the events, on farms of three nodes. [`watch`]: the probes that see them.
//! - [`barrier`]: how long buckets have no owner when a view changes, by size of the farm.
//! - [`soak`]: a farm that nothing happens to, on a machine that has too much to do.
//! - [`floating`]: a VIP that one node at a time has. [`keepalived`]: the comparison.
//! - [`figures`]: what comes out, and whether it is good enough. [`table`]: how it looks.

mod barrier;
mod events;
mod figures;
mod floating;
mod keepalived;
mod soak;
mod table;
mod watch;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use tokio::runtime::Runtime;

use self::{
    events::Verbs,
    figures::{Figures, SoakFigures},
};
use super::load_average;
use crate::{
    farm::{Farm, run_to_end},
    interrupt::Interrupt,
    lab::{PREFIX, VIP},
    skip,
};

/// What is measured, and where it goes.
#[derive(Debug, Clone, Args)]
pub struct FailoverOptions {
    /// Write the figures there too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// How often each event is measured; 0 leaves out all but the soak
    #[arg(long, value_name = "N", default_value_t = 7)]
    runs: u16,

    /// Also let a farm serve for so long while all processors are overloaded; 0 leaves that out
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    soak: u64,
}

/// Membership profiles that are measured.
const PROFILES: [&str; 2] = ["balanced", "fast"];

/// The group of the farms' only VIP.
const GROUP: &str = "all";

/// How long a farm may take to agree. A node that came back often may have to wait for a while.
const PATIENCE: Duration = Duration::from_mins(1);

/// Measures; prints a table; says whether all gates hold.
pub fn failover(options: &FailoverOptions) -> Result<bool> {
    let program = skip::farm().map_err(|reason| anyhow!(reason))?;
    let runtime = Runtime::new().context("start the runtime")?;
    // All of the bench is plain blocking code on this thread; only the traffic is asynchronous.
    let _inside = runtime.enter();
    let interrupt = Interrupt::on_signals()?;
    let bench =
        Bench { program: &program, runtime: &runtime, interrupt: &interrupt, runs: options.runs };
    let mut figures = Figures { load_average: load_average(), ..Figures::default() };
    if options.runs > 0 {
        bench.measure(&mut figures)?;
    }
    if options.soak > 0 {
        let soak = figures.soak.insert(SoakFigures::wanted(options.soak));
        bench.sample("soak", soak::measure(&bench, soak))?;
    }
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&figures)?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    print!("{}", table::text(&figures));
    Ok(figures.held())
}

/// What every part needs.
struct Bench<'a> {
    program: &'a Path,
    runtime: &'a Runtime,
    interrupt: &'a Interrupt,
    /// How often each event is measured.
    runs: u16,
}

impl Bench<'_> {
    fn measure(&self, figures: &mut Figures) -> Result<()> {
        let verbs = self.verbs()?;
        let missing = verbs
            .missing_events()
            .map(|event| format!("{}: this vipfarm has no such verb", event.name()));
        figures.not_measured.extend(missing);

        figures.set_barriers(barrier::measure(self, &verbs)?);
        for profile in PROFILES {
            figures.events.extend(events::measure(self, profile, &verbs)?);
        }
        for profile in PROFILES {
            figures.floating.extend(floating::measure(self, profile)?);
        }
        match keepalived::missing() {
            None => figures.keepalived = keepalived::measure(self)?,
            Some(reason) => figures.not_measured.push(format!("keepalived: {reason}")),
        }
        Ok(())
    }

    fn verbs(&self) -> Result<Verbs> {
        let mut help = std::process::Command::new(self.program);
        let output = run_to_end(help.arg("--help"))?;
        ensure!(output.status.success(), "`vipfarm --help` ended with {}", output.status);
        Ok(Verbs::of_help(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Waits until these nodes agree that they are the farm.
    ///
    /// Looks rarely: each look is a process per node, and clients are being watched.
    fn agree(&self, farm: &Farm<'_>, nodes: &[usize]) -> Result<()> {
        self.until(PATIENCE, Duration::from_millis(50), || farm.check_agreement(nodes))
    }

    /// Looks again and again until there is nothing to complain of any more.
    fn until<T>(
        &self,
        patience: Duration,
        pause: Duration,
        mut look: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let begin = Instant::now();
        loop {
            match look() {
                Ok(seen) => return Ok(seen),
                Err(missing) if begin.elapsed() > patience => {
                    return Err(missing.context(format!("still not after {patience:?}")));
                }
                Err(_) => self.interrupt.sleep(pause)?,
            }
        }
    }

    /// Turns the failure of one run into a missing sample, unless the bench was told to end.
    fn sample<T>(&self, what: &str, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(sample) => Ok(Some(sample)),
            Err(error) if self.interrupt.is_told() => Err(error),
            Err(error) => {
                eprintln!("{what}: {error:#}");
                Ok(None)
            }
        }
    }
}

/// The farm's file below its nodes.
fn farm_yaml(profile: &str) -> String {
    format!(
        "membership: {{ profile: {profile} }}
vips:
  - interface: {interface}
    mode: vmac_invisible
    addresses: [{VIP}/{PREFIX}]
    groups:
      - name: {GROUP}
        rules:
          - {{ port: {port}, proto: udp, filter: on_port }}
",
        interface = crate::host::INTERFACE,
        port = watch::ECHO.port(),
    )
}

/// Processors this process may use.
fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// When in a period of what is measured a run's event happens. A silent death is noticed a time-out
/// after the last sign of life, so the median depends on when in its period a node dies: runs spread
/// evenly over the period, and not at the phase that starting everything happens to lead to.
fn phase(run: u16, period: Duration) -> Duration {
    /// Multiples of the golden ratio are spread evenly modulo 1, however many there are.
    const GOLDEN_RATIO: f64 = 0.618_033_988_749_895;
    period.mul_f64((f64::from(run) * GOLDEN_RATIO).fract())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_runs_leave_no_quarter_of_a_period_out() {
        let period = Duration::from_millis(100);
        let mut phases: Vec<_> = (0..7).map(|run| phase(run, period)).collect();
        phases.sort();
        phases.push(period + phases[0]);
        for pair in phases.windows(2) {
            assert!(pair[1] < pair[0] + period / 4, "{phases:?}");
        }
    }
}
