//! Amounts of memory on the command line: `dom0_mem=` and sizes with a suffix.

/// An amount of memory, absolute or in terms of what the machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many bytes.
    Bytes(u64),
    /// All of the memory but so many bytes (`-<size>`).
    AllBut(u64),
    /// So many bytes and so many hundredths of the memory (`[<size>+]<fraction>%`).
    Fraction {
        /// Fixed part in bytes.
        bytes: u64,
        /// Hundredths of the memory, at most 100.
        percent: u8,
    },
}

impl Amount {
    /// The amount in pages on a machine that has `total` pages.
    pub fn pages(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes >> 12,
            Self::AllBut(bytes) => total.saturating_sub(bytes >> 12),
            Self::Fraction { bytes, percent } => {
                let part = u128::from(total) * u128::from(percent) / 100;
                (bytes >> 12).saturating_add(u64::try_from(part).unwrap_or(u64::MAX))
            }
        }
    }

    /// `<size>`, `-<size>` or `[<size>+]<fraction>%`.
    fn parse(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix('-') {
            return parse_size(rest).map(Self::AllBut);
        }
        let Some(rest) = text.strip_suffix('%') else { return parse_size(text).map(Self::Bytes) };
        let (size, fraction) = rest.rsplit_once('+').unwrap_or(("0", rest));
        let percent = fraction.parse().ok().filter(|p| *p <= 100)?;
        Some(Self::Fraction { bytes: parse_size(size)?, percent })
    }
}

/// `dom0_mem=<amount>,min:<amount>,max:<amount>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dom0Memory {
    /// What the first domain starts with; not given: all that is free, less a reserve.
    pub size: Option<Amount>,
    /// It gets at least this.
    pub min: Option<Amount>,
    /// It gets at most this, and its maximum reservation is this.
    pub max: Option<Amount>,
}

impl Dom0Memory {
    /// Parses the option's value.
    pub fn parse(value: &str) -> Option<Self> {
        let mut memory = Self::default();
        for part in value.split(',') {
            let (slot, amount) = match part.split_once(':') {
                None => (&mut memory.size, part),
                Some(("min", amount)) => (&mut memory.min, amount),
                Some(("max", amount)) => (&mut memory.max, amount),
                Some(_) => return None,
            };
            *slot = Some(Amount::parse(amount)?);
        }
        Some(memory)
    }
}

/// A size with one of Xen's suffixes `B K M G T`, in KiB without one; `None` too when it overflows.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let (number, shift) = match text.as_bytes().last()?.to_ascii_uppercase() {
        b'T' => (&text[..text.len() - 1], 40),
        b'G' => (&text[..text.len() - 1], 30),
        b'M' => (&text[..text.len() - 1], 20),
        b'K' => (&text[..text.len() - 1], 10),
        b'B' if !text.starts_with("0x") => (&text[..text.len() - 1], 0),
        _ => (text, 10),
    };
    super::parse_number(number)?.checked_mul(1 << shift)
}
