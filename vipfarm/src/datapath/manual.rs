//! The programs run on frames of one's own, unattached: for tests that compare kernel and host, and
//! for the bench.

use std::{collections::BTreeMap, time::Duration};

use aya::{
    Ebpf,
    maps::{MapData, ProgramArray},
    programs::{Program, ProgramError, ProgramInfo, TestRun, TestRunOptions, TestRunResult},
};
use vipfarm_common::Reason;

use super::{Counters, Error, apply, clock, clock::TickClock, object, shared::SharedState};
use crate::plan::Plan;

/// Loaded programs with tables and a lease, and no interface.
pub struct Manual {
    ebpf: Ebpf,
    state: SharedState,
    clock: TickClock,
    plan: Plan,
    counters: Counters,
    // The jump table's entries live as long as it.
    _jump: ProgramArray<MapData>,
}

/// A program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// XDP: the hot path, which jumps to the slow one.
    Filter,
    /// XDP: the slow path directly.
    Slow,
    /// XDP: what the slow one leaves to it, IPv6.
    SlowV6,
    /// TC egress.
    Guard,
}

impl Entry {
    fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Slow => "slow",
            Self::SlowV6 => "slow_v6",
            Self::Guard => "vipfarm_guard",
        }
    }
}

/// What the kernel made of a program; 0 where it does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Instructions that the verifier looked at, each as often as it did.
    pub verified: u32,
    /// Instructions after the kernel's own changes, of 8 bytes each.
    pub translated: u32,
}

impl From<ProgramInfo> for Size {
    fn from(info: ProgramInfo) -> Self {
        Self {
            verified: info.verified_instruction_count().unwrap_or(0),
            translated: info.size_translated().unwrap_or(0) / 8,
        }
    }
}

/// What one run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The program's return value.
    pub action: u32,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
    /// The reasons counted meanwhile: exactly one for an XDP program.
    pub reasons: Vec<Reason>,
    /// The guard's counters that rose.
    pub guarded: Vec<&'static str>,
}

impl Manual {
    pub(super) fn new(
        mut ebpf: Ebpf,
        mut state: SharedState,
        clock: TickClock,
        plan: Plan,
    ) -> Result<Self, Error> {
        apply(&mut state, None, &plan)?;
        let jump = object::fill_jump(&mut ebpf)?;
        let counters = Counters::take(&mut ebpf)?;
        Ok(Self { ebpf, state, clock, plan, counters, _jump: jump })
    }

    /// Runs a program on one frame.
    pub fn run(&mut self, entry: Entry, frame: &[u8]) -> Result<Run, Error> {
        let (packets, guard) = (self.counters.packets()?, self.counters.guard()?);
        let mut out = vec![0; frame.len()];
        let result = self.test_run(entry, frame, Some(&mut out), 1)?;
        out.truncate(result.data_size_out as usize);
        let counted = self.counters.packets()?;
        let rose = |reason: Reason| (packets[&reason]..counted[&reason]).map(move |_| reason);
        let reasons = counted.keys().copied().flat_map(rose);
        let corrected = self.counters.guard()?;
        let guarded = corrected.iter().filter(|(word, count)| guard[*word] != **count);
        Ok(Run {
            action: result.return_value,
            frame: out,
            reasons: reasons.collect(),
            guarded: guarded.map(|(word, _)| *word).collect(),
        })
    }

    /// Runs a program that often on the same frame, each time as the last run left it; the last
    /// return value.
    pub fn repeat(&mut self, entry: Entry, frame: &[u8], repeat: u32) -> Result<u32, Error> {
        Ok(self.test_run(entry, frame, None, repeat)?.return_value)
    }

    /// Frames by reason, since the programs were loaded.
    pub fn packets(&self) -> Result<BTreeMap<Reason, u64>, Error> {
        self.counters.packets()
    }

    /// Lets the programs accept for that long from now.
    pub fn lease(&mut self, lease: Duration) -> Result<(), Error> {
        let program = object::classifier(&mut self.ebpf, "vipfarm_clock")?;
        let deadline_ns = clock::boot_ns(program)? + nanos(lease);
        self.state.extend_lease(self.clock.ticks_at(program, deadline_ns)?, deadline_ns);
        Ok(())
    }

    /// Sends every frame for a VIP through the slow path although the lease is valid.
    pub fn force_slow(&mut self) {
        self.state.force_slow();
    }

    /// Ends the lease.
    pub fn fence(&mut self) {
        self.state.fence();
    }

    /// Brings the tables to another plan, as a running agent would.
    pub fn apply(&mut self, plan: Plan) -> Result<(), Error> {
        apply(&mut self.state, Some(&self.plan), &plan)?;
        self.plan = plan;
        Ok(())
    }

    /// Puts a program into somebody else's jump table.
    pub fn put_into(
        &mut self,
        table: &mut ProgramArray<&mut MapData>,
        index: u32,
        entry: Entry,
    ) -> Result<(), Error> {
        let program = object::xdp(&mut self.ebpf, entry.name())?;
        let fd = program.fd().map_err(|error| object::program_error(entry.name(), &error))?;
        table.set(index, fd, 0).map_err(|error| object::map_error(&error))
    }

    /// The kernel's number of the program, for `bpftool`.
    pub fn program_id(&self, entry: Entry) -> Result<u32, Error> {
        let program = self.ebpf.program(entry.name()).ok_or(ProgramError::NotLoaded);
        let info = program.and_then(Program::info);
        info.map(|info| info.id()).map_err(|error| object::program_error(entry.name(), &error))
    }

    /// What the kernel made of all programs, by name.
    pub fn sizes(&self) -> Result<BTreeMap<String, Size>, Error> {
        let size =
            |(name, program): (&str, &Program)| Ok((name.to_owned(), program.info()?.into()));
        let sizes = self.ebpf.programs().map(size).collect::<Result<_, _>>();
        sizes.map_err(|error| object::program_error("to tell about a program", &error))
    }

    fn test_run(
        &mut self,
        entry: Entry,
        frame: &[u8],
        out: Option<&mut [u8]>,
        repeat: u32,
    ) -> Result<TestRunResult, Error> {
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: out,
            repeat,
            ..TestRunOptions::default()
        };
        let result = match entry {
            Entry::Filter | Entry::Slow | Entry::SlowV6 => {
                object::xdp(&mut self.ebpf, entry.name())?.test_run(options)
            }
            Entry::Guard => object::classifier(&mut self.ebpf, entry.name())?.test_run(options),
        };
        result.map_err(|error| object::program_error("a test run", &error))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
