//! From an order to a program that runs: who its user is, a copy of this process, and the program in its
//! place.
//!
//! Each of these steps may last for ever, where names or files come from another machine. So they are a
//! thread's, and what is not done in time is given up, together with the copy that waits for its program.

use std::{
    ffi::CString,
    fs,
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
    process::Stdio,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, kill},
        stat::{SFlag, fstat},
    },
    unistd::{Gid, Pid, Uid, User, close, getgrouplist, getpid, setgid, setuid},
};
use tokio::{net::unix::pipe, process::Command, sync::oneshot, task};

use super::Group;
use crate::{
    agent::{alone::Turn, signals::Signals},
    model::Run,
};

/// Where a program looks for others.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program that runs.
pub(super) struct Started {
    pub(super) group: Group,
    /// What it says.
    pub(super) output: pipe::Receiver,
    /// To be kept until the program is gone.
    pub(super) turn: Turn,
}

/// A program that is to run.
pub(super) struct Starting {
    outcome: oneshot::Receiver<Result<Started, String>>,
    /// Where the copy of this process says which process it is.
    copy: PipeReader,
    is_over: bool,
}

impl Starting {
    /// Begins.
    pub(super) fn begin(run: &Run, environment: &[(&str, &str)], turn: Turn) -> io::Result<Self> {
        let (copy, told) = io::pipe()?;
        let (argv0, user) = (run.argv[0].clone(), run.user.clone());
        let mut command = Command::new(&argv0);
        command.args(&run.argv[1..]).current_dir("/").process_group(0);
        command.env_clear().env("PATH", PATH).envs(environment.iter().copied());
        let (answer, outcome) = oneshot::channel();
        task::spawn_blocking(move || {
            let started = user.map(|user| identity(&user)).transpose().and_then(|user| {
                if answer.is_closed() {
                    return Err("nobody waits for it any more".into());
                }
                let started = execute(command, user, told);
                started.map_err(|error| format!("cannot run {argv0}: {error}"))
            });
            // One that nobody waits for is killed by being dropped.
            let _ = answer.send(started.map(|(output, group)| Started { group, output, turn }));
        });
        Ok(Self { outcome, copy, is_over: false })
    }

    /// Waits until it runs, which may be for ever.
    pub(super) async fn end(&mut self) -> Result<Started, String> {
        let outcome = (&mut self.outcome).await;
        self.is_over = true;
        outcome.unwrap_or_else(|_panicked| Err("its start came to nothing".into()))
    }

    /// Gives it up; the words say how far it has come in that time.
    pub(super) fn give_up(mut self, after: Duration) -> String {
        match self.kill_copy() {
            Some(_) => format!("not executed within {after:?}: what it is in does not answer"),
            None => format!("no answer who the user is within {after:?}"),
        }
    }

    /// Ends the copy of this process that waits for its program, if there is one.
    fn kill_copy(&mut self) -> Option<Pid> {
        if std::mem::replace(&mut self.is_over, true) {
            return None;
        }
        let mut told = [PollFd::new(self.copy.as_fd(), PollFlags::POLLIN)];
        poll(&mut told, PollTimeout::ZERO).ok().filter(|&ready| ready > 0)?;
        let mut pid = [0; size_of::<libc::pid_t>()];
        self.copy.read_exact(&mut pid).ok()?;
        let pid = Pid::from_raw(libc::pid_t::from_ne_bytes(pid));
        // The thread that waits for its execution has not waited for its end: the number is its own.
        let _ = kill(pid, Signal::SIGKILL);
        Some(pid)
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.kill_copy();
    }
}

/// As whom a program runs.
pub(crate) struct Identity {
    user: Uid,
    group: Gid,
    /// All groups of the user.
    groups: Vec<libc::gid_t>,
}

/// A user, by name or number; the error says that there is none. It may never come back: the names may
/// be a directory service's.
pub(crate) fn identity(user: &str) -> Result<Identity, String> {
    let found = match user.parse() {
        Ok(number) => User::from_uid(Uid::from_raw(number)),
        Err(_name) => User::from_name(user),
    };
    let found = found.map_err(|error| format!("user {user}: {error}"))?;
    let found = found.ok_or_else(|| format!("there is no user {user}"))?;
    let name = CString::new(found.name).map_err(|error| error.to_string())?;
    let groups = getgrouplist(&name, found.gid);
    let groups = groups.map_err(|error| format!("the groups of user {user}: {error}"))?;
    let groups = groups.into_iter().map(Gid::as_raw).collect();
    Ok(Identity { user: found.uid, group: found.gid, groups })
}

impl Identity {
    /// Becomes that; for a process that is to execute another program.
    fn assume(&self) -> io::Result<()> {
        // SAFETY: the list outlives the call.
        Errno::result(unsafe { libc::setgroups(self.groups.len(), self.groups.as_ptr()) })?;
        setgid(self.group)?;
        Ok(setuid(self.user)?)
    }
}

/// Makes a copy of this process, which says which process it is, and has it execute the program; the copy
/// may wait for that for ever, and so does this thread.
fn execute(
    mut command: Command,
    user: Option<Identity>,
    told: PipeWriter,
) -> io::Result<(pipe::Receiver, Group)> {
    let (reader, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let open = open_descriptors()?;
    let prepare = move || {
        (&told).write_all(&getpid().as_raw().to_ne_bytes())?;
        drop_what_is_the_agents(&open)?;
        Signals::let_through()?;
        // The agent may be spared when memory runs out; what it runs is not. Nothing fails without.
        let _ = fs::write("/proc/self/oom_score_adj", "0");
        user.as_ref().map_or(Ok(()), Identity::assume)
    };
    // SAFETY: it calls nothing but system calls.
    unsafe { command.pre_exec(prepare) };
    let child = command.spawn()?;
    let group = Group { leader: child.id(), child };
    // With the command its ends of the pipe go: what is left are the program's.
    drop(command);
    Ok((pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?, group))
}

/// The numbers of this process's descriptors, but for the first three.
fn open_descriptors() -> io::Result<Vec<RawFd>> {
    let number = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    Ok(fs::read_dir("/proc/self/fd")?.filter_map(number).filter(|&fd| fd > 2).collect())
}

/// What an agent without root's rights was granted is its own, and so are the descriptors that it has:
/// a copy that never executes anything must hold no socket and no lock that the next agent needs.
fn drop_what_is_the_agents(open: &[RawFd]) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    let outcome =
        unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    Errno::result(outcome)?;
    for &fd in open {
        // SAFETY: for one call, which tells whether it is open.
        let found = fstat(unsafe { BorrowedFd::borrow_raw(fd) });
        // By a pipe the copy says that it cannot execute the program; execution closes that.
        let is_pipe = |mode| SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFIFO;
        if found.is_ok_and(|found| !is_pipe(found.st_mode)) {
            let _ = close(fd);
        }
    }
    // SAFETY: no pointer is passed; what has been opened since, or was given to the agent.
    let outcome = unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    match Errno::result(outcome) {
        // Linux 5.11 and later have it; what the agent opens itself is closed in any case.
        Ok(_) | Err(Errno::ENOSYS | Errno::EINVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
