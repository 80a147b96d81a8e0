//! A BPF file system for a moment.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use crate::sweep;

/// A bpffs in a directory of its own, both of which go with this.
pub(crate) struct Bpffs(PathBuf);

impl Bpffs {
    pub(crate) fn new() -> Result<Self> {
        let made = Self(sweep::directory_of(&sweep::unique_name("bpffs")));
        mount_in(&made.0)?;
        Ok(made)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.join(sweep::BPF)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = sweep::remove_directory(&self.0);
    }
}

/// Mounts one in a directory, which is made.
pub(crate) fn mount_in(directory: &Path) -> Result<()> {
    let bpf = directory.join(sweep::BPF);
    fs::create_dir_all(&bpf).with_context(|| format!("make {}", bpf.display()))?;
    mount(Some("bpf"), &bpf, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .with_context(|| format!("mount a bpffs on {}", bpf.display()))
}
