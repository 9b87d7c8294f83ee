//! Decisions and values out of bytes, values often being nearly right. When the bytes run out, everything is 0.

/// Bytes that decide what happens.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    /// A number below `end`, which is at most 256.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end.max(1)
    }

    /// One of several.
    pub fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// At most `count` bytes.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    /// A small number, one shortly below 2^32, or any.
    pub fn number(&mut self) -> u32 {
        match self.below(4) {
            0 | 1 => self.byte().into(),
            2 => u32::MAX - u32::from(self.byte()),
            _ => self.u32(),
        }
    }

    /// The same of 64 bits.
    pub fn long(&mut self) -> u64 {
        match self.below(4) {
            0 | 1 => self.byte().into(),
            2 => u64::MAX - u64::from(self.byte()),
            _ => u64::from(self.u32()) << 32 | u64::from(self.u32()),
        }
    }
}
