//! What the README and the pages of `docs/` tell people to type exists, and their files load.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Parser, error::ErrorKind};
use vipfarm::{cli::Cli, config};

/// The README and all pages, with their names.
fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let docs = fs::read_dir(root.join("docs")).expect("there is documentation");
    let docs = docs.map(|entry| entry.expect("readable").path());
    let pages = docs.chain([root.join("README.md"), root.join("packaging/README.md")]);
    let pages = pages.filter(|path| path.extension().is_some_and(|it| it == "md"));
    pages.map(|path| (path.clone(), fs::read_to_string(path).expect("text"))).collect()
}

/// The blocks of a page in that language.
fn blocks<'p>(page: &'p str, language: &str) -> Vec<&'p str> {
    let mut blocks = Vec::new();
    for (at, part) in page.split("```").enumerate() {
        if let Some((tag, text)) = part.split_once('\n')
            && at % 2 == 1
            && tag == language
        {
            blocks.push(text);
        }
    }
    blocks
}

/// The calls of the program that blocks of commands have.
fn typed(page: &str) -> impl Iterator<Item = &str> {
    let blocks = blocks(page, "").into_iter().chain(blocks(page, "sh"));
    let lines = blocks.flat_map(str::lines).filter(|line| line.starts_with("vipfarm "));
    lines.map(|line| line.split(" #").next().unwrap_or_default()).flat_map(|it| it.split("&&"))
}

/// Those that the text has in backticks.
fn mentioned(page: &str) -> impl Iterator<Item = &str> {
    page.split("```").step_by(2).flat_map(|text| text.split('`').skip(1).step_by(2))
}

/// Its words, unless some stand for others.
fn words(call: &str) -> Option<Vec<&str>> {
    let stands_for_others = |word: &&str| {
        let is_capital = |c: char| c.is_ascii_uppercase() || "[]:._-".contains(c);
        word.len() > 1 && word.chars().all(is_capital) || word.contains(['|', '<', '>', '*'])
    };
    let words: Vec<_> = call.split_whitespace().collect();
    let is_call = words.first() == Some(&"vipfarm") && !words.iter().any(stands_for_others);
    is_call.then_some(words)
}

#[test]
fn every_command_that_people_are_told_to_type_exists() {
    let mut count = 0;
    for (path, page) in pages() {
        let parse = |call, may_lack: &[ErrorKind]| {
            let error = Cli::try_parse_from(words(call)?).err();
            let error = error.filter(|it| it.exit_code() != 0 && !may_lack.contains(&it.kind()));
            assert!(error.is_none(), "{}: `{call}`\n{}", path.display(), error.expect("one"));
            Some(())
        };
        count += typed(&page).filter_map(|call| parse(call, &[])).count();
        let less = [
            ErrorKind::MissingRequiredArgument,
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
        ];
        count += mentioned(&page).filter_map(|call| parse(call, &less)).count();
    }
    assert!(count > 60, "only {count} commands were found");
}

/// A part of a file as the page goes on with the one that it has shown: with another section instead of that
/// one's and all behind it, or at its end.
fn continued(shown: &str, part: &str) -> String {
    let section = part.lines().next().filter(|line| !line.starts_with(' '));
    let kept = shown.lines().take_while(|line| Some(*line) != section);
    kept.flat_map(|line| [line, "\n"]).chain([part]).collect()
}

#[test]
fn every_file_that_is_shown_loads_also_if_only_a_part_is() {
    let mut count = 0;
    for (path, page) in pages() {
        let mut shown = String::new();
        for block in blocks(&page, "yaml") {
            let is_whole = block.lines().any(|line| line.starts_with("nodes:"));
            shown = if is_whole { block.to_owned() } else { continued(&shown, block) };
            count += 1;
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("shown-{count}.yaml"));
            fs::write(&file, &shown).expect("writable");
            if let Err(error) = config::load(&file) {
                panic!("{}: {error}\n{shown}", path.display());
            }
        }
    }
    assert!(count > 7, "only {count} files were found");
}
