//! What the slow path says of each packet, where the agent was started to log that.

use std::{os::fd::AsFd, thread};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{bring_up::Up, signals};
use crate::datapath::Trace;

/// Starts a reader for each interface whose slow path logs.
pub(super) fn follow(up: &mut Up) -> anyhow::Result<()> {
    for datapath in &mut up.datapaths {
        if let Some(trace) = datapath.take_trace()? {
            thread::Builder::new().name("trace".into()).spawn(move || read(trace))?;
        }
    }
    Ok(())
}

/// Logs what the slow path says, until the agent ends.
fn read(mut trace: Trace) {
    signals::leave_to_the_first();
    loop {
        let mut readable = [PollFd::new(trace.as_fd(), PollFlags::POLLIN)];
        match poll(&mut readable, PollTimeout::NONE) {
            Ok(_) => trace.flush(),
            Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}
