//! The last events of this agent, for `vipfarm events` and for the log.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;

use crate::status::EventRecord;

pub use crate::membership::Level;

/// Events kept; older ones are forgotten.
pub const CAPACITY: usize = 1000;

/// A bounded ring of events, shared between who reports and who reads.
///
/// [`History::push`] writes a log line and takes a lock: it is not for the heartbeat thread.
#[derive(Debug)]
pub struct History {
    ring: Mutex<VecDeque<EventRecord>>,
    newest: watch::Sender<u64>,
}

impl History {
    /// An empty history.
    pub fn new() -> Self {
        Self { ring: Mutex::new(VecDeque::with_capacity(CAPACITY)), newest: watch::Sender::new(0) }
    }

    /// Records an event as of now, logs it and wakes who waits for one. `kind` is one word for
    /// scripts, such as `node_lost`; `message` the sentence for people.
    pub fn push(&self, level: Level, kind: &str, message: impl Into<String>) {
        let message = message.into();
        match level {
            Level::Info => tracing::info!(kind, "{message}"),
            Level::Warn => tracing::warn!(kind, "{message}"),
        }
        let mut ring = self.ring();
        let seq = ring.back().map_or(1, |last| last.seq + 1);
        if ring.len() == CAPACITY {
            ring.pop_front();
        }
        ring.push_back(EventRecord {
            seq,
            time: rfc3339(SystemTime::now()),
            level: level.as_str().to_owned(),
            kind: kind.to_owned(),
            message,
        });
        drop(ring);
        // Two reporters may get here in the other order: the number must never step back.
        self.newest.send_modify(|newest| *newest = seq.max(*newest));
    }

    /// The events after number `seq` that are still kept, oldest first; all of them for 0.
    pub fn since(&self, seq: u64) -> Vec<EventRecord> {
        self.ring().iter().filter(|event| event.seq > seq).cloned().collect()
    }

    /// The number of the newest event, 0 before the first; a receiver wakes with every event.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    fn ring(&self) -> MutexGuard<'_, VecDeque<EventRecord>> {
        // A panic elsewhere cannot leave the ring half written.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for History {
    fn default() -> Self {
        Self::new()
    }
}

/// RFC 3339 in UTC with milliseconds, such as `2026-11-20T08:14:00.123Z`. A clock before 1970 reads
/// as 1970.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since_epoch.as_secs();
    let (year, month, day) = civil_from_days(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let millis = since_epoch.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Year, month and day, `days` after 1970-01-01 in the proleptic Gregorian calendar.
///
/// Counts in eras of 400 years that begin on 1 March, so that the leap day is the last of its year
/// (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01 to 1970-01-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn numbers_rise_by_one_and_since_is_exclusive() {
        let history = History::new();
        history.push(Level::Info, "started", "agent started");
        history.push(Level::Warn, "node_lost", "node2 is lost");
        let all = history.since(0);
        assert_eq!(all.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(history.since(1), all[1..]);
        assert_eq!((all[1].level.as_str(), all[1].kind.as_str()), ("warn", "node_lost"));
        assert!(history.since(2).is_empty());
    }

    #[test]
    fn the_oldest_events_are_forgotten_and_numbers_go_on() {
        let history = History::new();
        for count in 0..CAPACITY + 5 {
            history.push(Level::Info, "tick", count.to_string());
        }
        let kept = history.since(0);
        assert_eq!(kept.len(), CAPACITY);
        assert_eq!(kept[0].seq, 6);
        assert_eq!(*history.newest().borrow(), CAPACITY as u64 + 5);
    }

    #[tokio::test]
    async fn a_receiver_wakes_with_the_next_event() {
        let history = History::new();
        let mut newest = history.newest();
        let (woken_for, ()) = tokio::join!(
            async { *newest.wait_for(|&seq| seq > 0).await.expect("the history lives") },
            async { history.push(Level::Info, "started", "agent started") },
        );
        assert_eq!(woken_for, 1);
    }

    #[test]
    fn dates_around_leap_days_and_centuries_are_right() {
        // Each pair from `date -u -d @SECONDS +%F`.
        for (seconds, date) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_709_164_800, "2024-02-29"),
            (1_735_603_200, "2024-12-31"),
            (1_740_787_200, "2025-03-01"),
            (4_107_456_000, "2100-02-28"),
            (4_107_542_400, "2100-03-01"),
            (253_402_214_400, "9999-12-31"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(rfc3339(time), format!("{date}T00:00:00.000Z"));
        }
    }

    #[test]
    fn every_day_follows_the_day_before() {
        let mut previous = civil_from_days(0);
        for days in 1..200_000 {
            let (year, month, day) = civil_from_days(days);
            let (last_year, last_month, last_day) = previous;
            let next_day = (year, month, day) == (last_year, last_month, last_day + 1);
            let next_month = (year, month, day) == (last_year, last_month + 1, 1);
            let next_year = (year, month, day) == (last_year + 1, 1, 1) && last_month == 12;
            assert!(next_day || next_month && last_day >= 28 || next_year, "day {days}");
            previous = (year, month, day);
        }
    }

    #[test]
    fn the_time_of_day_keeps_milliseconds_and_drops_the_rest() {
        let time = UNIX_EPOCH + Duration::new(86_399, 999_999_999);
        assert_eq!(rfc3339(time), "1970-01-01T23:59:59.999Z");
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000Z");
    }
}
