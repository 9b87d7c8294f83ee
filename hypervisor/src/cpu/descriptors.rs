//! GDT, TSS and IDT of each CPU.
//!
//! The GDT is a window of 16 pages on the current vCPU's frames: the guest's own 14 at most, then the hypervisor's page with
//! the flat segments at the selectors that the ABI promises (`FLAT_RING3_CS64` and the others, arch-x86/xen-x86_64.h)
//! and the CPU's TSS. The LDT window follows it. The hypervisor's page is the same in every vCPU, so nothing
//! but page-table entries change on a switch.

use super::percpu::{IST_STACK_ENDS, percpu_address};
use crate::mm::layout::{CPU_AREA, CPU_AREAS, DESCRIPTOR_WINDOW, DESCRIPTOR_WINDOWS};
use core::arch::asm;
use core::mem::size_of;
use hypervisor_core::ids::CpuId;

/// First GDT page that is the hypervisor's.
pub const RESERVED_GDT_PAGE: usize = 14;
/// Pages of the GDT window.
pub const GDT_PAGES: usize = 16;
/// Hypervisor code.
pub const HV_CS: u16 = 0xe008;
/// Hypervisor data; `syscall` loads it into SS.
pub const HV_SS: u16 = 0xe010;
/// Guest code, 32 bit.
pub const GUEST_CS32: u16 = 0xe023;
/// Guest stack and data.
pub const GUEST_SS: u16 = 0xe02b;
/// Guest code, 64 bit.
pub const GUEST_CS64: u16 = 0xe033;
const TSS_SELECTOR: u16 = 0xe040;
/// Selector of the LDT descriptor.
pub const LDT_SELECTOR: u16 = 0xe050;

/// Entries of the hypervisor's GDT page, from its first byte.
const FLAT: [u64; 8] = [
    0,
    0x00af_9b00_0000_ffff, // e008: ring 0 code, 64 bit
    0x00cf_9300_0000_ffff, // e010: ring 0 data
    0x00cf_bb00_0000_ffff, // e018: ring 1 code, 32 bit
    0x00cf_fb00_0000_ffff, // e020: ring 3 code, 32 bit
    0x00cf_f300_0000_ffff, // e028: ring 3 data
    0x00af_fb00_0000_ffff, // e030: ring 3 code, 64 bit
    0x00cf_b300_0000_ffff, // e038: ring 1 data
];

/// Task state segment (SDM Vol. 3, 8.7) with an I/O bitmap that permits nothing: ports are emulated.
#[repr(C, packed(4))]
pub struct Tss {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    iomap_base: u16,
}

/// Vector of `int 0x80`, which enters guests without a look at its DPL in their trap table.
pub const INT80_VECTOR: usize = 0x80;

/// IST number of the double fault, NMI, machine check and debug exception.
const IST_OF: [(usize, u8); 4] = [(8, 1), (2, 2), (18, 3), (1, 4)];

/// One gate of the IDT (SDM Vol. 3, 6.14.1).
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    low: u64,
    high: u64,
}

#[repr(C, align(4096))]
struct Idt([Gate; 256]);

static IDT: spin::Once<Idt> = spin::Once::new();

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

/// Address of a CPU's GDT window.
pub fn gdt_window(cpu: CpuId) -> u64 {
    DESCRIPTOR_WINDOWS + u64::from(cpu.0) * DESCRIPTOR_WINDOW
}

/// Address of a CPU's LDT window.
pub fn ldt_window(cpu: CpuId) -> u64 {
    gdt_window(cpu) + GDT_PAGES as u64 * 4096
}

/// The words of a CPU's own GDT page.
pub fn reserved_gdt_page(cpu: CpuId) -> impl Iterator<Item = u64> {
    let tss = tss_address(cpu);
    let limit = size_of::<Tss>() as u64 - 1;
    FLAT.into_iter().chain(system_descriptor(tss, limit, 0x89)).chain([0, 0])
}

/// A 16-byte descriptor of a TSS or LDT (SDM Vol. 3, 8.2.3).
pub fn system_descriptor(base: u64, limit: u64, access: u64) -> [u64; 2] {
    let low = (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | (base >> 24 & 0xff) << 56;
    [low, base >> 32]
}

fn tss_address(cpu: CpuId) -> u64 {
    percpu_address(cpu) + core::mem::offset_of!(super::percpu::PerCpu, tss) as u64
}

unsafe extern "C" {
    static trap_stubs: [[u8; 16]; 256];
}

fn build_idt() -> Idt {
    let mut idt = Idt([Gate { low: 0, high: 0 }; 256]);
    for (vector, gate) in idt.0.iter_mut().enumerate() {
        // SAFETY: only the address of a label is taken.
        let handler = unsafe { &raw const trap_stubs[vector] } as u64;
        let ist = IST_OF.iter().find(|(v, _)| *v == vector).map_or(0, |(_, ist)| u64::from(*ist));
        // Guests may raise breakpoint, overflow and the old system call by instruction; every other `int n` is decoded after #GP,
        // so that the guest's own trap table decides about its privilege.
        let dpl = if matches!(vector, 3 | 4 | INT80_VECTOR) { 3 } else { 0 };
        gate.low = (handler & 0xffff)
            | u64::from(HV_CS) << 16
            | ist << 32
            | (0x8e | dpl << 5) << 40
            | (handler >> 16 & 0xffff) << 48;
        gate.high = handler >> 32;
    }
    idt
}

/// Address of the IDT: one page.
pub fn idt_address() -> u64 {
    IDT.call_once(build_idt) as *const Idt as u64
}

/// Loads GDT, TSS and IDT of this CPU, whose windows and area are mapped.
///
/// # Safety
/// Once per CPU, with `cpu` its own number.
pub unsafe fn load(cpu: CpuId) {
    let area = CPU_AREAS + u64::from(cpu.0) * CPU_AREA;
    // SAFETY: nobody else knows this CPU's TSS yet.
    unsafe {
        let tss = tss_address(cpu) as *mut Tss;
        let mut ist = [0; 7];
        for (slot, end) in ist.iter_mut().zip(IST_STACK_ENDS) {
            *slot = area + end;
        }
        tss.write(Tss {
            reserved0: 0,
            rsp: [percpu_address(cpu), 0, 0],
            reserved1: 0,
            ist,
            reserved2: 0,
            reserved3: 0,
            iomap_base: size_of::<Tss>() as u16,
        });
    }
    let gdt = TablePointer { limit: (GDT_PAGES * 4096 - 1) as u16, base: gdt_window(cpu) };
    let idt = TablePointer { limit: 256 * 16 - 1, base: idt_address() };
    // SAFETY: the tables are mapped for ever and hold the selectors that are loaded here.
    unsafe {
        asm!(
            "lgdt [{gdt}]",
            "lidt [{idt}]",
            "push {cs}",
            "lea {tmp}, [rip + 2f]",
            "push {tmp}",
            "retfq",
            "2:",
            "mov ss, {ss:e}",
            "ltr {tss:x}",
            "lldt {null:x}",
            gdt = in(reg) &gdt,
            idt = in(reg) &idt,
            cs = in(reg) u64::from(HV_CS),
            ss = in(reg) u32::from(HV_SS),
            tss = in(reg) TSS_SELECTOR,
            null = in(reg) 0u16,
            tmp = out(reg) _,
        );
    }
}
