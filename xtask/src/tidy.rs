//! `cargo xtask tidy`: the house rules as a program, so that they cannot rot.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use self::rules::Finding;
use crate::workspace::Workspace;

mod parity;
mod rules;
mod source;
mod traps;

/// Directories that hold no source of ours.
const NOT_SOURCE: [&str; 2] = ["target", ".git"];

/// Compares a table with the functions of all sources.
type Check = fn(&str, &BTreeSet<String>) -> Vec<Finding>;

/// Reads every Rust file of the workspace, and the tables that name tests; fails when a rule is broken.
pub(crate) fn verb(workspace: &Workspace) -> Result<()> {
    let mut files = Vec::new();
    collect(workspace.root(), &mut files)?;
    files.sort();

    let mut findings = rules::about_places(workspace.root());
    let mut functions = BTreeSet::new();
    for file in &files {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let path = file.strip_prefix(workspace.root()).unwrap_or(file);
        findings.extend(rules::check(&path.to_string_lossy(), &text));
        functions.extend(traps::functions(&source::code_only(&text)));
    }
    for (table, check) in [(traps::TABLE, traps::check as Check), (parity::TABLE, parity::check)] {
        let path = workspace.root().join(table);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        findings.extend(check(&text, &functions));
    }
    for Finding { place, what } in &findings {
        eprintln!("{place}: {what}");
    }
    if !findings.is_empty() {
        bail!("{} house rules broken", findings.len());
    }
    eprintln!("tidy: {} files follow the house rules", files.len());
    Ok(())
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory)
        .with_context(|| format!("cannot read directory {}", directory.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", directory.display()))?.path();
        let is_source =
            path.file_name().is_some_and(|name| NOT_SOURCE.iter().all(|no| name != *no));
        // No symbolic links: they could lead out of the tree, or around in it.
        if path.is_symlink() || !is_source {
            continue;
        }
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
