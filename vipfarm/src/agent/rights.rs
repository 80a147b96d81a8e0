//! What an agent may do: the capabilities that it needs, and nothing else, for as long as it lives; and
//! no memory of it in a core dump, where its keys are.

use std::{fs, io};

use anyhow::ensure;

use crate::model::Farm;

/// A capability by its number in `linux/capability.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    number: u32,
    /// Its name.
    pub name: &'static str,
    /// What the agent does with it.
    pub what_for: &'static str,
}

/// What an agent needs; the unit of systemd grants the same.
pub const NEEDED: [Capability; 6] = [
    capability(12, "CAP_NET_ADMIN", "adds VIPs, attaches the filter, resets connections"),
    capability(13, "CAP_NET_RAW", "speaks ARP and neighbour discovery"),
    capability(14, "CAP_IPC_LOCK", "keeps its memory from being paged out"),
    capability(23, "CAP_SYS_NICE", "schedules its heartbeats in real time"),
    capability(38, "CAP_PERFMON", "loads programs that compute with pointers"),
    capability(39, "CAP_BPF", "loads the filter and its tables"),
];

/// What one needs besides whose checks or hooks run as other users.
pub const TO_RUN_AS_OTHERS: [Capability; 3] = [
    capability(5, "CAP_KILL", "ends programs of other users in time"),
    capability(6, "CAP_SETGID", "runs programs with the groups of other users"),
    capability(7, "CAP_SETUID", "runs programs as other users"),
];

const fn capability(number: u32, name: &'static str, what_for: &'static str) -> Capability {
    Capability { number, name, what_for }
}

impl Capability {
    /// Whether it is in a set.
    pub fn is_in(self, set: u64) -> bool {
        set >> self.number & 1 == 1
    }

    /// Real-time scheduling.
    pub const SYS_NICE: Self = NEEDED[3];
}

/// The effective capabilities of this process, one bit each.
pub fn effective() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

/// From now on the process leaves no core dump, and nobody without `CAP_SYS_PTRACE` can look into its
/// memory.
pub(super) fn hide_memory() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0)
}

/// Gives up, for good, all that the agent does not need: capabilities, those that a program it
/// executes could have, and those that one with the set-user-ID bit would give.
///
/// To be called while the process has one thread: the kernel keeps capabilities by thread.
pub(super) fn give_up_others(runs_as_others: bool) -> io::Result<()> {
    let needed = needed(runs_as_others);
    forget_bounding(needed)?;
    keep_only(needed)?;
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

fn needed(runs_as_others: bool) -> u64 {
    let more: &[Capability] = if runs_as_others { &TO_RUN_AS_OTHERS } else { &[] };
    NEEDED.iter().chain(more).fold(0, |set, capability| set | 1 << capability.number)
}

/// Refuses a farm whose checks or hooks run as other users if this process may not do that.
pub(super) fn refuse_users(farm: &Farm) -> anyhow::Result<()> {
    let effective = effective();
    let lacks = TO_RUN_AS_OTHERS.iter().filter(|capability| !capability.is_in(effective));
    let lacks: Vec<&str> = lacks.map(|capability| capability.name).collect();
    ensure!(
        !farm.runs_as_others() || lacks.is_empty(),
        "checks or hooks run as another `user`, which this process may not do: start the agent with {} (under systemd in `CapabilityBoundingSet` and `AmbientCapabilities`), or remove `user`",
        lacks.join(", ")
    );
    Ok(())
}

/// Takes capabilities out of the bounding set, if the process may: whoever has started it without
/// `CAP_SETPCAP` has bounded it already, or it is no root that could regain any.
fn forget_bounding(needed: u64) -> io::Result<()> {
    for number in 0..u64::BITS {
        let unneeded = needed >> number & 1 == 0;
        // An error: the kernel has fewer capabilities.
        let has = prctl_value(libc::PR_CAPBSET_READ, number.into()).is_ok_and(|has| has == 1);
        if !unneeded || !has {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, number.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Ok(()),
            outcome => outcome?,
        }
    }
    Ok(())
}

/// `struct __user_cap_header_struct` (`linux/capability.h`).
#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

/// `_LINUX_CAPABILITY_VERSION_3`: sets of 64 bits, in two halves.
const VERSION: u32 = 0x2008_0522;

/// `struct __user_cap_data_struct`, a half of each set.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Has the calling thread keep what it has of a set. The ambient capabilities that are not in it go
/// with the permitted ones; those that are, an agent needs that is no root's and executes the next one.
fn keep_only(needed: u64) -> io::Result<()> {
    let mut header = Header { version: VERSION, pid: 0 };
    let mut sets = [Half::default(); 2];
    // SAFETY: the kernel reads the header and writes two halves; both are alive.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
    let bytes = needed.to_le_bytes();
    for (half, needed) in sets.iter_mut().zip(bytes.as_chunks::<4>().0) {
        let needed = u32::from_le_bytes(*needed);
        half.permitted &= needed;
        half.effective &= needed;
        half.inheritable &= needed;
    }
    // SAFETY: the kernel reads the header and two halves; both are alive.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) })
}

fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    prctl_value(option, value).map(drop)
}

fn prctl_value(option: libc::c_int, value: libc::c_ulong) -> io::Result<libc::c_int> {
    const NONE: libc::c_ulong = 0;
    // SAFETY: options with numbers as arguments only, all of which are given.
    let result = unsafe { libc::prctl(option, value, NONE, NONE, NONE) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{
        agent::{
            options::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR},
            realtime::PRIORITY,
        },
        cli::Cli,
    };

    /// A field of this thread's status, as a number.
    fn status(field: &str) -> u64 {
        let text = fs::read_to_string("/proc/thread-self/status").expect("it is there");
        let value = text.lines().find_map(|line| line.strip_prefix(field)).expect(field);
        u64::from_str_radix(value.trim(), 16).expect("hexadecimal")
    }

    #[test]
    fn a_thread_keeps_what_is_needed_of_what_it_has() {
        let needed = needed(false);
        let before = [status("CapPrm:"), status("CapEff:"), status("CapInh:")];
        let after = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                forget_bounding(needed).expect("allowed, or not ours to do");
                keep_only(needed).expect("one may always have less");
                [status("CapPrm:"), status("CapEff:"), status("CapInh:"), status("CapBnd:")]
            });
            thread.join().expect("it does not panic")
        });
        assert_eq!(after[..3], before.map(|set| set & needed));
        // With `CAP_SETPCAP`, number 8.
        if before[1] >> 8 & 1 == 1 {
            assert_eq!(after[3] & !needed, 0, "{:x}", after[3]);
        }
        assert_eq!(effective(), before[1], "other threads have theirs");
    }

    #[test]
    fn the_unit_grants_what_is_needed_and_starts_what_there_is() {
        const UNIT: &str = include_str!("../../../packaging/vipfarm.service");
        let values = |setting: &str| {
            let of = |line: &'static str| line.strip_prefix(setting)?.strip_prefix('=');
            UNIT.lines().filter_map(of).collect::<Vec<_>>()
        };
        for setting in ["CapabilityBoundingSet", "AmbientCapabilities"] {
            let granted = values(setting).concat();
            let mut granted: Vec<&str> = granted.split(' ').collect();
            let mut needed = NEEDED.map(|capability| capability.name);
            granted.sort_unstable();
            needed.sort_unstable();
            assert_eq!(granted, needed, "{setting}");
        }
        assert_eq!(values("LimitRTPRIO"), [PRIORITY.to_string()]);
        assert_eq!((values("Type"), values("NoNewPrivileges")), (vec!["notify"], vec!["yes"]));
        let commands = values("ExecStart").into_iter().chain(values("ExecReload"));
        for command in commands.filter(|command| command.contains("vipfarm ")) {
            let words = command.split(' ').filter(|word| *word != "$VIPFARM_OPTIONS");
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{command}: {error}"));
        }
        // As the agent would have it without being told.
        for (directory, default) in
            [("RuntimeDirectory", DEFAULT_RUN_DIR), ("StateDirectory", DEFAULT_STATE_DIR)]
        {
            let name = values(directory).concat();
            assert!(default.ends_with(&format!("/{name}")), "{directory}");
        }
        // What is to be taken back is written down there.
        assert_eq!(values("RuntimeDirectoryPreserve"), ["yes"]);
        assert_eq!(values("ProtectKernelTunables"), [""; 0], "it sets sysctls");
    }

    #[test]
    fn capabilities_are_known_by_their_bits() {
        assert!(Capability::SYS_NICE.is_in(1 << 23) && !Capability::SYS_NICE.is_in(1 << 24));
        assert_eq!(Capability::SYS_NICE.name, "CAP_SYS_NICE");
    }
}
