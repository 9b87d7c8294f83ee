//! Code: user mode and the kernel's own, privileged instructions, ports, software interrupts, and `iret` frames of any kind.
//!
//! A vCPU's page of code is filled with a few instructions and entered by the hypercall `iret`, in user mode or as the
//! kernel. It ends at the latest at the `ud2` behind it, by one of the vCPU's own entries.

use xen_abi::arch_x86::{FLAT_USER_CS, FLAT_USER_SS, IretContext, VGCF_IN_SYSCALL};
use xen_abi::xen::MMUEXT_NEW_USER_BASEPTR;

use super::argument::{Cx, DEADLY};
use super::edge::{frame_words, leave, poke, stack_top};
use super::pool::{self, USER_CODE, USER_DATA, USER_PAGES, place};
use super::tables::mmuext;

/// Instructions that do not touch ports for writing: those that a first domain may make as well.
const GENTLE: &[&[u8]] = &[
    &[0x0f, 0xa2],                               // cpuid
    &[0x0f, 0x0b, b'x', b'e', b'n', 0x0f, 0xa2], // ud2; "xen"; cpuid
    &[0x0f, 0x31],                               // rdtsc
    &[0x0f, 0x01, 0xf9],                         // rdtscp
    &[0x0f, 0x32],                               // rdmsr
    &[0x0f, 0x30],                               // wrmsr
    &[0x0f, 0x33],                               // rdpmc
    &[0x0f, 0x20, 0xc0],                         // mov rax, cr0
    &[0x0f, 0x20, 0xd0],                         // mov rax, cr2
    &[0x0f, 0x20, 0xd8],                         // mov rax, cr3
    &[0x0f, 0x20, 0xe0],                         // mov rax, cr4
    &[0x44, 0x0f, 0x20, 0xc0],                   // mov rax, cr8
    &[0x0f, 0x22, 0xc0],                         // mov cr0, rax
    &[0x0f, 0x22, 0xd0],                         // mov cr2, rax
    &[0x0f, 0x22, 0xd8],                         // mov cr3, rax
    &[0x0f, 0x22, 0xe0],                         // mov cr4, rax
    &[0x44, 0x0f, 0x22, 0xc0],                   // mov cr8, rax
    &[0x0f, 0x21, 0xf8],                         // mov rax, dr7
    &[0x0f, 0x23, 0xf8],                         // mov dr7, rax
    &[0x0f, 0x23, 0xc0],                         // mov dr0, rax
    &[0x0f, 0x06],                               // clts
    &[0x0f, 0x01, 0xf0],                         // lmsw ax
    &[0x0f, 0x01, 0xe0],                         // smsw eax
    &[0x0f, 0x01, 0x38],                         // invlpg [rax]
    &[0x0f, 0x01, 0x10],                         // lgdt [rax]
    &[0x0f, 0x01, 0x18],                         // lidt [rax]
    &[0x0f, 0x01, 0x00],                         // sgdt [rax]
    &[0x0f, 0x01, 0x08],                         // sidt [rax]
    &[0x0f, 0x00, 0xc8],                         // str eax
    &[0x0f, 0x00, 0xd0],                         // lldt ax
    &[0x0f, 0x00, 0xd8],                         // ltr ax
    &[0x0f, 0x02, 0xc0],                         // lar eax, ax
    &[0x0f, 0x03, 0xc0],                         // lsl eax, ax
    &[0x0f, 0x00, 0xe0],                         // verr ax
    &[0x0f, 0x01, 0xf8],                         // swapgs
    &[0x0f, 0x01, 0xd0],                         // xgetbv
    &[0x0f, 0x01, 0xd1],                         // xsetbv
    &[0x0f, 0x01, 0xca],                         // clac
    &[0x0f, 0x01, 0xcb],                         // stac
    &[0x0f, 0x01, 0xc8],                         // monitor
    &[0x0f, 0x01, 0xc9],                         // mwait
    &[0x0f, 0x09],                               // wbinvd
    &[0x0f, 0x08],                               // invd
    &[0x0f, 0x01, 0xd9],                         // vmmcall
    &[0x0f, 0x01, 0xc1],                         // vmcall
    &[0x0f, 0x01, 0xd8],                         // vmrun
    &[0x66, 0x0f, 0x38, 0x82, 0x00],             // invpcid rax, [rax]
    &[0x0f, 0x05],                               // syscall
    &[0x0f, 0x34],                               // sysenter
    &[0x0f, 0x07],                               // sysret
    &[0x0f, 0x35],                               // sysexit
    &[0x48, 0xcf],                               // iretq
    &[0x48, 0xcb],                               // retfq
    &[0xcc],                                     // int3
    &[0xcd, 0x80],                               // int 0x80
    &[0xcd, 0x02],                               // int 2
    &[0xcd, 0x08],                               // int 8
    &[0xcd, 0x0e],                               // int 14
    &[0xcd, 0x82],                               // int 0x82
    &[0xcd, 0xff],                               // int 0xff
    &[0xf1],                                     // icebp
    &[0xf4],                                     // hlt
    &[0xfa],                                     // cli
    &[0xfb],                                     // sti
    &[0x9d],                                     // popfq
    &[0x50, 0x9d],                               // push rax; popfq
    &[0x8e, 0xd8],                               // mov ds, eax
    &[0x8e, 0xc0],                               // mov es, eax
    &[0x8e, 0xe0],                               // mov fs, eax
    &[0x8e, 0xe8],                               // mov gs, eax
    &[0x8e, 0xd0],                               // mov ss, eax
    &[0x8e, 0xd0, 0xcd, 0x80],                   // mov ss, eax; int 0x80
    &[0x8e, 0xd0, 0x0f, 0x05],                   // mov ss, eax; syscall
    &[0x64, 0x48, 0x8b, 0x00],                   // mov rax, fs:[rax]
    &[0x65, 0x48, 0x89, 0x00],                   // mov gs:[rax], rax
    &[0x48, 0x89, 0x06],                         // mov [rsi], rax
    &[0x48, 0x8b, 0x1f],                         // mov rbx, [rdi]
    &[0xf0, 0x48, 0x0f, 0xb1, 0x16],             // lock cmpxchg [rsi], rdx
    &[0xf0, 0x48, 0x0f, 0xc7, 0x0e],             // lock cmpxchg16b [rsi]
    &[0xf3, 0x48, 0xa5],                         // rep movsq
    &[0xf3, 0xaa],                               // rep stosb
    &[0xff, 0xe0],                               // jmp rax
    &[0xff, 0x28],                               // jmp far [rax]
    &[0xff, 0x18],                               // call far [rax]
    &[0x0f, 0xae, 0x06],                         // fxsave [rsi]
    &[0x0f, 0xae, 0x0f],                         // fxrstor [rdi]
    &[0x0f, 0xae, 0x2f],                         // xrstor [rdi]
    &[0x0f, 0xae, 0x26],                         // xsave [rsi]
    &[0xf3, 0x48, 0x0f, 0xae, 0xd0],             // wrfsbase rax
    &[0xf3, 0x48, 0x0f, 0xae, 0xd8],             // wrgsbase rax
    &[0xf3, 0x48, 0x0f, 0xae, 0xc8],             // rdgsbase rax
    &[0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0x9b], // fld1; fldz; fdivp; fwait
    &[0x0f, 0xae, 0x16],                         // ldmxcsr [rsi]
    &[0x66, 0x0f, 0xef, 0xc0],                   // pxor xmm0, xmm0
    &[0x48, 0xf7, 0xf1],                         // div rcx
    &[0x67, 0x66, 0x2e, 0xf0, 0x48, 0x87, 0x06], // prefixes; xchg [rsi], rax
    &[0xc8, 0xff, 0xff, 0x1f],                   // enter
    &[0x0f, 0xc7, 0xf0],                         // rdrand eax
    &[0xe4, 0x61],                               // in al, 0x61
    &[0xec],                                     // in al, dx
    &[0x66, 0xed],                               // in ax, dx
    &[0xed],                                     // in eax, dx
    &[0x6c],                                     // insb
    &[0xf3, 0x6d],                               // rep insd
];

/// Instructions that write ports.
const PORTS: &[&[u8]] = &[
    &[0xee],             // out dx, al
    &[0x66, 0xef],       // out dx, ax
    &[0xef],             // out dx, eax
    &[0xe6, 0x80],       // out 0x80, al
    &[0x6e],             // outsb
    &[0xf3, 0x6f],       // rep outsd
    &[0x66, 0xf3, 0x6f], // rep outsw
];

/// Ports that something may be behind.
const NUMBERS: &[u64] = &[
    0x20, 0x21, 0x40, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x80, 0x92, 0x3f8, 0x3fd, 0xcf8, 0xcf9, 0xcfc,
    0xffff,
];
/// Model-specific registers.
const MSRS: &[u64] = &[
    0x10,
    0x1b,
    0x3a,
    0x48,
    0x49,
    0x8b,
    0xfe,
    0x174,
    0x175,
    0x176,
    0x179,
    0x17a,
    0x1a0,
    0x1d9,
    0x200,
    0x277,
    0x2ff,
    0x400,
    0x401,
    0x480,
    0x800,
    0x802,
    0x80b,
    0x830,
    0xda0,
    0x4000_0000,
    0x4000_0001,
    0xc000_0080,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
    0xc000_0103,
    0xc001_0015,
    0xc001_0114,
    0xc001_0117,
    0xc001_1029,
];

/// Fills this vCPU's page of code.
fn write(cx: &mut Cx, user: bool) {
    let mut bytes = [0; 64];
    let mut used = 0;
    for _ in 0..=cx.below(5) {
        let random = [cx.random.any().to_le_bytes(), cx.random.any().to_le_bytes()];
        let piece = match cx.below(12) {
            0 if user && !cx.first => &random.as_flattened()[..1 + cx.below(15)],
            1 | 2 if !cx.first => cx.pick(PORTS),
            _ => cx.pick(GENTLE),
        };
        if used + piece.len() > 48 {
            break;
        }
        // The kernel's would be any hypercall, those included that end this life; and it needs its stack.
        if !user && piece.windows(2).any(|pair| matches!(pair, [0x0f, 0x05] | [0xc8, 0xff])) {
            continue;
        }
        bytes[used..used + piece.len()].copy_from_slice(piece);
        used += piece.len();
    }
    // ud2
    for pair in bytes[used..].chunks_exact_mut(2) {
        pair.copy_from_slice(&[0x0f, 0x0b]);
    }
    for (n, word) in bytes.chunks(8).enumerate() {
        let mut whole = [0; 8];
        whole.copy_from_slice(word);
        poke(place().code[cx.vcpu] + 8 * n as u64, u64::from_le_bytes(whole));
    }
}

/// Registers to start with: what the instructions above use as addresses, selectors, ports and numbers of registers.
fn registers(cx: &mut Cx, user: bool) -> ([u64; 12], [u64; 3]) {
    let value = |cx: &mut Cx| match cx.below(8) {
        0 => cx.number(),
        1 => cx.below(0x80) as u64 | 3,
        2 => 0xe000 | cx.below(256) as u64,
        3 if user => USER_DATA + 4096 * cx.below(USER_PAGES) as u64 + cx.offset(),
        4 if user => USER_CODE + cx.offset(),
        _ => cx.address(),
    };
    let mut all: [u64; 12] = core::array::from_fn(|_| value(cx));
    let mut named: [u64; 3] = core::array::from_fn(|_| value(cx));
    // rdx is a port or the upper half of a register, rcx a count or the number of an MSR.
    all[1] = if cx.rarely(2) { cx.pick(NUMBERS) } else { 0 };
    named[2] = if cx.rarely(2) { cx.pick(MSRS) } else { cx.below(600) as u64 };
    (all, named)
}

/// Goes there. This turn ends here.
pub fn enter(cx: &mut Cx) -> ! {
    // Mostly user mode: the kernel's own code is the end of this life when it loses its stack.
    let user = !cx.rarely(6);
    write(cx, user);
    let (registers, [rax, r11, rcx]) = registers(cx, user);
    // The kernel's code needs a stack that the hypervisor can write, or its first fault ends this life.
    let own =
        if cx.rarely(DEADLY / 16) { pool::address(cx.below(USER_PAGES)) } else { stack_top(cx.vcpu) - 20480 };
    let (code, stack) = if user {
        (USER_CODE + 4096 * cx.vcpu as u64, USER_DATA + 4096 * cx.below(USER_PAGES) as u64 + 2048)
    } else {
        (place().code[cx.vcpu], own)
    };
    let ring = if user { 3 } else { 0 };
    if user && !cx.rarely(DEADLY / 128) {
        mmuext(MMUEXT_NEW_USER_BASEPTR, place().user_root.0, 0);
    }
    let mut frame = IretContext {
        rax,
        r11,
        rcx,
        flags: 0,
        rip: code,
        cs: u64::from(FLAT_USER_CS) & !3 | ring,
        rflags: 0x2 | if cx.rarely(2) { 0x200 } else { 0 },
        rsp: stack,
        ss: u64::from(FLAT_USER_SS),
    };
    let mut words = frame_words(&frame);
    if cx.rarely(3) {
        // Something about the frame itself is wrong.
        frame.flags = if cx.rarely(2) { VGCF_IN_SYSCALL } else { cx.number() };
        words[3] = frame.flags;
        let at = cx.below(9);
        // A trap of the kernel's own code needs its stack: without one this life is over.
        let at = if at == 7 && !user && !cx.rarely(DEADLY / 128) { 0 } else { at };
        words[at] = match at {
            // Another mode than that of the stack: the same end.
            5 if !cx.rarely(DEADLY / 128) => {
                cx.pick(&[if user { 0xe023 } else { 0xe033 }, 0xe033, 0xe010, 0x1_0000_e033, 0x10, 0x8])
                    | ring
            }
            5 | 8 => {
                cx.pick(&[0, 3, 0x10, 0xe008, 0xe010, 0xe019, 0xe023, 0xe02b, 0xe033, 0x1_0000_e033, 0xffff])
            }
            6 => cx.random.any() & 0x003f_ffff,
            _ if cx.rarely(2) => cx.address(),
            _ => cx.number(),
        };
    }
    let at = if cx.rarely(DEADLY / 16) {
        cx.address()
    } else {
        cx.store(zerocopy::IntoBytes::as_bytes(&words[..]))
    };
    leave(at, &registers)
}
