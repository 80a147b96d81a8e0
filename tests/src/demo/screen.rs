//! How the demo looks: colours and a moving line on a terminal, plain lines elsewhere.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use owo_colors::{AnsiColors, OwoColorize, Style};

use super::verdict::{Check, Share, Verdict};

const BAR_CELLS: usize = 32;

/// A colour for each node.
const NODE_COLOURS: [AnsiColors; 3] = [AnsiColors::Green, AnsiColors::Yellow, AnsiColors::Blue];

/// Standard output.
#[derive(Debug)]
pub(super) struct Screen {
    /// Whether escape codes are welcome: a terminal, and no `NO_COLOR`.
    live: bool,
}

impl Screen {
    /// Looks at what standard output is.
    pub(super) fn new() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { live: io::stdout().is_terminal() && !set("NO_COLOR") && !dumb }
    }

    /// Whether colours are shown.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// The first lines.
    pub(super) fn title(&self, title: &str, lines: &[String]) {
        self.line(&self.paint(title, Style::new().bold()));
        for line in lines {
            self.note(line);
        }
    }

    /// The head of a chapter.
    pub(super) fn chapter(&self, title: &str) {
        self.line("");
        self.line(&self.paint(title, Style::new().bold()));
    }

    /// A line below a chapter's head.
    pub(super) fn note(&self, text: &str) {
        self.line(&format!("  {text}"));
    }

    /// A text of several lines as it is.
    pub(super) fn block(&self, text: &str) {
        for line in text.lines() {
            self.note(line);
        }
    }

    /// A check and how it went.
    pub(super) fn check(&self, check: &Check) {
        self.note(&format!("{}  {}", self.mark(check.held), check.text));
    }

    /// One node's share as a bar, with a mark where it should end.
    pub(super) fn share(&self, index: usize, node: &str, share: Share, requests: usize) {
        let colour = Style::new().color(NODE_COLOURS[index % NODE_COLOURS.len()]);
        let bar = self.paint(&bar(share.actual), colour);
        let (actual, expected) = (share.actual * 100.0, share.expected * 100.0);
        self.note(&format!(
            "{node}  {bar}  {actual:4.1} % of the connections ({requests}), {expected:4.1} % by power"
        ));
    }

    /// Shows, on a terminal, what goes on now; the next line takes its place.
    pub(super) fn progress(&self, passed: Duration, whole: Duration, text: &str) {
        if !self.live {
            return;
        }
        let share = (passed.as_secs_f64() / whole.as_secs_f64()).min(1.0);
        let bar = bar(share).dimmed().to_string();
        let seconds = passed.as_secs_f64();
        write(&format!("\r\x1b[2K  {bar}  {seconds:4.1} s  {text}"));
    }

    /// How it all went.
    pub(super) fn summary(&self, verdict: &Verdict) {
        self.chapter("Summary");
        let report = verdict.report();
        self.note(&format!(
            "{} connections: {} failed outside a lost node's share, {} answered twice",
            report.requests, report.failed, report.duplicate_answers
        ));
        for event in &report.events {
            let name = event.name.replace('_', " ");
            self.note(&format!(
                "{name}: outage {:.0} ms, {} failures among the others",
                event.outage_ms, event.survivor_failures
            ));
        }
        let failures: Vec<_> = verdict.failures().collect();
        if verdict.ok() {
            self.note(&format!("{}  all {} checks held", self.mark(true), verdict.count()));
        } else {
            self.note(&format!("{} of {} checks did not hold:", failures.len(), verdict.count()));
            for check in failures {
                self.check(check);
            }
        }
    }

    /// The ends of the agents' logs.
    pub(super) fn agents_last_words(&self, agents: &[(String, Vec<String>)]) {
        for (node, lines) in agents {
            self.chapter(&format!("Last lines of {node}'s agent"));
            for line in lines {
                self.note(line);
            }
        }
    }

    /// An error of the demo itself.
    pub(super) fn error(&self, text: &str) {
        self.line("");
        eprintln!("error: {text}");
    }

    fn mark(&self, held: bool) -> String {
        if held {
            self.paint("ok    ", Style::new().green())
        } else {
            self.paint("FAILED", Style::new().red().bold())
        }
    }

    fn paint(&self, text: &str, style: Style) -> String {
        if self.live { text.style(style).to_string() } else { text.to_owned() }
    }

    fn line(&self, text: &str) {
        let clear = if self.live { "\r\x1b[2K" } else { "" };
        write(&format!("{clear}{text}\n"));
    }
}

/// Whoever reads may go away (`demo | head`): the demo goes on, to clean up.
fn write(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share between 0 and 1 of a few cells"
)]
fn bar(share: f64) -> String {
    let full = (share.clamp(0.0, 1.0) * BAR_CELLS as f64).round() as usize;
    "█".repeat(full) + &"░".repeat(BAR_CELLS - full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_full_as_the_share_and_always_as_long() {
        for (share, full) in [(0.0, 0), (0.25, 8), (0.5, 16), (1.0, 32), (1.5, 32), (-1.0, 0)] {
            let bar = bar(share);
            assert_eq!(bar.chars().filter(|&cell| cell == '█').count(), full, "{share}");
            assert_eq!(bar.chars().count(), BAR_CELLS);
        }
    }
}
