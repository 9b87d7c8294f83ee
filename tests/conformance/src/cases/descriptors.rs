//! Descriptor tables, segment bases, stacks and debug registers (xen.h, arch-x86/xen.h).

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::Pte;
use xen_abi::arch_x86::*;
use xen_abi::hypercall::nr;

use crate::call::*;
use crate::harness::pool::Page;
use crate::harness::{Env, Outcome, need, same};

/// A flat data segment of privilege level 3.
const DATA: u64 = 0x00cf_f300_0000_ffff;
/// A 64-bit interrupt gate: a system descriptor, which guests may not have.
const GATE: u64 = 0x0000_8e00_0000_0000;
/// A flat data segment of privilege level 0.
const DATA_RING_0: u64 = 0x00cf_9300_0000_ffff;

fn set_gdt(frame: u64, entries: u64) -> Ret {
    hc2(nr::SET_GDT, &raw const frame as u64, entries)
}

fn update_descriptor(address: u64, descriptor: u64) -> Ret {
    hc2(nr::UPDATE_DESCRIPTOR, address, descriptor)
}

fn base(which: u32, base: u64) -> Ret {
    hc2(nr::SET_SEGMENT_BASE, u64::from(which), base)
}

fn set_debug(register: u64, value: u64) -> Ret {
    hc2(nr::SET_DEBUGREG, register, value)
}

returns! {
    /// A GDT page may not be mapped for writing.
    gdt_writable(env): set_gdt(env.page(0).mfn().0, 16) => Err(Errno::EINVAL);
    /// A frame that does not exist.
    gdt_without_frame(env): set_gdt(NO_FRAME, 16) => Err(Errno::EINVAL);
    /// The hypervisor's own entries are not the guest's.
    gdt_too_long(env): set_gdt(env.page(0).mfn().0, FIRST_RESERVED_GDT_ENTRY as u64 + 1) => Err(Errno::EINVAL);
    /// Bad pointers.
    gdt_fault(env): all_fault(|at| hc2(nr::SET_GDT, at, 16)) => FAULTS;
    /// A descriptor lies at a multiple of eight bytes.
    descriptor_misaligned(env): update_descriptor(env.page(0).mfn().address() + 4, DATA) => Err(Errno::EINVAL);
    /// A frame that does not exist.
    descriptor_without_frame(env): update_descriptor(NO_FRAME << 12, DATA) => Err(Errno::EINVAL);
    /// A system descriptor is refused wherever it is to go.
    descriptor_gate(env): update_descriptor(env.page(0).mfn().address(), GATE) => Err(Errno::EINVAL);
    /// A table is not a place for descriptors.
    descriptor_in_table(env): update_descriptor(env.boot.root_table().address(), DATA) => Err(Errno::EINVAL);
    /// A base that does not exist.
    base_unknown(env): base(9, 0) => Err(Errno::EINVAL);
    /// Bases are canonical addresses.
    base_non_canonical(env): [SEGBASE_FS, SEGBASE_GS_USER, SEGBASE_GS_KERNEL].map(|which| base(which, NON_CANONICAL))
        => [Err(Errno::EINVAL); 3];
    /// The null selector may be loaded.
    user_gs_selector(env): base(SEGBASE_GS_USER_SEL, 0) => Ok(0);
    /// A stack may be anywhere: its address is looked at when it is used.
    stack(env): hc2(nr::STACK_SWITCH, u64::from(FLAT_KERNEL_SS), env.page(0).virt() + 4096) => Ok(0);
    /// Registers 4 and 5 are other names of 6 and 7 only where the guest's CR4 says so; there is no register 8.
    debug_register_unknown(env): set_debug(8, 0) => Err(Errno::ENODEV);
    /// Breakpoints in the hypervisor are refused.
    debug_register_hypervisor(env): set_debug(0, HYPERVISOR) => Err(Errno::EPERM);
    /// Breakpoints lie at canonical addresses.
    debug_register_non_canonical(env): set_debug(0, NON_CANONICAL) => Err(Errno::EPERM);
    /// The upper half of the control register must be zero.
    debug_control_upper_half(env): set_debug(7, 1 << 40) => Err(Errno::EINVAL);
}

/// Loads page 0 as the GDT with `first` as entry 1, and takes it away again.
fn load(env: &Env, first: u64) -> Result<(Page<'_>, Ret), crate::harness::Verdict> {
    let page = env.page(0);
    page.set(1, first);
    need("read-only", page.read_only())?;
    Ok((page, set_gdt(page.mfn().0, 512)))
}

fn unload() -> Outcome {
    same("no GDT", hc2(nr::SET_GDT, 0, 0), Ok(0))
}

case! {
    /// A read-only page of data segments becomes the GDT, and is not writable while it is one.
    fn gdt(env) {
        let (page, ret) = load(env, DATA)?;
        same("set_gdt", ret, Ok(0))?;
        same("writable meanwhile", page.writable(), Err(Errno::EBUSY))?;
        same("another segment", update_descriptor(page.entry(2), DATA), Ok(0))?;
        same("seen", page.get(2) & !(1 << 40), DATA & !(1 << 40))?;
        same("a gate", update_descriptor(page.entry(3), GATE), Err(Errno::EINVAL))?;
        same("nothing came of it", page.get(3), 0)?;
        unload()?;
        same("writable afterwards", page.writable(), Ok(()))
    }
}

case! {
    /// A segment of privilege level 0 is taken over with level 3: guests run there.
    fn gdt_privilege(env) {
        let (page, ret) = load(env, DATA_RING_0)?;
        same("set_gdt", ret, Ok(0))?;
        let seen = page.get(1);
        unload()?;
        same("privilege level", seen >> 45 & 3, 3)
    }
}

case! {
    /// A page with a system descriptor does not become a GDT.
    fn gdt_with_a_gate(env) {
        let (page, ret) = load(env, GATE)?;
        same("set_gdt", ret, Err(Errno::EINVAL))?;
        same("an ordinary page", page.writable(), Ok(()))
    }
}

case! {
    /// The base of FS is what was set.
    fn fs_base(env) {
        let page = env.page(0);
        page.set(1, 0x0f5);
        need("set_segment_base", base(SEGBASE_FS, page.virt()))?;
        let value: u64;
        // SAFETY: reads word 1 of the page through the segment; nothing else in the kernel uses FS.
        unsafe { core::arch::asm!("mov {}, fs:[8]", out(reg) value, options(nostack, readonly)) };
        same("reset", base(SEGBASE_FS, 0), Ok(0))?;
        same("fs:[8]", value, 0x0f5)
    }
}

case! {
    /// A breakpoint address is kept and read back.
    fn debug_registers(env) {
        let page = env.page(0);
        for register in 0..4 {
            same("set", set_debug(register, page.virt() + register), Ok(0))?;
        }
        for register in 0..4 {
            same("get", hc1(nr::GET_DEBUGREG, register), Ok(page.virt() + register))?;
            need("reset", set_debug(register, 0))?;
        }
        Ok(())
    }
}

case! {
    /// A page that is a GDT cannot become a page table at the same time.
    fn gdt_is_no_table(env) {
        let (page, ret) = load(env, DATA)?;
        same("set_gdt", ret, Ok(0))?;
        let pinned = mmuext(xen_abi::xen::MMUEXT_PIN_L1_TABLE, page.mfn().0, 0);
        unload()?;
        same("pin", pinned, Err(Errno::EINVAL))?;
        same("mapped", env.page(1).map(Pte::data(page.mfn())), Ok(()))
    }
}
