//! The rules.

use std::path::Path;

use super::source;

/// A file is split before one reading no longer holds it. Lines that are not blank, tests at the
/// end not counted.
const LONGEST_FILE: usize = 500;

/// Longer files, each with the reason why splitting it would not help the reader.
const LONG_FILES: [(&str, &str); 0] = [];

/// What may be used only in some places. `(word, places, why)`: a place is a directory (ending in
/// `/`) or a file.
const ONLY_IN: [(&str, &[&str], &str); 5] = [
    ("aya", DATAPATH, "only the datapath talks to the kernel's BPF"),
    ("aya_obj", DATAPATH, "only the datapath talks to the kernel's BPF"),
    ("aya_log", DATAPATH, "only the datapath talks to the kernel's BPF"),
    ("rtnetlink", NETLINK, "only net/ talks netlink"),
    ("netlink_packet_route", NETLINK, "only net/ talks netlink"),
];

const DATAPATH: &[&str] = &["vipfarm/src/datapath/", "vipfarm-ebpf/", "tests/"];
const NETLINK: &[&str] = &["vipfarm/src/net/", "tests/"];

/// Code without clock, socket, thread or chance: these come in as arguments.
const SANS_IO: [&str; 3] =
    ["vipfarm/src/membership/", "vipfarm/src/assign.rs", "vipfarm/src/assign/"];

const IO: [&str; 8] = [
    "tokio",
    "aya",
    "rtnetlink",
    "UdpSocket",
    "Instant::now",
    "SystemTime::now",
    "rand",
    "thread::sleep",
];

/// A broken rule.
#[derive(Debug, PartialEq)]
pub(crate) struct Finding {
    /// File, or file and line.
    pub place: String,
    /// What is wrong, and why it matters.
    pub what: String,
}

/// Rules name places; a rule about a place that is gone would never find anything.
pub(crate) fn about_places(root: &Path) -> Vec<Finding> {
    let places = ONLY_IN.iter().flat_map(|(_, places, _)| places.iter().copied());
    let mut missing: Vec<_> = places
        .chain(LONG_FILES.iter().map(|(file, _)| *file))
        .filter(|place| !root.join(place).exists())
        .collect();
    if SANS_IO.iter().filter(|place| root.join(place).exists()).count() < 2 {
        missing.push("vipfarm/src/membership/ or vipfarm/src/assign");
    }
    missing.sort_unstable();
    missing.dedup();
    let finding = |place: &str| Finding {
        place: "xtask/src/tidy/rules.rs".to_owned(),
        what: format!("a rule names {place}, which does not exist: the rule checks nothing"),
    };
    missing.into_iter().map(finding).collect()
}

/// Checks one file; `path` is relative to the workspace.
pub(crate) fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let code = source::code_only(text);
    for (number, line) in code.lines().enumerate() {
        let mut found = |what: String| {
            findings.push(Finding { place: format!("{path}:{}", number + 1), what });
        };
        for (word, places, why) in ONLY_IN {
            if contains_word(line, word) && !is_in(path, places) {
                found(format!("`{word}` is for {} alone: {why}", places.join(", ")));
            }
        }
        for word in IO {
            if contains_word(line, word) && is_in(path, &SANS_IO) {
                found(format!("`{word}`: time, chance and bytes come in as arguments here"));
            }
        }
        if is_allow(line) {
            found(
                "`allow`: use #[expect(.., reason = \"..\")], which says when it is stale".into(),
            );
        }
        if line.contains("#[ignore]") {
            found("`#[ignore]` without a reason: #[ignore = \"why\"]".into());
        }
    }
    findings.extend(too_long(path, text));
    findings
}

fn too_long(path: &str, text: &str) -> Option<Finding> {
    let lines = source::lines_without_tests(text);
    if lines <= LONGEST_FILE || LONG_FILES.iter().any(|(file, _)| *file == path) {
        return None;
    }
    let what = format!("{lines} lines, at most {LONGEST_FILE}: split it by what makes it change");
    Some(Finding { place: path.to_owned(), what })
}

fn is_in(path: &str, places: &[&str]) -> bool {
    places.iter().any(
        |place| {
            if place.ends_with('/') { path.starts_with(place) } else { path == *place }
        },
    )
}

fn is_allow(line: &str) -> bool {
    let attribute = line.contains("#[") || line.contains("#![");
    attribute && contains_word(line, "allow(")
}

/// Whether `word` stands in `line` and is not part of a longer name.
fn contains_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let ends_in_name = word.ends_with(is_name);
        let goes_on = ends_in_name && after.is_some_and(is_name);
        !before.is_some_and(is_name) && !goes_on
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aya_is_for_the_datapath_alone() {
        let text = "use aya::maps::Array;\n";
        assert_eq!(broken("vipfarm/src/agent/mod.rs", text), 1);
        assert_eq!(broken("vipfarm/src/datapath/load.rs", text), 0);
        assert_eq!(broken("vipfarm-ebpf/src/lib.rs", text), 0);
        assert_eq!(broken("tests/src/golden.rs", text), 0);
    }

    #[test]
    fn rtnetlink_is_for_net_alone() {
        let text = "let (c, handle, _) = rtnetlink::new_connection()?;\n";
        assert_eq!(broken("vipfarm/src/datapath/tc.rs", text), 1);
        assert_eq!(broken("vipfarm/src/net/address.rs", text), 0);
    }

    #[test]
    fn membership_and_assignment_see_neither_clock_nor_socket_nor_chance() {
        for text in [
            "let now = Instant::now();",
            "let now = std::time::SystemTime::now();",
            "use std::net::UdpSocket;",
            "use std::net::{IpAddr, UdpSocket};",
            "tokio::spawn(run());",
            "let x = rand::rng();",
        ] {
            assert_eq!(broken("vipfarm/src/membership/machine.rs", text), 1, "{text}");
            assert_eq!(broken("vipfarm/src/assign.rs", text), 1, "{text}");
            assert_eq!(broken("vipfarm/src/agent/mod.rs", text), 0, "{text}");
        }
        assert_eq!(broken("vipfarm/src/membership/machine.rs", "let operand = random(seed);"), 0);
    }

    #[test]
    fn comments_and_strings_may_say_anything() {
        let text = "/// Not aya, not tokio.\nconst A: &str = \"aya #[allow(x)] rtnetlink\";\n";
        assert_eq!(broken("vipfarm/src/membership/mod.rs", text), 0);
    }

    #[test]
    fn allow_is_refused_and_expect_is_not() {
        for text in [
            "#[allow(dead_code)]",
            "    #![allow(clippy::all, reason = \"..\")]",
            "#[cfg_attr(test, allow(unused))]",
        ] {
            assert_eq!(broken("vipfarm/src/lib.rs", text), 1, "{text}");
        }
        for text in ["#[expect(dead_code, reason = \"later\")]", "limits.allow(name);"] {
            assert_eq!(broken("vipfarm/src/lib.rs", text), 0, "{text}");
        }
    }

    #[test]
    fn an_ignored_test_says_why() {
        assert_eq!(broken("tests/tests/soak.rs", "#[ignore]\n"), 1);
        assert_eq!(broken("tests/tests/soak.rs", "#[ignore = \"takes a day\"]\n"), 0);
    }

    #[test]
    fn a_long_file_is_named_but_its_tests_do_not_count() {
        let long = "let a = 1;\n".repeat(LONGEST_FILE + 1);
        assert_eq!(broken("vipfarm/src/lib.rs", &long), 1);
        let tests = "let a = 1;\n".repeat(LONGEST_FILE);
        let text = format!("fn a() {{}}\n#[cfg(test)]\nmod tests {{\n{tests}}}\n");
        assert_eq!(broken("vipfarm/src/lib.rs", &text), 0);
    }

    #[test]
    fn a_finding_says_file_and_line() {
        let findings = check("vipfarm/src/plan.rs", "\n\nuse aya::Ebpf;\n");
        assert_eq!(findings[0].place, "vipfarm/src/plan.rs:3");
    }

    #[test]
    fn a_rule_about_a_place_that_is_gone_is_a_finding_itself() {
        let nowhere = Path::new("/no/such/workspace");
        let findings = about_places(nowhere);
        assert!(findings.iter().any(|f| f.what.contains("vipfarm/src/datapath/")), "{findings:?}");
        assert!(findings.iter().any(|f| f.what.contains("membership")), "{findings:?}");
    }

    fn broken(path: &str, text: &str) -> usize {
        check(path, text).len()
    }
}
