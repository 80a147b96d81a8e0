//! The table of what another product's attributes became: that its tests exist, and that each row has one.

use std::collections::BTreeSet;

use super::{rules::Finding, traps};

/// Relative to the workspace.
pub(crate) const TABLE: &str = "docs/parity.md";

/// Compares the table with the functions of all sources.
pub(crate) fn check(table: &str, functions: &BTreeSet<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, text) in table.lines().enumerate().filter(|(_, text)| text.starts_with("| `")) {
        let tests = traps::tests_in(text.split('|').nth(3).unwrap_or_default());
        let missing = tests.iter().filter(|test| !functions.contains(**test));
        let missing = missing.map(|test| format!("there is no test `{test}`"));
        let none = tests.is_empty().then(|| "this row has no test".to_owned());
        findings.extend(missing.chain(none).map(|what| {
            let place = format!("{TABLE}:{}", line + 1);
            Finding { place, what }
        }));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_has_tests_that_exist() {
        let functions = BTreeSet::from(["a_name_is_looked_up".to_owned()]);
        let found = |row: &str| check(row, &functions).into_iter().map(|it| it.what).collect();
        let found = |row: &str| -> Vec<String> { found(row) };
        assert_eq!(found("| `<a b>` | `c` | `a_name_is_looked_up` | |"), [""; 0]);
        assert_eq!(found("| `<a b>` | `c_d_e_f` | | |"), ["this row has no test"]);
        assert_eq!(
            found("| `<a b>` | `c` | `a_name_is_not_looked_up` | |"),
            ["there is no test `a_name_is_not_looked_up`"]
        );
    }
}
