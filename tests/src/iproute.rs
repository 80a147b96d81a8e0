//! iproute2 as the lab's hands: what it does can be read and repeated in a shell.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

/// Runs the lines as one `ip -batch -`, in `namespace` or, with `None`, where we are.
pub(crate) fn ip_batch(namespace: Option<&str>, lines: &[String]) -> Result<()> {
    batch("ip", namespace, lines)
}

/// Runs the lines as one `bridge -batch -` in `namespace`.
pub(crate) fn bridge_batch(namespace: &str, lines: &[String]) -> Result<()> {
    batch("bridge", Some(namespace), lines)
}

/// Runs one `ip` command in `namespace`.
pub(crate) fn ip(namespace: &str, line: &str) -> Result<()> {
    let arguments: Vec<_> = ["-n", namespace].into_iter().chain(line.split(' ')).collect();
    run("ip", &arguments).map(drop)
}

/// Runs one `tc` command in `namespace`; `last`, if not empty, is its last argument, with blanks.
pub(crate) fn tc(namespace: &str, line: &str, last: &str) -> Result<()> {
    let last = Some(last).filter(|last| !last.is_empty());
    let arguments: Vec<_> =
        ["-n", namespace].into_iter().chain(line.split(' ')).chain(last).collect();
    run("tc", &arguments).map(drop)
}

/// Runs a `-json` query of `tool` (`ip` or `bridge`) in `namespace`.
pub(crate) fn query<T: DeserializeOwned>(tool: &str, namespace: &str, line: &str) -> Result<T> {
    let arguments: Vec<_> = ["-n", namespace, "-json"].into_iter().chain(line.split(' ')).collect();
    let text = run(tool, &arguments)?;
    // An empty answer is no text at all instead of an empty list.
    let text = if text.trim().is_empty() { "[]" } else { text.as_str() };
    serde_json::from_str(text).with_context(|| format!("`{tool} {}`: {text}", arguments.join(" ")))
}

/// Runs a program to its end; its standard output, or an error with its standard error.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| missing(program))?;
    checked(&output, || format!("{program} {}", arguments.join(" ")))
}

/// The standard output of a command that succeeded, or an error with its standard error.
pub(crate) fn checked(output: &Output, what: impl FnOnce() -> String) -> Result<String> {
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("`{}`: {}: {}", what(), output.status, complaint.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn batch(tool: &str, namespace: Option<&str>, lines: &[String]) -> Result<()> {
    let mut command = Command::new(tool);
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| missing(tool))?;
    let script = lines.join("\n") + "\n";
    // A child that stopped at a bad line closes the pipe: what it says matters, not the pipe.
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(script.as_bytes()));
    let output = child.wait_with_output().context("wait for a child")?;
    checked(&output, || format!("{tool} -batch -\n{script}"))?;
    written.transpose().context("write to a child")?;
    Ok(())
}

fn missing(tool: &str) -> String {
    format!("cannot run `{tool}`: install iproute2")
}
