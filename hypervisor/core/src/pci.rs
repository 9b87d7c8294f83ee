//! What configuration space says of a PCI function's messages, and which writes of the first domain to it are allowed.
//!
//! The hypervisor programs MSI and MSI-X itself (PCI Local Bus 3.0, 6.8): a domain that could write a message could raise any vector
//! on any CPU. The first domain reads and writes configuration space otherwise as it likes. As in Xen 4.17
//! (`pci_msi_conf_write_intercept`) it may switch a capability on and off by the 16 bits of its control word, and mask vectors; whatever
//! else it writes to a capability that the hypervisor uses is dropped. Beyond Xen, that holds for messages without mask bits as well.
//!
//! Everything here is a function of words of configuration space, which the caller reads; they are a device's, and may be anything.

use crate::acpi::MmConfig;
use crate::ids::PAGE_SIZE;
use crate::platform::PciAddress;

/// Capability identifier of MSI.
pub const CAP_MSI: u8 = 0x05;
/// Capability identifier of MSI-X.
pub const CAP_MSIX: u8 = 0x11;
/// First byte that capabilities are at.
const FIRST: u16 = 0x40;
/// Bytes that the capability list reaches; what follows in extended configuration space has no messages.
const SPACE: u16 = 0x100;
/// Offset of the control word of either capability.
const CONTROL: u16 = 2;

// Control word of MSI.
const ENABLE: u32 = 1 << 0;
const MULTIPLE_ENABLE: u32 = 7 << 4;
const WIDE: u32 = 1 << 7;
const MASKABLE: u32 = 1 << 8;

/// Bytes of the MSI-X capability.
const MSIX_BYTES: u16 = 12;
/// Bytes of an entry of an MSI-X table.
pub const MSIX_ENTRY: u64 = 16;

/// Where the parts of an MSI capability are (PCI Local Bus 3.0, 6.8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// Offset of the capability.
    pub at: u8,
    /// Offset of the message's address.
    pub address: u8,
    /// Offset of the upper half of the message's address, if it has one.
    pub high: Option<u8>,
    /// Offset of the message's data.
    pub data: u8,
    /// Offset of the mask bits, if it has them.
    pub mask: Option<u8>,
    /// Vectors that it can have.
    vectors: u32,
    /// First byte behind it.
    end: u16,
}

impl Msi {
    /// The layout of the capability at `at` (at most 0xfc) by its first word.
    #[must_use]
    pub const fn new(at: u8, word: u32) -> Self {
        let control = word >> 16;
        let (wide, maskable) = (control & WIDE != 0, control & MASKABLE != 0);
        let data = at.wrapping_add(if wide { 12 } else { 8 });
        Self {
            at,
            address: at.wrapping_add(4),
            high: if wide { Some(at.wrapping_add(8)) } else { None },
            data,
            mask: if maskable { Some(data.wrapping_add(4)) } else { None },
            // Codes 6 and 7 are reserved.
            vectors: 1 << if control >> 1 & 7 < 5 { control >> 1 & 7 } else { 5 },
            end: at as u16 + if wide { 16 } else { 12 } + if maskable { 8 } else { 0 },
        }
    }

    /// What a write inside of the capability becomes.
    fn judge(&self, hidden: bool, offset: u16, size: u8, value: u32) -> Option<u32> {
        if offset == u16::from(self.at) + CONTROL && size == 2 {
            // There is one vector, so the device must not change the message's lowest bits.
            let value = value & !MULTIPLE_ENABLE;
            // A message without mask bits is masked by switching it off.
            return Some(if hidden && self.mask.is_none() { value & !ENABLE } else { value });
        }
        if self.mask.map(u16::from) == Some(offset) && size == 4 {
            let unused = u32::MAX >> (32 - self.vectors) & !1;
            return Some(value | unused | u32::from(hidden));
        }
        None
    }
}

/// Messages of a function that the hypervisor uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// An MSI is mapped; whether it is masked now.
    pub msi: Option<bool>,
    /// The MSI-X capability is the hypervisor's.
    pub msix: bool,
}

/// The offset of a function's capability with this identifier. `read` answers aligned words.
#[inline(never)]
pub fn find_capability(read: &dyn Fn(u8) -> u32, id: u8) -> Option<u8> {
    if read(4) >> 16 & 0x10 == 0 {
        return None;
    }
    let mut at = read(0x34) as u8 & !3;
    // A list of more than 48 capabilities does not fit into the space: such a list goes in circles.
    for _ in 0..48 {
        if u16::from(at) < FIRST {
            return None;
        }
        let word = read(at);
        if word as u8 == id {
            return Some(at);
        }
        at = (word >> 8) as u8 & !3;
    }
    None
}

/// Whether a write of `size` bytes at `offset` can reach a capability at all: nothing is to be looked up for others.
#[must_use]
pub fn may_reach_capability(offset: u16, size: u8) -> bool {
    offset + u16::from(size) > FIRST && offset < SPACE
}

/// Judges a write of the `size` (1, 2 or 4) low bytes of `value` at `offset` of a function of which the hypervisor uses these messages.
/// Answers what is to be written; `None`: nothing.
pub fn judge_write(read: &dyn Fn(u8) -> u32, used: Used, offset: u16, size: u8, value: u32) -> Option<u32> {
    let touches = |from: u16, end: u16| offset < end && offset + u16::from(size) > from;
    if !may_reach_capability(offset, size) {
        return Some(value);
    }
    if used.msix
        && let Some(at) = find_capability(read, CAP_MSIX).map(u16::from)
        && touches(at, at + MSIX_BYTES)
    {
        return (offset == at + CONTROL && size == 2).then_some(value);
    }
    if let Some(hidden) = used.msi
        && let Some(at) = find_capability(read, CAP_MSI)
        && let msi = Msi::new(at, read(at))
        && touches(at.into(), msi.end)
    {
        return msi.judge(hidden, offset, size, value);
    }
    Some(value)
}

/// The function whose configuration space is at this frame of a memory-mapped region (PCI Firmware 3.0, 4.1.2); `None`: it is not in the
/// region.
#[must_use]
pub fn function_at(region: &MmConfig, frame: u64) -> Option<PciAddress> {
    let index = frame.checked_sub(region.address / PAGE_SIZE as u64)?;
    let bus = u8::try_from(index >> 8).ok()?;
    let (first, last) = region.buses;
    (first <= bus && bus <= last).then_some(PciAddress { segment: region.segment, bus, devfn: index as u8 })
}

/// Address in a memory base address register.
#[inline(never)]
fn memory_bar(read: &dyn Fn(u8) -> u32, index: u8) -> Option<u64> {
    let offset = 0x10 + index.checked_mul(4).filter(|o| *o <= 20)?;
    let low = read(offset);
    if low & 1 != 0 {
        return None;
    }
    let high = if low & 6 == 4 && index < 5 { u64::from(read(offset + 4)) << 32 } else { 0 };
    Some(high | u64::from(low & !15))
}

/// Frames, both ends included.
pub type Frames = (u64, u64);

/// Where a function's MSI-X table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiX {
    /// Offset of the capability.
    pub at: u8,
    /// Machine address of the table, a multiple of 8.
    pub table: u64,
    /// How many entries it has: 1 to 2048.
    pub entries: u32,
    /// The frames of the table and of the pending bits, where those are in memory: no domain may write to them.
    pub frames: [Option<Frames>; 2],
}

impl MsiX {
    /// Finds the table of a function. `None`: there is no such capability, or the table is not in memory.
    pub fn find(read: &dyn Fn(u8) -> u32) -> Option<Self> {
        let at = find_capability(read, CAP_MSIX)?;
        let entries = (read(at) >> 16 & 0x7ff) + 1;
        let place = |word: u8| {
            let word = read(at.wrapping_add(word));
            memory_bar(read, (word & 7) as u8)?.checked_add(u64::from(word & !7))
        };
        let frames = |start: u64, bytes: u64| {
            let last = start.checked_add(bytes - 1)?;
            Some((start / PAGE_SIZE as u64, last / PAGE_SIZE as u64))
        };
        let table = place(4)?;
        // A bit for each entry, in words of 64.
        let pending = place(8).and_then(|start| frames(start, u64::from(entries).div_ceil(64) * 8));
        let frames = [frames(table, u64::from(entries) * MSIX_ENTRY), pending];
        Some(Self { at, table, entries, frames })
    }

    /// Machine address of an entry; `None` where there is none.
    #[must_use]
    pub fn entry(&self, entry: u32) -> Option<u64> {
        if entry >= self.entries { None } else { self.table.checked_add(u64::from(entry) * MSIX_ENTRY) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Where the capabilities are here: something else, MSI, MSI-X.
    const PM: u16 = 0x40;
    const AT_MSI: u16 = 0x50;
    const AT_MSIX: u16 = 0x70;

    /// A function's configuration space.
    #[derive(Clone, Debug)]
    struct Image([u32; 64]);

    impl Image {
        /// With these control words.
        fn new(msi: u32, msix: u32) -> Self {
            let mut image = Self([0; 64]);
            image.set(4, 0x10 << 16);
            image.set(0x34, PM.into());
            image.set(PM, 0x01 | u32::from(AT_MSI) << 8);
            image.set(AT_MSI, 0x05 | u32::from(AT_MSIX) << 8 | msi << 16);
            image.set(AT_MSIX, 0x11 | msix << 16);
            image
        }

        fn set(&mut self, at: u16, value: u32) {
            self.0[usize::from(at / 4)] = value;
        }

        fn read(&self, at: u8) -> u32 {
            assert!(at.is_multiple_of(4), "aligned words");
            self.0[usize::from(at / 4)]
        }

        fn judge(&self, used: Used, offset: u16, size: u8, value: u32) -> Option<u32> {
            judge_write(&|at| self.read(at), used, offset, size, value)
        }
    }

    const BOTH: Used = Used { msi: Some(false), msix: true };
    const MASKED: Used = Used { msi: Some(true), msix: true };

    #[test]
    fn messages_are_not_the_guests_to_write() {
        for (control, bytes) in [(0, 12), (WIDE, 16), (MASKABLE, 20), (WIDE | MASKABLE, 24)] {
            let image = Image::new(control, 3);
            let mask = Msi::new(0x50, image.read(0x50)).mask.map(u16::from);
            for at in AT_MSI..AT_MSI + bytes {
                for size in [1, 2, 4] {
                    let allowed = at == AT_MSI + 2 && size == 2 || Some(at) == mask && size == 4;
                    assert_eq!(image.judge(BOTH, at, size, 0).is_some(), allowed, "{at:#x} {size}");
                }
            }
            assert_eq!(image.judge(BOTH, AT_MSI + bytes, 4, 7), Some(7), "behind it");
            assert_eq!(image.judge(BOTH, AT_MSI - 4, 4, 7), Some(7), "before it");
            assert_eq!(image.judge(BOTH, AT_MSI - 2, 4, 7), None, "across its beginning");
        }
    }

    #[test]
    fn a_msix_capability_is_switched_by_its_control_word_only() {
        let image = Image::new(0, 3);
        for at in AT_MSIX..AT_MSIX + 12 {
            for size in [1, 2, 4] {
                let expected = (at == AT_MSIX + 2 && size == 2).then_some(0xc000);
                assert_eq!(image.judge(BOTH, at, size, 0xc000), expected, "{at:#x} {size}");
            }
        }
        assert_eq!(image.judge(BOTH, AT_MSIX + 12, 4, 9), Some(9));
        assert_eq!(image.judge(Used::default(), AT_MSIX + 4, 4, 9), Some(9), "not used by the hypervisor");
    }

    #[test]
    fn vectors_stay_masked_and_single() {
        let image = Image::new(WIDE | MASKABLE | 2 << 1, 0);
        let mask = AT_MSI + 16;
        assert_eq!(image.judge(BOTH, mask, 4, 0), Some(0b1110), "vectors that it could have are masked");
        assert_eq!(image.judge(MASKED, mask, 4, 0), Some(0b1111));
        assert_eq!(image.judge(MASKED, AT_MSI + 2, 2, 0x71), Some(1), "one vector");
        let plain = Image::new(0, 0);
        assert_eq!(plain.judge(MASKED, AT_MSI + 2, 2, 0x51), Some(0), "masked is off");
        assert_eq!(plain.judge(BOTH, AT_MSI + 2, 2, 0x51), Some(1));
    }

    #[test]
    fn only_capabilities_are_looked_up() {
        assert!(!may_reach_capability(0x3c, 4) && !may_reach_capability(0x100, 4));
        assert!(
            may_reach_capability(0x3f, 2) && may_reach_capability(0x40, 1) && may_reach_capability(0xff, 1)
        );
    }

    #[test]
    fn tables_and_pending_bits_are_found() {
        let mut image = Image::new(0, 0x7ff);
        image.set(0x10, 0xfebf_0000);
        image.set(0x20, 0x0000_000c);
        image.set(0x24, 0x12);
        image.set(AT_MSIX + 4, 0x1ff0 | 4);
        image.set(AT_MSIX + 8, 0x0800);
        let found = MsiX::find(&|at| image.read(at)).expect("a table");
        assert_eq!((found.at, found.table, found.entries), (0x70, 0x12_0000_1ff0, 2048));
        assert_eq!(found.frames, [Some((0x120_0001, 0x120_0009)), Some((0xfebf0, 0xfebf0))]);
        assert_eq!(found.entry(2047), Some(0x12_0000_9fe0));
        assert_eq!(found.entry(2048), None);
        image.set(AT_MSIX + 8, 1);
        image.set(0x14, 0xc001);
        let found = MsiX::find(&|at| image.read(at)).expect("a table");
        assert_eq!(found.frames[1], None, "a register of ports");
        image.set(AT_MSIX + 4, 7);
        assert_eq!(MsiX::find(&|at| image.read(at)), None, "no such register");
    }

    #[test]
    fn functions_of_memory_mapped_space() {
        let region = MmConfig { address: 0xb000_0000, segment: 3, buses: (1, 2) };
        let function = |bus, devfn| Some(PciAddress { segment: 3, bus, devfn });
        assert_eq!(function_at(&region, 0xb_01fe), function(1, 0xfe));
        assert_eq!(function_at(&region, 0xb_0200), function(2, 0));
        assert_eq!(
            [0xa_ffff, 0xb_00ff, 0xb_0300, 0xc_0100].map(|frame| function_at(&region, frame)),
            [None; 4]
        );
    }

    proptest! {
        /// Whatever a device says, no write gets through that leaves a message of the hypervisor's changed.
        #[test]
        fn no_space_makes_it_stumble(
            words in prop::collection::vec(any::<u32>(), 64),
            starts in (0x40u32..256, 0x40u32..256),
            msi in prop::option::of(any::<bool>()),
            msix in any::<bool>(),
            (offset, size) in (0u16..4096, prop_oneof![Just(1u8), Just(2), Just(4)]),
            value in any::<u32>(),
        ) {
            let words: Vec<u32> = words;
            let mut image = Image(words.try_into().expect("64 words"));
            image.0[1] |= 0x10 << 16;
            image.set(0x34, starts.0);
            let (first, second) = ((starts.0 & !3) as u16, (starts.1 & !3) as u16);
            image.set(first, image.read(first as u8) & !0xffff | 5 | starts.1 << 8);
            image.set(second, image.read(second as u8) & !0xff | 0x11);
            let answer = image.judge(Used { msi, msix }, offset, size, value);
            if msi.is_none() && !msix || !may_reach_capability(offset, size) {
                prop_assert_eq!(answer, Some(value));
            }
            if msi.is_some() && first != second && offset == first + 4 {
                prop_assert_eq!(answer, None, "the message's address");
            }
            let _ = MsiX::find(&|at| image.read(at));
        }
    }
}
