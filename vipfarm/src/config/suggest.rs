//! "Did you mean": the nearest of the words that would have been right.

/// Help for an unknown word: the nearest known one, or all of them.
pub(super) fn help(word: &str, known: &[&str]) -> String {
    match nearest(word, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("write one of: {}", known.join(", ")),
    }
}

/// The known word that is near enough for `word` to be a mistyped one.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase();
    known
        .iter()
        .map(|&candidate| (distance(&word, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= tolerance(candidate))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Typing errors that leave a word recognisable: two, more in a long word, one in a short one.
fn tolerance(word: &str) -> usize {
    if word.len() < 4 { 1 } else { (word.len() / 3).max(2) }
}

/// Levenshtein distance, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.chars().enumerate() {
            let substituted = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_offered_when_it_is_near() {
        let known = ["interface", "mode", "vmac"];
        assert_eq!(help("intreface", &known), "did you mean `interface`?");
        assert_eq!(help("Mode", &known), "did you mean `mode`?");
        assert_eq!(help("mdoe", &known), "did you mean `mode`?");
        assert_eq!(help("colour", &known), "write one of: interface, mode, vmac");
    }
}
