//! `cargo xtask dist`: what a package installs, as a tree and as a tarball.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::build;
use crate::process;
use crate::workspace::Workspace;

/// Where they go in the tree, and whence they come: files, or directories with all their files.
const COPIED: [(&str, &str); 9] = [
    ("usr/lib/systemd/system/vipfarm.service", "packaging/vipfarm.service"),
    ("usr/share/doc/vipfarm/README.md", "README.md"),
    ("usr/share/doc/vipfarm/CHANGELOG.md", "CHANGELOG.md"),
    ("usr/share/doc/vipfarm/LICENSE", "LICENSE"),
    ("usr/share/doc/vipfarm/LICENSE-APACHE", "LICENSE-APACHE"),
    ("usr/share/doc/vipfarm/LICENSE-MIT", "LICENSE-MIT"),
    ("usr/share/doc/vipfarm/packaging.md", "packaging/README.md"),
    ("usr/share/doc/vipfarm/docs", "docs"),
    ("usr/share/doc/vipfarm/examples", "examples"),
];

/// Where shells look for completions.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/vipfarm"),
    ("zsh", "usr/share/zsh/vendor-completions/_vipfarm"),
    ("fish", "usr/share/fish/vendor_completions.d/vipfarm.fish"),
];

/// Where manual pages are.
const PAGES: &str = "usr/share/man/man1";

/// Builds the program, optimized, and packs it with all that belongs to it.
pub(crate) fn verb(workspace: &Workspace) -> Result<()> {
    let program = build::vipfarm(workspace, true)?;
    let version = process::capture(Command::new(&program).arg("--version"))?;
    let name = format!("{}-{}", version.replace(' ', "-"), std::env::consts::ARCH);
    let directory = workspace.target().join("dist");
    let tree = directory.join(&name);
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    }
    stage(workspace.root(), &program, &tree)?;
    let tarball = directory.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.args(["--owner=0", "--group=0", "--sort=name", "-C"]).arg(&tree);
    process::run(tar.arg("-czf").arg(&tarball).arg("."))?;
    eprintln!("packed {}", tarball.display());
    Ok(())
}

fn stage(root: &Path, program: &Path, tree: &Path) -> Result<()> {
    copy(program, &tree.join("usr/bin/vipfarm"), 0o755)?;
    for (to, from) in COPIED {
        let (to, from) = (tree.join(to), root.join(from));
        if from.is_file() {
            copy(&from, &to, 0o644)?;
            continue;
        }
        for file in files(&from)? {
            copy(&file, &to.join(file.file_name().unwrap_or_default()), 0o644)?;
        }
    }
    process::run(Command::new(program).arg("man").arg(tree.join(PAGES)))?;
    for (shell, to) in COMPLETIONS {
        let mut script = process::capture(Command::new(program).args(["completions", shell]))?;
        script.push('\n');
        let to = tree.join(to);
        make_parent(&to)?;
        fs::write(&to, script).with_context(|| format!("cannot write {}", to.display()))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    make_parent(to)?;
    fs::copy(from, to)
        .and_then(|_| fs::set_permissions(to, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))
}

/// The files in a directory.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let failed = || format!("cannot read directory {}", directory.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        files.extend(path.is_file().then_some(path));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_all_that_a_package_installs() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let tree = std::env::temp_dir().join(format!("vipfarm-dist-{}", std::process::id()));
        // Any program that says something and ends well stands in for vipfarm.
        stage(root, Path::new("/bin/echo"), &tree).unwrap();
        let scripts = COMPLETIONS.map(|(_, to)| to);
        let copied = COPIED.iter().map(|(to, _)| *to);
        for file in copied.chain(scripts).chain(["usr/bin/vipfarm"]) {
            assert!(tree.join(file).exists(), "{file}");
        }
        let examples = fs::read_dir(tree.join("usr/share/doc/vipfarm/examples")).unwrap().count();
        assert_eq!(examples, files(&root.join("examples")).unwrap().len());
        let mode = fs::metadata(tree.join("usr/bin/vipfarm")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        fs::remove_dir_all(tree).unwrap();
    }
}
