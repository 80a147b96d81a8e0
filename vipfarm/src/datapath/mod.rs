//! The kernel side of one interface: loads the programs, attaches and pins them, writes their
//! tables, reads their counters. The only module that imports aya.
//!
//! Pins outlive the agent on purpose: a node whose agent was killed keeps its filter, whose lease
//! then ends, so that it stops serving instead of answering for everybody.

mod attach;
mod clock;
mod counters;
mod flows;
mod follow;
pub mod manual;
mod object;
mod pins;
mod requesters;
mod shared;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use aya::Ebpf;
use aya_log::EbpfLogger;
use thiserror::Error;

use self::{clock::TickClock, manual::Manual, pins::Pins, shared::SharedState};
use crate::{
    model::{Bitmap, Mac},
    plan::{Change, Plan, PlanError},
};

pub use counters::Counters;
pub use flows::{FlowSeen, Flows};
pub use follow::Follower;
pub use requesters::Requesters;
pub use shared::Mapping;

/// What a [`Datapath`] needs to know of its interface.
#[derive(Debug, Clone)]
pub struct Options {
    /// Interface name.
    pub interface: String,
    /// Its kernel index.
    pub index: u32,
    /// The interface's own MAC.
    pub mac: Mac,
    /// The farm's hash key (see `config::key`).
    pub hash_key: [u8; 16],
    /// Directory on a bpffs under which the pins live.
    pub bpf_dir: PathBuf,
    /// Attach in generic (skb) mode even if the driver has native XDP.
    pub generic: bool,
    /// Which programs to load.
    pub buffers: Buffers,
    /// Attach the TC programs to the clsact qdisc even if the kernel has TCX. Kernels before 6.6
    /// get no choice.
    pub clsact: bool,
    /// Log every frame that takes the slow path.
    pub trace: bool,
}

/// In how many buffers a frame may come: a page holds about 3500 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buffers {
    /// Several, if the kernel has such programs (Linux 5.18); else one.
    Several,
    /// One.
    One,
}

/// The programs and tables of one interface.
///
/// Dropping it leaves the pinned programs attached: they go on until the lease ends, then refuse.
/// [`Datapath::remove`] takes everything away.
pub struct Datapath {
    interface: String,
    state: SharedState,
    clock: TickClock,
    mode: XdpMode,
    frags: bool,
    generic_wanted: bool,
    trace: bool,
    pins: Pins,
    plan: Option<Plan>,
    // Holds the programs and maps that are not pinned.
    ebpf: Ebpf,
}

/// Why the kernel side failed.
#[derive(Debug, Error)]
pub enum Error {
    /// The process may not use BPF.
    #[error(
        "{call}: not permitted: run the agent as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    )]
    Permission {
        /// What was refused.
        call: &'static str,
    },
    /// The pin directory is not on a BPF file system.
    #[error(
        "{path} is not on a BPF file system: `mount -t bpf bpf /sys/fs/bpf`, or name another place with --bpf-dir"
    )]
    NoBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// Another XDP program holds the interface.
    #[error(
        "another XDP program is attached to {interface}: `bpftool net` tells which; `ip link set dev {interface} xdp off` removes one that `ip` attached, `vipfarm down` one that an agent left"
    )]
    Occupied {
        /// Interface name.
        interface: String,
    },
    /// Another agent has the interface.
    #[error(
        "another agent filters {interface}: stop it first, or put the VIPs of both farms in one file"
    )]
    Held {
        /// Interface name.
        interface: String,
    },
    /// The driver refuses native XDP.
    #[error(
        "{interface}: native XDP is refused ({error}): lower the MTU {}, switch LRO off (`ethtool -K {interface} lro off`), or run with --generic", suitable_mtu(.interface, *.frags)
    )]
    Native {
        /// Interface name.
        interface: String,
        /// Whether the programs take frames in several buffers.
        frags: bool,
        /// What the kernel said.
        error: io::Error,
    },
    /// The kernel refused a program or a map.
    #[error("the kernel refused {what}: {reason}")]
    Kernel {
        /// What.
        what: &'static str,
        /// The kernel's words; for a program, the verifier's log.
        reason: String,
    },
    /// A pin could not be made, read or removed.
    #[error("{path}: {error}")]
    Pin {
        /// The pin or its directory.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// A system call on the shared memory failed.
    #[error("{call}: {error}")]
    Memory {
        /// The call.
        call: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// The configuration does not fit the tables.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// How XDP came to be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// On the socket buffer: slower, works on every device.
    Generic,
}

impl XdpMode {
    /// The word used everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// How large it may be. A page has to hold a frame, its headroom and a description, unless both
/// kernel and driver can spread it over several.
fn suitable_mtu(interface: &str, frags: bool) -> String {
    if frags {
        format!("(`ip link set {interface} mtu 1500`: not every driver filters jumbo frames)")
    } else {
        "to 3498 or less (this kernel filters no jumbo frames: Linux 5.18 does)".into()
    }
}

/// Whether pins can be made under that directory: it is, or would be, on a BPF file system.
pub fn is_on_bpffs(bpf_dir: &Path) -> bool {
    pins::on_bpffs(bpf_dir)
}

/// How an agent's filter is attached to the interface with that index in this thread's network
/// namespace, whether the agent runs or has crashed; `None` if none is.
pub fn pinned(bpf_dir: &Path, index: u32) -> Option<XdpMode> {
    let modes = [XdpMode::Native, XdpMode::Generic];
    modes.into_iter().find(|&mode| Pins::has(bpf_dir, index, attach::xdp_pin(mode)))
}

/// Others' TC programs on an interface that come before the farm's, in words: one that ends the chain
/// keeps frames from them. None are told where the farm has none there, or the kernel does not say
/// (it does from Linux 6.6 on).
pub fn programs_before(interface: &str) -> Vec<String> {
    attach::programs_before(interface)
}

impl Datapath {
    /// Loads the programs and makes them ready to attach: fenced, with no VIP.
    ///
    /// Nothing is visible to packets before [`Datapath::attach`].
    pub fn load(options: &Options) -> Result<Loaded, Error> {
        let state = object::create_state()?;
        let (ebpf, frags) = object::load(options, Some(&state))?;
        object::ensure_state(&ebpf, &state)?;
        let state = SharedState::map(&state)?;
        let clock = TickClock::new()?;
        Ok(Loaded { options: options.clone(), ebpf, frags, state, clock })
    }

    /// Has the kernel verify the programs, and forgets them. Says whether they take frames in several
    /// buffers.
    pub fn verify(options: &Options) -> Result<bool, Error> {
        object::load(options, None).map(|(_, frags)| frags)
    }

    /// Brings the tables from what they say to what the plan says.
    ///
    /// Bitmaps are stored in place: a packet that arrives after this returned is judged by them.
    pub fn apply(&mut self, plan: Plan) -> Result<(), Error> {
        apply(&mut self.state, self.plan.as_ref(), &plan)?;
        self.plan = Some(plan);
        Ok(())
    }

    /// Lets the kernel accept until `deadline_ns` of the boot clock; also when that fails, if more
    /// slowly.
    pub fn extend_lease(&mut self, deadline_ns: u64) -> Result<(), Error> {
        extend_lease(&mut self.state, self.clock, &mut self.ebpf, deadline_ns)
    }

    /// Ends the lease: every frame for a VIP is refused from now on.
    pub fn fence(&mut self) {
        self.state.fence();
    }

    /// The bitmaps that packets are judged by now, by kernel group, read from the kernel's memory
    /// without a system call.
    pub fn bitmaps(&self) -> Vec<Bitmap> {
        let groups = self.plan.as_ref().map_or(0, |plan| plan.bitmaps.len());
        (0..groups).map(|group| self.state.bitmap(group)).collect()
    }

    /// Until when the kernel accepts, in nanoseconds of the boot clock, read likewise; 0 = fenced.
    pub fn lease(&self) -> u64 {
        self.state.deadline_ns()
    }

    /// Interface name.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// How XDP is attached.
    pub fn xdp_mode(&self) -> XdpMode {
        self.mode
    }

    /// Whether the filter takes frames in several buffers: then the MTU may be that of jumbo frames.
    pub fn has_frags(&self) -> bool {
        self.frags
    }

    /// Whether the driver has no native XDP although it was wanted.
    pub fn fell_back(&self) -> bool {
        self.mode == XdpMode::Generic && !self.generic_wanted
    }

    /// The reader of the counters, for another thread; there is one.
    pub fn take_counters(&mut self) -> Result<Counters, Error> {
        Counters::take(&mut self.ebpf)
    }

    /// The reader of who asked for the VIPs, for another thread; there is one.
    pub fn take_requesters(&mut self) -> Result<Requesters, Error> {
        Requesters::of(&mut self.ebpf)
    }

    /// The reader of the UDP flows that linger, for another thread; there is one.
    pub fn take_flows(&mut self) -> Result<Flows, Error> {
        Flows::of(&mut self.ebpf)
    }

    /// What tells of one client's frames, for another thread; there is one.
    pub fn take_follower(&mut self) -> Result<Follower, Error> {
        Follower::of(&mut self.ebpf)
    }

    /// Whether every frame for a VIP is to take the slow path, whose verdicts are the same: it is only
    /// slower. Off, the hot path is back with the next extension of the lease.
    pub fn detour(&mut self, detour: bool) {
        self.state.detour(detour);
    }

    /// Whether every frame for a VIP takes the slow path, read from the kernel's memory without a
    /// system call.
    pub fn is_detoured(&self) -> bool {
        self.state.deadline_ticks() == 0
    }

    /// What `slow` logs, if tracing was asked for; there is one reader.
    pub fn take_trace(&mut self) -> Result<Option<Trace>, Error> {
        if !self.trace {
            return Ok(None);
        }
        let logger = EbpfLogger::init(&mut self.ebpf).map_err(|error| Error::Kernel {
            what: "the trace buffer",
            reason: error.to_string(),
        })?;
        Ok(Some(Trace(logger)))
    }

    /// Detaches the programs and removes their pins.
    pub fn remove(self) -> Result<(), Error> {
        let Self { interface, pins, ebpf, .. } = self;
        pins.remove()?;
        drop(ebpf);
        attach::detach_filters(&interface)
    }
}

/// What agents that are gone left on some interfaces; no agent starts on them as long as this
/// lives.
pub struct LeftOver(Vec<(String, Option<Pins>)>);

impl LeftOver {
    /// What is pinned under `bpf_dir` for the interfaces, by name and kernel index. An error if a
    /// running agent has any of it.
    pub fn hold<'i>(
        bpf_dir: &Path,
        interfaces: impl Iterator<Item = (&'i str, u32)>,
    ) -> Result<Self, Error> {
        let hold = |(name, index): (&str, u32)| {
            Ok((name.to_owned(), Pins::left_over(bpf_dir, name, index)?))
        };
        interfaces.map(hold).collect::<Result<_, _>>().map(Self)
    }

    /// Removes it. Returns the interfaces on which something was. Idempotent.
    pub fn remove(self) -> Result<Vec<String>, Error> {
        let mut found = Vec::new();
        for (interface, pins) in self.0 {
            let had_pins = pins.map_or(Ok(false), |pins| pins.remove())?;
            attach::detach_filters(&interface)?;
            found.extend(had_pins.then_some(interface));
        }
        Ok(found)
    }
}

/// Programs that are loaded but not attached.
pub struct Loaded {
    options: Options,
    ebpf: Ebpf,
    frags: bool,
    state: SharedState,
    clock: TickClock,
}

impl Loaded {
    /// Writes the first plan, attaches and pins the programs; those of an agent that crashed here
    /// are replaced in place, without an instant in which nothing filters.
    ///
    /// On an error nothing new is left; a dead agent's filter, which refuses, stays.
    pub fn attach(mut self, plan: Plan) -> Result<Datapath, Error> {
        let Options { bpf_dir, interface, index, .. } = &self.options;
        let pins = Pins::prepare(bpf_dir, interface, *index)?;
        let attached = apply(&mut self.state, None, &plan)
            .and_then(|()| attach::attach(&mut self.ebpf, &self.options, self.frags, &pins));
        let attached =
            attached.and_then(|mode| counters::carry(&mut self.ebpf, &pins).map(|()| mode));
        let mode = attached.inspect_err(|_| {
            if pins.were_none() {
                // The error that led here matters more than one on the way back.
                let _ = pins.remove();
                let _ = attach::detach_filters(interface);
            }
        })?;
        Ok(Datapath {
            generic_wanted: self.options.generic,
            trace: self.options.trace,
            interface: self.options.interface,
            state: self.state,
            clock: self.clock,
            mode,
            frags: self.frags,
            pins,
            plan: Some(plan),
            ebpf: self.ebpf,
        })
    }

    /// As [`Datapath::extend_lease`], from the attachment on.
    pub fn extend_lease(&mut self, deadline_ns: u64) -> Result<(), Error> {
        extend_lease(&mut self.state, self.clock, &mut self.ebpf, deadline_ns)
    }

    /// As [`Datapath::has_frags`].
    pub fn has_frags(&self) -> bool {
        self.frags
    }

    /// The programs unattached, for tests and benches that run them on frames of their own.
    pub fn by_hand(self, plan: Plan) -> Result<Manual, Error> {
        Manual::new(self.ebpf, self.state, self.clock, plan)
    }
}

/// The log of the slow path: a descriptor that becomes readable when there is something to flush.
pub struct Trace(EbpfLogger<&'static dyn log::Log>);

impl Trace {
    /// Writes what was logged to the process's logger.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

impl AsFd for Trace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn extend_lease(
    state: &mut SharedState,
    clock: TickClock,
    ebpf: &mut Ebpf,
    deadline_ns: u64,
) -> Result<(), Error> {
    let ticks = clock.ticks_at(object::classifier(ebpf, "vipfarm_clock")?, deadline_ns);
    // Without a tick count the slow path alone decides, exactly: slower, but not wrong.
    state.extend_lease(*ticks.as_ref().unwrap_or(&0), deadline_ns);
    ticks.map(drop)
}

fn apply(state: &mut SharedState, old: Option<&Plan>, new: &Plan) -> Result<(), Error> {
    for change in new.changes_from(old) {
        match change {
            Change::Structure => state.switch(&new.generation())?,
            Change::Bitmap { group, bitmap } => state.store_bitmap(group, bitmap),
            Change::Moving { group, bitmap } => state.store_moving(group, bitmap),
            Change::Former { group, owners } => state.store_former(group, &owners),
            Change::Owners { group, owners } => state.store_owners(group, &owners),
            Change::Turns { group, turns } => state.store_turns(group, &turns),
            Change::Peer { index, mac } => state.store_peer(index, mac),
            Change::PeerSlot { slot, mac } => state.store_peer_slot(slot, mac),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_what_to_set_for_the_programs_at_hand() {
        let said = |frags| {
            let error = io::Error::from_raw_os_error(libc::EINVAL);
            Error::Native { interface: "eth1".into(), frags, error }.to_string()
        };
        for words in [said(true), said(false)] {
            assert!(words.contains("`ethtool -K eth1 lro off`"), "{words}");
        }
        assert!(said(true).contains("`ip link set eth1 mtu 1500`"), "{}", said(true));
        assert!(said(false).contains("to 3498 or less"), "{}", said(false));
    }
}
