//! Running other programs: announced before they start, judged by their exit status.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Prints the command, runs it with this process' terminal, and fails unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    announce(command);
    let status = command.status().with_context(|| format!("cannot start {}", line(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Runs quietly and returns what the command wrote to its standard output, trimmed.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", line(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}: {}", line(command), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Prints the command as one would type it.
pub(crate) fn announce(command: &Command) {
    eprintln!("$ {}", line(command));
}

/// The cargo that runs this tool, with the environment it gave us: for host code. But not with what is
/// this package's own: build scripts that look at it would be run again by who calls cargo by hand.
pub(crate) fn host_cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        let is_own =
            |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        if name.to_str().is_some_and(is_own) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Takes out of the child's environment what the cargo (and rustup) that run this tool put there,
/// so that another compiler can be used: `RUSTC` and `RUSTUP_TOOLCHAIN` would redirect it, and
/// `LD_LIBRARY_PATH` names the outer compiler's libraries.
pub(crate) fn without_outer_cargo(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        if is_outer_cargo(&name) {
            command.env_remove(name);
        }
    }
    command
}

/// The program of that name on `PATH`, or where system tools are when `PATH` of a plain user
/// leaves `sbin` out.
pub(crate) fn find_tool(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| is_executable(candidate))
}

/// Whether this process runs as root (effective user id 0).
pub(crate) fn is_root() -> bool {
    // The owner of /proc/self is the effective user: saves a libc dependency.
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// Whether `path` is a file that somebody may execute.
pub(crate) fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(shell_word).collect::<Vec<_>>().join(" ")
}

fn shell_word(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn is_outer_cargo(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    match name {
        // Where registries, proxies and toolchains are: the user's, not the outer build's.
        "CARGO_HOME" | "RUSTUP_HOME" => false,
        "CARGO"
        | "RUSTC"
        | "RUSTDOC"
        | "RUSTFLAGS"
        | "RUSTUP_TOOLCHAIN"
        | "RUST_RECURSION_COUNT"
        | "LD_LIBRARY_PATH" => true,
        _ => {
            let settings = ["CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTRIES_", "CARGO_REGISTRY_"];
            name.starts_with("RUSTC_")
                || name.starts_with("CARGO_") && !settings.iter().any(|kept| name.starts_with(kept))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_printed_as_one_would_type_it() {
        let mut command = Command::new("env");
        command.args(["A=1", "two words", "it's"]);
        assert_eq!(line(&command), r"env A=1 'two words' 'it'\''s'");
    }

    #[test]
    fn another_compiler_sees_nothing_of_the_outer_build_but_keeps_the_users_settings() {
        for name in
            ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "CARGO_TARGET_DIR", "CARGO_ENCODED_RUSTFLAGS"]
        {
            assert!(is_outer_cargo(OsStr::new(name)), "{name} must go");
        }
        for name in ["PATH", "CARGO_HOME", "RUSTUP_HOME", "CARGO_HTTP_PROXY", "HTTPS_PROXY"] {
            assert!(!is_outer_cargo(OsStr::new(name)), "{name} must stay");
        }
    }

    #[test]
    fn a_failing_command_says_its_line_and_its_own_words() {
        let error = capture(Command::new("sh").args(["-c", "echo no such thing >&2; exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("sh -c"), "{error}");
        assert!(error.contains("no such thing"), "{error}");
    }

    #[test]
    fn a_tool_is_found_by_name() {
        assert!(find_tool("sh").is_some());
        assert!(find_tool("no-tool-has-this-name").is_none());
    }
}
