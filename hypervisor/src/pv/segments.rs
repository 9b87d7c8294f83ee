//! Segment registers of PV guests: bases and data selectors.
//!
//! While a guest's kernel runs, GS base is its own and `IA32_KERNEL_GS_BASE` holds its user's; `swapgs` exchanges them
//! whenever the vCPU changes between kernel and user mode. The hypervisor itself uses neither.

use crate::cpu::descriptors::{GUEST_CS64, gdt_window, ldt_window};
use crate::cpu::percpu::this_cpu;
use crate::cpu::{fsgsbase_enabled, msr};
use crate::machine::Vcpu;
use core::arch::{asm, global_asm};
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};
use hypervisor_core::segment::Segment;
use xen_abi::arch_x86::{SEGBASE_FS, SEGBASE_GS_KERNEL, SEGBASE_GS_USER, SEGBASE_GS_USER_SEL};
use xen_abi::errno::Errno;

// edi = selector, for each of DS, ES, FS, GS. Answers 0, or 1 after a fault; then the null selector is loaded.
macro_rules! loader {
    ($name:literal, $reg:literal) => {
        global_asm!(
            ".section .text",
            concat!(".type ", $name, ", @function"),
            concat!($name, ":"),
            "xor eax, eax",
            concat!("2: mov ", $reg, ", edi"),
            "3: ret",
            "4: xor edi, edi",
            concat!("mov ", $reg, ", edi"),
            "mov eax, 1",
            "ret",
            concat!(".size ", $name, ", . - ", $name),
            ".pushsection .fixup_table, \"a\"",
            ".quad 2b, 3b, 4b",
            ".popsection",
        );
    };
}

// edi = selector. Answers its access rights as `lar` does, 0 for one that cannot be looked up.
global_asm!(
    ".section .text",
    ".type access_rights, @function",
    "access_rights:",
    "xor eax, eax",
    "2: lar eax, edi",
    "3: ret",
    "4: xor eax, eax",
    "ret",
    ".size access_rights, . - access_rights",
    ".pushsection .fixup_table, \"a\"",
    ".quad 2b, 3b, 4b",
    ".popsection",
);

loader!("load_ds", "ds");
loader!("load_es", "es");
loader!("load_fs", "fs");
loader!("load_gs", "gs");

unsafe extern "sysv64" {
    fn access_rights(selector: u32) -> u32;
    fn load_ds(selector: u32) -> u64;
    fn load_es(selector: u32) -> u64;
    fn load_fs(selector: u32) -> u64;
    fn load_gs(selector: u32) -> u64;
}

fn swap_gs() {
    // SAFETY: the hypervisor does not use GS.
    unsafe { asm!("swapgs", options(nomem, nostack, preserves_flags)) }
}

/// Exchanges the guest's GS bases: it changes between kernel and user mode.
#[inline(always)]
pub fn exchange_gs() {
    swap_gs();
}

fn read_base(register: u32, fs: bool) -> u64 {
    if !fsgsbase_enabled() {
        return msr::read(register);
    }
    let base: u64;
    // SAFETY: CR4.FSGSBASE is set.
    unsafe {
        if fs {
            asm!("rdfsbase {}", out(reg) base, options(nomem, nostack, preserves_flags));
        } else {
            asm!("rdgsbase {}", out(reg) base, options(nomem, nostack, preserves_flags));
        }
    }
    base
}

/// Loads a base register with a canonical address.
fn write_base(register: u32, base: u64) {
    // SAFETY: callers checked the address; the hypervisor uses neither FS nor GS.
    unsafe { msr::write(register, base) }
}

/// `HYPERVISOR_set_segment_base` for the vCPU that runs on this CPU, in kernel mode.
pub fn set_base(vcpu: &Vcpu, which: u64, base: u64) -> Result<(), Errno> {
    match u32::try_from(which).map_err(|_| Errno::EINVAL)? {
        SEGBASE_FS => {
            write_base(msr::FS_BASE, base);
            vcpu.pv.fs_base.store(base, Ordering::Relaxed);
        }
        SEGBASE_GS_USER => {
            write_base(msr::KERNEL_GS_BASE, base);
            vcpu.pv.gs_base_user.store(base, Ordering::Relaxed);
        }
        SEGBASE_GS_KERNEL => {
            write_base(msr::GS_BASE, base);
            vcpu.pv.gs_base_kernel.store(base, Ordering::Relaxed);
        }
        SEGBASE_GS_USER_SEL => {
            let selector = u32::try_from(base & 0xffff).map_err(|_| Errno::EINVAL)?;
            // The selector's base belongs to user mode: load it while user's GS is the active one.
            swap_gs();
            // A selector that cannot be loaded becomes null and is no error: Xen never answered one.
            // SAFETY: a fault is fixed up; rings 0 to 2 are refused by forcing ring 3.
            unsafe { load_gs(if selector > 3 { selector | 3 } else { selector }) };
            let base = read_base(msr::GS_BASE, false);
            swap_gs();
            vcpu.pv.gs_base_user.store(base, Ordering::Relaxed);
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// DS, ES, FS and GS.
#[inline(always)]
fn loaded_selectors() -> [u16; 4] {
    let (ds, es, fs, gs): (u16, u16, u16, u16);
    // SAFETY: reads selectors.
    unsafe {
        asm!("mov {0:x}, ds", "mov {1:x}, es", "mov {2:x}, fs", "mov {3:x}, gs",
            out(reg) ds, out(reg) es, out(reg) fs, out(reg) gs, options(nomem, nostack, preserves_flags));
    }
    [ds, es, fs, gs]
}

/// Keeps the selectors and bases of the vCPU that leaves this CPU.
pub fn save(vcpu: &Vcpu) {
    for (slot, selector) in vcpu.arch.selectors.iter().zip(loaded_selectors()) {
        slot.store(selector, Ordering::Relaxed);
    }
    vcpu.pv.fs_base.store(read_base(msr::FS_BASE, true), Ordering::Relaxed);
    let (active, other) = (read_base(msr::GS_BASE, false), msr::read(msr::KERNEL_GS_BASE));
    let kernel_mode = vcpu.pv.kernel_mode.load(Ordering::Relaxed) != 0;
    let (kernel, user) = if kernel_mode { (active, other) } else { (other, active) };
    vcpu.pv.gs_base_kernel.store(kernel, Ordering::Relaxed);
    vcpu.pv.gs_base_user.store(user, Ordering::Relaxed);
}

/// Loads those of the vCPU that comes to this CPU; its GDT and LDT are loaded. A selector that cannot be loaded any more
/// becomes null; then answers what the selectors were, for the guest's failsafe callback.
#[must_use]
pub fn restore(vcpu: &Vcpu) -> Option<[u16; 4]> {
    let selectors = vcpu.arch.selectors.each_ref().map(|s| s.load(Ordering::Relaxed));
    // 64-bit kernels leave them null, and null needs no loading where it is already.
    let any = selectors.iter().chain(&loaded_selectors()).fold(0, |any, selector| any | selector) != 0;
    let failed = if any {
        let [ds, es, fs, gs] = selectors.map(u32::from);
        // SAFETY: faults are fixed up.
        unsafe { load_ds(ds) | load_es(es) | load_fs(fs) | load_gs(gs) }
    } else {
        0
    };
    let kernel = vcpu.pv.gs_base_kernel.load(Ordering::Relaxed);
    let user = vcpu.pv.gs_base_user.load(Ordering::Relaxed);
    let kernel_mode = vcpu.pv.kernel_mode.load(Ordering::Relaxed) != 0;
    let (active, other) = if kernel_mode { (kernel, user) } else { (user, kernel) };
    write_base(msr::FS_BASE, vcpu.pv.fs_base.load(Ordering::Relaxed));
    write_base(msr::GS_BASE, active);
    write_base(msr::KERNEL_GS_BASE, other);
    (failed != 0).then_some(selectors)
}

/// FS or GS base of the code that runs now.
pub fn active_base(fs: bool) -> u64 {
    if fs { read_base(msr::FS_BASE, true) } else { read_base(msr::GS_BASE, false) }
}

/// The selector in ES or DS, which the hypervisor does not use.
pub fn active_selector(es: bool) -> u64 {
    let selector: u64;
    // SAFETY: reads a register.
    unsafe {
        if es {
            asm!("mov {:r}, es", out(reg) selector, options(nomem, nostack, preserves_flags));
        } else {
            asm!("mov {:r}, ds", out(reg) selector, options(nomem, nostack, preserves_flags));
        }
    }
    selector & 0xffff
}

/// The descriptor that a selector names in the tables as they are now, which may no longer be those from which the segment register
/// was loaded (XSA-298); `None` where none of memory is within their limits.
fn descriptor(selector: u64) -> Option<u64> {
    const IN_LDT: u64 = 4;
    let index = selector & 0xfff8;
    // SAFETY: reads the descriptor; a fault is fixed up.
    if index == 0 && selector & IN_LDT == 0 || unsafe { access_rights(selector as u32 & 0xffff) } == 0 {
        return None;
    }
    let cpu = this_cpu().id();
    let table = if selector & IN_LDT == 0 { gdt_window(cpu) } else { ldt_window(cpu) };
    let at = ptr::with_exposed_provenance::<AtomicU64>((table + index) as usize);
    // SAFETY: `lar` has just read this descriptor in the window of this CPU, whose mappings only this CPU changes.
    Some(unsafe { &*at }.load(Ordering::Relaxed))
}

/// The segment that a selector names; `None` where there is none, or one that does not allow the access.
pub fn data_segment(selector: u64, write: bool) -> Option<Segment> {
    Segment::from_descriptor(descriptor(selector)?, write)
}

/// Code that runs: bits of its addresses and operands, and where its instructions are.
pub struct Code {
    /// 16, 32 or 64.
    pub bits: u32,
    /// What `rip` is an offset into.
    pub segment: Segment,
}

/// The code that this selector names; `None` where no code can run by it.
#[inline]
pub fn code(cs: u64) -> Option<Code> {
    if cs == u64::from(GUEST_CS64) {
        return Some(Code { bits: 64, segment: Segment::flat(0) });
    }
    other_code(cs)
}

#[cold]
#[inline(never)]
fn other_code(cs: u64) -> Option<Code> {
    const LONG: u64 = 1 << 53;
    const BIG: u64 = 1 << 54;
    let descriptor = descriptor(cs)?;
    let segment = Segment::of_code(descriptor)?;
    if descriptor & LONG != 0 {
        return Some(Code { bits: 64, segment: Segment::flat(0) });
    }
    Some(Code { bits: if descriptor & BIG != 0 { 32 } else { 16 }, segment })
}
