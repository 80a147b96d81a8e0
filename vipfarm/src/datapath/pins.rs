//! Where the links and the jump table are pinned, so that they outlive the agent.
//!
//! `<bpf_dir>/v<layout>/<interface>/{filter,fixup,guard,jump}`. The layout's version is in the path:
//! an agent never adopts what it would misread, and `down` removes every version.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use vipfarm_common::layout::LAYOUT_VERSION;

use super::Error;

/// The pins of one interface.
pub(super) struct Pins {
    bpf_dir: PathBuf,
    dir: PathBuf,
}

impl Pins {
    /// Makes the directory.
    pub(super) fn prepare(bpf_dir: &Path, interface: &str) -> Result<Self, Error> {
        if !on_bpffs(bpf_dir) {
            return Err(Error::NoBpffs { path: bpf_dir.into() });
        }
        let dir = bpf_dir.join(format!("v{LAYOUT_VERSION}")).join(interface);
        fs::create_dir_all(&dir).map_err(|error| Error::Pin { path: dir.clone(), error })?;
        Ok(Self { bpf_dir: bpf_dir.into(), dir })
    }

    /// The path of a pin.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Removes a pin; that it does not exist is fine.
    pub(super) fn unpin(&self, name: &str) -> Result<(), Error> {
        remove_file(&self.path(name))
    }

    /// The directory that [`remove`] takes.
    pub(super) fn bpf_dir(&self) -> &Path {
        &self.bpf_dir
    }
}

/// Removes the pins of an interface, of any version, and with them the programs; then the
/// directories if nothing else is in them. Says whether there was anything.
pub(super) fn remove(bpf_dir: &Path, interface: &str) -> Result<bool, Error> {
    let mut found = false;
    for version in entries(bpf_dir)? {
        let dir = version.join(interface);
        if dir.is_dir() {
            found = true;
            remove_dir(&dir)?;
        }
    }
    prune(bpf_dir);
    Ok(found)
}

/// Removes an interface's directory: the links first, so that the jump table is never empty under
/// an attached `filter`.
fn remove_dir(dir: &Path) -> Result<(), Error> {
    let mut pins = entries(dir)?;
    pins.sort_by_key(|pin| {
        pin.file_name().is_some_and(|name| name.to_string_lossy().starts_with("jump"))
    });
    for pin in pins {
        remove_file(&pin)?;
    }
    fs::remove_dir(dir)
        .or_else(absent_is_fine)
        .map_err(|error| Error::Pin { path: dir.into(), error })
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

/// Removes the version directories and `bpf_dir` itself if they are empty.
fn prune(bpf_dir: &Path) {
    for version in entries(bpf_dir).unwrap_or_default() {
        // Not empty: another interface's.
        let _ = fs::remove_dir(version);
    }
    let _ = fs::remove_dir(bpf_dir);
}

/// Whether the nearest existing ancestor of `path` is on a bpffs.
fn on_bpffs(path: &Path) -> bool {
    path.ancestors()
        .find(|ancestor| ancestor.exists())
        .and_then(|ancestor| statfs(ancestor).ok())
        .is_some_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}
