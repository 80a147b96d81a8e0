//! What it means that a check or a hook lacks something.

use super::split;
use crate::doctor::{
    Finding, Severity,
    facts::{Lack, LackFacts},
};

/// A check that cannot pass keeps the node from serving; a hook that cannot run tells nobody.
pub(super) fn judge(facts: &LackFacts) -> Finding {
    let LackFacts { of, is_check, lack } = facts;
    let (what, why, fix) = told(lack);
    let what_for = if *is_check { "check" } else { "hook" };
    let (severity, follows) = match (lack, is_check) {
        (Lack::Changeable(_), _) => {
            (Severity::Warning, "whoever it is can do here what the agent's user can")
        }
        (Lack::Hidden(_), _) => (
            Severity::Warning,
            "under systemd it finds what is there, or nothing, whatever others put there",
        ),
        (_, false) => (Severity::Warning, "it fails each time, and tells nobody"),
        // Whoever makes the file may make its folder.
        (Lack::NoFolder { present: true, .. }, true) => (
            Severity::Warning,
            "it fails until that is there, and so long this node does not serve what it is about",
        ),
        (Lack::NoFolder { present: false, .. }, true) => {
            (Severity::Note, "it passes, whatever was meant")
        }
        (_, true) => {
            (Severity::Error, "it never passes, and this node never serves what it is about")
        }
    };
    let why = format!("{what}{why}: {follows}");
    Finding::new(what_for, severity, why).of(of.as_str()).fixed_by(fix)
}

/// What is lacking, in two parts of a sentence, and what to do.
fn told(lack: &Lack) -> (&'static str, String, String) {
    match lack {
        Lack::NoProgram(path) => {
            let path = path.display();
            (
                "there is no ",
                path.to_string(),
                format!("install {path} on this node, or correct its path in the farm's file"),
            )
        }
        Lack::NotExecutable(path) => {
            let path = path.display();
            (
                "nobody may execute ",
                path.to_string(),
                format!("chmod 755 {path}, if it is the program that is meant"),
            )
        }
        Lack::NoUser(why) => (
            "",
            why.clone(),
            "make that user on this node, or correct `user` in the farm's file".into(),
        ),
        Lack::Changeable(changeable) => {
            let (why, fix) = split(&changeable.to_string(), "chown root");
            ("", why, fix)
        }
        Lack::Hidden(path) => (
            "the unit of the agent hides ",
            path.display().to_string(),
            "put it elsewhere, such as in /run or /usr/local, or see packaging/README.md".into(),
        ),
        Lack::NoInterface(present) => (
            "there is no such interface",
            String::new(),
            format!(
                "correct the name in the farm's file, or make the interface; this machine has {present}"
            ),
        ),
        Lack::NoFolder { path, .. } => {
            let path = path.display();
            (
                "there is no folder ",
                path.to_string(),
                format!("mkdir -p {path}, or correct the path in the farm's file"),
            )
        }
    }
}
