//! What it means that a check or a hook lacks something.

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
