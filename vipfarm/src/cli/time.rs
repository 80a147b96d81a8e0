//! Spans of time as they are typed.

use std::time::Duration;

/// A span of time with its unit: ms, s, m or h.
pub(crate) fn humantime(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let is_not = || format!("`{text}` is not a time such as 10s");
    let number: u32 = number.parse().ok().ok_or_else(is_not)?;
    match unit {
        "ms" => Ok(Duration::from_millis(number.into())),
        "s" => Ok(Duration::from_secs(number.into())),
        "m" => Ok(Duration::from_secs(60 * u64::from(number))),
        "h" => Ok(Duration::from_secs(3600 * u64::from(number))),
        _ => Err(format!("`{text}` needs a unit: {number}ms, {number}s, {number}m or {number}h")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_without_number_or_unit_is_none() {
        assert_eq!(humantime("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(humantime("2m"), Ok(Duration::from_mins(2)));
        for wrong in ["", "5", "s", "5w", "-1s"] {
            assert!(humantime(wrong).is_err(), "{wrong}");
        }
    }
}
