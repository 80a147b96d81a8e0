//! How a test says that it cannot run here: counted and printed, never silent.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};

use crate::iproute::run;

/// Returns from the test, recorded as skipped, when the requirement does not hold.
///
/// The requirement is a `Result<T, String>` whose error is the reason; its value is the macro's. The
/// test is called as the function that this is written in, or as the first of two arguments says.
///
/// ```no_run
/// # fn test() {
/// vipfarm_lab::require!(vipfarm_lab::skip::lab());
/// # }
/// ```
#[macro_export]
macro_rules! require {
    ($requirement:expr) => {{
        fn here() {}
        $crate::require!($crate::skip::name_around(&here), $requirement)
    }};
    ($name:expr, $requirement:expr) => {
        match $requirement {
            Ok(value) => value,
            Err(reason) => {
                $crate::skip::record($name, &reason);
                return;
            }
        }
    };
}

/// The name of the function that `inner` is written in.
pub fn name_around<F>(inner: &F) -> &'static str {
    // The crate, modules, the function, a closure if it is asynchronous, and `inner`.
    let path = std::any::type_name_of_val(inner).rsplit("::");
    path.filter(|part| !part.starts_with('{')).nth(1).unwrap_or_default()
}

/// Requires root: namespaces, packet sockets and programs need it.
pub fn root() -> Result<(), String> {
    if geteuid().is_root() { Ok(()) } else { Err("needs root (run it with sudo)".into()) }
}

/// Requires leave to load eBPF programs. That the kernel refuses *these* programs is a failure, not a
/// reason to skip.
pub fn bpf() -> Result<(), String> {
    root()
}

/// Requires a program of the system.
pub fn tool(name: &str) -> Result<(), String> {
    run(name, &["version"])
        .map(drop)
        .map_err(|_absent| format!("needs {name}: `cargo xtask setup`"))
}

/// Requires `ethtool`, which switches what a device does for its host.
pub fn ethtool() -> Result<(), String> {
    run("ethtool", &["--version"]).map(drop).map_err(|_absent| "needs ethtool".into())
}

/// Requires what a [`crate::Lab`] needs: root, network namespaces, iproute2.
pub fn lab() -> Result<(), String> {
    root()?;
    // Tried on a thread that ends at once, and the namespace with it.
    let tried = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join();
    match tried {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(format!("network namespaces are not to be had: {error}")),
        Err(_) => return Err("a thread panicked".into()),
    }
    run("ip", &["-V"]).and(run("bridge", &["-V"])).map(drop).map_err(|error| format!("{error:#}"))
}

/// Requires the lab's eBPF object: its path.
pub fn lab_object() -> Result<PathBuf, String> {
    object("lab-bpf")
}

/// Requires the agent's eBPF object: its path.
pub fn vipfarm_object() -> Result<PathBuf, String> {
    object("vipfarm-bpf")
}

/// Requires a lab and the `vipfarm` program, whose path it is: `VIPFARM_BIN`, or the one built
/// beside the running test.
pub fn farm() -> Result<PathBuf, String> {
    lab()?;
    let built = || {
        let test = std::env::current_exe().ok()?;
        Some(test.parent()?.parent()?.join("vipfarm"))
    };
    let program = std::env::var_os("VIPFARM_BIN").map(PathBuf::from).or_else(built);
    match program {
        Some(program) if program.is_file() => Ok(program),
        Some(program) => Err(format!("{} is missing: run `cargo xtask build`", program.display())),
        None => Err("the vipfarm program is not to be found: set VIPFARM_BIN".into()),
    }
}

/// Requires a `vipfarm` program whose memory looks different, which `cargo xtask test` builds.
pub fn other_layout() -> Result<PathBuf, String> {
    let program = std::env::var_os("VIPFARM_OTHER_LAYOUT_BIN").map(PathBuf::from);
    program
        .filter(|program| program.is_file())
        .ok_or_else(|| "needs a program of another layout: run `cargo xtask test`".into())
}

/// `cargo xtask build` leaves the objects in the build directory.
fn object(name: &str) -> Result<PathBuf, String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let path = workspace.join(target).join("bpf").join(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("{} is missing: run `cargo xtask build`", path.display()))
    }
}

/// Records one skipped test: prints it and appends it to the file named by `VIPFARM_SKIPS`.
///
/// # Panics
/// When `CI=true`, where nothing may be skipped, and when the record cannot be written.
pub fn record(name: &str, reason: &str) {
    let line = format!("{name}: {reason}");
    println!("SKIPPED {line}");
    if let Some(path) = std::env::var_os("VIPFARM_SKIPS") {
        append(Path::new(&path), &line);
    }
    let strict = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!strict, "skipped in CI, where every test must run: {line}");
}

/// One write, so that lines of tests that run at once do not mix.
fn append(path: &Path, line: &str) {
    let written = File::options()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    if let Err(error) = written {
        panic!("cannot record the skipped test in {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_knows_its_name() {
        fn here() {}
        assert_eq!(name_around(&here), "a_test_knows_its_name");
    }

    #[tokio::test]
    async fn so_does_an_asynchronous_one() {
        fn here() {}
        assert_eq!(name_around(&here), "so_does_an_asynchronous_one");
    }
}
