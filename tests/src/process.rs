//! Child processes in a namespace, kept by handle: never searched for by name.

use std::{
    fs::File,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
pub use nix::sys::signal::Signal;
use nix::{sys::signal::kill, unistd::Pid};

const POLL: Duration = Duration::from_millis(5);

/// A running child with its output in a file. Dropping it kills and reaps the child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both output streams appended to `log`.
    pub(crate) fn spawn(name: &str, mut command: Command, log: PathBuf) -> Result<Self> {
        let open = || File::options().create(true).append(true).open(&log);
        let stdout = open().with_context(|| format!("open {}", log.display()))?;
        let stderr = stdout.try_clone().context("share a log file")?;
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let child = command
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The file that holds its output, also of earlier processes of the same name.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last `count` lines of its output.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines[lines.len().saturating_sub(count)..].to_vec()
    }

    /// Sends a signal; an error if the process has already ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // A child that was not waited for keeps its id, so the signal cannot hit a stranger.
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended before {signal}: {status}", self.name);
        }
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// How it ended, or `None` while it runs.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("wait for {}", self.name))
    }

    /// Waits for its end, `timeout` at most.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} still runs after {timeout:?}", self.name);
            }
            thread::sleep(POLL);
        }
    }

    /// Sends SIGTERM and waits: `Ok` only if the process ended by itself with exit code 0.
    pub fn stop(&mut self, timeout: Duration) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = self.wait_timeout(timeout)?;
        if let Some(signal) = status.signal() {
            bail!("{} did not handle SIGTERM: ended by signal {signal}", self.name);
        }
        if !status.success() {
            bail!("{} stopped with {status}", self.name);
        }
        Ok(())
    }

    /// Sends SIGKILL and reaps: what a power cut or the OOM killer does to a process.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().map(drop).with_context(|| format!("wait for {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already ended is fine, and nothing can be done about the rest while dropping.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
