//! From the boot loader's 32-bit environment to Rust.
//!
//! Two doors: multiboot (magic in `eax`, information in `ebx`) and PVH (`hvm_start_info` in `ebx`). Both leave flat 32-bit
//! protected mode with paging off, interrupts off, and no stack (Multiboot 0.6.96, 3.2; Xen's docs/misc/pvh). The stub
//! maps the first 4 GiB with large pages at 0 and at [`PHYSICAL`](super::PHYSICAL), and the first 2 GiB at the image's
//! base, turns on long mode and calls Rust on the boot stack. The builder then makes the tables that stay.
//!
//! Rules: labels start with `pv_native`; until the jump to 64-bit code every address is physical, link address minus
//! base. `edi` and `esi` carry magic and information to Rust.

use core::arch::global_asm;

use super::{builder, cpu, timer, uart, xen};
use crate::platform::loader::{self, Memory, Said};
use crate::platform::{Kind, seam};

global_asm!(
    ".set PV_NATIVE_BASE, 0xffffffff80000000",
    // The magic, flags (page alignment, memory map, addresses in the header), checksum and addresses.
    ".pushsection .text.pv_multiboot, \"ax\", @progbits",
    ".balign 4",
    "pv_native_header:",
    ".long 0x1badb002, 0x00010003, -(0x1badb002 + 0x00010003)",
    ".long pv_native_header - PV_NATIVE_BASE",
    ".long __pv_image_start - PV_NATIVE_BASE",
    ".long __pv_data_end - PV_NATIVE_BASE",
    ".long __pv_image_end - PV_NATIVE_BASE",
    ".long pv_native_multiboot - PV_NATIVE_BASE",
    ".popsection",
    // XEN_ELFNOTE_PHYS32_ENTRY.
    ".pushsection .note.Xen, \"a\", @note",
    ".balign 4",
    ".long 4, 4, 18",
    ".asciz \"Xen\"",
    ".long pv_native_pvh - PV_NATIVE_BASE",
    ".popsection",
    ".pushsection .bss.pv_native, \"aw\", @nobits",
    ".balign 4096",
    ".global pv_native_l3_low",
    "pv_native_l4: .skip 4096",
    "pv_native_l3_low: .skip 4096",
    "pv_native_l3_image: .skip 4096",
    ".global pv_native_l2",
    "pv_native_l2: .skip 4 * 4096",
    "pv_native_tsc: .skip 8",
    ".popsection",
    ".pushsection .rodata.pv_native, \"a\", @progbits",
    ".balign 8",
    "pv_native_gdt:",
    ".quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff",
    "pv_native_gdt_pointer:",
    ".word . - pv_native_gdt - 1",
    ".long pv_native_gdt - PV_NATIVE_BASE",
    ".popsection",
    ".pushsection .text.pv_native, \"ax\", @progbits",
    ".code32",
    ".global pv_native_multiboot",
    ".type pv_native_multiboot, @function",
    "pv_native_multiboot:",
    "movl %eax, %edi",
    "jmp 1f",
    ".size pv_native_multiboot, . - pv_native_multiboot",
    ".global pv_native_pvh",
    ".type pv_native_pvh, @function",
    "pv_native_pvh:",
    "xorl %edi, %edi",
    "1: cli",
    "cld",
    "movl %ebx, %esi",
    "rdtsc",
    "movl %eax, pv_native_tsc - PV_NATIVE_BASE",
    "movl %edx, pv_native_tsc - PV_NATIVE_BASE + 4",
    // Level 2: 2048 entries of 2 MiB, present and writable.
    "movl $(pv_native_l2 - PV_NATIVE_BASE), %eax",
    "movl $0x83, %ecx",
    "2: movl %ecx, (%eax)",
    "addl $8, %eax",
    "addl $0x200000, %ecx",
    "jnc 2b",
    // Level 3: all four of them from 0 on; the first two again in the last two slots of the image's.
    "movl $(pv_native_l2 - PV_NATIVE_BASE + 3), %eax",
    "movl %eax, pv_native_l3_low - PV_NATIVE_BASE",
    "movl %eax, pv_native_l3_image - PV_NATIVE_BASE + 510 * 8",
    "addl $4096, %eax",
    "movl %eax, pv_native_l3_low - PV_NATIVE_BASE + 8",
    "movl %eax, pv_native_l3_image - PV_NATIVE_BASE + 511 * 8",
    "addl $4096, %eax",
    "movl %eax, pv_native_l3_low - PV_NATIVE_BASE + 16",
    "addl $4096, %eax",
    "movl %eax, pv_native_l3_low - PV_NATIVE_BASE + 24",
    "movl $(pv_native_l3_low - PV_NATIVE_BASE + 3), %eax",
    "movl %eax, pv_native_l4 - PV_NATIVE_BASE",
    "movl %eax, pv_native_l4 - PV_NATIVE_BASE + 257 * 8",
    "movl $(pv_native_l3_image - PV_NATIVE_BASE + 3), pv_native_l4 - PV_NATIVE_BASE + 511 * 8",
    // CR4: PAE, OSFXSR, OSXMMEXCPT. EFER: SCE, LME, NXE. CR0: PG, WP, NE, ET, MP, PE.
    "movl $0x620, %eax",
    "movl %eax, %cr4",
    "movl $(pv_native_l4 - PV_NATIVE_BASE), %eax",
    "movl %eax, %cr3",
    "movl $0xc0000080, %ecx",
    "movl $0x901, %eax",
    "xorl %edx, %edx",
    "wrmsr",
    "movl $0x80010033, %eax",
    "movl %eax, %cr0",
    "lgdt pv_native_gdt_pointer - PV_NATIVE_BASE",
    "ljmp $8, $(3f - PV_NATIVE_BASE)",
    ".code64",
    "3: movabsq $4f, %rax",
    "jmpq *%rax",
    "4: xorl %eax, %eax",
    "movl %eax, %ds",
    "movl %eax, %es",
    "movl %eax, %fs",
    "movl %eax, %gs",
    "movl $16, %eax",
    "movl %eax, %ss",
    "leaq pv_boot_stack_top(%rip), %rsp",
    "xorl %ebp, %ebp",
    "movl %edi, %edi",
    "movl %esi, %esi",
    "movq pv_native_tsc(%rip), %rdx",
    "call {start}",
    "ud2",
    ".size pv_native_pvh, . - pv_native_pvh",
    ".popsection",
    start = sym start,
    options(att_syntax),
);

/// The low 4 GiB, where the stub mapped them.
pub struct Physical;

impl Memory for Physical {
    fn read<const N: usize>(&self, at: u64) -> [u8; N] {
        if at.checked_add(N as u64).is_none_or(|end| end > super::PHYSICAL_SIZE) {
            return [0; N];
        }
        let from = core::ptr::with_exposed_provenance::<[u8; N]>((super::PHYSICAL + at) as usize);
        // SAFETY: mapped by the stub; bytes have no alignment and no invalid values.
        unsafe { from.read_volatile() }
    }
}

/// Called once by the stub.
extern "C" fn start(magic: u32, info: u64, entry_tsc: u64) -> ! {
    let below = xen::find();
    seam::set(if below.is_some() { Kind::Pvh } else { Kind::Native });
    let mut said = Said::read(&Physical, magic, info);
    match below {
        Some(base) => {
            xen::fill_page(base);
            // The first version of the start info has no memory map.
            said.complete(xen::memory_map);
        }
        None => uart::init(),
    }
    let said = loader::keep(said);
    // SAFETY: once, before anything else, on the stub's tables.
    let start_info = unsafe { builder::build(said) };
    // SAFETY: once, with the tables that stay.
    unsafe { cpu::init() };
    if below.is_some() {
        xen::init(start_info);
    } else {
        timer::init();
    }
    // A kernel starts with upcalls masked.
    crate::shared::this_vcpu().upcall_mask.store(1, core::sync::atomic::Ordering::Relaxed);
    x86_64::instructions::interrupts::enable();
    crate::entry::start::main(core::ptr::from_ref(start_info).expose_provenance() as u64, entry_tsc)
}
