//! `cargo xtask demo`: builds all and runs the lab's `demo` program.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::artifact;
use crate::build;
use crate::process;
use crate::setup;
use crate::workspace::Workspace;

/// Options of `demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write what was measured to FILE.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Shows the farm at work.
pub(crate) fn verb(workspace: &Workspace, args: &Args) -> Result<()> {
    require_root("demo")?;
    setup::lab_tools()?;
    // What decides about packets is optimized in any case; this is built sooner.
    let artifacts = build::with_lab(workspace, "demo", false)?;

    let mut demo = Command::new(artifact::program(&artifacts, "demo")?);
    demo.arg("--vipfarm").arg(artifact::program(&artifacts, "vipfarm")?);
    demo.arg("--lab-object").arg(workspace.lab_object());
    if let Some(file) = &args.json {
        demo.arg("--json").arg(file);
    }
    process::run(&mut demo)
}

/// Fails, with the command to use instead, unless root runs this.
pub(crate) fn require_root(verb: &str) -> Result<()> {
    if !process::is_root() {
        bail!(
            "`cargo xtask {verb}` makes network namespaces and loads eBPF programs: it needs root.\n\
             Run: sudo -E env \"PATH=$PATH\" cargo xtask {verb}"
        );
    }
    Ok(())
}
