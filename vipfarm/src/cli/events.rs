//! The arguments of `events`.

use std::{
    str::FromStr,
    time::{Duration, SystemTime},
};

use clap::Args;

use super::{TalkArgs, humantime};
use crate::{agent::history::rfc3339, status::EventRecord};

/// Arguments of `events`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct EventsArgs {
    /// Go on with the events to come, also those of an agent that takes this one's place
    #[arg(short, long)]
    pub follow: bool,

    /// Only events after number N, of the last 10m or 2h, or from a time on, in UTC as events have it:
    /// 2026-11-20 or 2026-11-20T08:14
    #[arg(long, value_name = "N|TIME", default_value = "0")]
    pub since: Since,

    /// Which agent, in what form.
    #[command(flatten)]
    pub talk: TalkArgs,
}

/// From where on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// After the event with that number.
    Number(u64),
    /// From then on: the beginning of a time in RFC 3339, in UTC.
    Time(String),
}

impl Since {
    /// The number after which events may be meant.
    pub fn number(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::Time(_) => 0,
        }
    }

    /// Whether an event is meant.
    pub fn includes(&self, event: &EventRecord) -> bool {
        match self {
            Self::Number(number) => event.seq > *number,
            Self::Time(time) => event.time.as_str() >= time.as_str(),
        }
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(number) = text.parse() {
            return Ok(Self::Number(number));
        }
        let is_date = text.get(4..5) == Some("-") && text.len() >= 10;
        if is_date && text.bytes().all(|byte| byte.is_ascii_digit() || b"-T:.Z".contains(&byte)) {
            // An event of that second has a fraction, which sorts before the Z.
            return Ok(Self::Time(text.trim_end_matches('Z').to_owned()));
        }
        let ago: Duration = humantime(text).map_err(|_other| {
            format!("`{text}` is not a number, a time ago such as 10m, or a time such as 2026-11-20T08:14")
        })?;
        let time = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(Self::Time(rfc3339(time)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64, time: &str) -> EventRecord {
        let (level, kind, message) = ("info".into(), "view".into(), String::new());
        EventRecord { seq, time: time.into(), level, kind, message }
    }

    #[test]
    fn events_are_chosen_by_number_by_time_and_by_age() {
        let event = event(7, "2026-11-20T08:14:00.123Z");
        for (since, included) in [
            ("6", true),
            ("7", false),
            ("2026-11-20", true),
            ("2026-11-21", false),
            ("2026-11-20T08:14", true),
            ("2026-11-20T08:14:00Z", true),
            ("2026-11-20T08:14:00.124Z", false),
            ("2026-11-20T08:15", false),
        ] {
            let since: Since = since.parse().expect(since);
            assert_eq!(since.includes(&event), included, "{since:?}");
        }
        let now = self::event(8, &rfc3339(SystemTime::now()));
        let recent: Since = "10m".parse().expect("a time ago");
        assert!(
            recent.includes(&now) && !recent.includes(&self::event(1, "2000-01-01T00:00:00.000Z"))
        );
        for wrong in ["yesterday", "10", "10 minutes", "2026-11-2", "2026-11-20 08:14"] {
            let since = wrong.parse::<Since>();
            assert_eq!(since.is_err(), wrong != "10", "{since:?}");
        }
    }
}
