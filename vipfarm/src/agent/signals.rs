//! The signals that an agent knows. They are caught as long as the process is this program's; what comes
//! while it becomes another one reaches that one, which may not be ready for it before it has looked names
//! up: somebody who stops an agent that is being replaced wants no VIP left behind.

use std::{io, time::Duration};

use nix::sys::signal::{SigSet, Signal as Number};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    time,
};

/// How long what a handler has noted may take until it shows, by far.
const SHOWS: Duration = Duration::from_millis(5);

/// What signals ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// To stop.
    Stop,
    /// To read the file anew.
    ReadAnew,
}

/// The signals that an agent knows.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    /// One that came when nobody served.
    came: bool,
    /// Not the one that serves: that has ended when they are held back.
    runtime: Runtime,
}

impl Signals {
    /// Catches them from now on, and those that a former program of this process has held back.
    ///
    /// To be called while the process has one thread, the one that serves: the others leave them to it.
    pub(super) fn catch() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hang_up = signal(SignalKind::hangup())?;
        drop(inside);
        held_back().thread_unblock()?;
        Ok(Self { terminate, interrupt, hang_up, came: false, runtime })
    }

    /// What the next one asks for.
    pub(super) async fn next(&mut self) -> Asked {
        if std::mem::take(&mut self.came) {
            return Asked::Stop;
        }
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hang_up.recv() => Asked::ReadAnew,
        }
    }

    /// Leaves those that come from now on to the next program of this process; unless one came before,
    /// by which the agent is to stop: then there is to be none, and [`Signals::next`] tells of it.
    pub(super) fn hold_back(&mut self) -> io::Result<bool> {
        held_back().thread_block()?;
        let (terminate, interrupt) = (&mut self.terminate, &mut self.interrupt);
        self.came |= self.runtime.block_on(async {
            tokio::select! {
                // What is noted counts, however late this thread comes to look.
                biased;
                _ = terminate.recv() => true,
                _ = interrupt.recv() => true,
                () = time::sleep(SHOWS) => false,
            }
        });
        if self.came {
            Self::let_through()?;
        }
        Ok(!self.came)
    }

    /// There is no next program: they are caught as before.
    pub(super) fn let_through() -> io::Result<()> {
        Ok(held_back().thread_unblock()?)
    }
}

/// Has none of them come to this thread: one that still works when they are held back would have its
/// process forget them. To be let through again in what it starts.
pub(super) fn leave_to_the_first() {
    // It fails for numbers that are no signals.
    let _ = held_back().thread_block();
}

fn held_back() -> SigSet {
    [Number::SIGTERM, Number::SIGINT, Number::SIGHUP].into_iter().collect()
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::raise;

    use super::*;

    fn next(signals: &mut Signals) -> Asked {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(signals.next())
    }

    /// One test, because signals are the process's.
    #[test]
    fn what_comes_before_another_program_keeps_it_away_and_what_comes_later_reaches_it() {
        let mut signals = Signals::catch().expect("they can be caught");
        assert!(signals.hold_back().expect("held back"), "none has come");
        Signals::let_through().expect("caught as before");
        raise(Number::SIGTERM).expect("raised");
        assert!(!signals.hold_back().expect("looked"), "there is to be no other program");
        assert_eq!(next(&mut signals), Asked::Stop, "and whoever serves next is told");

        assert!(signals.hold_back().expect("held back"), "it was told once");
        raise(Number::SIGHUP).expect("raised");
        // The next program inherits that it is held back, and that it waits.
        let mut others = Signals::catch().expect("they can be caught");
        assert_eq!(next(&mut others), Asked::ReadAnew);
    }
}
