//! `cargo xtask build`: the eBPF objects, then the programs of the host.

use std::path::PathBuf;

use anyhow::Result;

use crate::artifact::{self, Artifact};
use crate::ebpf;
use crate::workspace::Workspace;

/// Options of `build`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build with optimizations.
    #[arg(long)]
    release: bool,
}

/// Builds vipfarm, the eBPF programs inside.
pub(crate) fn verb(workspace: &Workspace, args: &Args) -> Result<()> {
    let vipfarm = vipfarm(workspace, args.release)?;
    eprintln!("built {}", vipfarm.display());
    Ok(())
}

/// Builds all that `vipfarm` consists of and returns the binary.
pub(crate) fn vipfarm(workspace: &Workspace, release: bool) -> Result<PathBuf> {
    ebpf::build(workspace)?;
    let mut args = vec!["build", "--locked", "--package", "vipfarm", "--bin", "vipfarm"];
    args.extend(release.then_some("--release"));
    artifact::program(&artifact::build(workspace, &args)?, "vipfarm")
}

/// Builds `vipfarm` with memory that looks different, for the tests, and returns a copy of the binary: the
/// next build of the real one takes its place.
pub(crate) fn other_layout(workspace: &Workspace) -> Result<PathBuf> {
    ebpf::build_other_layout(workspace)?;
    let features = ["--features", "other-layout"];
    let args = ["build", "--locked", "--package", "vipfarm", "--bin", "vipfarm"];
    let built = artifact::build(workspace, &[&args[..], &features].concat())?;
    let copy = workspace.other_layout().join("vipfarm");
    ebpf::copy_if_changed(&artifact::program(&built, "vipfarm")?, &copy)?;
    Ok(copy)
}

/// Builds all test programs, with the eBPF objects, and the `vipfarm` that they run: `test` and `fuzz` share
/// them, because what cargo compiles depends on what it is asked for.
pub(crate) fn tests(workspace: &Workspace) -> Result<Vec<Artifact>> {
    ebpf::build(workspace)?;
    let args = ["test", "--locked", "--no-run", "--workspace", "--exclude", "vipfarm-ebpf"];
    artifact::build(workspace, &args)
}

/// Builds vipfarm, with the eBPF objects, and the lab's program called `name`.
pub(crate) fn with_lab(workspace: &Workspace, name: &str, release: bool) -> Result<Vec<Artifact>> {
    ebpf::build(workspace)?;
    let mut args = vec!["build", "--locked", "--package", "vipfarm", "--package", "vipfarm-lab"];
    args.extend(release.then_some("--release"));
    args.extend(["--bin", "vipfarm", "--bin", name]);
    artifact::build(workspace, &args)
}
