//! Runs other people's programs, for checks and hooks: none can hang the agent, fill its memory,
//! inherit what is its own, or outlive its time. What a program has started and left behind when it ended
//! by itself, such as a service, goes on.
//!
//! A program gets a process group of its own, `/` as its directory, nothing to read, and of the
//! environment `PATH` and what it is told. What it writes is read as it comes; the last bytes are
//! kept, to tell why it failed. When its time is over the whole group is killed, and so it is when
//! nobody waits for it any more.

mod start;

use std::{io, time::Duration};

use nix::{
    sys::{
        signal::{Signal, killpg},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    process::Child,
    time::{self, Instant},
};

pub(crate) use self::start::identity;
use self::start::{Started, Starting};
use super::alone::Alone;
use crate::model::Run;

/// Bytes kept of what a program says.
const KEPT: usize = 1 << 10;
/// Bytes that a pipe holds, unless told otherwise (pipe(7)).
const PIPE: usize = 64 << 10;
/// Characters of them that are told.
const TOLD: usize = 200;

/// How long a killed program may take to be gone.
const DEATH: Duration = Duration::from_millis(100);

/// Runs a program to its end, or for as long as it may, its start included: the error says how it ended,
/// and what it said last. None runs by that `alone` while the last one is not gone.
pub(super) async fn run(
    run: &Run,
    environment: &[(&str, &str)],
    timeout: Duration,
    alone: &Alone,
) -> Result<(), String> {
    let deadline = Instant::now() + timeout;
    let cannot = |error: io::Error| format!("cannot run {}: {error}", run.argv[0]);
    let mut starting = Starting::begin(run, environment, alone.turn()?).map_err(cannot)?;
    let started = time::timeout_at(deadline, starting.end()).await;
    let Ok(started) = started else { return Err(starting.give_up(timeout)) };
    let Started { mut group, output, turn } = started?;
    let mut said = Vec::new();
    let ended = time::timeout_at(deadline, group.follow(output, &mut said)).await;
    let words = last_words(&said);
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("{status}{words}")),
        Ok(Err(error)) => Err(format!("{}: {error}", run.argv[0])),
        Err(_elapsed) => {
            group.kill();
            if time::timeout(DEATH, group.child.wait()).await.is_err() {
                // It waits in the kernel, for a disk or a server: more of them would pile up there.
                tokio::spawn(async move {
                    let _ = group.child.wait().await;
                    drop(turn);
                });
            }
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
            // It may have left its group.
            let _ = self.child.start_kill();
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
    use std::{
        fs::{self, File},
        net::{TcpListener, TcpStream},
        os::{fd::AsRawFd, unix::fs::PermissionsExt},
        path::{Path, PathBuf},
    };

    use nix::{
        errno::Errno,
        sys::signal::kill,
        unistd::{ForkResult, Uid, User, fork, pause},
    };

    use super::{start::PATH, *};

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
        let kept = File::open("/proc/self/status").expect("it is there");
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
    async fn it_is_not_spared_when_memory_runs_out_as_the_agent_may_be() {
        const OWN: &str = "/proc/self/oom_score_adj";
        let before = fs::read_to_string(OWN).expect("readable");
        // Only root may have itself spared more than before.
        let _ = fs::write(OWN, "-7");
        let told = outcome("cat /proc/self/oom_score_adj; exit 1").await;
        fs::write(OWN, before.trim()).expect("it may have less again");
        assert_eq!(told, Err("exit status: 1: 0".into()));
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

    /// A place of a test's own.
    fn place(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("vipfarm-program-{}-{name}", std::process::id()))
    }

    async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + SOON;
        while !is_so() {
            assert!(Instant::now() < deadline, "not in time: {what}");
            time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn lease(file: &File, kind: i32) -> Result<i32, Errno> {
        // SAFETY: no pointer is passed.
        Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) })
    }

    /// Has whoever opens or executes that file wait, as one does for a server that is gone.
    async fn stall(path: &Path) -> File {
        // SAFETY: no handler; without one the break of a lease ends the process.
        unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
        let file = File::open(path).expect("it is there");
        // Another test's copy of this process may have it open for a moment.
        until("a lease", || lease(&file, libc::F_WRLCK).is_ok()).await;
        file
    }

    #[tokio::test]
    async fn one_that_cannot_be_executed_in_time_is_given_up_and_holds_nothing_of_the_agents() {
        let path = place("stalled");
        fs::write(&path, "#!/bin/sh\nexit 0\n").expect("writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own");
        let stalled = stall(&path).await;
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let program = Run { argv: vec![path.display().to_string()], user: None };
        let (alone, timeout) = (Alone::new(), Duration::from_secs(3));
        let began = Instant::now();
        let (order, turns) = (program.clone(), alone.clone());
        let running = tokio::spawn(async move { run(&order, &[], timeout, &turns).await });
        // SAFETY: no pointer is passed.
        let lease_is = || unsafe { libc::fcntl(stalled.as_raw_fd(), libc::F_GETLEASE) };
        until("its execution", || lease_is() != libc::F_WRLCK).await;
        drop(listener);
        until("the port to be closed", || TcpStream::connect(address).is_err()).await;
        assert!(!running.is_finished(), "the copy of this process lets go while it waits");
        let error = running.await.expect("no panic").expect_err("it cannot be executed");
        assert!(error.starts_with("not executed within 3s"), "{error}");
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        drop(stalled);
        let mut outcome = run(&program, &[], SOON, &alone).await;
        while outcome.as_ref().is_err_and(|error| error.contains("has not ended yet")) {
            assert!(began.elapsed() < 2 * SOON, "its copy was not killed");
            time::sleep(Duration::from_millis(10)).await;
            outcome = run(&program, &[], SOON, &alone).await;
        }
        fs::remove_file(&path).expect("it was written");
        assert_eq!(outcome, Ok(()));
    }

    /// Has another process trace that one: when it is killed, nobody can take leave of it before the
    /// tracer is gone.
    fn trace(pid: Pid) -> Pid {
        // SAFETY: the copy makes system calls alone.
        match unsafe { fork() }.expect("a process more") {
            ForkResult::Parent { child } => child,
            ForkResult::Child => loop {
                // SAFETY: no pointer is passed.
                unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid.as_raw(), 0, 0) };
                pause();
            },
        }
    }

    #[tokio::test]
    async fn none_is_started_while_the_last_one_cannot_be_killed() {
        if !Uid::effective().is_root() {
            return;
        }
        let (said, alone) = (place("pid"), Alone::new());
        let script =
            shell(&format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", said.display()));
        let turns = alone.clone();
        let hanging =
            tokio::spawn(async move { run(&script, &[], Duration::from_secs(3), &turns).await });
        until("the program's number", || said.exists()).await;
        let pid = fs::read_to_string(&said).expect("it is there");
        fs::remove_file(&said).expect("it is there");
        let tracer = trace(Pid::from_raw(pid.trim().parse().expect("a number")));
        let status = format!("/proc/{}/status", pid.trim());
        let is_traced =
            || fs::read_to_string(&status).is_ok_and(|it| !it.contains("TracerPid:\t0"));
        until("the tracer", is_traced).await;
        let killed = hanging.await.expect("no panic");
        let next = run(&shell("exit 0"), &[], SOON, &alone).await;
        kill(tracer, Signal::SIGKILL).expect("it is there");
        waitpid(tracer, None).expect("it was killed");
        assert_eq!(killed, Err("killed after 3s".into()));
        assert_eq!(next, Err("the last one has not ended yet".into()));
        let began = Instant::now();
        while run(&shell("exit 0"), &[], SOON, &alone).await.is_err() {
            assert!(began.elapsed() < SOON, "it is gone, and the next one may come");
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
