//! What a heartbeat thread needs of the system: the boot clock, real-time scheduling, memory that
//! is never paged out.

use std::{
    fs::{self, File},
    io::{self, Read},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::bail;
use nix::{
    sys::{
        mman::{MlockAllFlags, mlockall},
        resource::{Resource, getrlimit},
    },
    time::{ClockId, clock_gettime},
};

use super::rights::{self, Capability};
use crate::{doctor::facts::RealTime, membership::BootTime, model::Timers};

/// `SCHED_FIFO` priority: above every ordinary thread, below the kernel's own (50 and up).
pub(super) const PRIORITY: libc::c_int = 10;

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

/// Why no thread of this process runs before all ordinary ones.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotRealTime {
    /// Such threads get no time on this machine.
    #[error("kernel.sched_rt_runtime_us is 0")]
    NoTime,
    /// The process may not have any.
    #[error("neither CAP_SYS_NICE nor a LimitRTPRIO of {PRIORITY} is granted")]
    NoRight,
    /// It may, and the kernel refuses.
    #[error("{0} in spite of CAP_SYS_NICE or LimitRTPRIO")]
    Forbidden(io::Error),
}

/// Finds out whether the heartbeat thread will be granted real-time scheduling, on a thread that
/// ends at once.
pub(super) fn probe() -> Result<(), NotRealTime> {
    let runtime = fs::read_to_string("/proc/sys/kernel/sched_rt_runtime_us");
    let tried = thread::scope(|scope| scope.spawn(become_real_time).join());
    // It does nothing that panics.
    judge(runtime.ok().as_deref(), tried.unwrap_or(Ok(())), has_right)
}

fn judge(
    runtime_us: Option<&str>,
    tried: io::Result<()>,
    has_right: impl FnOnce() -> bool,
) -> Result<(), NotRealTime> {
    // Where real-time time is not dealt out to control groups, the kernel grants the class all the
    // same, and with it nothing that could be relied on.
    if runtime_us.is_some_and(|text| text.trim() == "0") {
        return Err(NotRealTime::NoTime);
    }
    tried.map_err(
        |error| {
            if has_right() { NotRealTime::Forbidden(error) } else { NotRealTime::NoRight }
        },
    )
}

/// Whether the priority is within the process's rights.
fn has_right() -> bool {
    let limit = getrlimit(Resource::RLIMIT_RTPRIO).map_or(0, |(soft, _)| soft);
    Capability::SYS_NICE.is_in(rights::effective()) || limit >= PRIORITY.unsigned_abs().into()
}

impl NotRealTime {
    /// What to do about it.
    fn fix(&self) -> String {
        let fix = match self {
            Self::NoTime => "set it (`sysctl kernel.sched_rt_runtime_us=950000`)".to_owned(),
            Self::NoRight => format!("grant CAP_SYS_NICE or, by systemd, LimitRTPRIO={PRIORITY}"),
            Self::Forbidden(_) => "give the agent's control group a share of the real-time time \
                (cpu.rt_runtime_us), or run it outside of the container"
                .to_owned(),
        };
        format!("{fix}, or write `membership: {{ profile: relaxed }}` in the files of all nodes")
    }

    /// What that means for a farm with these timers. All nodes must have the same ones, so an agent
    /// cannot take others by itself.
    pub(super) fn weigh(&self, timers: &Timers) -> RealTime {
        let no = format!("no real-time scheduling ({self})");
        if timers.are_stricter_than(&Timers::BALANCED) {
            let fail = timers.fail;
            let why = format!(
                "{no}, without which timers shorter than the balanced profile's cannot be kept (fail: {fail:?})"
            );
            return RealTime::Needed(why, self.fix());
        }
        if timers.are_stricter_than(&Timers::RELAXED) {
            let why = format!("{no}: under load this node may fence itself");
            return RealTime::Missing(why, self.fix());
        }
        RealTime::Dispensable(no)
    }

    /// The same for an agent that starts: nothing, a warning, or that it must not.
    pub(super) fn bear(&self, timers: &Timers) -> anyhow::Result<Option<String>> {
        match self.weigh(timers) {
            RealTime::Granted | RealTime::Dispensable(_) => Ok(None),
            RealTime::Missing(why, fix) => Ok(Some(format!("{why}; {fix}"))),
            RealTime::Needed(why, fix) => bail!("{why}: {fix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    fn refused() -> io::Result<()> {
        Err(Errno::EPERM.into())
    }

    #[test]
    fn a_refusal_names_its_cause() {
        assert!(judge(Some("950000\n"), Ok(()), || false).is_ok());
        assert!(judge(Some("-1\n"), Ok(()), || true).is_ok());
        assert!(judge(None, Ok(()), || true).is_ok());
        let cause = |runtime, tried, right: bool| judge(runtime, tried, || right);
        assert!(matches!(cause(Some("0\n"), Ok(()), true), Err(NotRealTime::NoTime)));
        assert!(matches!(cause(Some("0\n"), refused(), false), Err(NotRealTime::NoTime)));
        assert!(matches!(cause(Some("950000\n"), refused(), false), Err(NotRealTime::NoRight)));
        let error = cause(Some("950000\n"), refused(), true);
        assert!(matches!(error, Err(NotRealTime::Forbidden(_))));
    }

    #[test]
    fn the_shorter_the_timers_the_more_a_refusal_means() {
        let short = Timers { fail: Duration::from_millis(249), ..Timers::BALANCED };
        for refusal in
            [NotRealTime::NoTime, NotRealTime::NoRight, NotRealTime::Forbidden(Errno::EPERM.into())]
        {
            let means = |timers: &Timers| refusal.bear(timers);
            for timers in [Timers::FAST, short] {
                let error = means(&timers).expect_err("too short").to_string();
                assert!(error.contains("`membership: { profile: relaxed }`"), "{error}");
            }
            let warning = means(&Timers::BALANCED).expect("a warning").expect("one");
            assert!(warning.contains("`membership: { profile: relaxed }`"), "{warning}");
            assert_eq!(means(&Timers::RELAXED).expect("it will do"), None);
        }
        let error = NotRealTime::NoRight.bear(&Timers::FAST).expect_err("refused").to_string();
        assert!(
            error.contains("grant CAP_SYS_NICE") && error.contains("LimitRTPRIO=10"),
            "{error}"
        );
    }

    #[test]
    fn a_thread_that_was_refused_had_no_right_or_was_forbidden_it() {
        let right = has_right();
        match probe() {
            Ok(()) => assert!(right, "granted without a right"),
            Err(NotRealTime::NoRight) => assert!(!right),
            Err(NotRealTime::Forbidden(_)) => assert!(right),
            Err(NotRealTime::NoTime) => {}
        }
    }
}
