//! What is said of many samples.

use serde::Serialize;

/// The middle and the worst of some samples; `null` in JSON when there are none.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(super) struct Summary {
    /// The middle one; between the two middle ones of an even number.
    pub(super) median: Option<f64>,
    /// The largest.
    pub(super) max: Option<f64>,
}

impl Summary {
    /// Of the samples in any order.
    pub(super) fn of(samples: impl IntoIterator<Item = f64>) -> Self {
        let mut samples: Vec<_> = samples.into_iter().collect();
        if samples.is_empty() {
            return Self::default();
        }
        let median = median(&mut samples);
        Self { median: Some(median), max: samples.last().copied() }
    }
}

/// Sorts and takes the middle; of an even number that between the two middle ones; of none it is not
/// a number.
pub(super) fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    let middle = samples.len() / 2;
    match samples {
        [] => f64::NAN,
        samples if samples.len() % 2 == 1 => samples[middle],
        samples => f64::midpoint(samples[middle - 1], samples[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert_eq!(Summary::of([9.0, 1.0, 4.0]), Summary { median: Some(4.0), max: Some(9.0) });
    }

    #[test]
    fn an_even_number_has_its_median_between_the_middle_ones() {
        assert_eq!(Summary::of([8.0, 1.0, 2.0, 4.0]).median, Some(3.0));
    }

    #[test]
    fn nothing_has_no_median() {
        assert_eq!(Summary::of([]), Summary { median: None, max: None });
        assert!(median(&mut []).is_nan());
    }
}
