//! Just enough of Rust's lexical structure to tell code from comments and text.

/// The source with every comment, string and character literal blanked: same lines, same columns.
pub(crate) fn code_only(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = skip_length(rest);
        if length == 0 {
            // A whole word at once, so that the `r` of `for"` is not taken for a raw string's.
            let word = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
            let taken = word.max(first.len_utf8());
            code.push_str(&rest[..taken]);
            rest = &rest[taken..];
        } else {
            // Byte for byte, so that columns stay.
            code.extend(rest[..length].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    code
}

/// The number of lines that are not blank and belong to no `#[cfg(test)] mod`, which the house
/// keeps at the end of a file.
pub(crate) fn lines_without_tests(source: &str) -> usize {
    let lines: Vec<_> = source.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        pair[0].trim() == "#[cfg(test)]" && pair[1].trim_start().starts_with("mod ")
    });
    let end = tests.unwrap_or(lines.len());
    lines[..end].iter().filter(|line| !line.trim().is_empty()).count()
}

/// The bytes of the comment or literal at the very start of `rest`; 0 when code is there.
fn skip_length(rest: &str) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    let prefix = rest.find(|c| !"bcr".contains(c)).unwrap_or(0);
    let after = &rest[prefix..];
    if rest[..prefix].ends_with('r') {
        let hashes = after.len() - after.trim_start_matches('#').len();
        if after[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = prefix + hashes + 1;
            return rest[body..].find(&end).map_or(rest.len(), |at| body + at + end.len());
        }
        return 0;
    }
    if after.starts_with('"') {
        return prefix + quoted(after, '"');
    }
    if after.starts_with('\'') {
        char_literal(after).map_or(0, |length| prefix + length)
    } else {
        0
    }
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The length of the literal that starts and ends with `quote`.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// The length of a character literal; `None` for a lifetime.
fn char_literal(rest: &str) -> Option<usize> {
    let mut chars = rest.chars().skip(1);
    let first = chars.next()?;
    (first == '\\' || chars.next() == Some('\'')).then(|| quoted(rest, '\''))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_code_stays_in_its_place() {
        for source in [
            "keep(); // gone",
            "/* gone /* gone */ gone */ keep",
            "keep(\"gone \\\" gone\", keep)",
            "keep(r#\"gone \"gone\" gone\"#)",
            "keep(b\"gone\", br\"gone\", c\"gone\") keep",
            "if c == '\\'' { keep } else if c == '\"' { keep } // gone",
            "keep\n/* gone\ngone */\n\"gone\ngone\"\nkeep",
            "\"gôn gone\"; keep /* gone",
        ] {
            let code = code_only(source);
            assert!(!code.contains("gone"), "{code}");
            assert_eq!(code.matches("keep").count(), source.matches("keep").count(), "{code}");
            for (before, after) in source.lines().zip(code.lines()) {
                assert_eq!(before.find("keep"), after.find("keep"), "{code}");
            }
        }
    }

    #[test]
    fn lifetimes_and_raw_names_are_code() {
        for source in ["fn f<'a>(x: &'a str, y: &'a str)", "let r#type = bar(for_r);"] {
            assert_eq!(code_only(source), source);
        }
    }

    #[test]
    fn lines_keep_their_numbers() {
        let code = code_only("a\n/* one\ntwo */\n\"x\ny\"\nb");
        assert_eq!(code.lines().nth(5), Some("b"));
    }

    #[test]
    fn tests_at_the_end_do_not_count_towards_a_files_length() {
        let source = "fn a() {}\n\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n";
        assert_eq!(lines_without_tests(source), 1);
        assert_eq!(lines_without_tests("#[cfg(test)]\nfn only_in_tests() {}\n"), 2);
    }
}
