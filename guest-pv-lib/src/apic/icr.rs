//! The interrupt command register in x2APIC mode (Intel SDM vol. 3, 11.12.9).

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// A vector.
    Fixed(u8),
    /// A non-maskable interrupt.
    Nmi,
}

/// To whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// One CPU, by number.
    Physical(u32),
    /// Some of the 16 CPUs of a cluster: cluster number, bits.
    Logical(u16, u16),
    /// The sender.
    Myself,
    /// All.
    All,
    /// All but the sender.
    Others,
}

const BROADCAST: u32 = u32::MAX;

impl Destination {
    /// Whether CPU `number` is meant by CPU `sender`.
    #[must_use]
    pub const fn has(self, number: u32, sender: u32) -> bool {
        match self {
            Self::Physical(wanted) => number == wanted,
            Self::Logical(cluster, bits) => number >> 4 == cluster as u32 && bits >> (number & 15) & 1 != 0,
            Self::Myself => number == sender,
            Self::All => true,
            Self::Others => number != sender,
        }
    }
}

/// Splits the register's value; none for a kind of interrupt other than fixed, lowest priority and NMI.
#[must_use]
pub const fn decode(value: u64) -> Option<(Command, Destination)> {
    let command = match value >> 8 & 7 {
        // Lowest priority is not there in x2APIC mode; who asks for it gets the interrupt where it was sent.
        0 | 1 => Command::Fixed(value as u8),
        4 => Command::Nmi,
        _ => return None,
    };
    let to = (value >> 32) as u32;
    let logical = value >> 11 & 1 != 0;
    let destination = match value >> 18 & 3 {
        1 => Destination::Myself,
        2 => Destination::All,
        3 => Destination::Others,
        _ if to == BROADCAST => Destination::All,
        _ if logical => Destination::Logical((to >> 16) as u16, to as u16),
        _ => Destination::Physical(to),
    };
    Some((command, destination))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_means_what_the_manual_says() {
        assert_eq!(decode(3 << 32 | 0x41), Some((Command::Fixed(0x41), Destination::Physical(3))));
        assert_eq!(decode(1 << 18 | 0x41), Some((Command::Fixed(0x41), Destination::Myself)));
        assert_eq!(decode(2 << 18 | 4 << 8), Some((Command::Nmi, Destination::All)));
        assert_eq!(decode(3 << 18 | 0xff), Some((Command::Fixed(0xff), Destination::Others)));
        assert_eq!(decode(u64::from(u32::MAX) << 32), Some((Command::Fixed(0), Destination::All)));
        assert_eq!(decode(5 << 8), None, "INIT");
        assert_eq!(decode(6 << 8), None, "SIPI");
        let logical = decode(0x0002_0005 << 32 | 1 << 11 | 0x41).map(|(_, to)| to);
        assert_eq!(logical, Some(Destination::Logical(2, 5)));
    }

    #[test]
    fn destinations_find_their_cpus() {
        let wanted = |to: Destination| (0..40).filter(|&cpu| to.has(cpu, 1)).count();
        assert_eq!(wanted(Destination::Logical(2, 0b101)), 2);
        assert!(Destination::Logical(2, 0b101).has(34, 0) && !Destination::Logical(2, 0b101).has(33, 0));
        assert_eq!(wanted(Destination::Others), 39);
        assert_eq!(wanted(Destination::Myself), 1);
        assert_eq!(wanted(Destination::Physical(39)), 1);
    }
}
