//! The checks of a file, as `vipfarm check` shows them.

use std::time::Duration;

use owo_colors::Style;
use serde::Serialize;

use super::millis;
use crate::{
    commands::screen::{self, Ink, Row},
    config,
    model::{About, Check, Effect, Farm},
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
    farm.all_checks().map(|(about, check)| Summary::of(&about, check)).collect()
}

impl Summary {
    fn of(about: &About, check: &Check) -> Self {
        let Check { probe, interval, timeout, rise, fall, effect } = check;
        Self {
            about: about.to_string(),
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
