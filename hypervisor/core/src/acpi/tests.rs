//! Tables as firmware writes them, and damaged ones.

use super::*;
use proptest::prelude::*;

/// Memory with some stretches in it.
#[derive(Clone, Default)]
struct Ram(Vec<(u64, Vec<u8>)>);

impl Memory for Ram {
    fn read(&self, at: u64, out: &mut [u8]) -> Option<()> {
        let found = self.0.iter().find_map(|(start, bytes)| {
            let from = usize::try_from(at.checked_sub(*start)?).ok()?;
            bytes.get(from..from.checked_add(out.len())?)
        })?;
        out.copy_from_slice(found);
        Some(())
    }
}

/// Makes the byte at `at` such that all sum up to 0.
fn sum_up(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] = 0;
    bytes[at] = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    bytes
}

fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes[..4].copy_from_slice(signature);
    bytes[4..8].copy_from_slice(&((HEADER + body.len()) as u32).to_le_bytes());
    bytes.extend_from_slice(body);
    sum_up(bytes, 9)
}

fn madt() -> Vec<u8> {
    let mut body = vec![0; 8];
    body.extend_from_slice(&[0, 8, 1, 10, 1, 0, 0, 0]); // a CPU
    body.extend_from_slice(&[0, 8, 2, 11, 0, 0, 0, 0]); // one that is not usable
    body.extend_from_slice(&[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 24, 0, 0, 0]);
    body.extend_from_slice(&[2, 10, 0, 9, 9, 0, 0, 0, 0x0f, 0]);
    body.extend_from_slice(&[9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0]);
    body.extend_from_slice(&[4, 6, 0, 0, 0, 1]);
    table(b"APIC", &body)
}

fn fadt(dsdt: u32) -> Vec<u8> {
    let mut fadt = vec![0; 244];
    fadt[40..44].copy_from_slice(&dsdt.to_le_bytes());
    fadt[64..68].copy_from_slice(&0x604u32.to_le_bytes());
    fadt[112..116].copy_from_slice(&(1u32 << 10).to_le_bytes());
    fadt[116] = 1;
    fadt[120..128].copy_from_slice(&0xcf9u64.to_le_bytes());
    fadt[128] = 15;
    fadt[208] = 0;
    fadt[212..220].copy_from_slice(&0xfed0_0608u64.to_le_bytes());
    table(b"FACP", &fadt[HEADER..])
}

fn rsdp(rsdt: u32, xsdt: u64) -> Vec<u8> {
    let mut bytes = b"RSD PTR \0PARAV".to_vec();
    bytes.resize(36, 0);
    bytes[15] = if xsdt == 0 { 0 } else { 2 };
    bytes[16..20].copy_from_slice(&rsdt.to_le_bytes());
    bytes[20..24].copy_from_slice(&36u32.to_le_bytes());
    bytes[24..32].copy_from_slice(&xsdt.to_le_bytes());
    let first = sum_up(bytes[..20].to_vec(), 8);
    bytes[..20].copy_from_slice(&first);
    sum_up(bytes, 32)
}

/// A machine whose root table is of either kind.
fn machine(extended: bool) -> Ram {
    let dsdt = table(b"DSDT", b"\x08_S5_\x12\x06\x04\x0a\x05\x01\x00\x00");
    let mut hpet = vec![0; 20];
    hpet[8..16].copy_from_slice(&0xfed0_0000u64.to_le_bytes());
    let mut mcfg = vec![0; 26];
    mcfg[8..16].copy_from_slice(&0xb000_0000u64.to_le_bytes());
    mcfg[19] = 255;
    let files = [
        (0x5000, fadt(0x9000)),
        (0x6000, madt()),
        (0x7000, table(b"HPET", &hpet)),
        (0x8000, table(b"MCFG", &mcfg)),
        (0x9000, dsdt),
    ];
    let named = [0x5000u64, 0x6000, 0x7000, 0xdead_0000, 0x8000];
    let root = if extended {
        table(b"XSDT", &named.map(u64::to_le_bytes).concat())
    } else {
        table(b"RSDT", &named.map(|at| (at as u32).to_le_bytes()).concat())
    };
    let mut ram = Ram(files.to_vec());
    ram.0.push((0x3000, root));
    ram.0.push((0xf_5a40, if extended { rsdp(0, 0x3000) } else { rsdp(0x3000, 0) }));
    ram
}

/// All that is read, from both kinds of root table, found by the loader or in the BIOS area.
#[test]
fn everything_is_found() {
    for (extended, hint) in [(false, 0), (true, 0), (true, 0xf_5a40)] {
        let info = read(&machine(extended), hint);
        assert_eq!(info.rsdp, 0xf_5a40);
        assert_eq!(info.cpus, [(10, 1), (0x100, 7)]);
        assert_eq!(info.ioapics, [IoApicInfo { address: 0xfec0_0000, gsi_base: 24 }]);
        assert_eq!(
            info.overrides,
            [Override { irq: 9, gsi: 9, line: Line { level: true, active_low: true } }]
        );
        assert_eq!(info.hpet, Some(0xfed0_0000));
        assert_eq!(info.pm_timer, Some(Register::Memory(0xfed0_0608)));
        assert_eq!(info.power.pm1, [Some(Register::Port(0x604)), None]);
        assert_eq!(info.power.reset, Some((Register::Port(0xcf9), 15)));
        assert_eq!(info.power.s5, Some((5, 1)));
        assert_eq!(info.mmconfig, [MmConfig { address: 0xb000_0000, segment: 0, buses: (0, 255) }]);
    }
}

/// A table with a wrong checksum is left out, the others are read.
#[test]
fn a_damaged_table_is_left_out() {
    let mut ram = machine(true);
    ram.0.iter_mut().find(|(at, _)| *at == 0x6000).unwrap().1[50] ^= 1;
    let info = read(&ram, 0);
    assert!(info.cpus.is_empty() && info.hpet.is_some());
}

/// No ACPI at all.
#[test]
fn nothing_is_no_error() {
    assert_eq!(read(&Ram::default(), 0), AcpiInfo::default());
    assert_eq!(read(&Ram::default(), 0x1234), AcpiInfo { rsdp: 0x1234, ..AcpiInfo::default() });
}

proptest! {
    /// Damaged tables whose checksums hold are read without a panic, and no entry comes from nowhere.
    #[test]
    fn damaged_tables(which in 0usize..5, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut ram = machine(true);
        let (_, bytes) = &mut ram.0[which];
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        *bytes = sum_up(core::mem::take(bytes), 9);
        let info = read(&ram, 0);
        prop_assert!(info.cpus.len() <= madt().len() / 8);
    }
}
