//! What the facts mean. Pure.

mod interface;
mod lacks;

use super::{
    Facts, Finding, Severity,
    facts::{FileFacts, FileKind, RealTime},
};
use crate::agent::rights::{Capability, NEEDED};

/// The first Linux that has all that is needed.
pub const OLDEST: (u32, u32) = (5, 15);

/// The first Linux with programs for frames in several buffers.
pub const FRAGS: (u32, u32) = (5, 18);

/// What there is to say, in the order of looking at it: the machine, the files, the interfaces.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![kernel(facts)];
    findings.extend(jit(facts));
    findings.extend(programs(facts));
    findings.extend([capabilities(facts), memory(facts), real_time(facts), bpffs(facts)]);
    findings.extend(facts.files.iter().map(file));
    findings.extend(facts.misfits.iter().map(|misfit| self::misfit(misfit)));
    findings.extend(facts.lacks.iter().map(lacks::judge));
    for interface in &facts.interfaces {
        findings.extend(interface::judge(interface, facts));
    }
    findings
}

impl Finding {
    fn new(check: &'static str, severity: Severity, why: impl Into<String>) -> Self {
        Self { check, subject: None, severity, why: why.into(), fix: None }
    }

    fn of(self, subject: impl Into<String>) -> Self {
        Self { subject: Some(subject.into()), ..self }
    }

    fn fixed_by(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }
}

fn kernel(facts: &Facts) -> Finding {
    let Facts { release, version, .. } = facts;
    let of =
        |severity, why: &str| Finding::new("kernel", severity, format!("Linux {release}{why}"));
    match version {
        None => of(Severity::Warning, ": no version that is known")
            .fixed_by("make sure that it is Linux 5.15 or later"),
        Some(version) if *version < OLDEST => {
            of(Severity::Error, ": vipfarm needs 5.15").fixed_by("boot Linux 5.15 or later")
        }
        Some(version) if *version < FRAGS => {
            of(Severity::Note, ": no jumbo frames with native XDP, which Linux 5.18 has")
        }
        Some(_) => of(Severity::Ok, ""),
    }
}

fn jit(facts: &Facts) -> Option<Finding> {
    let why = "the kernel interprets BPF programs: each packet costs several times as much";
    let warning = || Finding::new("jit", Severity::Warning, why);
    (facts.jit == Some(false)).then(|| warning().fixed_by("sysctl -w net.core.bpf_jit_enable=1"))
}

fn programs(facts: &Facts) -> Option<Finding> {
    Some(match facts.programs.as_ref()? {
        Ok(true) => Finding::new(
            "programs",
            Severity::Ok,
            "the kernel takes the filter, also for jumbo frames",
        ),
        Ok(false) => Finding::new("programs", Severity::Ok, "the kernel takes the filter"),
        Err(reason) => {
            let (why, fix) = split(reason, "report this with the kernel's version and its words");
            Finding::new("programs", Severity::Error, why).fixed_by(fix)
        }
    })
}

fn capabilities(facts: &Facts) -> Finding {
    // Real time and locked memory have findings of their own: limits can grant them too.
    let optional = |it: &&Capability| ["CAP_SYS_NICE", "CAP_IPC_LOCK"].contains(&it.name);
    let missing = NEEDED.iter().filter(|it| !optional(it) && !it.is_in(facts.capabilities));
    let missing: Vec<&Capability> = missing.collect();
    if missing.is_empty() {
        let why = "all that is needed, and an agent gives up all others";
        return Finding::new("capabilities", Severity::Ok, why);
    }
    let names: Vec<&str> = missing.iter().map(|capability| capability.name).collect();
    let uses: Vec<String> =
        missing.iter().map(|it| format!("{} {}", it.name, it.what_for)).collect();
    let names = names.join(" ");
    Finding::new("capabilities", Severity::Error, format!("missing: {}", uses.join("; ")))
        .fixed_by(format!("run as root, or in the unit: AmbientCapabilities={names}"))
}

fn memory(facts: &Facts) -> Finding {
    let may = NEEDED.iter().any(|it| it.name == "CAP_IPC_LOCK" && it.is_in(facts.capabilities));
    if may || facts.locks_memory {
        return Finding::new("memory", Severity::Ok, "the agent's memory is never paged out");
    }
    let why = "the agent's memory may be paged out: a page fault can take longer than a lease";
    Finding::new("memory", Severity::Warning, why)
        .fixed_by("grant CAP_IPC_LOCK or, by systemd, LimitMEMLOCK=infinity")
}

fn real_time(facts: &Facts) -> Finding {
    let of = |severity, why: &String| Finding::new("real_time", severity, why);
    match &facts.real_time {
        RealTime::Granted => {
            let why = "heartbeats run before all ordinary threads";
            Finding::new("real_time", Severity::Ok, why)
        }
        RealTime::Dispensable(why) => of(Severity::Note, why),
        RealTime::Missing(why, fix) => of(Severity::Warning, why).fixed_by(fix),
        RealTime::Needed(why, fix) => of(Severity::Error, why).fixed_by(fix),
    }
}

fn bpffs(facts: &Facts) -> Finding {
    let (path, on_bpffs) = &facts.bpf_dir;
    let path = path.display().to_string();
    if *on_bpffs {
        return Finding::new("bpffs", Severity::Ok, "on a BPF file system").of(path);
    }
    Finding::new("bpffs", Severity::Error, "not on a BPF file system, so nothing can be pinned")
        .of(path)
        .fixed_by("mount -t bpf bpf /sys/fs/bpf")
}

fn file(file: &FileFacts) -> Finding {
    let FileFacts { path, kind, mode, owner, group, problem } = file;
    let path = path.display().to_string();
    let check = match kind {
        FileKind::Configuration => "file",
        FileKind::Key => "key",
    };
    let of = |severity, why: String| Finding::new(check, severity, why).of(&*path);
    if let Some((why, fix)) = problem {
        return of(Severity::Error, why.clone()).fixed_by(fix);
    }
    if *kind == FileKind::Key {
        return of(Severity::Ok, format!("mode {mode:04o}"));
    }
    let chmod = format!("chmod 644 {path}");
    if *owner != 0 {
        let why = format!("belongs to user {owner}, who can change what root does here");
        return of(Severity::Warning, why).fixed_by(format!("chown root {path}"));
    }
    if mode & 0o020 != 0 && *group != 0 {
        let why = format!("mode {mode:04o}: group {group} can change what root does here");
        return of(Severity::Warning, why).fixed_by(chmod);
    }
    of(Severity::Ok, format!("mode {mode:04o}"))
}

fn misfit(sentence: &str) -> Finding {
    let (why, fix) = split(sentence, "correct the farm's file");
    Finding::new("place", Severity::Error, why).fixed_by(fix)
}

/// The sentences of errors end with what to do, behind a colon.
pub(super) fn split(sentence: &str, otherwise: &str) -> (String, String) {
    let parts = sentence.rsplit_once(": ");
    let (why, fix) = parts.unwrap_or((sentence, otherwise));
    (why.to_owned(), fix.to_owned())
}

#[cfg(test)]
mod tests;
