//! Durations as people write them: `50ms`, `1s`.

use std::{ops::RangeInclusive, time::Duration};

use super::diagnostic::Report;
use super::fields;
use super::yaml::Value;

/// The longest duration a file may name: beyond it a dead node's clients wait for nothing.
const LONGEST: Duration = Duration::from_mins(1);

/// Reads a whole number of milliseconds or seconds, `1ms..=60s`; the error says what is wrong.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    parse_within(text, Duration::from_millis(1)..=LONGEST)
}

/// The same for another range, also of minutes and hours.
pub(super) fn parse_within(
    text: &str,
    range: RangeInclusive<Duration>,
) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(format!("`{text}` is not a duration"));
    }
    let from_number = match unit.trim_start() {
        "ms" => Duration::from_millis,
        "s" => Duration::from_secs,
        "m" => |minutes: u64| Duration::from_secs(minutes.saturating_mul(60)),
        "h" => |hours: u64| Duration::from_secs(hours.saturating_mul(3600)),
        "" => return Err(format!("`{text}` has no unit")),
        unit => return Err(format!("`{unit}` is not a unit of time known here")),
    };
    number.parse().ok().map(from_number).filter(|duration| range.contains(duration)).ok_or_else(
        || {
            let (least, most) = (words(*range.start()), words(*range.end()));
            format!("`{text}` is out of range, {least} to {most}")
        },
    )
}

/// The value of a key; what is wrong with it is reported.
pub(super) fn read(
    value: &Value,
    what: &str,
    range: RangeInclusive<Duration>,
    report: &mut Report,
) -> Option<Duration> {
    let text = fields::text(value, what, "60s", report)?;
    parse_within(text, range)
        .map_err(|problem| {
            report.error(
                value.at,
                problem,
                "write a whole number with its unit, such as 60s or 20m",
            );
        })
        .ok()
}

fn words(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_millis())
    }
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
    }

    #[test]
    fn minutes_and_hours_are_read_where_they_fit() {
        let day = Duration::from_secs(1)..=Duration::from_hours(24);
        assert_eq!(parse_within("20m", day.clone()), Ok(Duration::from_mins(20)));
        assert_eq!(parse_within("24h", day.clone()), Ok(Duration::from_hours(24)));
        for text in ["25h", "999ms", "18446744073709551615h"] {
            let error = format!("`{text}` is out of range, 1s to 86400s");
            assert_eq!(parse_within(text, day.clone()), Err(error));
        }
        assert_eq!(parse("2m"), Err("`2m` is out of range, 1ms to 60s".into()));
    }

    #[test]
    fn anything_else_is_explained() {
        for (text, error) in [
            ("50", "`50` has no unit"),
            ("", "`` is not a duration"),
            ("fast", "`fast` is not a duration"),
            ("-5ms", "`-5ms` is not a duration"),
            ("1.5s", "`.5s` is not a unit of time known here"),
            ("5min", "`min` is not a unit of time known here"),
            ("0ms", "`0ms` is out of range, 1ms to 60s"),
            ("61s", "`61s` is out of range, 1ms to 60s"),
            ("99999999999999999999999s", "`99999999999999999999999s` is out of range, 1ms to 60s"),
            ("18446744073709551615s", "`18446744073709551615s` is out of range, 1ms to 60s"),
        ] {
            assert_eq!(parse(text), Err(error.into()), "{text}");
        }
    }
}
