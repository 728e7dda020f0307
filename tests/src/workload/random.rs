//! A small deterministic source of random numbers, so that a client does the same in every run.

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in 0 .. limit.
    pub fn below(&mut self, limit: i64) -> i64 {
        (self.next() % limit.unsigned_abs()) as i64
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: i64) -> bool {
        self.below(times) == 0
    }
}
