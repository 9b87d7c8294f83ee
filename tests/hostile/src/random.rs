//! The same numbers for the same seed, often such as are nearly right.

/// SplitMix64.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.any() % end.max(1) as u64) as usize
    }

    /// Once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of several.
    pub fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// A small number, one shortly below 2^32, or any.
    pub fn number(&mut self) -> u32 {
        match self.below(4) {
            0 | 1 => self.below(256) as u32,
            2 => u32::MAX - self.below(256) as u32,
            _ => self.any() as u32,
        }
    }

    /// The same of 64 bits.
    pub fn long(&mut self) -> u64 {
        match self.below(4) {
            0 | 1 => self.below(256) as u64,
            2 => u64::MAX - self.below(256) as u64,
            _ => self.any(),
        }
    }

    /// The same of 16 bits.
    pub fn short(&mut self) -> u16 {
        self.number() as u16
    }

    /// Any bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill_with(|| self.any() as u8);
    }
}
