//! What is on this machine. Looks only; nothing here changes anything.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::choose::{Attempt, Step};
use crate::process;
use crate::workspace::Workspace;

/// The release of bpf-linker that is kept under `target/tools`.
pub(crate) const LINKER_VERSION: &str = "0.13.0";

/// The LLVM majors that this bpf-linker can be built for. It reads the compiler's bitcode, so its
/// LLVM must be the compiler's.
pub(crate) const LLVM_MAJORS: std::ops::RangeInclusive<u32> = 21..=23;

/// The programs the lab calls, and the Debian package of each.
pub(crate) const LAB_TOOLS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("bridge", "iproute2"),
    ("tc", "iproute2"),
    ("bpftool", "bpftool"),
    ("ethtool", "ethtool"),
];

/// What failover is compared with.
pub(crate) const KEEPALIVED: &[(&str, &str)] = &[("keepalived", "keepalived")];

/// What the filter is compared with.
pub(crate) const FILTERS: &[(&str, &str)] = &[("nft", "nftables"), ("iptables", "iptables")];

/// The Debian names of rustc, cargo and the library source. The backports for browsers come
/// first: on a stable release they alone are new enough.
const RUST_PACKAGES: [[&str; 3]; 2] =
    [["rustc-web", "cargo-web", "rust-web-src"], ["rustc", "cargo", "rust-src"]];

/// All that the choice of compiler and linker depends on.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Found {
    /// Whether packages can be installed.
    pub is_root: bool,
    /// Whether `apt-get` exists.
    pub has_apt: bool,
    /// The nightly toolchains of rustup; `None` without rustup.
    pub nightlies: Option<Vec<Compiler>>,
    /// The distribution's compiler.
    pub system: Option<Compiler>,
    /// What apt would install as compiler; not asked when there is a fit one already.
    pub offer: Option<Offer>,
    /// LLVM development libraries.
    pub llvms: Vec<Llvm>,
    /// The LLVM major of the bpf-linker kept under `target/tools`, if it runs.
    pub linker: Option<u32>,
    /// What was tried in this run, so that nothing is tried twice.
    pub tried: Vec<Attempt>,
}

/// A Rust compiler that might build for eBPF.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Compiler {
    /// Who it comes from, as the user knows it.
    pub origin: String,
    /// Its rustc.
    pub rustc: PathBuf,
    /// The cargo beside it.
    pub cargo: PathBuf,
    /// Rust release: major, minor.
    pub release: (u32, u32),
    /// The LLVM inside.
    pub llvm: u32,
    /// Whether the source of `core` is installed: there is no compiled one for eBPF.
    pub has_source: bool,
    /// Whether `cargo` exists.
    pub has_cargo: bool,
}

/// A compiler that apt could install.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Offer {
    /// Compiler, cargo and library source.
    pub packages: Vec<String>,
    /// Rust release: major, minor.
    pub release: (u32, u32),
    /// The LLVM it depends on, if the package lists tell.
    pub llvm: Option<u32>,
}

/// An LLVM to build bpf-linker against.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Llvm {
    /// 21, 22, ...
    pub major: u32,
    /// Where it is installed; `bin/llvm-config` is below.
    pub prefix: PathBuf,
    /// Where its libraries are.
    pub libraries: PathBuf,
}

/// Programs of the system that are called.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tools {
    /// What calls them, such as `the lab`.
    pub user: &'static str,
    /// Whether packages can be installed.
    pub is_root: bool,
    /// Whether `apt-get` exists.
    pub has_apt: bool,
    /// Present.
    pub present: Vec<String>,
    /// Missing: program and Debian package.
    pub missing: Vec<(String, String)>,
    /// What was tried in this run.
    pub tried: Vec<Attempt>,
}

impl Found {
    /// Every compiler, in order of preference.
    pub(crate) fn compilers(&self) -> impl Iterator<Item = &Compiler> {
        self.nightlies.iter().flatten().chain(&self.system)
    }

    /// The development library of that LLVM.
    pub(crate) fn llvm(&self, major: u32) -> Option<&Llvm> {
        self.llvms.iter().find(|llvm| llvm.major == major)
    }

    /// What was tried, with one more attempt.
    pub(crate) fn with_outcome(&self, step: Step, outcome: anyhow::Result<()>) -> Vec<Attempt> {
        extended(&self.tried, step, outcome)
    }
}

impl Tools {
    /// What was tried, with one more attempt.
    pub(crate) fn with_outcome(&self, step: Step, outcome: anyhow::Result<()>) -> Vec<Attempt> {
        extended(&self.tried, step, outcome)
    }
}

impl Compiler {
    /// Why it cannot build the eBPF programs; `None` when it can.
    pub(crate) fn unfit(&self) -> Option<String> {
        let oldest = oldest_release();
        if self.release < oldest {
            return Some(format!("at least {}.{} is needed", oldest.0, oldest.1));
        }
        if !LLVM_MAJORS.contains(&self.llvm) {
            let (first, last) = (LLVM_MAJORS.start(), LLVM_MAJORS.end());
            return Some(format!("bpf-linker {LINKER_VERSION} needs LLVM {first} to {last}"));
        }
        if !self.has_source {
            return Some("the source of the core library (rust-src) is not installed".into());
        }
        (!self.has_cargo).then(|| format!("{} does not exist", self.cargo.display()))
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.release;
        write!(f, "{} (rustc {major}.{minor}, LLVM {})", self.origin, self.llvm)
    }
}

/// Looks at compilers, LLVMs and the linker.
pub(crate) fn compilers(workspace: &Workspace) -> Found {
    let mut found = Found {
        is_root: process::is_root(),
        has_apt: process::find_tool("apt-get").is_some(),
        nightlies: nightlies(),
        system: compiler("the distribution's Rust", Path::new("/usr/bin/rustc")),
        llvms: LLVM_MAJORS.filter_map(llvm).collect(),
        linker: linker(workspace),
        ..Found::default()
    };
    if found.has_apt && found.compilers().all(|compiler| compiler.unfit().is_some()) {
        found.offer = offer();
    }
    found
}

/// Looks for the programs that `user` calls: each with its Debian package.
pub(crate) fn tools(user: &'static str, wanted: &[(&str, &str)]) -> Tools {
    let (present, missing): (Vec<_>, Vec<_>) =
        wanted.iter().copied().partition(|(name, _)| process::find_tool(name).is_some());
    Tools {
        user,
        is_root: process::is_root(),
        has_apt: process::find_tool("apt-get").is_some(),
        present: present.into_iter().map(|(name, _)| name.to_owned()).collect(),
        missing: missing
            .into_iter()
            .map(|(name, package)| (name.to_owned(), package.to_owned()))
            .collect(),
        tried: Vec::new(),
    }
}

/// The executable of the linker kept for this workspace.
pub(crate) fn linker_path(workspace: &Workspace) -> PathBuf {
    workspace.tools().join("bin/bpf-linker")
}

/// The file that says which bpf-linker was built, for which LLVM.
pub(crate) fn linker_stamp(workspace: &Workspace) -> PathBuf {
    workspace.tools().join("bpf-linker.stamp")
}

/// What the stamp says of this release of bpf-linker for that LLVM.
pub(crate) fn linker_stamp_text(llvm: u32) -> String {
    format!("bpf-linker {LINKER_VERSION} LLVM {llvm}\n")
}

/// The oldest Rust that builds the workspace: its `rust-version`.
pub(crate) fn oldest_release() -> (u32, u32) {
    parse_release(env!("CARGO_PKG_RUST_VERSION")).unwrap_or_default()
}

fn linker(workspace: &Workspace) -> Option<u32> {
    let stamp = fs::read_to_string(linker_stamp(workspace)).ok()?;
    let llvm = LLVM_MAJORS.into_iter().find(|llvm| stamp == linker_stamp_text(*llvm))?;
    // It is linked to a shared LLVM, which an upgrade of the distribution may have taken away.
    process::capture(Command::new(linker_path(workspace)).arg("--version")).ok()?;
    Some(llvm)
}

fn nightlies() -> Option<Vec<Compiler>> {
    let rustup = process::find_tool("rustup")?;
    let list = process::capture(Command::new(&rustup).args(["toolchain", "list"])).ok()?;
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    let compilers = names.filter(|name| name.starts_with("nightly")).filter_map(|name| {
        let mut which = Command::new(&rustup);
        let rustc = process::capture(which.args(["which", "--toolchain", name, "rustc"])).ok()?;
        compiler(&format!("rustup's {name}"), Path::new(&rustc))
    });
    Some(compilers.collect())
}

fn compiler(origin: &str, rustc: &Path) -> Option<Compiler> {
    let ask = |argument: &[&str]| {
        process::capture(process::without_outer_cargo(Command::new(rustc).args(argument))).ok()
    };
    let about = ask(&["-vV"])?;
    let sysroot = ask(&["--print", "sysroot"])?;
    let cargo = rustc.with_file_name("cargo");
    let (release, llvm) = parse_about(&about)?;
    Some(Compiler {
        origin: origin.to_owned(),
        rustc: rustc.to_path_buf(),
        release,
        llvm,
        has_source: Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").is_dir(),
        has_cargo: process::is_executable(&cargo),
        cargo,
    })
}

fn llvm(major: u32) -> Option<Llvm> {
    let debian = PathBuf::from(format!("/usr/lib/llvm-{major}/bin/llvm-config"));
    let names = [format!("llvm-config-{major}"), "llvm-config".to_owned()];
    std::iter::once(debian)
        .chain(names.iter().filter_map(|name| process::find_tool(name)))
        .filter(|config| process::is_executable(config))
        .find_map(|config| {
            let ask = |what: &str| process::capture(Command::new(&config).arg(what)).ok();
            if parse_major(&ask("--version")?)? != major {
                return None;
            }
            let prefix = ask("--prefix")?.into();
            Some(Llvm { major, prefix, libraries: ask("--libdir")?.into() })
        })
}

/// The first set of Rust packages that is new enough, else the newest of the too old ones.
fn offer() -> Option<Offer> {
    let offers = RUST_PACKAGES.into_iter().filter_map(|packages| {
        let policy =
            process::capture(Command::new("apt-cache").arg("policy").args(packages)).ok()?;
        let releases = parse_candidates(&policy);
        // All three, or they are no use.
        (releases.len() == packages.len()).then(|| (packages, releases[0]))
    });
    let offers: Vec<_> = offers.collect();
    let fit = offers.iter().find(|(_, release)| *release >= oldest_release());
    let (packages, release) = *fit.or_else(|| offers.iter().max_by_key(|offer| offer.1))?;
    Some(Offer {
        packages: packages.map(str::to_owned).to_vec(),
        release,
        llvm: offered_llvm(packages[0]),
    })
}

fn offered_llvm(package: &str) -> Option<u32> {
    let mut depends = Command::new("apt-cache");
    depends.args(["depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts"]);
    depends.args(["--no-breaks", "--no-replaces", "--no-enhances", package]);
    parse_llvm_dependency(&process::capture(&mut depends).ok()?)
}

fn parse_about(about: &str) -> Option<((u32, u32), u32)> {
    let field = |name: &str| about.lines().find_map(|line| line.strip_prefix(name));
    Some((parse_release(field("release: ")?)?, parse_major(field("LLVM version: ")?)?))
}

/// `1.96.0+dfsg1-1~deb12u2` and `1.95` alike.
fn parse_release(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

fn parse_major(version: &str) -> Option<u32> {
    version.split('.').next()?.trim().parse().ok()
}

/// The candidate versions in the answer of `apt-cache policy`; Debian versions may have an epoch.
fn parse_candidates(policy: &str) -> Vec<(u32, u32)> {
    policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter_map(|version| parse_release(version.rsplit(':').next()?))
        .collect()
}

fn parse_llvm_dependency(depends: &str) -> Option<u32> {
    depends.lines().find_map(|line| {
        let digits = line.trim().strip_prefix("Depends: libllvm")?;
        digits.parse().ok()
    })
}

fn extended(tried: &[Attempt], step: Step, outcome: anyhow::Result<()>) -> Vec<Attempt> {
    let failure = outcome.err().map(|error| format!("{error:#}"));
    if let Some(failure) = &failure {
        eprintln!("setup: {failure}");
    }
    let mut tried = tried.to_vec();
    tried.push(Attempt { step, failure });
    tried
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_and_llvm_are_read_from_what_rustc_says_of_itself() {
        let about = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\n\
                     release: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(parse_about(about), Some(((1, 97), 22)));
        assert_eq!(parse_about("rustc: command not found"), None);
    }

    #[test]
    fn candidates_are_read_from_apt() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n\
                      cargo-web:\n  Installed: (none)\n  Candidate: 1:0.97.0-2\n\
                      rust-web-src:\n  Installed: (none)\n  Candidate: (none)\n";
        assert_eq!(parse_candidates(policy), [(1, 96), (0, 97)]);
    }

    #[test]
    fn the_llvm_of_an_offered_compiler_is_read_from_its_dependencies() {
        let depends = "libstd-rust-web-1.96\n  Depends: libgcc-s1\n  Depends: libllvm22\n";
        assert_eq!(parse_llvm_dependency(depends), Some(22));
        assert_eq!(parse_llvm_dependency("libc6\n  Depends: libgcc-s1\n"), None);
    }

    #[test]
    fn the_oldest_release_is_the_workspaces_rust_version() {
        assert!(oldest_release() >= (1, 95));
    }
}
