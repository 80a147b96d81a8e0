//! The end of an agent's work, which is not to be that of its clients': new connections go to the
//! other nodes at once, and the open ones have a while to end.

use std::time::{Duration, Instant};

use tokio::time::{self, MissedTickBehavior};

use super::{running::Running, signals::Asked};

/// How often to look whether connections are still open.
pub(super) const ROUND: Duration = Duration::from_millis(100);

/// How much longer than a count the pause after it is, at least: each lists all sockets.
pub(super) const PAUSE: u32 = 10;

/// How long the farm may need to agree that others serve, by far.
const AGREEMENT: Duration = Duration::from_secs(1);

/// When an agent leaves that is to stop.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stop {
    /// How long open connections are waited for, if not as the file has it.
    pub(super) timeout: Option<Duration>,
    /// Since when it is to stop.
    asked: Option<Instant>,
    until: Option<Instant>,
    /// What is open was told.
    told: bool,
    /// That they cannot be counted was told.
    not_counted: bool,
    /// When to count again.
    next: Instant,
    /// The heartbeat thread ends by itself, and until then the kernel serves what is open.
    held_until: Option<Instant>,
}

impl Stop {
    /// Not yet.
    pub(super) fn new(timeout: Option<Duration>) -> Self {
        let next = Instant::now();
        Self {
            timeout,
            asked: None,
            until: None,
            told: false,
            not_counted: false,
            next,
            held_until: None,
        }
    }

    /// Whether the agent is to stop.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether connections are waited for.
    pub(super) fn is_waiting(&self) -> bool {
        self.until.is_some()
    }

    /// The agent is about to be replaced, and the kernel serves for so long.
    pub(super) fn hold(&mut self, hold: Duration) {
        self.held_until = Some(Instant::now() + hold);
    }
}

impl Running<'_> {
    /// Begins to stop; asked for once more, leaves at once.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        let timeout = self.stop.timeout.unwrap_or_else(|| self.reporter.stop_timeout());
        self.notifier.stopping(timeout + self.reporter.hooks_time());
        let now = Instant::now();
        if self.stop.asked.replace(now).is_some() || timeout.is_zero() {
            self.stop.until = None;
            return Ok(self.leave()?);
        }
        self.asked.close();
        let until = now + timeout;
        self.stop.until = Some(self.stop.held_until.map_or(until, |held| until.min(held)));
        self.go_on_stopping().await
    }

    /// Leaves when no connection is open any more, or none is waited for any longer.
    pub(super) async fn go_on_stopping(&mut self) -> anyhow::Result<()> {
        if self.stop.is_waiting() && self.is_done().await {
            self.stop.until = None;
            self.leave()?;
        }
        Ok(())
    }

    /// The heartbeat thread has ended, for the agent was to be replaced; if it is to stop instead, what
    /// is open has its time nevertheless.
    pub(super) async fn outstay(&mut self) {
        let mut rounds = time::interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.stop.held_until.is_some() && self.stop.is_waiting() {
            tokio::select! {
                _ = rounds.tick() => if self.is_done().await {
                    self.stop.until = None;
                },
                asked = self.signals.next() => if asked == Asked::Stop {
                    self.stop.until = None;
                },
            }
        }
    }

    /// Whether nothing is open any more, or is waited for any longer. What was counted before others
    /// served would not count.
    async fn is_done(&mut self) -> bool {
        let (now, Stop { asked, until, .. }) = (Instant::now(), self.stop);
        if until.is_none_or(|until| now >= until) {
            return true;
        }
        // Also if nothing is open: somebody may connect before the farm has agreed.
        let is_given_away = self.reporter.give_away()
            || asked.is_some_and(|asked| now.duration_since(asked) > AGREEMENT);
        if !is_given_away || now < self.stop.next {
            return false;
        }
        let Some(open) = self.open_connections().await else { return false };
        let counted = Instant::now();
        self.stop.next = counted + PAUSE * counted.duration_since(now);
        if open > 0 && !self.stop.told {
            self.stop.told = true;
            let left = until.map(|until| until.saturating_duration_since(now)).unwrap_or_default();
            self.reporter.info("stopping", format!(
                "{open} TCP connections are open: new ones go to the other nodes; these have {left:.1?} to end (stop once more to end them now)"
            ));
        }
        open == 0
    }

    /// How many there are, if that can be told.
    async fn open_connections(&mut self) -> Option<usize> {
        match self.reporter.open_connections().await {
            Ok(open) => Some(open),
            Err(error) => {
                // It is tried again until their time is over, but told once.
                if !std::mem::replace(&mut self.stop.not_counted, true) {
                    self.reporter.warn("not_counted", format!("the open connections: {error:#}"));
                }
                None
            }
        }
    }
}
