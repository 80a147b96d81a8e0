//! The figures for people.

use std::fmt::Write as _;

use super::{
    figures::{BarrierFigures, EventFigures, Figures, FloatingFigures, KeepalivedFigures},
    processors,
};

/// All of them, as lines.
pub(super) fn text(figures: &Figures) -> String {
    let mut out = String::new();
    if !figures.events.is_empty() {
        events(&mut out, &figures.events);
    }
    if !figures.barriers.is_empty() {
        barriers(&mut out, &figures.barriers);
    }
    if !figures.floating.is_empty() {
        floating(&mut out, &figures.floating);
    }
    if !figures.keepalived.is_empty() {
        keepalived(&mut out, &figures.keepalived);
    }
    if let Some(soak) = &figures.soak {
        line(&mut out, &format!("\nunder full load: {soak}  {}", verdict(&soak.faults())));
    }
    if !figures.not_measured.is_empty() {
        line(&mut out, &format!("\nnot measured: {}", figures.not_measured.len()));
        for what in &figures.not_measured {
            line(&mut out, &format!("  {what}"));
        }
    }
    if let Some(load) = figures.load_average {
        let processors = processors();
        line(&mut out, &format!("\nload before: {load:.2} on {processors} processors"));
    }
    out
}

fn events(out: &mut String, events: &[EventFigures]) {
    line(
        out,
        "outage of the clients concerned, ms      median     max   limit    lost   a run  survivors'   twice",
    );
    // Lost in all runs together, and in the median one.
    for event in events {
        let EventFigures {
            name, profile, nodes, moved_lost, survivor_lost, double_answers, ..
        } = event;
        let (median, max) = (figure(event.median_ms), figure(event.max_ms));
        let limit = figure(event.limit_ms);
        let verdict = verdict(&event.faults());
        line(
            out,
            &format!(
                "{profile:9} {nodes} nodes  {name:14} {runs:>3} x {median:>9} {max:>7} {limit:>7} \
                 {moved_lost:>7} {a_run:>7} {survivor_lost:>11} {double_answers:>7}  {verdict}",
                runs = event.runs,
                a_run = figure(event.moved_lost_median),
            ),
        );
    }
}

fn barriers(out: &mut String, barriers: &[BarrierFigures]) {
    line(out, "\nfirst release to last acquisition, ms    median     max   limit");
    for barrier in barriers {
        let BarrierFigures { nodes, changes, way, .. } = barrier;
        let text = |ms: Option<f64>| ms.map_or("-".into(), |ms| format!("{ms:.2}"));
        let (median, max) = (text(barrier.median), text(barrier.max));
        let limit = figure(barrier.limit_ms());
        let verdict = verdict(&barrier.faults());
        line(
            out,
            &format!(
                "{nodes} nodes, by {way:18} {changes:>4} x {median:>9} {max:>7} {limit:>7}  {verdict}"
            ),
        );
    }
}

fn floating(out: &mut String, rows: &[FloatingFigures]) {
    line(
        out,
        "\na failover VIP, ms                        median     max   twice  holders   limit",
    );
    for row in rows {
        let FloatingFigures { profile, event, double_answers, holders, runs, .. } = row;
        let (median, max) = (figure(row.median_ms), figure(row.max_ms));
        let (limit, verdict) = (figure(row.limit_ms), verdict(&row.faults()));
        line(
            out,
            &format!(
                "{profile:11} {event:15} {runs:>6} x {median:>9} {max:>7} \
                 {double_answers:>7} {holders:>8} {limit:>7}  {verdict}"
            ),
        );
    }
}

fn keepalived(out: &mut String, rows: &[KeepalivedFigures]) {
    line(out, "\nkeepalived, the same probes, ms          median     max   twice  holders");
    for row in rows {
        let KeepalivedFigures { advert_s, event, double_answers, holders, runs, .. } = row;
        let (median, max) = (figure(row.median_ms), figure(row.max_ms));
        line(
            out,
            &format!(
                "every {advert_s:4} s, {event:15} {runs:>6} x {median:>9} {max:>7} \
                 {double_answers:>7} {holders:>8}"
            ),
        );
    }
}

fn verdict(faults: &[&str]) -> String {
    if faults.is_empty() { "ok".to_owned() } else { faults.join(", ") }
}

fn figure(ms: Option<f64>) -> String {
    ms.map_or("-".to_owned(), |ms| format!("{ms:.1}"))
}

fn line(out: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::failover::{events::Event, figures::Sample};

    #[test]
    fn a_row_says_ok_or_what_is_wrong_and_what_is_missing_is_counted() {
        let sample =
            Sample { outage_ms: 311.44, moved_lost: 3, survivor_lost: 0, double_answers: 0 };
        let row = |event, profile| EventFigures::of(event, profile, 3, 1, &[sample]);
        let figures = Figures {
            events: vec![row(Event::SilentDeath, "balanced"), row(Event::Kill9, "fast")],
            not_measured: vec!["drain: no such verb".into()],
            ..Figures::default()
        };
        let text = text(&figures);
        let with = |word: &str| text.lines().find(|line| line.contains(word)).unwrap_or_default();
        assert!(with("silent_death").ends_with("TOO SLOW"), "{text}");
        assert!(with("silent_death").contains(" 311.4 "), "{text}");
        assert!(with("kill_9").ends_with(" ok"), "{text}");
        assert!(with("kill_9").contains("  3     3.0  "), "lost in all runs and in one: {text}");
        assert!(text.contains("not measured: 1\n  drain: no such verb\n"), "{text}");
    }
}
