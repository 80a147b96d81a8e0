//! Building with cargo and learning where the executables went.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process;
use crate::workspace::Workspace;

/// One executable that cargo built.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Artifact {
    /// The directory of its package.
    pub package_dir: PathBuf,
    /// Name of the target: of the binary, the library or the test file.
    pub name: String,
    /// `bin`, `lib`, `test`, ...
    pub kind: String,
    /// Whether it runs tests instead of the program.
    pub is_test: bool,
    /// The file to run.
    pub executable: PathBuf,
}

/// Runs `cargo ARGS` for host code and returns the executables, in cargo's order.
pub(crate) fn build(workspace: &Workspace, args: &[&str]) -> Result<Vec<Artifact>> {
    let mut command = process::host_cargo();
    command.args(args).arg("--message-format=json-render-diagnostics");
    command.current_dir(workspace.root()).env("CARGO_TARGET_DIR", workspace.target());
    command.stdout(Stdio::piped());
    process::announce(&command);

    let mut child = command.spawn().context("cannot start cargo")?;
    let messages = child.stdout.take().context("cargo's output is not connected")?;
    let mut artifacts = Vec::new();
    for line in BufReader::new(messages).lines() {
        artifacts.extend(parse(&line.context("cannot read cargo's output")?));
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() {
        bail!("`cargo {}` failed: {status}", args.join(" "));
    }
    Ok(artifacts)
}

/// The program (not the test) called `name`.
pub(crate) fn program(artifacts: &[Artifact], name: &str) -> Result<PathBuf> {
    artifacts
        .iter()
        .find(|artifact| artifact.kind == "bin" && !artifact.is_test && artifact.name == name)
        .map(|artifact| artifact.executable.clone())
        .with_context(|| format!("cargo built no program called {name}"))
}

/// One line of cargo's JSON messages; most lines are about something else.
fn parse(line: &str) -> Option<Artifact> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" {
        return None;
    }
    let manifest = Path::new(message["manifest_path"].as_str()?);
    Some(Artifact {
        package_dir: manifest.parent()?.to_path_buf(),
        name: message["target"]["name"].as_str()?.to_owned(),
        kind: message["target"]["kind"][0].as_str()?.to_owned(),
        is_test: message["profile"]["test"].as_bool()?,
        executable: message["executable"].as_str()?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &str = r#"{"reason":"compiler-artifact","package_id":"path+file:///w/vipfarm#0.1.0",
        "manifest_path":"/w/vipfarm/Cargo.toml","target":{"kind":["bin"],"name":"vipfarm"},
        "profile":{"test":false},"executable":"/w/target/debug/vipfarm","fresh":true}"#;

    #[test]
    fn an_executable_is_read_from_cargos_messages() {
        let artifact = parse(PROGRAM).unwrap();
        assert_eq!(artifact.package_dir, Path::new("/w/vipfarm"));
        assert_eq!(program(&[artifact], "vipfarm").unwrap(), Path::new("/w/target/debug/vipfarm"));
    }

    #[test]
    fn libraries_and_other_messages_are_not_executables() {
        let library = PROGRAM.replace(r#""/w/target/debug/vipfarm""#, "null");
        assert_eq!(parse(&library), None);
        assert_eq!(parse(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(parse("warning: not JSON"), None);
    }

    #[test]
    fn a_program_that_was_not_built_is_named() {
        let error = program(&[], "demo").unwrap_err().to_string();
        assert!(error.contains("demo"), "{error}");
    }
}
