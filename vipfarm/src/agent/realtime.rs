//! What a heartbeat thread needs of the system: the boot clock, real-time scheduling, memory that
//! is never paged out.

use std::{
    fs::File,
    io::{self, Read},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::{
    sys::mman::{MlockAllFlags, mlockall},
    time::{ClockId, clock_gettime},
};

use crate::membership::BootTime;

/// `SCHED_FIFO` priority: above every ordinary thread, below the kernel's own (50 and up).
const PRIORITY: libc::c_int = 10;

/// The boot clock, now.
pub(super) fn now() -> BootTime {
    // The clock exists on every kernel since 2.6.39, so reading it cannot fail.
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME exists");
    BootTime::from_nanos(
        time.tv_sec().cast_unsigned() * 1_000_000_000 + time.tv_nsec().cast_unsigned(),
    )
}

/// The wall clock, since 1970: may be set at any time, so nothing is to be decided by it.
pub(super) fn wall_clock() -> Duration {
    // A clock before 1970 measures nothing worth telling.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A number that no other agent's life has: from the kernel's random source.
pub(super) fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Runs the calling thread before all ordinary ones. An ordinary thread was seen to wake 50 ms late
/// under load, a real-time one 10 ms.
pub(super) fn become_real_time() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: a plain system call on the calling thread (pid 0) with a valid structure.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Keeps the process's memory resident: a page fault in the heartbeat thread may take longer than
/// a lease.
pub(super) fn lock_memory() -> io::Result<()> {
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE).map_err(io::Error::from)
}
