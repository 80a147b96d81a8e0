//! What the programs count, and how it outlives them: programs that take the place of others count in
//! maps of their own, and what the others had counted lies beside it, in an entry that no program
//! writes. So no number falls when an agent is replaced, and none is counted twice.

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, PoisonError},
};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, MapError, PerCpuArray, PerCpuValues},
};
use vipfarm_common::{
    Guarded, Reason,
    layout::{Claim, GUARD_COUNTERS},
    reason::COUNTERS,
};

use super::{Error, object, pins::Pins, shared::wait_for_packets};

/// The entry of a counter array that its programs count in.
const COUNTED: u32 = 0;
/// The entry with what former programs have counted, all in the first CPU's.
const CARRIED: u32 = 1;

/// Reads the counters of one interface.
pub struct Counters {
    packets: PerCpuArray<MapData, [u64; COUNTERS]>,
    guard: PerCpuArray<MapData, [u64; GUARD_COUNTERS]>,
    claims: Mutex<Array<MapData, u64>>,
}

impl Counters {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            packets: object::take(ebpf, "PACKETS")?,
            guard: object::take(ebpf, "GUARD")?,
            claims: Mutex::new(object::take(ebpf, "CLAIMS")?),
        })
    }

    /// Packets by reason, since the interface has a filter.
    pub fn packets(&self) -> Result<BTreeMap<Reason, u64>, Error> {
        let counts = totals(&self.packets).map_err(|error| object::map_error(&error))?;
        Ok(Reason::ALL.iter().map(|reason| (*reason, counts[reason.code()])).collect())
    }

    /// Takes out the last claim of each virtual address ([`Reason::ArpConflict`],
    /// [`Reason::NdConflict`]; [`Reason::ArpProbe`], [`Reason::NdProbe`]), and of a virtual MAC, since the
    /// last time; none is from before this agent.
    pub fn take_claims(&self) -> Result<Vec<Claim>, Error> {
        let mut words = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let mut claims = Vec::new();
        for place in 0..words.len() {
            let word = words.get(&place, 0).map_err(|error| object::map_error(&error))?;
            if let Some(claim) = Claim::of_word(word) {
                // One that comes right now is lost behind the one that was read.
                words.set(place, 0, 0).map_err(|error| object::map_error(&error))?;
                claims.push(claim);
            }
        }
        Ok(claims)
    }

    /// Frames that the egress guard corrected or refused, by word.
    pub fn guard(&self) -> Result<BTreeMap<&'static str, u64>, Error> {
        let counts = totals(&self.guard).map_err(|error| object::map_error(&error))?;
        let count = |&kind: &Guarded| (kind.as_str(), counts[kind as usize]);
        Ok(Guarded::COUNTED.iter().map(count).collect())
    }
}

fn totals<M: Borrow<MapData>, const N: usize>(
    counters: &PerCpuArray<M, [u64; N]>,
) -> Result<[u64; N], MapError> {
    let mut totals = [0; N];
    for entry in [COUNTED, CARRIED] {
        for counts in counters.get(&entry, 0)?.iter() {
            totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
        }
    }
    Ok(totals)
}

/// Carries over what the programs had counted in whose place these are now, and pins these counters
/// for those who come next.
pub(super) fn carry(ebpf: &mut Ebpf, pins: &Pins) -> Result<(), Error> {
    // Refused on some machines: there a packet that is just being counted is lost to the counter.
    let _ = wait_for_packets();
    carry_one::<COUNTERS>(ebpf, "PACKETS", pins, "packets")?;
    carry_one::<GUARD_COUNTERS>(ebpf, "GUARD", pins, "guard")
}

fn carry_one<const N: usize>(
    ebpf: &mut Ebpf,
    name: &'static str,
    pins: &Pins,
    pin: &str,
) -> Result<(), Error> {
    let refused = |error: MapError| object::map_error(&error);
    let map = ebpf.map_mut(name).ok_or_else(|| object::missing(name))?;
    if let Some(former) = former(&pins.path(pin)).map_err(refused)? {
        let mut counters = PerCpuArray::<_, [u64; N]>::try_from(&mut *map).map_err(refused)?;
        let mut carried = counters.get(&CARRIED, 0).map_err(refused)?.to_vec();
        // Another version may have another number of them; they keep their places.
        carried[0].iter_mut().zip(former).for_each(|(carried, count)| *carried = count);
        let carried = PerCpuValues::try_from(carried)
            .map_err(|error| Error::Memory { call: "count the CPUs", error })?;
        counters.set(CARRIED, carried, 0).map_err(refused)?;
    }
    pins.replace(pin, |path| map.pin(path))
}

/// What the counters that are pinned there say in all, whatever their number; `None` if none are, or
/// what is there are none.
fn former(pin: &Path) -> Result<Option<Vec<u64>>, MapError> {
    if !pin.exists() {
        return Ok(None);
    }
    let map = Map::PerCpuArray(MapData::from_pin(pin)?);
    Ok(read::<4>(&map)
        .or_else(|| read::<8>(&map))
        .or_else(|| read::<64>(&map))
        .or_else(|| read::<128>(&map))
        .or_else(|| read::<256>(&map)))
}

fn read<const N: usize>(map: &Map) -> Option<Vec<u64>> {
    Some(totals(&PerCpuArray::<_, [u64; N]>::try_from(map).ok()?).ok()?.to_vec())
}
