//! Frames that the kernel itself makes and sends (`BPF_PROG_TEST_RUN` with live frames), of the lab's own
//! eBPF object: as many as a machine can take.

use anyhow::{Context, Result, anyhow};
use aya::{
    Ebpf,
    maps::{Array, DevMap, MapData},
    programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp},
};
use nix::net::if_::if_nametoindex;
use vipfarm::model::Mac;

use crate::skip;

/// Frames that are sent before they are received; an end of a veth pair polls 64 at a time.
const BATCH: u32 = 64;

/// Slots of the program's ports: one that stays empty, and the one that is used.
const EMPTY_SLOT: u64 = 0;
const PORT_SLOT: u32 = 1;

/// The lab's program `flood`. Frames leave by an interface of the namespace that the thread is in.
pub(crate) struct Flood {
    ebpf: Ebpf,
    frame: Vec<u8>,
}

impl Flood {
    /// Of copies of this frame, as if from 4096 clients and 4 of their ports: plain IPv4 without options, a
    /// datagram without a checksum, from the first of both.
    pub(crate) fn of(frame: Vec<u8>) -> Result<Self> {
        let object = skip::lab_object().map_err(|reason| anyhow!(reason))?;
        let mut ebpf = Ebpf::load_file(&object).with_context(|| object.display().to_string())?;
        program(&mut ebpf)?.load()?;
        Ok(Self { ebpf, frame })
    }

    /// Sends by that interface from now on, and to that MAC.
    pub(crate) fn aim(&mut self, interface: &str, target: Mac) -> Result<()> {
        let ports = self.ebpf.map_mut("PORTS").context("the lab object has no map PORTS")?;
        DevMap::try_from(ports)?.set(PORT_SLOT, if_nametoindex(interface)?, None, 0)?;
        self.set(PORT_SLOT.into(), target)
    }

    /// Drops what it makes from now on.
    pub(crate) fn aim_at_nobody(&mut self) -> Result<()> {
        self.set(EMPTY_SLOT, Mac([0; 6]))
    }

    fn set(&mut self, slot: u64, Mac([a, b, c, d, e, f]): Mac) -> Result<()> {
        let mut state = self.state()?;
        state.set(1, slot, 0)?;
        Ok(state.set(2, u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]), 0)?)
    }

    /// Sends so many frames; how many more were sent by the program's own count.
    pub(crate) fn send(&mut self, frames: u32) -> Result<u64> {
        let before = self.state()?.get(&0, 0)?;
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::default()
        };
        program(&mut self.ebpf)?.test_run(options)?;
        Ok(self.state()?.get(&0, 0)? - before)
    }

    fn state(&mut self) -> Result<Array<&mut MapData, u64>> {
        let flood = self.ebpf.map_mut("FLOOD").context("the lab object has no map FLOOD")?;
        Ok(flood.try_into()?)
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    Ok(ebpf.program_mut("flood").context("the lab object has no program flood")?.try_into()?)
}
