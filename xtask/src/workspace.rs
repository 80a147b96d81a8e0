//! Where things are.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The source tree and the directory its builds go to.
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// The workspace this tool was built from.
    pub(crate) fn locate() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("the xtask crate is not inside a workspace")?;
        Ok(Self::at(root, env::var_os("CARGO_TARGET_DIR").map(PathBuf::from)))
    }

    /// `target_override` is the value of `CARGO_TARGET_DIR`, relative to `root` if not absolute:
    /// the rule of `vipfarm/build.rs`, which must find the objects in the same place.
    pub(crate) fn at(root: &Path, target_override: Option<PathBuf>) -> Self {
        let target = root.join(target_override.unwrap_or_else(|| "target".into()));
        Self { root: root.to_path_buf(), target }
    }

    /// The directory of the workspace's `Cargo.toml`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The build directory, absolute.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Tools built for this workspace alone; `bin/` below holds the executables.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// The eBPF object of the agent.
    pub(crate) fn vipfarm_object(&self) -> PathBuf {
        self.target.join("bpf/vipfarm-bpf")
    }

    /// The same programs for frames in several buffers.
    pub(crate) fn frags_object(&self) -> PathBuf {
        self.target.join("bpf/vipfarm-frags-bpf")
    }

    /// The agent's objects, and the agent with them, for memory that looks different.
    pub(crate) fn other_layout(&self) -> PathBuf {
        self.target.join("bpf/other-layout")
    }

    /// The eBPF object of the lab: the `XDP_PASS` program of the switch side, and test programs.
    pub(crate) fn lab_object(&self) -> PathBuf {
        self.target.join("bpf/lab-bpf")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_live_in_the_workspaces_target_directory() {
        let workspace = Workspace::at(Path::new("/src/vipfarm"), None);
        assert_eq!(workspace.vipfarm_object(), Path::new("/src/vipfarm/target/bpf/vipfarm-bpf"));
    }

    #[test]
    fn an_absolute_target_directory_replaces_the_workspaces_own() {
        let workspace = Workspace::at(Path::new("/src/vipfarm"), Some("/var/build".into()));
        assert_eq!(workspace.lab_object(), Path::new("/var/build/bpf/lab-bpf"));
    }

    #[test]
    fn a_relative_target_directory_is_relative_to_the_workspace() {
        let workspace = Workspace::at(Path::new("/src/vipfarm"), Some("out".into()));
        assert_eq!(workspace.target(), Path::new("/src/vipfarm/out"));
    }
}
