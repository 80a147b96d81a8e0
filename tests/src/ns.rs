//! Entering a network namespace, for one closure or for a child process.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    panic::resume_unwind,
    path::PathBuf,
    process::Command,
    sync::Arc,
    thread,
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

/// A named network namespace, held open.
#[derive(Debug, Clone)]
pub struct Namespace {
    name: String,
    file: Arc<File>,
}

impl Namespace {
    /// Opens the namespace that `ip netns add NAME` made.
    pub(crate) fn open(name: &str) -> Result<Self> {
        let path = PathBuf::from("/run/netns").join(name);
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self { name: name.to_owned(), file: Arc::new(file) })
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread of its own inside the namespace and waits for it.
    ///
    /// Sockets made by `work` belong to the namespace for good and may be used anywhere. A panic
    /// in `work` goes on in the caller. Beware of `/sys/class/net`: it shows the namespace of its
    /// mount, not the thread's.
    pub fn in_ns<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let enter_and_work = || {
            self.enter().expect("a lab exists only for root, who may enter its namespaces");
            work()
        };
        thread::scope(|scope| {
            scope.spawn(enter_and_work).join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// A command whose process will start inside the namespace.
    ///
    /// Not `ip netns exec`: that gives the child a mount namespace without the lab's bpffs.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let namespace = self.clone();
        let enter = move || namespace.enter();
        // SAFETY: between fork and exec the closure makes one system call on a descriptor that it
        // owns; it neither allocates nor takes a lock.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Sets a sysctl of the namespace, by its path below `/proc/sys`.
    pub(crate) fn set_sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = PathBuf::from("/proc/sys").join(name);
        self.in_ns(|| fs::write(&path, value)).with_context(|| format!("write {}", path.display()))
    }

    fn enter(&self) -> io::Result<()> {
        setns(&*self.file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
    }
}
