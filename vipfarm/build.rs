//! Finds the eBPF objects that the agent carries inside its binary.
//!
//! They are built by `cargo xtask build`, with a toolchain of its own: a build script that
//! started a second cargo would fight with the first one over the build directory's lock.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");

    let other_layout = env::var_os("CARGO_FEATURE_OTHER_LAYOUT").is_some();
    let directory = if other_layout { "bpf/other-layout" } else { "bpf" };
    for (name, variable) in
        [("vipfarm-bpf", "VIPFARM_BPF_OBJECT"), ("vipfarm-frags-bpf", "VIPFARM_FRAGS_BPF_OBJECT")]
    {
        let object = target_dir().join(directory).join(name);
        println!("cargo::rerun-if-changed={}", object.display());
        if object.is_file() {
            println!("cargo::rustc-env={variable}={}", object.display());
        } else {
            println!(
                "cargo::error=the eBPF object {} does not exist yet: run `cargo xtask build` once, \
                 it sets up the eBPF toolchain and builds the objects",
                object.display()
            );
        }
    }
}

/// The directory where `cargo xtask build` leaves the objects: `CARGO_TARGET_DIR` if set (relative
/// to the workspace), else the workspace's `target`. `xtask/src/workspace.rs` has the same rule.
fn target_dir() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it for build scripts");
    let workspace = Path::new(&package).parent().expect("the package is inside the workspace");
    workspace.join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}
