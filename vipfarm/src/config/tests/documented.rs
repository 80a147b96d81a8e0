//! `docs/configuration.md` has every key that the parser knows, and its examples load.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::*;

thread_local! {
    /// Of the mappings read on this thread, the keys that they may have.
    static KNOWN: RefCell<BTreeMap<&'static str, BTreeSet<String>>> = RefCell::default();
}

/// Told of every mapping that is read.
pub(in crate::config) fn note(what: &'static str, known: &[&str]) {
    KNOWN.with_borrow_mut(|all| {
        all.entry(what).or_default().extend(known.iter().map(|&key| key.to_owned()));
    });
}

/// The keys in the table of each section, by its heading.
fn documented(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let sections = page.split("\n## ").skip(1).map(|section| {
        let (heading, text) = section.split_once('\n').expect("a heading ends its line");
        let keys = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        (heading.to_lowercase(), keys.map(str::to_owned).collect())
    });
    // The last one is about limits.
    sections.filter(|(_, keys): &(_, BTreeSet<_>)| !keys.is_empty()).collect()
}

#[test]
fn the_page_about_the_file_has_the_keys_that_there_are_and_examples_that_load() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let page = fs::read_to_string(page).expect("it is there");
    let examples = page.split("```yaml\n").skip(1);
    for example in examples {
        let (example, _) = example.split_once("```").expect("it ends");
        parse_text(example).unwrap_or_else(|error| panic!("{error}\n{example}"));
    }
    let known = KNOWN.take().into_iter().map(|(what, keys)| (what.to_lowercase(), keys));
    let known: BTreeMap<_, _> = known.collect();
    assert_eq!(documented(&page), known, "left: the page, right: the parser");
}
