//! Names that say who made them, and removing what a dead maker left behind.
//!
//! Everything a lab makes outside itself (network namespaces, a directory) begins with
//! `vfl<pid>x<counter>`. While that process lives the names are its own; afterwards anyone may
//! remove them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::id,
    sync::atomic::{AtomicU32, Ordering},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::iproute::run;

const PREFIX: &str = "vfl";
const NETNS: &str = "/run/netns";

/// The directory in a lab's directory on which its bpffs is mounted.
pub(crate) const BPF: &str = "bpf";

/// A name that no other lab has, in this process or any other that lives.
pub(crate) fn unique_name(name: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let counter = COUNTER.fetch_add(1, Ordering::Relaxed);
    let legible: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
    format!("{PREFIX}{}x{counter}-{legible}", id())
}

/// Where labs keep their directories.
pub(crate) fn directory_of(id: &str) -> PathBuf {
    std::env::temp_dir().join(id)
}

/// Removes what labs of dead processes left behind. What cannot be removed stays: another sweep
/// may be at it in this very moment.
pub(crate) fn sweep() {
    for namespace in stale_entries(Path::new(NETNS)) {
        signal_processes_in(&namespace, Signal::SIGKILL);
        let _ = run("ip", &["netns", "del", &namespace]);
    }
    for directory in stale_entries(&std::env::temp_dir()) {
        let _ = remove_directory(&directory_of(&directory));
    }
}

/// Removes the namespaces of that lab. They vanish when the last socket in them closes.
pub(crate) fn remove_namespaces(id: &str) {
    let own = format!("{id}-");
    for namespace in entries(Path::new(NETNS)).filter(|name| name.starts_with(&own)) {
        let _ = run("ip", &["netns", "del", &namespace]);
    }
}

/// Unmounts the bpffs of a lab's directory and removes the directory.
pub(crate) fn remove_directory(directory: &Path) -> io::Result<()> {
    // Not mounted, or gone already: then there is nothing to unmount.
    let _ = umount2(&directory.join(BPF), MntFlags::MNT_DETACH);
    fs::remove_dir_all(directory)
}

fn stale_entries(directory: &Path) -> impl Iterator<Item = String> {
    entries(directory).filter(|name| maker(name).is_some_and(is_dead))
}

fn entries(directory: &Path) -> impl Iterator<Item = String> {
    let found = fs::read_dir(directory).into_iter().flatten().flatten();
    found.filter_map(|entry| entry.file_name().into_string().ok())
}

/// The process that made something of that name, if a lab did.
fn maker(name: &str) -> Option<Pid> {
    let (pid, rest) = name.strip_prefix(PREFIX)?.split_once('x')?;
    let (counter, _) = rest.split_once('-')?;
    counter.parse::<u32>().ok()?;
    pid.parse().ok().filter(|&pid| pid > 0).map(Pid::from_raw)
}

fn is_dead(pid: Pid) -> bool {
    kill(pid, None) == Err(Errno::ESRCH)
}

/// Sends a signal to every process in a lab's namespace. Only the lab's own children, and theirs, can
/// be there: nothing else knows its name.
pub(crate) fn signal_processes_in(namespace: &str, signal: Signal) {
    let pids = run("ip", &["netns", "pids", namespace]).unwrap_or_default();
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_a_lab_gives_have_a_maker() {
        let own = unique_name("a b/c");
        assert!(own.ends_with("-a-b-c"), "{own}");
        assert_eq!(maker(&own), Some(Pid::this()));
        assert_eq!(maker("vfl12x3-demo-node1"), Some(Pid::from_raw(12)));
        for other in
            ["vfl", "vflx-", "vfl12", "vfl12x3", "vfl0x3-a", "vfl-1x3-a", "vfl1xy-a", "web"]
        {
            assert_eq!(maker(other), None, "{other}");
        }
    }

    #[test]
    fn this_process_is_not_dead_and_a_reaped_child_is() {
        assert!(!is_dead(Pid::this()));
        let mut child = std::process::Command::new("true").spawn().expect("`true` exists");
        let pid = Pid::from_raw(child.id().cast_signed());
        child.wait().expect("it ends");
        assert!(is_dead(pid));
    }
}
