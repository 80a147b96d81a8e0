//! The decision: from what was found, the next step, or the words that tell the user what to do.
//! Pure, so that every situation can be tested.

use super::found::{Compiler, Found, LINKER_VERSION, LLVM_MAJORS, Tools, oldest_release};

/// What to do next; `T` is what one has when there is nothing left to do.
#[derive(Debug, PartialEq)]
pub(crate) enum Plan<T> {
    /// All is there.
    Ready(T),
    /// A step to take, and why, for the user.
    Do(Step, String),
    /// Nothing left to try. The text names the command the user must run.
    Stuck(String),
}

/// A change to the machine.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// `apt-get update`.
    RefreshPackageLists,
    /// `apt-get install` of these.
    InstallPackages(Vec<String>),
    /// `rustup toolchain install nightly` with the library source.
    InstallNightly,
    /// `cargo install bpf-linker` for that LLVM, under `target/tools`.
    BuildLinker {
        /// LLVM major.
        llvm: u32,
    },
}

/// A step that was taken.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attempt {
    /// The step.
    pub step: Step,
    /// Why it failed; `None` when it did not.
    pub failure: Option<String>,
}

/// Chooses a compiler and sees to its linker. Order of preference: a rustup nightly that is
/// there, the distribution's compiler, packages, a new rustup nightly.
pub(crate) fn compiler(found: &Found) -> Plan<Compiler> {
    for compiler in found.compilers().filter(|compiler| compiler.unfit().is_none()) {
        if found.linker == Some(compiler.llvm) {
            return Plan::Ready(compiler.clone());
        }
        if let Some(plan) = linker_for(found, compiler) {
            return plan;
        }
    }
    packaged_compiler(found)
        .or_else(|| new_nightly(found))
        .unwrap_or_else(|| Plan::Stuck(stuck(found)))
}

/// Sees to programs of the system. `Ready` lists them.
pub(crate) fn tools(tools: &Tools) -> Plan<String> {
    if tools.missing.is_empty() {
        return Plan::Ready(tools.present.join(", "));
    }
    let names: Vec<_> = tools.missing.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(", ");
    let mut packages: Vec<_> = tools.missing.iter().map(|(_, package)| package.clone()).collect();
    packages.dedup();

    let install = install(tools.is_root && tools.has_apt, &tools.tried, packages.clone());
    if let Some(step) = install {
        return Plan::Do(step, format!("{} needs {names}: from Debian's packages", tools.user));
    }
    let remedy = if tools.has_apt {
        format!("Run: {}", apt_command(&packages))
    } else {
        format!("Install the packages that hold them (on Debian: {}).", packages.join(" "))
    };
    let mut help = vec![format!("{} needs {names}, which this machine does not have.", tools.user)];
    help.extend(failures(&tools.tried));
    help.push(remedy);
    Plan::Stuck(help.join("\n"))
}

/// A step towards the linker for that compiler; `None` when all ways were tried.
fn linker_for(found: &Found, compiler: &Compiler) -> Option<Plan<Compiler>> {
    let llvm = compiler.llvm;
    if found.llvm(llvm).is_some() {
        let step = Step::BuildLinker { llvm };
        let why = format!(
            "building bpf-linker {LINKER_VERSION} for LLVM {llvm}: it must have the LLVM of {compiler}"
        );
        return (!was_tried(&found.tried, &step)).then_some(Plan::Do(step, why));
    }
    let packages = vec![llvm_package(llvm)];
    let step = install(found.is_root && found.has_apt, &found.tried, packages)?;
    let why =
        format!("bpf-linker for {compiler} needs the LLVM {llvm} library: from Debian's packages");
    Some(Plan::Do(step, why))
}

fn packaged_compiler(found: &Found) -> Option<Plan<Compiler>> {
    if found.system.as_ref().is_some_and(|system| system.unfit().is_none()) {
        return None;
    }
    if !(found.is_root && found.has_apt) {
        return None;
    }
    let why = "no compiler here can build for eBPF: looking at Debian's packages".to_owned();
    if !was_tried(&found.tried, &Step::RefreshPackageLists) {
        return Some(Plan::Do(Step::RefreshPackageLists, why));
    }
    let step = install(true, &found.tried, offered_packages(found)?)?;
    let why = "no compiler here can build for eBPF: taking Debian's".to_owned();
    Some(Plan::Do(step, why))
}

fn new_nightly(found: &Found) -> Option<Plan<Compiler>> {
    let nightlies = found.nightlies.as_ref()?;
    if nightlies.iter().any(|nightly| nightly.unfit().is_none()) {
        return None;
    }
    let step = Step::InstallNightly;
    let why = "no compiler here can build for eBPF: installing rustup's nightly with rust-src";
    (!was_tried(&found.tried, &step)).then(|| Plan::Do(step, why.to_owned()))
}

/// The next step towards having `packages`: fresh lists first, for a machine that was just
/// installed has none, or stale ones.
fn install(may: bool, tried: &[Attempt], packages: Vec<String>) -> Option<Step> {
    if !may {
        return None;
    }
    let steps = [Step::RefreshPackageLists, Step::InstallPackages(packages)];
    steps.into_iter().find(|step| !was_tried(tried, step))
}

/// What apt should install for a compiler; `None` when it has none that is new enough.
fn offered_packages(found: &Found) -> Option<Vec<String>> {
    let offer = found.offer.as_ref()?;
    let fits = |llvm: u32| LLVM_MAJORS.contains(&llvm);
    if offer.release < oldest_release() || offer.llvm.is_some_and(|llvm| !fits(llvm)) {
        return None;
    }
    let mut packages = offer.packages.clone();
    packages.extend(offer.llvm.filter(|llvm| found.llvm(*llvm).is_none()).map(llvm_package));
    Some(packages)
}

fn was_tried(tried: &[Attempt], step: &Step) -> bool {
    tried.iter().any(|attempt| attempt.step == *step)
}

fn llvm_package(major: u32) -> String {
    format!("llvm-{major}-dev")
}

/// Why nothing works, and the one command that changes it.
fn stuck(found: &Found) -> String {
    let mut lines = vec!["the eBPF programs cannot be built on this machine yet.".to_owned()];
    for compiler in found.compilers() {
        let why = compiler.unfit().unwrap_or_else(|| missing_linker(found, compiler));
        lines.push(format!("  {compiler}: {why}"));
    }
    if found.compilers().next().is_none() {
        lines.push("  Neither a nightly of rustup nor a Rust of the distribution is here.".into());
    }
    lines.extend(failures(&found.tried));
    lines.push(format!("Run: {}", remedy(found)));
    lines.push("Then run `cargo xtask setup` again.".to_owned());
    lines.join("\n")
}

fn missing_linker(found: &Found, compiler: &Compiler) -> String {
    let llvm = compiler.llvm;
    if found.llvm(llvm).is_some() {
        format!("bpf-linker does not build with LLVM {llvm}")
    } else {
        format!("the LLVM {llvm} development library is missing")
    }
}

fn failures(tried: &[Attempt]) -> impl Iterator<Item = String> {
    let failed = tried.iter().filter_map(|attempt| attempt.failure.as_ref());
    failed.map(|failure| format!("  Tried: {failure}"))
}

fn remedy(found: &Found) -> String {
    let fit = found.compilers().find(|compiler| compiler.unfit().is_none());
    match (fit, found.has_apt) {
        (Some(compiler), _) if found.llvm(compiler.llvm).is_some() => linker_command(compiler.llvm),
        (Some(compiler), true) => apt_command(&[llvm_package(compiler.llvm)]),
        (Some(compiler), false) => {
            let llvm = compiler.llvm;
            format!(
                "the installer of your distribution, for LLVM {llvm} with llvm-config \
                 (Fedora: dnf install llvm{llvm}-devel; Arch: pacman -S llvm)"
            )
        }
        (None, true) => match offered_packages(found) {
            Some(packages) => apt_command(&packages),
            None if found.nightlies.is_some() || found.offer.is_some() => nightly_command(found),
            // Empty package lists: the names of a current Debian.
            None => apt_command(&["rustc-web", "cargo-web", "rust-web-src"].map(str::to_owned)),
        },
        (None, false) => nightly_command(found),
    }
}

fn apt_command(packages: &[String]) -> String {
    format!("sudo apt-get update && sudo apt-get install -y {}", packages.join(" "))
}

fn linker_command(llvm: u32) -> String {
    format!(
        "cargo install bpf-linker --version {LINKER_VERSION} --locked --no-default-features \
         --features llvm-{llvm}    (and see what it says)"
    )
}

fn nightly_command(found: &Found) -> String {
    let install = "rustup toolchain install nightly --component rust-src --profile minimal";
    if found.nightlies.is_some() {
        install.to_owned()
    } else {
        format!("{install}    (rustup itself: https://rustup.rs)")
    }
}

#[cfg(test)]
mod tests;
