//! What the kernel made of a program.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// How the only call that the hot path may have is told: a jump past its end. Every other costs more
/// than the whole rest.
pub const TAIL_CALL: &str = "bpf_tail_call";

/// The call instructions (opcode 0x85) of the translated program with that id.
pub fn calls(program_id: u32) -> Result<Vec<String>> {
    let id = program_id.to_string();
    let output = Command::new("bpftool").args(["prog", "dump", "xlated", "id", &id]).output();
    let output = output.context("bpftool does not start: `cargo xtask setup` installs it")?;
    if !output.status.success() {
        bail!("bpftool: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout)?;
    if text.lines().count() < 100 {
        bail!("that is no packet program: {text}");
    }
    Ok(text.lines().filter(|line| line.contains("(85)")).map(str::to_owned).collect())
}
