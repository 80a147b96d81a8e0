//! How others ask the heartbeat thread for something: a channel, and a file descriptor that wakes
//! it.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, mpsc},
    time::Duration,
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::oneshot;

use super::ports::Port;
use crate::{
    membership::PowerRefused,
    model::{Abstention, Bitmap, Node, NodeId, VipId},
};

/// What the thread can be asked for. Answers come when the membership machine has taken the
/// command, not when the farm has: that shows in the snapshot's view.
#[derive(Debug)]
pub enum Command {
    /// Change a node's power at run time; `None` as power = back to the file's.
    SetPower {
        /// Index in file order over all blocks; `None` = all groups.
        group: Option<u8>,
        /// Whose.
        node: NodeId,
        /// `0..=`[`crate::model::MAX_POWER`].
        power: Option<u16>,
        /// Whether it is to outlast the agent of that node.
        persist: bool,
        /// Told the version: a view whose powers have that counter or a higher one is in force
        /// with it.
        reply: oneshot::Sender<Result<u64, PowerRefused>>,
    },
    /// Whether this node can serve.
    SetFit {
        /// `false` fences it at once.
        fit: bool,
        /// Told when that is done.
        reply: oneshot::Sender<()>,
    },
    /// Serve nothing of some groups, until told otherwise.
    Abstain {
        /// What of, by configuration; of one that is not named, of nothing.
        abstains: Arc<[([u8; 16], Abstention)]>,
    },
    /// Know these configurations, the one in force among them, and no others. Of those known
    /// already only what they close is new.
    Know {
        /// All that may be served.
        configurations: Vec<Servable>,
        /// Told when that is in the kernel.
        reply: oneshot::Sender<()>,
    },
    /// Tell which configurations may be served from now on, as far as is known: what is staged later
    /// comes on top.
    Servable {
        /// Told their digests, that of the one in force first.
        reply: oneshot::Sender<Vec<[u8; 16]>>,
    },
    /// Take the keys and added nodes of another file at once, and make a known configuration ready.
    Stage {
        /// Keys of the heartbeats' tags: the first seals.
        keys: Vec<[u8; 32]>,
        /// The nodes of the file.
        nodes: Vec<Node>,
        /// The configuration that is to be next; the one in force = no other.
        digest: [u8; 16],
        /// Go over to it with those nodes that have staged it too.
        force: bool,
        /// Told when the other nodes are being told.
        reply: oneshot::Sender<()>,
    },
    /// Move a failover VIP.
    Move {
        /// Which.
        vip: VipId,
        /// Where to; `None` = back to who has it by the file.
        node: Option<NodeId>,
        /// The change outlasts restarts.
        persist: bool,
        /// Told the version of the powers, or why not.
        reply: oneshot::Sender<Result<u64, PowerRefused>>,
    },
    /// Of these failover VIPs this node is to stay the holder.
    Stay(Vec<VipId>),
    /// Only those buckets, by kernel group, of what lingers still have connections.
    KeepLingering {
        /// After which step this was found, as [`super::share::Share::steps`] counts: nothing is done
        /// after a later one, which may have given away more.
        step: u64,
        /// By kernel group.
        buckets: Vec<Bitmap>,
    },
    /// Whether all that is for a VIP takes the slow path, behind which it can be seen.
    Detour(bool),
    /// Hand over to the peers and end the thread.
    Leave,
    /// The same, but for so long after that the kernel goes on serving old connections: the agent is
    /// about to be replaced.
    Hold(Duration),
}

/// A configuration that can be served.
#[derive(Debug, Clone)]
pub struct Servable {
    /// Its digest.
    pub digest: [u8; 16],
    /// The interfaces' desired states with it, in the order of the agent's interfaces.
    pub ports: Vec<Port>,
}

/// Where commands are given. Clones ask the same thread.
#[derive(Debug, Clone)]
pub struct Commander {
    sender: mpsc::Sender<Command>,
    wake: Arc<EventFd>,
}

impl Commander {
    /// Gives a command; it is not waited for. After the thread's end nothing happens, and replies
    /// are dropped.
    pub fn send(&self, command: Command) -> io::Result<()> {
        let _ended = self.sender.send(command);
        self.wake.write(1)?;
        Ok(())
    }
}

/// Where the thread finds commands.
#[derive(Debug)]
pub struct Commands {
    receiver: mpsc::Receiver<Command>,
    wake: Arc<EventFd>,
}

impl Commands {
    /// The next command, if one waits.
    pub fn next(&self) -> Option<Command> {
        self.receiver.try_recv().ok()
    }

    /// Makes the descriptor unreadable until the next command is given.
    pub fn quiet(&self) {
        // Nothing waits: it was quiet already.
        let _ = self.wake.read();
    }
}

impl AsFd for Commands {
    /// Readable when a command was given.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// A channel to one thread.
pub fn channel() -> io::Result<(Commander, Commands)> {
    let (sender, receiver) = mpsc::channel();
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    let wake = Arc::new(EventFd::from_flags(flags)?);
    Ok((Commander { sender, wake: Arc::clone(&wake) }, Commands { receiver, wake }))
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn is_readable(commands: &Commands) -> bool {
        let mut sources = [PollFd::new(commands.as_fd(), PollFlags::POLLIN)];
        poll(&mut sources, PollTimeout::ZERO).expect("it can be polled") == 1
    }

    #[test]
    fn a_command_wakes_whoever_waits_and_comes_once() {
        let (commander, commands) = channel().expect("a channel");
        assert!(!is_readable(&commands));
        commander.send(Command::Leave).expect("sent");
        assert!(is_readable(&commands));
        commands.quiet();
        assert!(matches!(commands.next(), Some(Command::Leave)));
        assert!(commands.next().is_none() && !is_readable(&commands));
    }
}
