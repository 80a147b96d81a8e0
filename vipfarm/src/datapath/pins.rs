//! Where the links, the jump table and the counters are pinned, so that they outlive the agent.
//!
//! `<bpf_dir>/<device>/{filter-native,filter-generic,vipfarm_fixup,vipfarm_guard,jump,packets,guard}`.
//! The device is named by its network namespace and index: names are given again, and change. No
//! layout is part of a name, for no map is ever taken over: an agent fills its own before it puts its
//! programs in the place of others. `vipfarm-<pid>-<time>` is there for a moment
//! while an agent starts.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process,
};

use aya::{maps::MapData, pin::PinError};
use nix::{
    sys::{
        statfs::{BPF_FS_MAGIC, statfs},
        time::TimeValLike,
    },
    time::{ClockId, clock_gettime},
};

use super::Error;

/// The pins of one device, which no other agent touches as long as this lives: the kernel gives the
/// lock on their directory up when the process ends, however it ends.
pub(super) struct Pins {
    bpf_dir: PathBuf,
    dir: PathBuf,
    fresh: bool,
    _lock: File,
}

impl Pins {
    /// Makes the directory for the interface with that index, in this thread's network namespace.
    /// An error if a running agent has it.
    pub(super) fn prepare(bpf_dir: &Path, interface: &str, index: u32) -> Result<Self, Error> {
        if !on_bpffs(bpf_dir) {
            return Err(Error::NoBpffs { path: bpf_dir.into() });
        }
        let dir = directory(bpf_dir, index)?;
        fs::create_dir_all(&dir).map_err(|error| Error::Pin { path: dir.clone(), error })?;
        Self::hold(bpf_dir, dir, interface)
    }

    /// What a former agent left, if anything. An error if a running agent has it.
    pub(super) fn left_over(
        bpf_dir: &Path,
        interface: &str,
        index: u32,
    ) -> Result<Option<Self>, Error> {
        let dir = directory(bpf_dir, index)?;
        dir.is_dir().then(|| Self::hold(bpf_dir, dir, interface)).transpose()
    }

    /// Whether there is a pin of that name for the interface with that index.
    pub(super) fn has(bpf_dir: &Path, index: u32, name: &str) -> bool {
        directory(bpf_dir, index).is_ok_and(|dir| dir.join(name).exists())
    }

    /// Whether no former agent had left any.
    pub(super) fn were_none(&self) -> bool {
        self.fresh
    }

    /// The path of a pin.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Removes a pin; that it does not exist is fine.
    pub(super) fn unpin(&self, name: &str) -> Result<(), Error> {
        remove_file(&self.path(name))
    }

    /// Has `pin` pin something at a path, and gives it that name in place of what has it.
    pub(super) fn replace(
        &self,
        name: &str,
        pin: impl FnOnce(&Path) -> Result<(), PinError>,
    ) -> Result<(), Error> {
        let new = format!("{name}-new");
        self.unpin(&new)?;
        pin(&self.path(&new))
            .map_err(|error| Error::Kernel { what: "a pin", reason: error.to_string() })?;
        self.rename(&new, name)
    }

    /// Gives a pin another name, in place of what has it.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        fs::rename(self.path(from), self.path(to))
            .map_err(|error| Error::Pin { path: self.path(to), error })
    }

    /// Removes all pins, and with them the programs; the links first, so that the jump table is
    /// never empty under an attached `filter`. Says whether there were any.
    pub(super) fn remove(&self) -> Result<bool, Error> {
        let mut pins = entries(&self.dir)?;
        pins.sort_by_key(|pin| pin.file_name().is_some_and(|name| name == "jump"));
        for pin in &pins {
            remove_file(pin)?;
        }
        fs::remove_dir(&self.dir)
            .or_else(absent_is_fine)
            .map_err(|error| Error::Pin { path: self.dir.clone(), error })?;
        // Not empty: another device's.
        let _ = fs::remove_dir(&self.bpf_dir);
        Ok(!pins.is_empty())
    }

    fn hold(bpf_dir: &Path, dir: PathBuf, interface: &str) -> Result<Self, Error> {
        let pin_error = |error| Error::Pin { path: dir.clone(), error };
        let lock = File::open(&dir).map_err(pin_error)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Held { interface: interface.into() });
            }
            Err(TryLockError::Error(error)) => return Err(pin_error(error)),
        }
        let fresh = entries(&dir)?.is_empty();
        Ok(Self { bpf_dir: bpf_dir.into(), dir, fresh, _lock: lock })
    }
}

/// A pin that is there for as long as this lives, to pass a map on by its path.
pub(super) struct Passing(PathBuf);

impl Passing {
    /// Pins the map under `bpf_dir`, or above it as long as that does not exist.
    pub(super) fn pin(bpf_dir: &Path, map: &MapData) -> Result<Self, Error> {
        let place = bpf_dir.ancestors().find(|place| place.is_dir() && on_bpffs(place));
        let place = place.ok_or_else(|| Error::NoBpffs { path: bpf_dir.into() })?;
        // The same file system may be mounted where process numbers are others'.
        let moment = clock_gettime(ClockId::CLOCK_MONOTONIC)
            .map_err(|error| Error::Memory { call: "clock_gettime", error: error.into() })?
            .num_nanoseconds();
        let path = place.join(format!("vipfarm-{}-{moment}", process::id()));
        map.pin(&path)
            .map_err(|error| Error::Kernel { what: "a pin", reason: error.to_string() })?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        let _ = remove_file(&self.0);
    }
}

fn directory(bpf_dir: &Path, index: u32) -> Result<PathBuf, Error> {
    let namespace = Path::new("/proc/thread-self/ns/net");
    let namespace = fs::metadata(namespace)
        .map_err(|error| Error::Pin { path: namespace.into(), error })?
        .ino();
    Ok(bpf_dir.join(format!("{namespace}-{index}")))
}

fn remove_file(path: &Path) -> Result<(), Error> {
    fs::remove_file(path)
        .or_else(absent_is_fine)
        .map_err(|error| Error::Pin { path: path.into(), error })
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let listing = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing,
    };
    listing
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(|error| Error::Pin { path: dir.into(), error })
}

/// Whether the nearest existing ancestor of `path` is on a bpffs.
pub(super) fn on_bpffs(path: &Path) -> bool {
    path.ancestors()
        .find(|ancestor| ancestor.exists())
        .and_then(|ancestor| statfs(ancestor).ok())
        .is_some_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}
