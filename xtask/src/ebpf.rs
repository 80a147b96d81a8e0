//! The eBPF objects, built with the compiler that setup chose.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process;
use crate::setup;
use crate::workspace::Workspace;

const TARGET: &str = "bpfel-unknown-none";

/// Builds the objects and puts them where `vipfarm/build.rs` and the lab look.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    // Flavours have the same names: each is copied before the next one is built.
    let built = flavour(workspace, &[])?;
    copy_if_changed(&built.join("vipfarm-bpf"), &workspace.vipfarm_object())?;
    copy_if_changed(&built.join("lab-bpf"), &workspace.lab_object())?;
    let built = flavour(workspace, &["--bin", "vipfarm-bpf", "--features", "frags"])?;
    copy_if_changed(&built.join("vipfarm-bpf"), &workspace.frags_object())
}

/// Builds the agent's objects for memory that looks different, and puts them in a directory of theirs.
pub(crate) fn build_other_layout(workspace: &Workspace) -> Result<()> {
    for (features, name) in
        [("other-layout", "vipfarm-bpf"), ("other-layout,frags", "vipfarm-frags-bpf")]
    {
        let built = flavour(workspace, &["--bin", "vipfarm-bpf", "--features", features])?;
        copy_if_changed(&built.join("vipfarm-bpf"), &workspace.other_layout().join(name))?;
    }
    Ok(())
}

/// Builds what those arguments of cargo say; gives the directory it is in.
fn flavour(workspace: &Workspace, args: &[&str]) -> Result<PathBuf> {
    let compiler = setup::ebpf_compiler(workspace)?;
    // A directory of its own: another cargo must neither wait for the lock of the host build nor
    // overwrite its fingerprints.
    let scratch = workspace.target().join("bpf-build");

    let mut cargo = Command::new(&compiler.cargo);
    process::without_outer_cargo(&mut cargo).current_dir(workspace.root());
    cargo.args(["build", "--locked", "-Z", "build-std=core", "--target", TARGET]);
    cargo.args(["--profile", "bpf", "--package", "vipfarm-ebpf", "--target-dir"]).arg(&scratch);
    // `-Z` on a release compiler; there is no compiled `core` for eBPF to be had anywhere.
    cargo.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", &compiler.rustc);
    cargo.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", setup::linker_path(workspace));
    // BTF is what the kernel reads types and line numbers from; it is made of debug information.
    cargo.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", "-C debuginfo=2 -C link-arg=--btf");
    process::run(cargo.args(args))?;
    Ok(scratch.join(TARGET).join("bpf"))
}

/// Copies a file, with its permissions. Leaves an unchanged one alone, so that nothing that contains it
/// is built again.
pub(crate) fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let directory = to.parent().context("an object is inside a directory")?;
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    fs::copy(from, to).map(drop).with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_object_keeps_its_modification_time() {
        let directory = std::env::temp_dir().join(format!("xtask-copy-{}", std::process::id()));
        let (from, to) = (directory.join("from"), directory.join("out/to"));
        fs::create_dir_all(&directory).unwrap();
        fs::write(&from, "one").unwrap();
        copy_if_changed(&from, &to).unwrap();
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        fs::File::options().write(true).open(&to).unwrap().set_modified(long_ago).unwrap();

        copy_if_changed(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), long_ago);

        fs::write(&from, "two").unwrap();
        copy_if_changed(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"two");
        fs::remove_dir_all(&directory).unwrap();
    }
}
