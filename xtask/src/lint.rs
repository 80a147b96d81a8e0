//! `cargo xtask lint`: formatting, clippy and the house rules. Runs all three, then judges.

use std::process::Command;

use anyhow::{Result, bail};

use crate::ebpf;
use crate::process;
use crate::tidy;
use crate::workspace::Workspace;

/// Checks the source; fails when anything is to be said.
pub(crate) fn verb(workspace: &Workspace) -> Result<()> {
    component("fmt", "rustfmt")?;
    component("clippy", "clippy")?;
    // The agent contains the object, so that without it clippy could not compile the agent.
    ebpf::build(workspace)?;

    let checks: [(&str, Check); 3] = [("fmt", fmt), ("clippy", clippy), ("tidy", tidy::verb)];
    let mut failed = Vec::new();
    for (name, check) in checks {
        if let Err(error) = check(workspace) {
            eprintln!("{name}: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("lint failed: {}", failed.join(", "));
    }
    eprintln!("lint: fmt, clippy and tidy have nothing to say");
    Ok(())
}

type Check = fn(&Workspace) -> Result<()>;

fn fmt(workspace: &Workspace) -> Result<()> {
    process::run(
        process::host_cargo().args(["fmt", "--all", "--check"]).current_dir(workspace.root()),
    )
}

fn clippy(workspace: &Workspace) -> Result<()> {
    let mut cargo = process::host_cargo();
    cargo.args(["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    cargo.current_dir(workspace.root()).env("CARGO_TARGET_DIR", workspace.target());
    process::run(&mut cargo)
}

/// A minimal toolchain of rustup has neither rustfmt nor clippy.
fn component(verb: &str, name: &str) -> Result<()> {
    if process::capture(process::host_cargo().args([verb, "--version"])).is_ok() {
        return Ok(());
    }
    if process::find_tool("rustup").is_none() {
        bail!(
            "`cargo {verb}` is missing: install {name} with the package manager that Rust is from"
        );
    }
    eprintln!("lint: `cargo {verb}` is missing: adding it to the toolchain");
    process::run(Command::new("rustup").args(["component", "add", name]))
}
