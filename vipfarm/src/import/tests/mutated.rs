//! Whatever stands in a source, it becomes a farm's file that can be read, or a list of problems.

use proptest::prelude::*;

use super::*;

const XML: &[&str] = &[
    "",
    "<",
    ">",
    "/>",
    "</",
    "\"",
    "'",
    "=",
    "&#10;",
    "&amp;",
    "&x;",
    "%VIP%",
    "%",
    "<!--",
    "<vip>",
    "</vip>",
    "<rule proto=\"arp\" filter=\"on_addr\"/>",
    "on_ipid",
    "FILL-IN",
    "null",
    "*",
    "::",
    "0",
    "65536",
    "\u{0}",
    "\u{85}",
    "\u{2028}",
    "\u{feff}",
    "\u{1f511}",
    "#| ",
    ": ",
    "\n",
];
const CONF: &[&str] = &[
    "",
    "{",
    "}",
    "\n",
    "\"",
    "\\",
    "!",
    "#",
    "$A=b",
    "@x ",
    "include ",
    "virtual_ipaddress {",
    "unicast_peer {",
    "dev",
    "/",
    "/33",
    "::",
    "vrrp_instance",
    "null",
    "\u{0}",
    "\u{85}",
    "\u{2028}",
    "\u{1f511}",
    "#| ",
    ": ",
    "\r",
];

type Edits = Vec<(prop::sample::Index, usize, &'static str)>;

fn edits(fragments: &'static [&'static str]) -> impl Strategy<Value = Edits> {
    let edit = (any::<prop::sample::Index>(), 0..12_usize, prop::sample::select(fragments));
    prop::collection::vec(edit, 1..6)
}

fn mutated(text: &str, edits: Edits) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (place, removed, fragment) in edits {
        let start = place.index(chars.len() + 1);
        let end = (start + removed).min(chars.len());
        chars.splice(start..end, fragment.chars());
    }
    chars.into_iter().collect()
}

proptest! {
    #[test]
    fn a_mutated_module(edits in edits(XML), prefix in prop::option::of(1..=32_u8)) {
        check(from_safekit(&mutated(MODULE, edits), Some(CLUSTER), prefix))?;
    }

    #[test]
    fn a_mutated_cluster(edits in edits(XML)) {
        check(from_safekit(FARM, Some(&mutated(CLUSTER, edits)), Some(24)))?;
    }

    #[test]
    fn a_mutated_keepalived_file(edits in edits(CONF), prefix in prop::option::of(1..=32_u8)) {
        check(from_keepalived(&mutated(UNICAST, edits), prefix))?;
    }

    #[test]
    fn a_file_cut_short(cut in any::<prop::sample::Index>()) {
        check(from_safekit(&MODULE[..cut.index(MODULE.len())], None, None))?;
        check(from_safekit(FARM, Some(&CLUSTER[..cut.index(CLUSTER.len())]), None))?;
        check(from_keepalived(&UNICAST[..cut.index(UNICAST.len())], None))?;
    }

    #[test]
    fn any_text(text in "(?s).{0,200}") {
        check(from_safekit(&text, Some(&text), None))?;
        check(from_keepalived(&text, None))?;
    }
}

fn check(imported: Result<Imported, Diagnostics>) -> Result<(), TestCaseError> {
    let imported = match imported {
        Ok(imported) => imported,
        Err(problems) => {
            prop_assert!(
                problems.iter().all(|it| it.line > 0 && !it.help.is_empty()),
                "{problems}"
            );
            return Ok(());
        }
    };
    let yaml = &imported.yaml;
    let Err(problems) = config::parse_with("farm.yaml", yaml, &no_names) else { return Ok(()) };
    let text = problems.to_string();
    for structural in ["not valid YAML", "is not a key of", "again, first on", "this alias"] {
        prop_assert!(!text.contains(structural), "{text}\n{yaml}");
    }
    Ok(())
}
