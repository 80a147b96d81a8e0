//! The table of traps: that its tests exist, and that tests of a trap are in it.

use std::collections::{BTreeMap, BTreeSet};

use super::rules::Finding;

/// Relative to the workspace.
pub(crate) const TABLE: &str = "docs/traps.md";

/// They are numbered from 1.
const TRAPS: u32 = 35;

/// Compares the table with the functions of all sources.
pub(crate) fn check(table: &str, functions: &BTreeSet<String>) -> Vec<Finding> {
    let mut rows: BTreeMap<u32, BTreeSet<&str>> = BTreeMap::new();
    let mut findings = Vec::new();
    let mut found = |line: Option<usize>, what: String| {
        let place = line.map_or(TABLE.to_owned(), |line| format!("{TABLE}:{}", line + 1));
        findings.push(Finding { place, what });
    };
    for (line, text) in table.lines().enumerate() {
        let Some((number, tests)) = row(text) else { continue };
        for test in tests.iter().filter(|test| !functions.contains(**test)) {
            found(Some(line), format!("there is no test `{test}`"));
        }
        if rows.insert(number, tests).is_some() {
            found(Some(line), format!("T{number} has a row already"));
        }
    }
    for number in (1..=TRAPS).filter(|number| !rows.contains_key(number)) {
        found(None, format!("T{number} has no row"));
    }
    for test in functions {
        for number in traps_of(test) {
            if !rows.get(&number).is_some_and(|tests| tests.contains(test.as_str())) {
                found(None, format!("`{test}` is not in the row of T{number}"));
            }
        }
    }
    findings
}

/// The names behind `fn` in code without comments and literals.
pub(crate) fn functions(code: &str) -> impl Iterator<Item = String> {
    let names = code.match_indices("fn ").filter(|&(at, _)| !code[..at].ends_with(is_name));
    names.map(|(at, keyword)| {
        code[at + keyword.len()..].chars().take_while(|&c| is_name(c)).collect()
    })
}

/// A trap's number, and the tests in its third cell: words of the configuration and reasons are
/// shorter.
fn row(line: &str) -> Option<(u32, BTreeSet<&str>)> {
    let mut cells = line.strip_prefix("| T")?.split('|');
    let number = cells.next()?.trim().parse().ok()?;
    Some((number, tests_in(cells.nth(1)?)))
}

/// What is in backticks in a cell and looks like a test's name.
pub(crate) fn tests_in(cell: &str) -> BTreeSet<&str> {
    let quoted = cell.split('`').skip(1).step_by(2);
    quoted.filter(|word| word.matches('_').count() > 2).collect()
}

/// The numbers that a test's name begins with: 1 and 2 of `t1_t2_nobody_learns_it`.
fn traps_of(test: &str) -> impl Iterator<Item = u32> {
    test.split('_').map_while(|word| word.strip_prefix('t')?.parse().ok())
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(row_of_2: &str) -> String {
        let row = |number| match number {
            2 => row_of_2.to_owned(),
            _ => format!("| T{number} | a trap | | |"),
        };
        (1..=TRAPS).map(row).collect::<Vec<_>>().join("\n")
    }

    fn findings(table: &str, code: &str) -> Vec<String> {
        let functions = functions(code).collect();
        check(table, &functions).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn a_test_in_the_table_must_exist_and_one_of_a_trap_must_be_in_its_row() {
        let good = table("| T2 | learnt | `t2_it_is_not_learnt`; golden: `not_mine` | |");
        let code = "#[test]\nfn t2_it_is_not_learnt() {}\nfn trap_less() {}";
        assert_eq!(findings(&good, code), [""; 0]);
        assert_eq!(
            findings(&good, "fn t2_it_is_not_learned() {}"),
            [
                "there is no test `t2_it_is_not_learnt`",
                "`t2_it_is_not_learned` is not in the row of T2"
            ]
        );
        let two = "fn t2_it_is_not_learnt() {}\nfn t2_t3_nor_told() {}";
        let missing = [
            "`t2_t3_nor_told` is not in the row of T2",
            "`t2_t3_nor_told` is not in the row of T3",
        ];
        assert_eq!(findings(&good, two), missing);
    }

    #[test]
    fn every_trap_has_one_row() {
        assert_eq!(
            findings(&table("| T1 | once more | | |"), ""),
            ["T1 has a row already", "T2 has no row"]
        );
    }
}
