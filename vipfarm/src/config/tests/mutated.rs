//! Whatever stands in a file, it is a farm or a list of problems.

use proptest::prelude::*;

use super::*;

const FRAGMENTS: &[&str] = &[
    "",
    "\n",
    " ",
    "  ",
    "\t",
    ":",
    ": ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "\"",
    "'",
    "#",
    "&a ",
    "*a",
    "<<: ",
    "|",
    ">",
    "!",
    "!!int ",
    "%",
    "---\n",
    "...",
    "? ",
    "~",
    "null",
    "0",
    "-1",
    "65536",
    "1e999",
    ".nan",
    "true",
    "*",
    "/0",
    "/33",
    "255.255.255.255",
    "::",
    "fe80::1/64",
    "\u{feff}",
    "\0",
    "\u{1f511}",
    "arp",
    "on_ipid",
    "failover",
    "fail: 1s",
    "port",
    "groups:",
];

proptest! {
    #[test]
    fn a_mutated_file_never_panics_and_its_problems_lie_inside(
        edits in prop::collection::vec(
            (any::<prop::sample::Index>(), 0..12_usize, prop::sample::select(FRAGMENTS)),
            1..6,
        ),
    ) {
        let mut chars: Vec<char> = BASE.chars().collect();
        for (place, removed, fragment) in edits {
            let start = place.index(chars.len() + 1);
            let end = (start + removed).min(chars.len());
            chars.splice(start..end, fragment.chars());
        }
        check(&chars.into_iter().collect::<String>())?;
    }

    #[test]
    fn lines_in_any_order_never_panic(order in Just(BASE.lines().collect::<Vec<_>>()).prop_shuffle()) {
        check(&order.join("\n"))?;
    }

    #[test]
    fn any_text_never_panics(text in "(?s).{0,200}") {
        check(&text)?;
    }
}

fn check(text: &str) -> Result<(), TestCaseError> {
    let Err(problems) = parse_text(text) else { return Ok(()) };
    let places: Vec<_> = problems.iter().map(|p| (p.line, p.column)).collect();
    prop_assert!(!places.is_empty());
    prop_assert!(places.is_sorted());
    let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count() + 1;
    prop_assert!(places.iter().all(|&(line, _)| line as usize <= lines), "{problems}");
    for problem in &problems {
        prop_assert!(!problem.message.is_empty() && !problem.help.is_empty());
    }
    Ok(())
}
