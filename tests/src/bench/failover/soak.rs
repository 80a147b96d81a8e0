//! A farm whose machine has far too much to do, for long: nothing happens to it, so its view must not
//! change.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;
use vipfarm::status::EventRecord;

use super::{
    Bench,
    events::{NODES, lab},
    farm_yaml,
    figures::SoakFigures,
    processors,
    watch::Watch,
};
use crate::farm::Farm;

const PROFILE: &str = "balanced";

/// Threads that never rest.
const BUSY_PER_PROCESSOR: usize = 2;

/// How often it is said how things are. No clients ask for longer: each datagram takes memory.
const ROUND: Duration = Duration::from_secs(30);

/// Lets the farm serve under full load for that time, and fills in what came of it as it goes on.
pub(super) fn measure(bench: &Bench<'_>, figures: &mut SoakFigures) -> Result<()> {
    let wanted = Duration::from_secs(figures.wanted);
    let (lab, _echoes) = lab("soak")?;
    let mut farm = Farm::new(&lab, bench.program, "bench", &farm_yaml(PROFILE))?;
    farm.start()?;
    bench.agree(&farm, &NODES)?;
    let before = Told::by(&farm)?;
    let _busy = Busy::threads(BUSY_PER_PROCESSOR * processors());
    let begin = Instant::now();
    let clients = || Watch::start(bench, lab.clients(), Duration::ZERO, |_| true);
    let mut watch = clients()?;
    while begin.elapsed() < wanted {
        bench.interrupt.sleep(ROUND.min(wanted.saturating_sub(begin.elapsed())))?;
        // The next ask before these end, so that no instant goes unwatched.
        let next = clients()?;
        let seen = watch.finish()?;
        watch = next;
        figures.lost += seen.log.lost(seen.from, seen.until);
        figures.double_answers += seen.log.duplicates().len();
        let told = Told::by(&farm)?;
        figures.view_changes = told.epoch - before.epoch;
        figures.lapsed_leases = told.lapsed - before.lapsed;
        figures.lateness_max_ms = told.lateness_max_ms;
        figures.seconds = begin.elapsed().as_secs();
        eprintln!("soak, {PROFILE}: {figures}");
    }
    Ok(())
}

/// What the agents tell, the worst of all nodes.
struct Told {
    epoch: u64,
    lapsed: usize,
    lateness_max_ms: f64,
}

impl Told {
    fn by(farm: &Farm<'_>) -> Result<Self> {
        let mut told = Self { epoch: 0, lapsed: 0, lateness_max_ms: 0.0 };
        for node in NODES {
            let status = farm.status(node)?;
            let history: Vec<EventRecord> = farm.ask_json(node, &["events", "--json"])?;
            told.epoch = told.epoch.max(status.epoch);
            told.lapsed += history.iter().filter(|event| event.kind == "lease_lapsed").count();
            told.lateness_max_ms = told.lateness_max_ms.max(status.lateness.max_ms);
        }
        Ok(told)
    }
}

/// Threads of ordinary priority that do nothing, as fast as they can, until this is dropped.
struct Busy {
    enough: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    fn threads(count: usize) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let spin = |_| {
            let enough = Arc::clone(&enough);
            thread::spawn(move || while !enough.load(Ordering::Relaxed) {})
        };
        let threads = (0..count).map(spin).collect();
        Self { enough, threads }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It cannot have panicked.
            let _ = thread.join();
        }
    }
}
