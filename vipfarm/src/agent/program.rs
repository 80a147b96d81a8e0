//! Runs other people's programs, for checks and hooks: none can hang the agent, fill its memory,
//! inherit what is its own, or outlive its time. What a program has started and left behind when it ended
//! by itself, such as a service, goes on.
//!
//! A program gets a process group of its own, `/` as its directory, nothing to read, and of the
//! environment `PATH` and what it is told. What it writes is read as it comes; the last bytes are
//! kept, to tell why it failed. When its time is over the whole group is killed, and so it is when
//! nobody waits for it any more.

use std::{ffi::CString, io, os::fd::OwnedFd, process::Stdio, time::Duration};

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, killpg},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Gid, Pid, Uid, User, getgrouplist, setgid, setuid},
};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    process::{Child, Command},
    time,
};

use super::alone::Alone;
use crate::model::Run;

/// Where a program looks for others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Bytes kept of what a program says.
const KEPT: usize = 1 << 10;
/// Bytes that a pipe holds, unless told otherwise (pipe(7)).
const PIPE: usize = 64 << 10;
/// Characters of them that are told.
const TOLD: usize = 200;

/// How long a killed program may take to be gone.
const DEATH: Duration = Duration::from_millis(100);

/// Runs a program to its end, or for as long as it may: the error says how it ended, and what it said
/// last. Who its user is, is asked by `alone`.
pub(super) async fn run(
    run: &Run,
    environment: &[(&str, &str)],
    timeout: Duration,
    alone: &Alone,
) -> Result<(), String> {
    let user = match run.user.clone() {
        None => None,
        // The names may come from a directory service, which may hang.
        Some(user) => {
            let found = time::timeout(timeout, alone.run(move || identity(&user))).await;
            let found = found
                .map_err(|_elapsed| format!("no answer who the user is within {timeout:?}"))?;
            Some(found??)
        }
    };
    let cannot = |error: io::Error| format!("cannot run {}: {error}", run.argv[0]);
    let (output, mut group) = start(&run.argv, user, environment).map_err(cannot)?;
    let mut said = Vec::new();
    let ended = time::timeout(timeout, group.follow(output, &mut said)).await;
    let words = last_words(&said);
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("{status}{words}")),
        Ok(Err(error)) => Err(format!("{}: {error}", run.argv[0])),
        Err(_elapsed) => {
            group.kill();
            let _ = time::timeout(DEATH, group.child.wait()).await;
            Err(format!("killed after {timeout:?}{words}"))
        }
    }
}

/// Takes leave of programs that this process's former program has started and killed: nobody else does.
/// To be called before any is started.
pub(super) fn reap_inherited() {
    while let Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) =
        waitpid(None, Some(WaitPidFlag::WNOHANG))
    {}
}

/// As whom a program runs.
struct Identity {
    user: Uid,
    group: Gid,
    /// All groups of the user.
    groups: Vec<libc::gid_t>,
}

/// A user, by name or number.
fn identity(user: &str) -> Result<Identity, String> {
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

fn start(
    argv: &[String],
    user: Option<Identity>,
    environment: &[(&str, &str)],
) -> io::Result<(pipe::Receiver, Group)> {
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).current_dir("/").process_group(0);
    command.env_clear().env("PATH", PATH).envs(environment.iter().copied());
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let prepare = move || {
        drop_what_is_the_agents()?;
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

/// What an agent without root's rights was granted is its own, and so are the descriptors that it was
/// started with.
fn drop_what_is_the_agents() -> io::Result<()> {
    // SAFETY: no pointer is passed.
    let outcome =
        unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    Errno::result(outcome)?;
    // SAFETY: no pointer is passed; on execution only, for the way there needs one.
    let outcome = unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    match Errno::result(outcome) {
        // Linux 5.11 and later have it; what the agent opens itself is closed in any case.
        Ok(_) | Err(Errno::ENOSYS | Errno::EINVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A program and the processes that it has started.
struct Group {
    child: Child,
    /// Its process, which names the group; `None` when it has ended.
    leader: Option<u32>,
}

impl Group {
    /// Reads what the program says until it has ended.
    async fn follow(
        &mut self,
        mut output: pipe::Receiver,
        said: &mut Vec<u8>,
    ) -> io::Result<std::process::ExitStatus> {
        let mut buffer = [0; KEPT];
        let mut open = true;
        loop {
            tokio::select! {
                read = output.read(&mut buffer), if open => match read {
                    Ok(0) | Err(_) => open = false,
                    Ok(length) => keep(said, &buffer[..length]),
                },
                status = self.child.wait() => {
                    self.leader = None;
                    // What it has said before it ended; what it has started may say more for ever.
                    for _ in 0..PIPE / KEPT {
                        let Ok(length @ 1..) = output.try_read(&mut buffer) else { break };
                        keep(said, &buffer[..length]);
                    }
                    return status;
                }
            }
        }
    }

    fn kill(&mut self) {
        let leader = self.leader.take().and_then(|leader| i32::try_from(leader).ok());
        if let Some(leader) = leader {
            // Not yet waited for, so the number is still its own.
            let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

fn keep(said: &mut Vec<u8>, more: &[u8]) {
    said.extend_from_slice(more);
    let surplus = said.len().saturating_sub(KEPT);
    said.drain(..surplus);
}

/// The last line that is not empty, if there is one, to be appended.
fn last_words(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    // Terminals obey control characters.
    let line: String = line.chars().filter(|c| !c.is_control()).take(TOLD).collect();
    if line.is_empty() { line } else { format!(": {line}") }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Instant};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Run {
        Run { argv: ["/bin/sh", "-c", script].map(str::to_owned).into(), user: None }
    }

    async fn outcome(script: &str) -> Result<(), String> {
        run(&shell(script), &[("VIPFARM_NODE", "node1")], SOON, &Alone::new()).await
    }

    #[tokio::test]
    async fn a_program_that_ends_with_zero_is_fine_and_another_tells_its_last_words() {
        assert_eq!(outcome("exit 0").await, Ok(()));
        let error = outcome("echo first; echo 'no db\u{7}'; echo >&2; exit 3").await;
        assert_eq!(error, Err("exit status: 3: no db".into()));
        let missing = Run { argv: vec!["/nowhere/check".into()], user: None };
        let error = run(&missing, &[], SOON, &Alone::new()).await.expect_err("no such program");
        assert!(error.starts_with("cannot run /nowhere/check: No such file"), "{error}");
    }

    #[tokio::test]
    async fn its_environment_is_what_it_is_told_and_nothing_else() {
        let expected = format!("PATH={PATH} VIPFARM_NODE=node1");
        // The shell adds some of its own.
        let script = "env | grep -v -e ^PWD= -e ^SHLVL= -e ^_= | sort | xargs; exit 1";
        assert_eq!(outcome(script).await, Err(format!("exit status: 1: {expected}")));
        let error = outcome("pwd; exit 1").await;
        assert_eq!(error, Err("exit status: 1: /".into()));
    }

    #[tokio::test]
    async fn it_inherits_no_descriptor_and_has_nothing_to_read() {
        let kept = fs::File::open("/proc/self/status").expect("it is there");
        let fd = nix::unistd::dup(&kept).expect("it is open");
        // The list's own is the fourth.
        let error = outcome("exec ls -m /nowhere /proc/self/fd").await;
        assert_eq!(error, Err("exit status: 2: 0, 1, 2, 3".into()));
        let error = outcome("read -r word && echo read; exit 1").await;
        assert_eq!(error, Err("exit status: 1".into()));
        drop(fd);
        drop(kept);
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_all_that_it_has_started() {
        let started = Instant::now();
        let script = shell("sleep 1000 & echo $!; wait");
        let error = run(&script, &[], Duration::from_millis(300), &Alone::new())
            .await
            .expect_err("too slow");
        assert!(started.elapsed() < SOON);
        let pid = error.strip_prefix("killed after 300ms: ").expect("it said the number");
        let is_gone = || match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_gone) => true,
        };
        let deadline = Instant::now() + SOON;
        while !is_gone() {
            assert!(Instant::now() < deadline, "process {pid} goes on");
            time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn one_that_says_much_is_read_to_the_end_and_costs_nothing() {
        let script = "head -c 10000000 /dev/zero | tr '\\0' x; echo; echo done; exit 1";
        assert_eq!(outcome(script).await, Err("exit status: 1: done".into()));
    }

    #[tokio::test]
    async fn one_that_leaves_a_child_with_its_output_is_not_waited_for() {
        let started = Instant::now();
        assert_eq!(outcome("sleep 3 & exit 0").await, Ok(()));
        assert!(started.elapsed() < Duration::from_secs(2));
    }

    #[tokio::test]
    async fn a_user_that_does_not_exist_is_an_error_and_another_one_runs_it() {
        let as_user = |user: &str| Run { user: Some(user.into()), ..shell("id -u; exit 1") };
        let error = run(&as_user("nobody-of-that-name"), &[], SOON, &Alone::new()).await;
        assert_eq!(error, Err("there is no user nobody-of-that-name".into()));
        if Uid::effective().is_root() {
            let nobody = User::from_name("nobody").expect("a user database").expect("nobody");
            let error = run(&as_user("nobody"), &[], SOON, &Alone::new()).await;
            assert_eq!(error, Err(format!("exit status: 1: {}", nobody.uid)));
        }
    }
}
