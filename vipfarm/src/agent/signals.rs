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
    /// To be called while the process has one thread: the others are to hold nothing back either, and
    /// programs that they start inherit it.
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

fn held_back() -> SigSet {
    [Number::SIGTERM, Number::SIGINT, Number::SIGHUP].into_iter().collect()
}
