//! The steps themselves. Children write to the terminal, so that a long step shows its progress.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::choose::Step;
use super::found::{self, Found, LINKER_VERSION};
use crate::process;
use crate::workspace::Workspace;

/// Takes a step towards the compiler.
pub(crate) fn perform(step: &Step, workspace: &Workspace, found: &Found) -> Result<()> {
    match step {
        Step::BuildLinker { llvm } => build_linker(*llvm, workspace, found),
        Step::InstallNightly => install_nightly(),
        Step::RefreshPackageLists | Step::InstallPackages(_) => install(step),
    }
}

/// Takes a step that concerns packages.
pub(crate) fn install(step: &Step) -> Result<()> {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    match step {
        Step::RefreshPackageLists => apt.args(["-q", "update"]),
        Step::InstallPackages(packages) => {
            // Nobody expects a build to take other packages away.
            apt.args(["-q", "-y", "--no-install-recommends", "--no-remove", "install"]);
            apt.args(packages)
        }
        Step::BuildLinker { .. } | Step::InstallNightly => bail!("{step:?} is not about packages"),
    };
    process::run(&mut apt)
}

fn install_nightly() -> Result<()> {
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "install", "nightly", "--component", "rust-src"]);
    rustup.args(["--profile", "minimal", "--no-self-update"]);
    process::run(process::without_outer_cargo(&mut rustup))
}

fn build_linker(major: u32, workspace: &Workspace, found: &Found) -> Result<()> {
    let llvm = found.llvm(major).with_context(|| format!("LLVM {major} is not installed"))?;
    let tools = workspace.tools();
    let mut cargo = process::host_cargo();
    cargo.args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"]);
    cargo.args(["--no-default-features", "--features", &format!("llvm-{major}")]);
    cargo.arg("--root").arg(&tools);
    let scratch = tools.join("build");
    cargo.arg("--target-dir").arg(&scratch);
    cargo.env("LLVM_PREFIX", &llvm.prefix).env("LIBRARY_PATH", &llvm.libraries);
    process::run(&mut cargo)?;

    let stamp = found::linker_stamp(workspace);
    fs::write(&stamp, found::linker_stamp_text(major))
        .with_context(|| format!("cannot write {}", stamp.display()))?;
    // Some 100 MB that are never looked at again, unless the LLVM changes.
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))
}
