use std::path::PathBuf;

use super::super::found::{Llvm, Offer};
use super::*;

#[test]
fn a_fit_nightly_is_preferred_to_the_distributions_compiler() {
    let mut found = complete();
    found.nightlies = Some(vec![fit("rustup's nightly")]);
    assert_eq!(ready(&found).origin, "rustup's nightly");
}

#[test]
fn a_nightly_without_rust_src_is_never_chosen() {
    let mut found = complete();
    found.nightlies = Some(vec![Compiler { has_source: false, ..fit("rustup's nightly") }]);
    assert_eq!(ready(&found).origin, "Debian");
}

#[test]
fn unfit_compilers_say_why() {
    let cases = [
        (Compiler { has_source: false, ..fit("x") }, "rust-src"),
        (Compiler { llvm: 19, ..fit("x") }, "needs LLVM 21 to 23"),
        (Compiler { llvm: 24, ..fit("x") }, "needs LLVM 21 to 23"),
        (Compiler { release: (1, 85), ..fit("x") }, "at least 1."),
        (Compiler { has_cargo: false, ..fit("x") }, "/usr/bin/cargo does not exist"),
    ];
    for (compiler, reason) in cases {
        let why = compiler.unfit().unwrap();
        assert!(why.contains(reason), "{why}");
    }
    assert_eq!(fit("x").unfit(), None);
}

#[test]
fn the_linker_is_rebuilt_when_the_compilers_llvm_has_changed() {
    let found = Found { linker: Some(21), ..complete() };
    assert_eq!(next(&found), Step::BuildLinker { llvm: 22 });
}

#[test]
fn the_llvm_library_is_installed_after_fresh_package_lists() {
    let mut found = Found { linker: None, llvms: Vec::new(), ..complete() };
    assert_eq!(next(&found), Step::RefreshPackageLists);
    found.tried.push(done(Step::RefreshPackageLists));
    assert_eq!(next(&found), Step::InstallPackages(vec!["llvm-22-dev".into()]));
}

#[test]
fn a_compiler_whose_llvm_library_is_not_to_be_had_gives_way_to_the_next() {
    let mut found = complete();
    found.nightlies = Some(vec![Compiler { llvm: 23, ..fit("rustup's nightly") }]);
    found.tried = vec![
        done(Step::RefreshPackageLists),
        failed(Step::InstallPackages(vec!["llvm-23-dev".into()]), "no such package"),
    ];
    assert_eq!(ready(&found).origin, "Debian");
}

#[test]
fn without_any_compiler_root_installs_the_packages_with_the_llvm_that_fits() {
    let mut found = bare();
    assert_eq!(next(&found), Step::RefreshPackageLists);
    found.tried.push(done(Step::RefreshPackageLists));
    found.offer = Some(offer());
    let names = ["rustc-web", "cargo-web", "rust-web-src", "llvm-22-dev"];
    assert_eq!(next(&found), Step::InstallPackages(names.map(str::to_owned).to_vec()));
}

#[test]
fn packages_that_are_too_old_are_not_installed() {
    let mut found = Found { offer: Some(Offer { release: (1, 85), ..offer() }), ..bare() };
    found.tried.push(done(Step::RefreshPackageLists));
    found.nightlies = Some(Vec::new());
    assert_eq!(next(&found), Step::InstallNightly);
}

#[test]
fn rustup_is_asked_when_there_are_no_packages_or_they_failed() {
    let without_root = Found { is_root: false, nightlies: Some(Vec::new()), ..bare() };
    assert_eq!(next(&without_root), Step::InstallNightly);

    let packages = ["rustc-web", "cargo-web", "rust-web-src", "llvm-22-dev"];
    let failure = failed(Step::InstallPackages(packages.map(str::to_owned).to_vec()), "no network");
    let after_failure = Found {
        offer: Some(offer()),
        nightlies: Some(Vec::new()),
        tried: vec![done(Step::RefreshPackageLists), failure],
        ..bare()
    };
    assert_eq!(next(&after_failure), Step::InstallNightly);
}

#[test]
fn a_user_who_is_not_root_is_told_the_command_with_every_package() {
    let found = Found { is_root: false, offer: Some(offer()), ..bare() };
    let help = stuck_text(&found);
    assert!(
        help.contains(
            "Run: sudo apt-get update && sudo apt-get install -y \
             rustc-web cargo-web rust-web-src llvm-22-dev"
        ),
        "{help}"
    );
}

#[test]
fn a_user_who_lacks_only_the_llvm_library_is_told_to_install_that() {
    let found = Found { is_root: false, linker: None, llvms: Vec::new(), ..complete() };
    let help = stuck_text(&found);
    assert!(help.contains("the LLVM 22 development library is missing"), "{help}");
    assert!(help.contains("sudo apt-get install -y llvm-22-dev"), "{help}");
}

#[test]
fn a_machine_without_apt_and_without_rustup_is_sent_to_rustup() {
    let help = stuck_text(&Found { has_apt: false, ..bare() });
    assert!(help.contains("rustup toolchain install nightly --component rust-src"), "{help}");
    assert!(help.contains("https://rustup.rs"), "{help}");
}

#[test]
fn a_linker_that_does_not_build_is_reported_with_the_error() {
    let mut found = Found { linker: None, ..complete() };
    found.tried.push(failed(Step::BuildLinker { llvm: 22 }, "`cargo install bpf-linker` failed"));
    found.tried.push(done(Step::RefreshPackageLists));
    let help = stuck_text(&found);
    assert!(help.contains("Tried: `cargo install bpf-linker` failed"), "{help}");
    assert!(help.contains("--features llvm-22"), "{help}");
}

#[test]
fn no_situation_repeats_a_step() {
    // Every step fails, and the machine stays as it was: the run must come to an end.
    for start in [bare(), Found { nightlies: Some(Vec::new()), offer: Some(offer()), ..bare() }] {
        let mut found = start;
        loop {
            match compiler(&found) {
                Plan::Do(step, _) => {
                    assert!(!was_tried(&found.tried, &step), "{step:?} again");
                    found.tried.push(failed(step, "it failed"));
                }
                Plan::Stuck(help) => break assert!(help.contains("Run: "), "{help}"),
                Plan::Ready(compiler) => panic!("{compiler} came from nowhere"),
            }
        }
    }
}

#[test]
fn missing_lab_tools_are_installed_once_per_package_by_root() {
    let mut tools = Tools { is_root: true, has_apt: true, ..no_iproute() };
    tools.tried.push(done(Step::RefreshPackageLists));
    let Plan::Do(step, why) = super::tools(&tools) else { panic!("nothing to do?") };
    assert_eq!(step, Step::InstallPackages(vec!["iproute2".into(), "bpftool".into()]));
    assert!(why.contains("ip, tc, bpftool"), "{why}");
}

#[test]
fn missing_lab_tools_are_a_command_for_everybody_else() {
    let tools = Tools { has_apt: true, ..no_iproute() };
    let Plan::Stuck(help) = super::tools(&tools) else { panic!("not stuck?") };
    assert!(help.starts_with("the lab needs ip, tc, bpftool,"), "{help}");
    assert!(help.contains("sudo apt-get install -y iproute2 bpftool"), "{help}");
}

fn ready(found: &Found) -> Compiler {
    match compiler(found) {
        Plan::Ready(compiler) => compiler,
        other => panic!("not ready: {other:?}"),
    }
}

fn next(found: &Found) -> Step {
    match compiler(found) {
        Plan::Do(step, _) => step,
        other => panic!("no step: {other:?}"),
    }
}

fn stuck_text(found: &Found) -> String {
    match compiler(found) {
        Plan::Stuck(help) => help,
        other => panic!("not stuck: {other:?}"),
    }
}

fn complete() -> Found {
    Found { system: Some(fit("Debian")), llvms: vec![llvm(22)], linker: Some(22), ..bare() }
}

fn bare() -> Found {
    Found { is_root: true, has_apt: true, ..Found::default() }
}

fn fit(origin: &str) -> Compiler {
    Compiler {
        origin: origin.to_owned(),
        rustc: "/usr/bin/rustc".into(),
        cargo: "/usr/bin/cargo".into(),
        release: oldest_release(),
        llvm: 22,
        has_source: true,
        has_cargo: true,
    }
}

fn llvm(major: u32) -> Llvm {
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{major}"));
    Llvm { major, libraries: prefix.join("lib"), prefix }
}

fn offer() -> Offer {
    Offer {
        packages: ["rustc-web", "cargo-web", "rust-web-src"].map(str::to_owned).to_vec(),
        release: oldest_release(),
        llvm: Some(22),
    }
}

fn no_iproute() -> Tools {
    let missing = [("ip", "iproute2"), ("tc", "iproute2"), ("bpftool", "bpftool")];
    Tools {
        user: "the lab",
        missing: missing.map(|(name, package)| (name.to_owned(), package.to_owned())).to_vec(),
        ..Tools::default()
    }
}

fn done(step: Step) -> Attempt {
    Attempt { step, failure: None }
}

fn failed(step: Step, failure: &str) -> Attempt {
    Attempt { step, failure: Some(failure.to_owned()) }
}
