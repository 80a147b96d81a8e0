//! The checks of a file, as `vipfarm check` shows them.

use std::time::Duration;

use owo_colors::Style;
use serde::Serialize;

use super::millis;
use crate::{
    commands::screen::{self, Ink, Row},
    config,
    model::{Check, Effect, Farm},
};

/// What a node must have to serve something.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    /// What is served only if it passes: `all`, `vip ADDRESS` or `group NAME`.
    about: String,
    /// What is looked at, such as `tcp 127.0.0.1:80`.
    check: String,
    interval_ms: u64,
    timeout_ms: u64,
    rise: u16,
    fall: u16,
    effect: Effect,
}

/// All of a farm's, in the order in which `status` lists them.
pub(super) fn of(farm: &Farm) -> Vec<Summary> {
    let mut summaries = Vec::new();
    let mut add = |about: &str, checks: &[Check]| {
        summaries.extend(checks.iter().map(|check| Summary::of(about, check)));
    };
    add("all", &farm.checks);
    for vip in &farm.vips {
        add(&format!("vip {}", vip.addresses[0].addr), &vip.checks);
        for group in &vip.groups {
            add(&format!("group {}", group.name), &group.checks);
        }
    }
    summaries
}

impl Summary {
    fn of(about: &str, check: &Check) -> Self {
        let Check { probe, interval, timeout, rise, fall, effect } = check;
        Self {
            about: about.into(),
            check: probe.to_string(),
            interval_ms: millis(*interval),
            timeout_ms: millis(*timeout),
            rise: *rise,
            fall: *fall,
            effect: *effect,
        }
    }
}

/// One line for each.
pub(super) fn table(checks: &[Summary], ink: Ink) -> String {
    let time = |ms| config::duration_words(Duration::from_millis(ms));
    let rows: Vec<Row> = checks
        .iter()
        .map(|check| {
            let cells = [
                check.check.clone(),
                check.about.clone(),
                time(check.interval_ms),
                time(check.timeout_ms),
                check.rise.to_string(),
                check.fall.to_string(),
                screen::word(&check.effect),
            ];
            Row::new(Style::new(), cells)
        })
        .collect();
    let header = ["CHECK", "ABOUT", "EVERY", "TIMEOUT", "RISE", "FALL", "EFFECT"];
    screen::table(ink, &header, &[2, 3, 4, 5], &rows)
}
