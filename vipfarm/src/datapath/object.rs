//! The embedded objects and what is in them.

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Map, MapData, MapError, ProgramArray},
    programs::{ProgramError, SchedClassifier, Xdp},
};

use aya_obj::generated::bpf_map_type;
use vipfarm_common::{
    State,
    hash::{Start, key_words},
    layout::mac_word,
};

use super::{Buffers, Error, Options, pins::Passing};

/// The section of what the agent writes and programs read.
const STATE: &str = ".bss.state";
/// `BPF_F_MMAPABLE` (linux/bpf.h).
const MMAPABLE: u32 = 1 << 10;

/// The eBPF object that `cargo xtask build` made: a built agent needs no toolchain.
static PLAIN: &[u8] = aya::include_bytes_aligned!(env!("VIPFARM_BPF_OBJECT"));

/// What `JUMP` holds, by slot.
const JUMPS: [&str; 3] = ["slow", "slow_v6", "trace"];

/// The same for frames in several buffers.
static FRAGS: &[u8] = aya::include_bytes_aligned!(env!("VIPFARM_FRAGS_BPF_OBJECT"));

/// Makes the map of the section [`STATE`]: aya would make one that cannot be mapped.
pub(super) fn create_state() -> Result<MapData, Error> {
    let (kind, key, value) =
        (bpf_map_type::BPF_MAP_TYPE_ARRAY, size_of::<u32>(), size_of::<State>());
    let [key, value] = [key, value].map(|size| u32::try_from(size).expect("below 4 GB"));
    let map = aya_obj::Map::new_from_params(kind as u32, key, value, 1, MMAPABLE);
    MapData::create(map, "STATE", None).map_err(|error| map_error(&error))
}

/// Whether the programs have that state, and not one that aya made because it found no pin: they would be fenced
/// for ever, whatever the agent writes.
pub(super) fn ensure_state(ebpf: &Ebpf, state: &MapData) -> Result<(), Error> {
    let Some(Map::Array(theirs)) = ebpf.map(STATE) else { return Err(missing(STATE)) };
    let id = |map: &MapData| map.info().map(|info| info.id()).map_err(|error| map_error(&error));
    if id(theirs)? != id(state)? {
        let reason = "its pin was gone before the programs were loaded".into();
        return Err(Error::Kernel { what: "the map of the state", reason });
    }
    Ok(())
}

/// Loads the programs with their maps: for frames in several buffers, unless the kernel refuses or
/// others are wanted. The second value says whether it did. Without that state they have one that nobody
/// can write.
pub(super) fn load(options: &Options, state: Option<&MapData>) -> Result<(Ebpf, bool), Error> {
    if options.buffers == Buffers::Several {
        match load_object(FRAGS, options, state) {
            // Before Linux 5.18 there is no such program.
            Err(Error::Kernel { .. }) => {}
            loaded => return loaded.map(|ebpf| (ebpf, true)),
        }
    }
    Ok((load_object(PLAIN, options, state)?, false))
}

/// Loads an object's maps and programs with the interface's constants.
fn load_object(object: &[u8], options: &Options, state: Option<&MapData>) -> Result<Ebpf, Error> {
    let Start([hash0, hash1, hash2, hash3]) = key_words(options.hash_key).into();
    let own_mac = mac_word(options.mac.0);
    let trace = u8::from(options.trace);
    let mut loader = EbpfLoader::new();
    // The only way to give aya a map.
    let pin = state.map(|state| Passing::pin(&options.bpf_dir, state)).transpose()?;
    if let Some(pin) = &pin {
        loader.map_pin_path(STATE, pin.path());
    }
    let mut ebpf = loader
        .override_global("HASH0", &hash0, true)
        .override_global("HASH1", &hash1, true)
        .override_global("HASH2", &hash2, true)
        .override_global("HASH3", &hash3, true)
        .override_global("OWN_MAC", &own_mac, true)
        .override_global("TRACE", &trace, true)
        .load(object)
        .map_err(ebpf_error)?;
    drop(pin);
    for name in ["filter"].into_iter().chain(JUMPS) {
        let program = xdp(&mut ebpf, name)?;
        program.load().map_err(|error| program_error("an XDP program", &error))?;
    }
    for name in ["vipfarm_guard", "vipfarm_fixup", "vipfarm_clock"] {
        let program = classifier(&mut ebpf, name)?;
        program.load().map_err(|error| program_error("a TC program", &error))?;
    }
    Ok(ebpf)
}

/// Puts `slow` where `filter` jumps to, and returns the array: its entries live as long as it, or
/// its pin.
pub(super) fn fill_jump(ebpf: &mut Ebpf) -> Result<ProgramArray<MapData>, Error> {
    let mut jump: ProgramArray<MapData> = take(ebpf, "JUMP")?;
    for (slot, name) in (0..).zip(JUMPS) {
        let program = xdp(ebpf, name)?.fd().map_err(|error| program_error(name, &error))?;
        jump.set(slot, program, 0).map_err(|error| map_error(&error))?;
    }
    Ok(jump)
}

pub(super) fn xdp<'e>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<&'e mut Xdp, Error> {
    let program = ebpf.program_mut(name).ok_or_else(|| missing(name))?;
    program.try_into().map_err(|error| program_error(name, &error))
}

pub(super) fn classifier<'e>(
    ebpf: &'e mut Ebpf,
    name: &'static str,
) -> Result<&'e mut SchedClassifier, Error> {
    let program = ebpf.program_mut(name).ok_or_else(|| missing(name))?;
    program.try_into().map_err(|error| program_error(name, &error))
}

/// The map of that name, for good.
pub(super) fn take<M: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, Error> {
    ebpf.take_map(name).ok_or_else(|| missing(name))?.try_into().map_err(|error| map_error(&error))
}

pub(super) fn missing(name: &'static str) -> Error {
    Error::Kernel { what: name, reason: "the embedded object has no such part".into() }
}

fn ebpf_error(error: EbpfError) -> Error {
    match error {
        EbpfError::MapError(error) => map_error(&error),
        other => Error::Kernel { what: "the eBPF object", reason: chain(&other) },
    }
}

pub(super) fn map_error(error: &MapError) -> Error {
    if let MapError::CreateError { io_error, .. } = error
        && io_error.kind() == std::io::ErrorKind::PermissionDenied
    {
        return Error::Permission { call: "bpf(BPF_MAP_CREATE)" };
    }
    Error::Kernel { what: "a BPF map", reason: chain(error) }
}

pub(super) fn program_error(what: &'static str, error: &ProgramError) -> Error {
    if let ProgramError::LoadError { io_error, verifier_log } = error
        && io_error.kind() == std::io::ErrorKind::PermissionDenied
        && verifier_log.to_string().is_empty()
    {
        return Error::Permission { call: "bpf(BPF_PROG_LOAD)" };
    }
    // What the verifier says to a process without CAP_PERFMON.
    let reason = chain(error);
    if reason.contains("!root") {
        return Error::Permission { call: "pointer arithmetic in BPF" };
    }
    Error::Kernel { what, reason }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
