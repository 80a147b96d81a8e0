//! What the programs tell of one client's frames, for `vipfarm trace`.

use aya::{
    Ebpf, Pod,
    maps::{Array, MapData, PerCpuArray, RingBuf},
};
use vipfarm_common::trace::{Traced, Wanted};

use super::{Error, object};

/// As the map has it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Value(Wanted);

// SAFETY: plain bytes, without padding.
unsafe impl Pod for Value {}

/// Tells of frames on one interface. Only what takes the slow path is seen: see
/// [`super::Datapath::detour`].
pub struct Follower {
    wanted: Array<MapData, Value>,
    traced: RingBuf<MapData>,
    pace: PerCpuArray<MapData, [u64; 3]>,
}

impl Follower {
    pub(super) fn of(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            wanted: object::take(ebpf, "WANTED")?,
            traced: object::take(ebpf, "TRACED")?,
            pace: object::take(ebpf, "PACE")?,
        })
    }

    /// Tells of those frames from now on; the default value is nobody's.
    pub fn want(&mut self, wanted: Wanted) -> Result<(), Error> {
        self.wanted.set(0, Value(wanted), 0).map_err(|error| object::map_error(&error))
    }

    /// The next frame, if one waits.
    pub fn take(&mut self) -> Option<Traced> {
        Traced::of_bytes(&self.traced.next()?)
    }

    /// How many frames there was no room for, or too many in a moment, since the programs were loaded.
    pub fn lost(&self) -> Result<u64, Error> {
        let paces = self.pace.get(&0, 0).map_err(|error| object::map_error(&error))?;
        Ok(paces.iter().map(|[_, _, lost]| lost).sum())
    }
}
