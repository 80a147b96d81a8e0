//! When a check passes and when it fails: pure, the outcome of each look comes in as an argument.

use crate::status::CheckState;

/// What became of the looks so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    state: CheckState,
    /// How many looks in a row, the last ones, were against the state.
    against: u16,
}

impl Tally {
    /// At the beginning, or when nothing else is to speak for the past: the first look decides where it
    /// is starting; a check that is new to a node that serves passes until it has failed.
    pub(super) fn at(state: CheckState) -> Self {
        Self { state, against: 0 }
    }

    /// What it has come to.
    pub(super) fn state(self) -> CheckState {
        self.state
    }

    /// Takes the outcome of a look; says whether the state is another one now. A state is left after
    /// so many looks against it in a row: `rise` for a failing one, `fall` for a passing one.
    pub(super) fn note(&mut self, good: bool, rise: u16, fall: u16) -> bool {
        let (next, needed) = match (self.state, good) {
            (CheckState::Starting, true) => (CheckState::Passing, 1),
            (CheckState::Starting, false) => (CheckState::Failing, 1),
            (CheckState::Passing, false) => (CheckState::Failing, fall),
            (CheckState::Failing, true) => (CheckState::Passing, rise),
            (CheckState::Passing, true) | (CheckState::Failing, false) => {
                self.against = 0;
                return false;
            }
        };
        self.against += 1;
        if self.against < needed {
            return false;
        }
        *self = Self { state: next, against: 0 };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The states after each look: `+` good, `-` bad.
    fn states(mut tally: Tally, looks: &str, rise: u16, fall: u16) -> String {
        let state = |look| {
            let before = tally.state();
            let changed = tally.note(look == '+', rise, fall);
            assert_eq!(changed, tally.state() != before);
            match tally.state() {
                CheckState::Starting => '?',
                CheckState::Passing => 'P',
                CheckState::Failing => 'F',
            }
        };
        looks.chars().map(state).collect()
    }

    #[test]
    fn the_first_look_decides_and_later_ones_only_together() {
        assert_eq!(states(Tally::at(CheckState::Starting), "+---++", 2, 3), "PPPFFP");
        assert_eq!(states(Tally::at(CheckState::Starting), "-+-++-", 2, 3), "FFFFPP");
        assert_eq!(states(Tally::at(CheckState::Passing), "---", 2, 3), "PPF");
        assert_eq!(states(Tally::at(CheckState::Passing), "-+", 1, 1), "FP");
    }

    #[test]
    fn what_flaps_faster_than_it_counts_changes_nothing() {
        assert_eq!(states(Tally::at(CheckState::Passing), "--+--+--+", 2, 3), "PPPPPPPPP");
        assert_eq!(states(Tally::at(CheckState::Passing), "---+-+-+-", 2, 3), "PPFFFFFFF");
    }

    proptest::proptest! {
        #[test]
        fn a_state_is_left_exactly_after_enough_looks_against_it_in_a_row(
            looks in proptest::collection::vec(proptest::prelude::any::<bool>(), 1..60),
            rise in 1..5u16,
            fall in 1..5u16,
        ) {
            let mut tally = Tally::at(CheckState::Starting);
            for (number, &good) in looks.iter().enumerate() {
                let before = tally.state();
                let changed = tally.note(good, rise, fall);
                let needed = match before {
                    CheckState::Starting => 1,
                    CheckState::Passing => fall,
                    CheckState::Failing => rise,
                };
                let against = before == CheckState::Starting
                    || good != (before == CheckState::Passing);
                let in_a_row = looks[..=number].iter().rev().take_while(|it| **it == good).count();
                let expected = against && in_a_row >= usize::from(needed);
                proptest::prop_assert_eq!(changed, expected);
            }
        }
    }
}
