//! When to put back what somebody took off this node.

use std::time::{Duration, Instant};

/// How long to wait at first: whoever took it off may be about to put it back.
const FIRST: Duration = Duration::from_secs(1);
/// How long at most: two who undo each other's work do not do so for ever at full speed.
const LONGEST: Duration = Duration::from_mins(1);

/// Waits longer each time that what was put back was taken off again.
#[derive(Debug)]
pub(super) struct Mender {
    pause: Duration,
    /// When to put it back; `None` = nothing is missing.
    due: Option<Instant>,
    last: Option<Instant>,
}

impl Mender {
    /// Nothing was ever missing.
    pub(super) fn new() -> Self {
        Self { pause: FIRST, due: None, last: None }
    }

    /// Whether to put something back now; to be asked each time that somebody looks.
    pub(super) fn is_due(&mut self, now: Instant, is_missing: bool) -> bool {
        if !is_missing {
            self.due = None;
            return false;
        }
        let due = *self.due.get_or_insert_with(|| {
            let again = self.last.is_some_and(|last| now < last + 2 * LONGEST);
            self.pause = if again { LONGEST.min(2 * self.pause) } else { FIRST };
            now + self.pause
        });
        if now < due {
            return false;
        }
        (self.due, self.last) = (None, Some(now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_off_again_and_again_is_put_back_ever_less_often() {
        let (mut mender, start) = (Mender::new(), Instant::now());
        let second = Duration::from_secs(1);
        assert!(!mender.is_due(start, false) && !mender.is_due(start, true));
        let due = (0..200).filter(|&at| mender.is_due(start + at * second, true));
        assert_eq!(due.collect::<Vec<_>>(), [1, 4, 9, 18, 35, 68, 129, 190]);
        assert!(!mender.is_due(start + 300 * second, false));
        assert!(!mender.is_due(start + 900 * second, true));
        assert!(mender.is_due(start + 901 * second, true), "long ago");
    }
}
