//! The `membership` key: a profile or four timers, and the port.

use crate::model::{DEFAULT_PORT, Membership, Timers};

use super::diagnostic::{Pos, Report};
use super::duration;
use super::fields::{self, Fields};
use super::yaml::{Kind, Value};

const TIMERS: [&str; 4] = ["period", "suspect", "lease", "fail"];
const PROFILES: [(&str, Timers); 3] =
    [("balanced", Timers::BALANCED), ("fast", Timers::FAST), ("relaxed", Timers::RELAXED)];

/// What a file without the key gets.
pub(super) const DEFAULT: Membership = Membership { timers: Timers::BALANCED, port: DEFAULT_PORT };

/// Reads the key's value; what is wrong is reported and replaced by the default.
pub(super) fn read(value: &Value, report: &mut Report) -> Membership {
    let known = ["profile", "period", "suspect", "lease", "fail", "port"];
    if let Kind::Scalar(word) = &value.kind
        && PROFILES.iter().any(|(profile, _)| profile == word)
    {
        report.error(
            value.at,
            "`membership` is a mapping of keys to values, not a single value",
            format!("write `membership: {{ profile: {word} }}`"),
        );
        return DEFAULT;
    }
    let Some(fields) = Fields::of(value, "`membership`", &known, report) else { return DEFAULT };
    let port = fields
        .get("port")
        .and_then(|port| fields::integer(port, "a port", 1..=u16::MAX, report))
        .unwrap_or(DEFAULT_PORT);
    let explicit = TIMERS.iter().any(|timer| fields.get(timer).is_some());
    let timers = match (fields.get("profile"), explicit) {
        (Some(profile), true) => {
            report.error(
                profile.at,
                "a profile and explicit timers exclude each other: the profile sets all four timers",
                "keep the profile, or period, suspect, lease and fail",
            );
            None
        }
        (Some(profile), false) => {
            fields::choice(profile, "`profile`", &PROFILES, report).map(|timers| timers.value)
        }
        (None, true) => explicit_timers(&fields, report),
        (None, false) => None,
    };
    Membership { timers: timers.unwrap_or(DEFAULT.timers), port }
}

fn explicit_timers(fields: &Fields<'_>, report: &mut Report) -> Option<Timers> {
    let mut read = |key: &'static str, example: &str| {
        let value = fields.require(key, example, report)?;
        let text = fields::text(value, &format!("`{key}`"), "50ms", report)?;
        duration::parse(text).map_err(|problem| problem.report(value.at, "50ms or 1s", report)).ok()
    };
    let period = read("period", "period: 50ms");
    let suspect = read("suspect", "suspect: 110ms");
    let lease = read("lease", "lease: 170ms");
    let fail = read("fail", "fail: 250ms");
    let timers = Timers { period: period?, suspect: suspect?, lease: lease?, fail: fail? };
    check(&timers, fields.at, report);
    Some(timers)
}

fn check(timers: &Timers, at: Pos, report: &mut Report) {
    if let Err(problem) = timers.check() {
        report.error(
            at,
            format!("these timers cannot work together: {problem}"),
            "change the timers, or write `profile: fast`, `balanced` or `relaxed`",
        );
    }
}
