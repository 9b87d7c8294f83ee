//! The policy beside what Debian's Xen 4.17 shows on the same processors.

use super::cpuid::{Host, Leaf, Viewer, keeps_fpu_pointers, leaf};
use super::msr::{self, MsrGuest, MsrState};
use super::*;
use core::cell::Cell;

/// A few leaves of QEMU's `max` processor, AMD's name on it.
fn qemu(number: u32, sub: u32) -> Leaf {
    match (number, sub) {
        (0, _) => [0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
        (1, _) => [0x0006_0fb1, 0x0000_0800, 0xfed8_320b, 0x0fcb_fbfd],
        (5, _) => [0, 0, 3, 0],
        (6, _) => [4, 0, 0, 0],
        (7, 0) => [0, 0x01d8_43a9, 0x8001_020c, 0],
        (0xb, _) => [0, 1, 0x100, 0],
        (0xd, 0) => [0x21f, 0x240, 0xa88, 0],
        (0xd, 1) => [5, 0x3c8, 0, 0],
        (0xd, 2) => [0x100, 0x240, 0, 0],
        (0xd, 9) => [8, 0xa80, 0, 0],
        (0x8000_0000, _) => [0x8000_000a, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
        (0x8000_0001, _) => [0x0006_0fb1, 0, 0x75, 0xedd3_fbfd],
        (0x8000_0008, _) => [0x3928, 0, 0, 0],
        (0x8000_000a, _) => [1, 0x10, 0, 0x1001_0001],
        _ => [0; 4],
    }
}

const DOM0: Viewer = Viewer { privileged: true, kernel: true, forced: true, cr4: CR4_VISIBLE };
const USER: Viewer = Viewer { privileged: false, kernel: false, forced: true, cr4: CR4_VISIBLE };

#[test]
fn cpuid_of_the_control_domain() {
    let cpuid = |number, sub| leaf(&qemu, &Host::of(&qemu), &DOM0, number, sub);
    assert_eq!(cpuid(0, 0), qemu(0, 0));
    assert_eq!(cpuid(1, 0)[3], 0x0fc9_d3f5);
    assert_eq!(cpuid(1, 0)[2] >> 26 & 0b11, 0b11, "XSAVE, and OSXSAVE through the prefix");
    assert_eq!(cpuid(7, 0)[1], 0x0188_0329);
    assert_eq!(cpuid(7, 0)[2], 1 << 9);
    assert_eq!([cpuid(5, 0), cpuid(6, 0), cpuid(0xb, 0), cpuid(0x14, 0)], [[0; 4]; 4]);
    assert_eq!(cpuid(0xd, 0), [7, 0x240, 0x340, 0]);
    assert_eq!([cpuid(0xd, 1), cpuid(0xd, 2), cpuid(0xd, 9)], [[5, 0, 0, 0], [0x100, 0x240, 0, 0], [0; 4]]);
    assert_eq!(cpuid(0x8000_0001, 0)[3], 0xe9d1_dbf5);
    assert_eq!(cpuid(0x8000_0008, 0)[0], 0x3028);
    assert_eq!([cpuid(0x8000_000a, 0), cpuid(0x8000_001f, 0), cpuid(0x1234_5678, 0)], [[0; 4]; 3]);
}

/// AMD's processors that do not say that they load all of it, and no others.
#[test]
fn fpu_pointers_may_stay() {
    assert!(keeps_fpu_pointers(&qemu));
    let changed =
        |leaf: u32, value: Leaf| move |n: u32, sub: u32| if n == leaf { value } else { qemu(n, sub) };
    assert!(!keeps_fpu_pointers(&changed(0x8000_0008, [0x3928, 1 << 2, 0, 0])));
    assert!(!keeps_fpu_pointers(&changed(0, [0xd, 0x756e_6547, 0x6c65_746e, 0x4965_6e69])), "Intel's");
    assert!(keeps_fpu_pointers(&changed(0, [0xd, 0x6f67_7948, 0x656e_6975, 0x6e65_476e])), "Hygon's");
    let old = |n: u32, sub: u32| match n {
        0x8000_0000 => [0x8000_0007, 0, 0, 0],
        0x8000_0008 => [u32::MAX; 4],
        _ => qemu(n, sub),
    };
    assert!(keeps_fpu_pointers(&old), "without the leaf that would say so");
}

#[test]
fn cpuid_of_user_code() {
    let [_, _, ecx, edx] = leaf(&qemu, &Host::of(&qemu), &USER, 1, 0);
    assert_eq!(ecx >> 27 & 1, 0, "OSXSAVE as in CR4");
    assert_eq!(edx >> 12 & 1, 0, "no MTRR");
    let on = Viewer { cr4: CR4_VISIBLE | CR4_OSXSAVE, ..USER };
    assert_eq!(leaf(&qemu, &Host::of(&qemu), &on, 1, 0)[2] >> 27 & 1, 1);
}

#[test]
fn control_register_4() {
    assert_eq!(guest_cr4(0, true, true), CR4_VISIBLE);
    assert_eq!(guest_cr4(u64::MAX, true, true), 0x5_066c);
    assert_eq!(guest_cr4(u64::MAX, false, false), 0x66c);
    let base = 0x35_06e0;
    assert_eq!(hardware_cr4(base, CR4_VISIBLE), base & !CR4_FSGSBASE);
    assert_eq!(hardware_cr4(base, guest_cr4(u64::MAX, true, true)), base | CR4_TSD);
}

#[test]
fn extended_control_register() {
    const ALL: u64 = cpuid::XCR0_USABLE;
    for (value, valid) in
        [(0, false), (1, true), (3, true), (5, false), (7, true), (0x27, false), (0xe7, true), (0xe3, false)]
    {
        assert_eq!(valid_xcr0(value, ALL), valid, "{value:#x}");
    }
    assert!(!valid_xcr0(0xe7, 7) && !valid_xcr0(0x207, ALL));
}

#[derive(Default)]
struct Mock {
    intel: bool,
    unprivileged: bool,
    deaf: bool,
    faulting: bool,
    state: MsrState,
    base: Cell<u64>,
}

impl MsrGuest for Mock {
    fn vendor(&self) -> Vendor {
        if self.intel { Vendor::Intel } else { Vendor::Amd }
    }
    fn privileged(&self) -> bool {
        !self.unprivileged
    }
    fn is_first(&self) -> bool {
        true
    }
    fn native(&self, msr: u32) -> Option<u64> {
        match msr {
            0x8b => Some(0x0100_0065),
            0x1a0 => Some(1),
            0x1b => Some(0xfee0_0900),
            0xc000_0080 => Some(0x1d01),
            0xc001_0010 | 0x802 | 0x2000 | 0x4000_0000..=0x4000_ffff | 0xc001_2000 | 0xffff_ffff => {
                Some(u64::MAX)
            }
            _ => None,
        }
    }
    fn state(&self) -> &MsrState {
        &self.state
    }
    fn base(&self, _: u32) -> u64 {
        self.base.get()
    }
    fn set_base(&self, _: u32, base: u64) {
        self.base.set(base);
    }
    fn tsc(&self) -> u64 {
        77
    }
    fn has_tsc_aux(&self) -> bool {
        true
    }
    fn load_tsc_aux(&self, _: u32) {}
    fn has_cpuid_faulting(&self) -> bool {
        self.faulting
    }
    fn handles_faults(&self) -> bool {
        !self.deaf
    }
    fn fill_hypercall_page(&self, mfn: u64) -> bool {
        mfn == 5
    }
}

#[test]
fn msrs_that_read() {
    let guest = Mock::default();
    let expected = [
        (0, Some(0)),
        (0x10, Some(77)),
        (0x17, None),
        (0x1b, Some(0xfee0_0900)),
        (0x3a, None),
        (0x48, None),
        (0x8b, Some(0x0100_0065)),
        (0xce, Some(0)),
        (0x10a, None),
        (0x174, None),
        (0x179, Some(2)),
        (0x1a0, Some(0x80_1801)),
        (0x1d9, None),
        (0x277, Some(0x0501_0007_0406)),
        (0x280, Some(0)),
        (0x400, Some(u64::MAX)),
        (0x401, Some(0)),
        (0x408, Some(0)),
        (0x4d0, None),
        (0x606, None),
        (0x802, None),
        (0x4000_0000, Some(0)),
        (0x4000_0001, None),
        (0xc000_0080, Some(0xd01)),
        (0xc000_0081, None),
        (0xc000_0082, None),
        (0xc000_0103, Some(0)),
        (0xc001_0000, Some(0)),
        (0xc001_0010, Some(0x74_0000)),
        (0xc001_1029, Some(2)),
    ];
    for (msr, value) in expected {
        assert_eq!(msr::read(&guest, msr), value, "{msr:#x}");
    }
    assert_eq!(msr::read(&Mock { unprivileged: true, ..Mock::default() }, 0xc001_0010), None);
    let intel = Mock { intel: true, ..Mock::default() };
    let expected =
        [(0x3a, Some(1)), (0x179, Some(0x0100_0802)), (0x198, Some(0)), (0xc1, Some(0)), (0xc001_0015, None)];
    for (msr, value) in expected {
        assert_eq!(msr::read(&intel, msr), value, "{msr:#x}");
    }
}

#[test]
fn a_guest_without_a_handler_reads_zero() {
    let guest = Mock { deaf: true, unprivileged: true, ..Mock::default() };
    assert_eq!(msr::read(&guest, 0xc001_0010), Some(0), "the machine has it");
    assert_eq!(msr::read(&guest, 0x48), None, "it has not");
    for msr in [0x802, 0x2000, 0x4000_0001, 0x4000_0200, 0xc001_2000, 0xffff_ffff] {
        assert_eq!(msr::read(&guest, msr), None, "the machine is not asked for {msr:#x}");
    }
}

#[test]
fn msrs_that_are_written() {
    let guest = Mock::default();
    let expected = [
        (0x10, 0, false),
        (0x1b, 0xfee0_0900, false),
        (0x49, 1, false),
        (0x79, 0, false),
        (0x8b, 0, false),
        (0xe7, 5, true),
        (0x140, 0, true),
        (0x140, 1, false),
        (0x17a, 4, true),
        (0x1a0, 0, true),
        (0x277, 0x0501_0007_0406, false),
        (0x280, 9, true),
        (0x401, 0, true),
        (0x401, 1, false),
        (0x409, 1, true),
        (0x4000_0000, 0x5000, true),
        (0x4000_0000, 0x5001, false),
        (0x4000_0000, 0x6000, false),
        (0xc000_0080, 0xd01, true),
        (0xc000_0080, 0x501, false),
        (0xc000_0082, 0, false),
        (0xc000_0100, 0x8000_0000_0000, false),
        (0xc000_0100, 0x1000, true),
        (0xc000_0103, 1 << 32, false),
        (0xc000_0103, 7, true),
        (0xc001_0015, 1, true),
    ];
    for (msr, value, done) in expected {
        assert_eq!(msr::write(&guest, msr, value), done, "{msr:#x} = {value:#x}");
    }
    assert_eq!((guest.base.get(), msr::read(&guest, 0xc000_0103)), (0x1000, Some(7)));
    assert_eq!(msr::read(&guest, 0x17a), Some(4));
    let intel = Mock { intel: true, faulting: true, ..Mock::default() };
    assert!(msr::write(&intel, 0x280, 9) && msr::read(&intel, 0x280) == Some(9));
    assert!(
        msr::write(&intel, 0x140, 1) && !msr::write(&intel, 0x140, 2) && msr::read(&intel, 0x140) == Some(1)
    );
    assert!(msr::write(&intel, 0x8b, 0) && !msr::write(&intel, 0x8b, 1) && msr::write(&intel, 0x199, 1));
    assert_eq!(msr::read(&intel, 0xce), Some(1 << 31));
}
