//! What is read at boot.

use crate::input::Input;
use hypervisor_core::acpi::{self, Memory};
use hypervisor_core::description::{self, Descriptions};
use hypervisor_core::mock;
use hypervisor_core::options::Options;

/// Firmware's memory: the input at three places, so that tables can name each other.
struct Firmware<'a>(&'a [u8]);

/// Where the input is seen.
const PLACES: [u64; 3] = [0xe_0000, 0x1000, 0xffff_ffff_ffff_0000];

impl Memory for Firmware<'_> {
    fn read(&self, at: u64, out: &mut [u8]) -> Option<()> {
        let found = PLACES.iter().find_map(|place| {
            let from = usize::try_from(at.checked_sub(*place)?).ok()?;
            self.0.get(from..from.checked_add(out.len())?)
        })?;
        out.copy_from_slice(found);
        Some(())
    }
}

/// ACPI tables, with the checksum of the stretch that each byte pair at the end names put right.
pub fn acpi(data: &[u8]) {
    let (tables, sums) = data.split_at(data.len() - data.len().min(16));
    let mut tables = tables.to_vec();
    for pair in sums.chunks(2) {
        mend_table(&mut tables, Input(pair).u16().into());
    }
    let _ = acpi::read(&Firmware(&tables), 0);
    let _ = acpi::read(&Firmware(&tables), PLACES[1]);
}

/// Makes the bytes of the table at `at` sum up to 0.
fn mend_table(bytes: &mut [u8], at: usize) {
    let Some(table) = bytes.get_mut(at..) else { return };
    let length = table.get(4..8).map_or(0, |l| u32::from_le_bytes([l[0], l[1], l[2], l[3]]) as usize);
    // The RSDP has no length, and two sums.
    let (length, sum_at) = if table.starts_with(b"RSD PTR ") { (20, 8) } else { (length, 9) };
    if length > sum_at && length <= table.len() {
        let sum = table[..length].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        table[sum_at] = table[sum_at].wrapping_sub(sum);
    }
}

/// The command line.
pub fn options(data: &[u8]) {
    let line = String::from_utf8_lossy(data);
    let (options, errors) = Options::parse(&line);
    // Every complaint is one about a word of the line.
    assert!(errors.len() <= line.split_ascii_whitespace().count());
    let _ = errors.iter().map(ToString::to_string).collect::<String>();
    let _ = options;
}

/// Frames of the machine that kernels are built on: 4 MiB.
const FRAMES: usize = 1024;

/// A kernel, as it is or with an ELF file's first bytes, and an initial RAM disk behind it.
pub fn kernel(data: &[u8]) {
    let mut input = Input(data);
    let kind = input.byte();
    let initrd = (kind & 1 != 0).then(|| input.take(16));
    let mut image = input.0.to_vec();
    if kind & 2 != 0 {
        let magic = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0";
        let count = magic.len().min(image.len());
        image[..count].copy_from_slice(&magic[..count]);
    }
    let hv = mock::hypervisor(FRAMES);
    let _ = hv.build_dom0(&image, initrd, "fuzz");
}

/// The description of domains: read, or refused with a line that the text has.
pub fn description(data: &[u8]) {
    let _ = description::is_description("module", data);
    match Descriptions::parse(data) {
        Ok(read) => {
            let domains = read.domains.len();
            assert!(read.channels.iter().all(|channel| channel.domains.iter().all(|index| *index < domains)));
        }
        Err(problem) => {
            let lines = data.iter().filter(|byte| **byte == b'\n').count() + 1;
            assert!((1..=lines).contains(&problem.line), "{problem}");
        }
    }
}
