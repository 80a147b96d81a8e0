//! What becomes of TCP connections when their buckets move: hundreds that never stop talking, with new
//! ones all the while, through all that a farm does. None may be reset and no byte may change, but for
//! the connections of a node that died.
//!
//! - [`events`]: the events, each on a farm of its own: the place to add one. [`traffic`]: the clients.
//! - [`lookup`]: what a packet costs whose bucket is in a move.
//! - [`figures`]: what comes out, whether it is good enough, and how it looks.

mod events;
mod figures;
mod lookup;
mod traffic;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use tokio::runtime::Runtime;

use self::{
    events::{Event, Setting},
    figures::Figures,
};
use super::load_average;
use crate::{interrupt::Interrupt, skip};

/// What is measured, and where it goes.
#[derive(Debug, Clone, Args)]
pub struct HandoverOptions {
    /// Write the figures there too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Connections of each family that are open all the while
    #[arg(long, value_name = "N", default_value_t = 150)]
    connections: u16,

    /// Only the events with that in their name
    #[arg(long, value_name = "WORD")]
    only: Option<String>,
}

/// Measures; prints a table; says whether all gates hold.
pub fn handover(options: &HandoverOptions) -> Result<bool> {
    let program = skip::farm().map_err(|reason| anyhow!(reason))?;
    let object = skip::lab_object().map_err(|reason| anyhow!(reason))?;
    let runtime = Runtime::new().context("start the runtime")?;
    // All of the bench is plain blocking code on this thread; only the traffic is asynchronous.
    let _inside = runtime.enter();
    let interrupt = Interrupt::on_signals()?;
    let connections = usize::from(options.connections);
    let bench = Bench { program, object, runtime: &runtime, interrupt: &interrupt, connections };
    let mut figures = Figures { load_average: load_average(), ..Figures::default() };
    figures.lookup = lookup::measure()?;
    let wanted = |event: &Event| options.only.as_ref().is_none_or(|it| event.name().contains(it));
    for setting in Setting::ALL {
        for event in Event::ALL.into_iter().filter(wanted) {
            bench.measure(setting, event, &mut figures)?;
        }
    }
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&figures)?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    print!("{figures}");
    Ok(figures.held())
}

/// What every event needs.
struct Bench<'a> {
    /// The `vipfarm` program.
    program: PathBuf,
    /// The lab's eBPF object.
    object: PathBuf,
    runtime: &'a Runtime,
    interrupt: &'a Interrupt,
    /// Of each family.
    connections: usize,
}

impl Bench<'_> {
    /// One event; that it goes wrong is told, and counts as broken, unless the bench was told to end.
    fn measure(&self, setting: Setting, event: Event, figures: &mut Figures) -> Result<()> {
        let what = format!("{setting} {}", event.name());
        match events::measure(self, setting, event) {
            Ok(measured) => {
                for event in &measured {
                    eprintln!("{event}");
                }
                figures.events.extend(measured);
            }
            Err(error) if self.interrupt.is_told() => return Err(error),
            Err(error) => {
                eprintln!("{what}: {error:#}");
                figures.failed.push(format!("{what}: {error:#}"));
            }
        }
        Ok(())
    }

    fn program(&self) -> &Path {
        &self.program
    }
}
