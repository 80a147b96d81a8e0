//! Ctrl-C ends a demo or a bench early, and still removes everything.

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

/// Whether this process was told to end.
#[derive(Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Watches for SIGINT, SIGTERM and SIGHUP (a closed terminal) from now on.
    pub(crate) fn on_signals() -> Result<Self> {
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

    /// Whether this process was told to end.
    pub(crate) fn is_told(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sleeps, and calls `meanwhile` now and then with the time that has passed.
    pub(crate) fn sleep_while(
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
    pub(crate) fn sleep(&self, duration: Duration) -> Result<()> {
        self.sleep_while(duration, |_| {})
    }
}
