//! Ctrl-C ends the demo early, and still removes everything.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

const SLICE: Duration = Duration::from_millis(50);

/// Whether the demo was told to end.
#[derive(Debug)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Watches for SIGINT, SIGTERM and SIGHUP (a closed terminal) from now on.
    pub(super) fn on_signals() -> Result<Self> {
        let told = Arc::new(AtomicBool::new(false));
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            let mut stream = signal(kind).context("watch for signals")?;
            let told = Arc::clone(&told);
            tokio::spawn(async move {
                stream.recv().await;
                told.store(true, Ordering::Relaxed);
            });
        }
        Ok(Self(told))
    }

    /// Whether the demo was told to end.
    pub(super) fn is_told(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sleeps, and calls `meanwhile` now and then with the time that has passed.
    pub(super) fn sleep_while(
        &self,
        duration: Duration,
        mut meanwhile: impl FnMut(Duration),
    ) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < duration {
            if self.is_told() {
                bail!("interrupted");
            }
            meanwhile(begin.elapsed());
            thread::sleep(SLICE.min(duration.saturating_sub(begin.elapsed())));
        }
        Ok(())
    }

    /// Sleeps.
    pub(super) fn sleep(&self, duration: Duration) -> Result<()> {
        self.sleep_while(duration, |_| {})
    }
}
