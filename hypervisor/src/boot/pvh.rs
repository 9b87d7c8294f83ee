//! The PVH boot protocol (`hvm_start_info`, hvm/start_info.h).

use super::info::{BootInfo, Module};
use super::phys;
use xen_abi::hvm_start_info::XEN_HVM_START_MAGIC_VALUE;

/// Whether a table of the loader's can be read: the boot code has mapped the first 4 GiB.
fn is_in_reach(at: u64, entries: u32, size: u64) -> bool {
    at.checked_add(u64::from(entries) * size).is_some_and(|end| end <= 4 << 30)
}

/// Reads the start info at `at`; `None` when its magic is not there.
pub fn read(at: u64) -> Option<BootInfo> {
    let [magic, version, _flags, module_count] = phys::<[u32; 4]>(at);
    if magic != XEN_HVM_START_MAGIC_VALUE {
        return None;
    }
    let [modules, cmdline, rsdp] = phys::<[u64; 3]>(at + 16);
    let mut info = BootInfo::new();
    info.cmdline = cmdline;
    info.rsdp = rsdp;
    if !is_in_reach(modules, module_count, 32) {
        info.set_out_of_reach();
        return Some(info);
    }
    for n in 0..u64::from(module_count) {
        let [start, size, string, _] = phys::<[u64; 4]>(modules + n * 32);
        let end = start.checked_add(size).unwrap_or(0);
        if !info.add_module(Module { start, end, string }) {
            break;
        }
    }
    if version >= 1 {
        let (map, ranges) = (phys::<u64>(at + 40), phys::<u32>(at + 48));
        if !is_in_reach(map, ranges, 24) {
            info.set_out_of_reach();
            return Some(info);
        }
        for n in 0..u64::from(ranges) {
            let [start, size] = phys::<[u64; 2]>(map + n * 24);
            if !info.add_range(start, size, phys::<u32>(map + n * 24 + 16)) {
                break;
            }
        }
    }
    Some(info)
}
