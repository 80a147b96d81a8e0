//! `cargo xtask setup`: a compiler for eBPF, a linker that fits it, and the tools of the lab.
//!
//! Probe, choose, act, and again until there is nothing left to do: [`found`] looks at the
//! machine, [`choose`] decides from what was found alone, [`act`] changes the machine.

use std::time::Instant;

use anyhow::{Result, bail};

use self::choose::Plan;
use self::found::{Compiler, Found};
use crate::workspace::Workspace;

mod act;
mod choose;
mod found;

pub(crate) use self::found::{LINKER_VERSION, linker_path};

/// Everything: what `build` needs, and the tools that `test` and `demo` need.
pub(crate) fn verb(workspace: &Workspace) -> Result<()> {
    let started = Instant::now();
    ebpf_compiler(workspace)?;
    lab_tools()?;
    say(&format!("ready ({:.1} s)", started.elapsed().as_secs_f32()));
    Ok(())
}

/// The compiler for the eBPF programs, with its linker in place; installs what is missing.
pub(crate) fn ebpf_compiler(workspace: &Workspace) -> Result<Compiler> {
    let mut found = found::compilers(workspace);
    report(&found);
    loop {
        match choose::compiler(&found) {
            Plan::Ready(compiler) => {
                say(&format!("using {compiler}, bpf-linker {LINKER_VERSION}"));
                return Ok(compiler);
            }
            Plan::Do(step, why) => {
                say(&why);
                let outcome = act::perform(&step, workspace, &found);
                let tried = found.with_outcome(step, outcome);
                found = Found { tried, ..found::compilers(workspace) };
            }
            Plan::Stuck(help) => bail!(help),
        }
    }
}

/// The programs that the lab calls; installs what is missing.
pub(crate) fn lab_tools() -> Result<()> {
    tools("the lab", found::LAB_TOOLS)
}

/// keepalived, which only the bench that compares needs; installs it if it is missing. Debian's
/// service starts only where somebody has configured it.
pub(crate) fn keepalived() -> Result<()> {
    tools("the comparison", found::KEEPALIVED)
}

/// nftables and iptables, for the bench likewise. Neither does anything by being installed.
pub(crate) fn filters() -> Result<()> {
    tools("the comparison", found::FILTERS)
}

fn tools(user: &'static str, wanted: &[(&str, &str)]) -> Result<()> {
    let mut tools = found::tools(user, wanted);
    loop {
        match choose::tools(&tools) {
            Plan::Ready(names) => {
                say(&format!("{user}: {names}"));
                return Ok(());
            }
            Plan::Do(step, why) => {
                say(&why);
                let outcome = act::install(&step);
                let tried = tools.with_outcome(step, outcome);
                tools = found::Tools { tried, ..found::tools(user, wanted) };
            }
            Plan::Stuck(help) => bail!(help),
        }
    }
}

fn report(found: &Found) {
    for compiler in found.compilers() {
        match compiler.unfit() {
            None => say(&format!("found {compiler}")),
            Some(why) => say(&format!("passed over {compiler}: {why}")),
        }
    }
}

fn say(text: &str) {
    eprintln!("setup: {text}");
}
