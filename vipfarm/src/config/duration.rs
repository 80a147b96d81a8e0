//! Durations as people write them: `50ms`, `1s`.

use std::{ops::RangeInclusive, time::Duration};

use super::diagnostic::{Pos, Report};
use super::fields;
use super::yaml::Value;

/// The longest duration a file may name: beyond it a dead node's clients wait for nothing.
const LONGEST: Duration = Duration::from_mins(1);

/// The units, in milliseconds.
const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

/// Units that people write besides.
const OTHERS: [(&str, u64); 4] =
    [("sec", 1000), ("min", 60_000), ("hr", 3_600_000), ("d", 86_400_000)];

/// What is wrong with a duration.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    message: String,
    /// How to write what was meant, if that is plain.
    fix: Option<String>,
}

impl Problem {
    /// Reports it; `example` is a duration that would do.
    pub(super) fn report(self, at: Pos, example: &str, report: &mut Report) {
        let help = self
            .fix
            .unwrap_or_else(|| format!("write a whole number with its unit, such as {example}"));
        report.error(at, self.message, help);
    }
}

/// Reads a whole number of milliseconds or seconds, `1ms..=1m`.
pub(super) fn parse(text: &str) -> Result<Duration, Problem> {
    parse_within(text, Duration::from_millis(1)..=LONGEST)
}

/// The same for another range, also of minutes and hours.
pub(super) fn parse_within(
    text: &str,
    range: RangeInclusive<Duration>,
) -> Result<Duration, Problem> {
    let problem = |message| Err(Problem { message, fix: None });
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return problem(format!("`{text}` is not a duration"));
    }
    let unit = match unit.trim_start() {
        "" => return problem(format!("`{text}` has no unit")),
        unit => UNITS.iter().find(|(name, _)| *name == unit),
    };
    let Some(&(_, unit)) = unit else {
        let fix = meant(text).filter(|meant| range.contains(meant)).map_or_else(
            || "write a whole number with one unit: ms, s, m, h".into(),
            |meant| format!("write {}; units are ms, s, m, h", words(meant)),
        );
        let message = format!("`{text}` is not a whole number with one unit");
        return Err(Problem { message, fix: Some(fix) });
    };
    // One that is too large for a number is too large for any range.
    let duration = number
        .parse()
        .map_or(Duration::MAX, |number: u64| Duration::from_millis(number.saturating_mul(unit)));
    if !range.contains(&duration) {
        let (least, most) = (words(*range.start()), words(*range.end()));
        return problem(format!("`{text}` is out of range, {least} to {most}"));
    }
    Ok(duration)
}

/// What `1.5s`, `1h30m` or `1d` mean: parts with a fraction of up to three digits, and further units.
fn meant(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let tail = tail.trim_start();
        let end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let mut units = UNITS.iter().chain(&OTHERS);
        let &(_, unit) = units.find(|(name, _)| *name == unit)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let thousandths = fraction.parse::<u64>().ok()?.checked_mul(match fraction.len() {
            1 => 100,
            2 => 10,
            3 => 1,
            _ => return None,
        })?;
        let fraction = thousandths.checked_mul(unit).filter(|millis| millis % 1000 == 0)? / 1000;
        let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
        total = total.checked_add(whole)?.checked_add(fraction)?;
        rest = tail.trim_start();
    }
    Some(Duration::from_millis(total))
}

/// The value of a key; what is wrong with it is reported.
pub(super) fn read(
    value: &Value,
    what: &str,
    range: RangeInclusive<Duration>,
    report: &mut Report,
) -> Option<Duration> {
    let text = fields::text(value, what, "60s", report)?;
    parse_within(text, range).map_err(|problem| problem.report(value.at, "60s or 20m", report)).ok()
}

/// As a file would have it, in the largest unit that makes it a whole number.
pub(crate) fn words(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let unit = UNITS.iter().rev().find(|(_, unit)| millis > 0 && millis % unit == 0);
    let (name, unit) = unit.unwrap_or(&("s", 1000));
    format!("{}{name}", millis / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_and_seconds_are_read() {
        assert_eq!(parse("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!(parse("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(parse("1 s"), Ok(Duration::from_secs(1)));
        assert_eq!(parse("60s"), Ok(LONGEST));
        assert_eq!(parse("1m"), Ok(LONGEST));
    }

    #[test]
    fn minutes_and_hours_are_read_where_they_fit() {
        let day = Duration::from_secs(1)..=Duration::from_hours(24);
        assert_eq!(parse_within("20m", day.clone()), Ok(Duration::from_mins(20)));
        assert_eq!(parse_within("24h", day.clone()), Ok(Duration::from_hours(24)));
        for text in ["25h", "999ms", "18446744073709551615h"] {
            let error = format!("`{text}` is out of range, 1s to 24h");
            assert_eq!(parse_within(text, day.clone()), Err(Problem { message: error, fix: None }));
        }
    }

    #[test]
    fn ranges_are_in_the_largest_unit() {
        for (text, range, words) in [
            ("2m", Duration::from_millis(1)..=LONGEST, "1ms to 1m"),
            ("11m", Duration::from_secs(1)..=Duration::from_mins(10), "1s to 10m"),
            ("2h", Duration::ZERO..=Duration::from_hours(1), "0s to 1h"),
            ("1ms", Duration::from_millis(1500)..=Duration::from_secs(90), "1500ms to 90s"),
        ] {
            let message = format!("`{text}` is out of range, {words}");
            assert_eq!(parse_within(text, range), Err(Problem { message, fix: None }));
        }
    }

    #[test]
    fn anything_else_is_explained() {
        for (text, error) in [
            ("50", "`50` has no unit"),
            ("", "`` is not a duration"),
            ("fast", "`fast` is not a duration"),
            ("-5ms", "`-5ms` is not a duration"),
            ("0ms", "`0ms` is out of range, 1ms to 1m"),
            ("61s", "`61s` is out of range, 1ms to 1m"),
            ("99999999999999999999999s", "`99999999999999999999999s` is out of range, 1ms to 1m"),
            ("18446744073709551615s", "`18446744073709551615s` is out of range, 1ms to 1m"),
        ] {
            assert_eq!(parse(text), Err(Problem { message: error.into(), fix: None }), "{text}");
        }
    }

    #[test]
    fn what_is_not_one_number_with_one_unit_is_rewritten_where_it_is_plain() {
        for (text, meant) in [
            ("1.5s", "1500ms"),
            ("0.25m", "15s"),
            ("1h30m", "90m"),
            ("1m 30s", "90s"),
            ("1d", "24h"),
            ("5min", "5m"),
            ("90 sec", "90s"),
            // Out of range, finer than a millisecond, unknown, no number.
            ("2d", ""),
            ("0.5ms", ""),
            ("1.0005s", ""),
            ("5us", ""),
            ("3s4", ""),
            ("1..5s", ""),
            ("99999999999999999999d", ""),
        ] {
            let fix = match meant {
                "" => "write a whole number with one unit: ms, s, m, h".into(),
                meant => format!("write {meant}; units are ms, s, m, h"),
            };
            let message = format!("`{text}` is not a whole number with one unit");
            let problem = Problem { message, fix: Some(fix) };
            let range = Duration::ZERO..=Duration::from_hours(24);
            assert_eq!(parse_within(text, range), Err(problem), "{text}");
        }
    }
}
