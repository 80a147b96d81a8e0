//! What all verbs print with: colour only where it is welcome, tables, lists, human numbers.

use std::{
    io::{self, Write},
    time::Duration,
};

use anstream::{AutoStream, ColorChoice};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use owo_colors::{OwoColorize, Style};
use serde::Serialize;

use crate::{config::Diagnostics, status::ChangedPower};

/// Columns that every terminal has.
pub(super) const WIDTH: usize = 80;

/// Whether to paint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// With ANSI colours.
    Colour,
    /// Text alone, for logs and pipes.
    Plain,
}

impl Ink {
    /// What standard output can show and the operator wants (`NO_COLOR`, `CLICOLOR_FORCE`).
    pub(super) fn of_stdout() -> Self {
        match AutoStream::choice(&io::stdout()) {
            ColorChoice::Never => Self::Plain,
            _ => Self::Colour,
        }
    }

    /// The text in that style.
    pub(super) fn paint(self, text: &str, style: Style) -> String {
        // Nothing to paint: escape codes around it would only be noise.
        if self == Self::Plain || style.is_plain() {
            return text.to_owned();
        }
        text.style(style).to_string()
    }
}

/// Writes to standard output; a reader that went away is an error the exit code forgives.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes one line of JSON.
pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    Ok(print(&line)?)
}

/// The mark behind a power that is another than the file's.
pub(super) fn mark(changed: Option<&ChangedPower>) -> String {
    changed.map_or_else(String::new, |changed| format!("  ({changed})"))
}

/// Tells the error on standard error.
pub(super) fn complain(error: &anyhow::Error) {
    let text = match error.downcast_ref::<Diagnostics>() {
        // Each already says its place and that it is an error.
        Some(diagnostics) => {
            format!("{diagnostics}\n{}\n", count(diagnostics.iter().count(), "error", "errors"))
        }
        None => format!("{}: {error:#}\n", "error".style(Style::new().red().bold())),
    };
    // With standard error gone there is nobody left to tell.
    let _ = anstream::stderr().write_all(text.as_bytes());
}

/// Says on standard error what is going on.
pub(super) fn hint(text: &str) {
    let _ = anstream::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Writes over the line of standard error, which is a terminal.
pub(super) fn replace_line(text: &str) {
    // One that wraps could not be written over.
    let text: String = text.chars().take(WIDTH - 1).collect();
    let _ = anstream::stderr().write_all(format!("\r\x1b[K{text}").as_bytes());
}

/// The number with the right word.
pub(super) fn count(count: impl TryInto<u64>, one: &str, several: &str) -> String {
    let count = count.try_into().unwrap_or(u64::MAX);
    format!("{count} {}", if count == 1 { one } else { several })
}

/// One row of a table, and how to paint it.
#[derive(Debug)]
pub(super) struct Row {
    cells: Vec<String>,
    style: Style,
}

impl Row {
    pub(super) fn new<const N: usize>(style: Style, cells: [String; N]) -> Self {
        Self { cells: cells.into(), style }
    }
}

/// A table without borders, each line ended. `right` are the columns of numbers; a cell may have
/// several lines.
pub(super) fn table(ink: Ink, header: &[&str], right: &[usize], rows: &[Row]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header)
        .add_rows(rows.iter().map(|row| &row.cells));
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    // The table cannot measure painted cells, so lines are painted once it is laid out.
    let header_style = std::iter::once(Style::new().dimmed());
    let row_styles = rows.iter().flat_map(|row| {
        let height = row.cells.iter().map(|cell| cell.lines().count()).max().unwrap_or(0).max(1);
        std::iter::repeat_n(row.style, height)
    });
    lines(
        table
            .lines()
            .zip(header_style.chain(row_styles))
            .map(|(line, style)| ink.paint(line.trim_end(), style)),
    )
}

/// The lines as text, each ended.
pub(super) fn lines(lines: impl IntoIterator<Item = String>) -> String {
    let mut text = String::new();
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// `label` followed by the words, broken before [`WIDTH`] with the label's indentation.
pub(super) fn wrapped<'a>(label: &str, words: impl IntoIterator<Item = &'a str>) -> String {
    let indent = " ".repeat(label.chars().count());
    let mut text = String::new();
    let mut line = label.to_owned();
    for word in words {
        if line.chars().count() + 1 + word.chars().count() > WIDTH && line.trim() != label.trim() {
            text.push_str(&line);
            text.push('\n');
            line.clone_from(&indent);
        }
        line.push(' ');
        line.push_str(word);
    }
    text + &line + "\n"
}

/// The word by which files and JSON call a variant of one of the model's enums.
pub(super) fn word(variant: &impl Serialize) -> String {
    match serde_json::to_value(variant) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(error) => error.to_string(),
    }
}

/// A span of time with two significant units at most: `12 ms`, `3.4 s`, `5 min`, `3 h 12 min`.
pub(super) fn human_ms(ms: f64) -> String {
    if ms < 999.5 {
        return format!("{ms:.0} ms");
    }
    let seconds = ms / 1000.0;
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    // Goes on where the tenths above round up: 59.95 s reads `1 min`.
    let minutes = Duration::try_from_secs_f64(seconds + 0.05).unwrap_or_default().as_secs() / 60;
    match (minutes / 60, minutes % 60) {
        (0, minutes) => format!("{minutes} min"),
        (hours, minutes) if hours < 24 => format!("{hours} h {minutes} min"),
        (hours, _) => format!("{} d {} h", hours / 24, hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spans_read_well_at_every_size() {
        for (ms, text) in [
            (0.0, "0 ms"),
            (12.4, "12 ms"),
            (999.4, "999 ms"),
            (999.6, "1.0 s"),
            (59_900.0, "59.9 s"),
            (59_960.0, "1 min"),
            (60_000.0, "1 min"),
            (11_520_000.0, "3 h 12 min"),
            (90_000_000.0, "1 d 1 h"),
        ] {
            assert_eq!(human_ms(ms), text, "{ms}");
        }
    }

    #[test]
    fn long_lists_break_before_the_edge() {
        let names: Vec<String> = (0..20).map(|index| format!("a-long-node-name-{index}")).collect();
        let text = wrapped("farm membership:", names.iter().map(String::as_str));
        assert!(text.lines().count() > 1);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert_eq!(text.split_whitespace().count(), 22);
    }

    #[test]
    fn a_painted_row_of_several_lines_is_painted_on_each() {
        let rows = [
            Row::new(Style::new().red(), ["a\nb".into(), "1".into()]),
            Row::new(Style::new(), ["c".into(), "22".into()]),
        ];
        let text = table(Ink::Colour, &["X", "N"], &[1], &rows);
        let painted: Vec<bool> = text.lines().map(|line| line.contains("\x1b[31m")).collect();
        assert_eq!(painted, [false, true, true, false]);
        assert_eq!(table(Ink::Plain, &["X", "N"], &[1], &rows), "X   N\na   1\nb\nc  22\n");
    }
}
