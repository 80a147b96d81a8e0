//! The end of an agent's work, which is not to be that of its clients': new connections go to the
//! other nodes at once, and the open ones have a while to end.

use std::time::{Duration, Instant};

use super::running::Running;

/// How often to look whether connections are still open.
pub(super) const ROUND: Duration = Duration::from_millis(100);

/// How long the farm may need to agree on powers, by far.
const AGREEMENT: Duration = Duration::from_secs(1);

/// When an agent leaves that is to stop.
#[derive(Debug)]
pub(super) struct Stop {
    /// How long open connections are waited for, if not as the file has it.
    pub(super) timeout: Option<Duration>,
    until: Option<Instant>,
    /// When new connections were last given away.
    given: Option<Instant>,
}

impl Stop {
    /// Not yet.
    pub(super) fn new(timeout: Option<Duration>) -> Self {
        Self { timeout, until: None, given: None }
    }

    /// Whether connections are waited for.
    pub(super) fn is_waiting(&self) -> bool {
        self.until.is_some()
    }
}

impl Running {
    /// Begins to stop; asked for once more, leaves at once.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        let timeout = self.stop.timeout.unwrap_or_else(|| self.reporter.stop_timeout());
        self.notifier.stopping(timeout + self.reporter.hooks_time());
        let open = self.open_connections().await;
        if open == 0 || self.stop.is_waiting() || timeout.is_zero() {
            return Ok(self.leave()?);
        }
        self.reporter.give_away()?;
        self.reporter.info("stopping", format!(
            "{open} TCP connections are open: new ones go to the other nodes; these have {timeout:?} to end (stop once more to end them now)"
        ));
        self.stop.given = Some(Instant::now());
        self.stop.until = Some(Instant::now() + timeout);
        Ok(())
    }

    /// Leaves when no connection is open any more, or none is waited for any longer.
    pub(super) async fn go_on_stopping(&mut self) -> anyhow::Result<()> {
        let Some(until) = self.stop.until else { return Ok(()) };
        if Instant::now() < until && self.open_connections().await > 0 {
            // Somebody who changed powers in the same instant may have undone it.
            if self.stop.given.is_some_and(|given| given.elapsed() > AGREEMENT)
                && !self.reporter.is_drained()
            {
                self.stop.given = Some(Instant::now());
                self.reporter.give_away()?;
            }
            return Ok(());
        }
        self.stop.until = None;
        Ok(self.leave()?)
    }

    async fn open_connections(&self) -> usize {
        match self.reporter.linger.open().await {
            Ok(open) => open,
            Err(error) => {
                self.reporter.warn("not_counted", format!("the open connections: {error:#}"));
                0
            }
        }
    }
}
