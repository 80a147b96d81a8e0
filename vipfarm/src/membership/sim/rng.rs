//! Chance that can be repeated.

/// splitmix64.
pub(in crate::membership) struct Rng(pub(in crate::membership) u64);

impl Rng {
    pub(in crate::membership) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`.
    pub(in crate::membership) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// An index into a list that long.
    pub(in crate::membership) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("less than a length")
    }

    /// Whether something happens that does once in `times`.
    pub(in crate::membership) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// How late a real-time thread wakes on a busy machine, in nanoseconds: as measured on one with
    /// two processors and eight busy loops (p99 1.5 ms, p99.9 7 ms, at most 40 ms).
    pub(in crate::membership) fn lateness(&mut self) -> u64 {
        let micros = match self.below(10_000) {
            0 => 7_000 + self.below(33_000),
            1..10 => 3_000 + self.below(4_000),
            10..100 => 1_500 + self.below(1_500),
            100..2_000 => 100 + self.below(1_400),
            _ => 5 + self.below(95),
        };
        micros * 1000
    }
}

/// Spreads a number over 64 bits.
pub(in crate::membership) fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}
