//! The shortest entries that a kernel can have, in assembly: the callbacks for exceptions, system calls and upcalls, and
//! the loops that run in user mode.
//!
//! Entries find `rcx`, `r11`, an error code where the vector has one, and an `iret` frame on the stack; each completes
//! that to what the `iret` hypercall wants and makes it. A fault goes on at the address in `micro_resume`.

use crate::Env;

#[cfg(target_os = "none")]
pub use bare::*;
#[cfg(not(target_os = "none"))]
pub use hosted::*;

/// Where the page of the loops lies in user mode.
pub const USER_CODE: u64 = 0x0040_0000;
/// An address that neither kernel nor user mode has.
pub const NOWHERE: u64 = 0x7000_0000;

#[cfg(target_os = "none")]
mod bare {
    use core::arch::{asm, global_asm};
    use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use guest_pv_lib::mmu::{Mfn, Pte};
    use xen_abi::arch_x86::{FLAT_KERNEL_CS, FLAT_USER_CS, FLAT_USER_SS, IretContext, TrapInfo};
    use xen_abi::callback::{
        CALLBACKF_MASK_EVENTS, CALLBACKOP_REGISTER, CALLBACKTYPE_EVENT, CALLBACKTYPE_SYSCALL,
        CallbackRegister,
    };
    use xen_abi::hypercall::nr;

    use super::{Env, NOWHERE, USER_CODE};
    use crate::call::{hc1, op};
    use crate::measure::least;

    global_asm!(
        ".pushsection .bss.micro, \"aw\", @nobits",
        ".balign 8",
        "micro_saved_rsp: .skip 8",
        ".global micro_resume",
        "micro_resume: .skip 8",
        ".global micro_shared_info",
        "micro_shared_info: .skip 8",
        ".popsection",
        ".pushsection .text.micro, \"ax\", @progbits",
        // An exception without an error code: back to where it was.
        ".global micro_trap",
        ".type micro_trap, @function",
        "micro_trap:",
        "pop rcx",
        "pop r11",
        "push 0",
        "push rcx",
        "push r11",
        "push rax",
        "mov eax, {iret}",
        "syscall",
        "ud2",
        ".size micro_trap, . - micro_trap",
        // An exception with an error code, whose slot becomes the frame's flags: on at `micro_resume`.
        ".global micro_fault",
        ".type micro_fault, @function",
        "micro_fault:",
        "pop rcx",
        "pop r11",
        "mov qword ptr [rsp], 0",
        "push rcx",
        "push r11",
        "push rax",
        "mov rax, [rip + micro_resume]",
        "mov [rsp + 32], rax",
        "mov eax, {iret}",
        "syscall",
        "ud2",
        ".size micro_fault, . - micro_fault",
        // A system call: rax of zero ends user mode.
        ".global micro_syscall",
        ".type micro_syscall, @function",
        "micro_syscall:",
        "test eax, eax",
        "jnz micro_trap",
        "mov rax, r8",
        "mov rsp, [rip + micro_saved_rsp]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        ".size micro_syscall, . - micro_syscall",
        // An upcall of vCPU 0 for one of the first 64 ports: takes them all.
        ".global micro_upcall",
        ".type micro_upcall, @function",
        "micro_upcall:",
        "mov rcx, [rip + micro_shared_info]",
        "mov byte ptr [rcx], 0",
        "mov qword ptr [rcx + 8], 0",
        "mov qword ptr [rcx + 2048], 0",
        "jmp micro_trap",
        ".size micro_upcall, . - micro_upcall",
        // fn(frame: rdi, rounds: rsi, address: rdx) -> least ticks
        ".global micro_user_enter",
        ".type micro_user_enter, @function",
        "micro_user_enter:",
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rip + micro_saved_rsp], rsp",
        "mov r12, rsi",
        "mov r13, rdx",
        "sub rsp, 72",
        "mov rsi, rdi",
        "mov rdi, rsp",
        "mov ecx, 9",
        "rep movsq",
        "mov eax, {iret}",
        "syscall",
        "ud2",
        ".size micro_user_enter, . - micro_user_enter",
        ".popsection",
        // User mode: r12 = rounds, r13 = an address. Least ticks in r8 at the end.
        ".pushsection .text.micro_user, \"ax\", @progbits",
        ".balign 4096",
        ".global micro_user_page",
        "micro_user_page:",
        ".global micro_user_syscalls",
        "micro_user_syscalls:",
        "mov r8d, -1",
        "2:",
        "rdtsc",
        "mov ebx, eax",
        "mov eax, 1",
        "syscall",
        "rdtsc",
        "sub eax, ebx",
        "cmp eax, r8d",
        "cmovb r8d, eax",
        "dec r12",
        "jnz 2b",
        "xor eax, eax",
        "syscall",
        ".global micro_user_faults",
        "micro_user_faults:",
        "mov r8d, -1",
        "2:",
        "rdtsc",
        "mov ebx, eax",
        "mov rax, [r13]",
        ".global micro_user_faulted",
        "micro_user_faulted:",
        "rdtsc",
        "sub eax, ebx",
        "cmp eax, r8d",
        "cmovb r8d, eax",
        "dec r12",
        "jnz 2b",
        "xor eax, eax",
        "syscall",
        ".balign 4096",
        ".popsection",
        iret = const nr::IRET,
    );

    unsafe extern "C" {
        safe static micro_trap: u8;
        safe static micro_fault: u8;
        safe static micro_syscall: u8;
        safe static micro_upcall: u8;
        safe static micro_user_page: u8;
        safe static micro_user_syscalls: u8;
        safe static micro_user_faults: u8;
        safe static micro_user_faulted: u8;
        safe static micro_resume: AtomicU64;
        safe static micro_shared_info: AtomicU64;
        fn micro_user_enter(frame: *const IretContext, rounds: u64, address: u64) -> u64;
    }

    /// Ticks between two readings of the counter in these stubs, with one instruction to keep the first.
    const READING: u64 = 2;

    const DEVICE_NOT_AVAILABLE: u8 = 7;
    const PAGE_FAULT: u8 = 14;

    /// Makes the callbacks those of this module, and page 11 of the pool the shared page.
    ///
    /// # Panics
    /// A hypervisor that refuses this leaves nothing to count.
    pub fn install(env: &Env) {
        let trap = |vector, stub: &u8| TrapInfo {
            vector,
            cs: FLAT_KERNEL_CS,
            address: stub as *const u8 as u64,
            ..TrapInfo::default()
        };
        let table =
            [trap(DEVICE_NOT_AVAILABLE, &micro_trap), trap(PAGE_FAULT, &micro_fault), TrapInfo::default()];
        hc1(nr::SET_TRAP_TABLE, &raw const table as u64).expect("set_trap_table");
        for (kind, stub) in [(CALLBACKTYPE_EVENT, &micro_upcall), (CALLBACKTYPE_SYSCALL, &micro_syscall)] {
            let address = stub as *const u8 as u64;
            let flags = CALLBACKF_MASK_EVENTS;
            let mut arg = CallbackRegister { type_: kind, flags, address, ..CallbackRegister::default() };
            op(nr::CALLBACK_OP, CALLBACKOP_REGISTER, &mut arg).expect("callback_op");
        }
        let shared = env.page(11);
        shared.map(Pte::data(Mfn(env.boot.start_info().shared_info >> 12))).expect("shared_info");
        micro_shared_info.store(shared.virt(), Relaxed);
    }

    /// Ticks of a page fault in kernel mode, from the instruction to the one behind it.
    pub fn kernel_page_fault() -> u64 {
        least(|_| {
            let ticks: u32;
            // SAFETY: the load faults, because nothing is mapped there, and the stub goes on behind it with all
            // registers as they were.
            unsafe {
                asm!(
                    "lea rcx, [rip + 2f]",
                    "mov [rip + micro_resume], rcx",
                    "rdtsc",
                    "mov esi, eax",
                    "mov rcx, [rdi]",
                    "2:",
                    "rdtsc",
                    "sub eax, esi",
                    in("rdi") NOWHERE,
                    out("eax") ticks, out("edx") _, out("ecx") _, out("esi") _,
                )
            };
            u64::from(ticks) - READING
        })
    }

    /// Ticks of `fnop`, which is an exception while the FPU is somebody else's.
    pub fn fpu_instruction() {
        // SAFETY: does nothing; a fault comes back to it by `micro_trap`.
        unsafe { asm!("fnop", options(nomem, nostack, preserves_flags)) }
    }

    /// An exception that nothing handles.
    pub fn undefined_instruction() {
        // SAFETY: the caller wants the domain to end.
        unsafe { asm!("ud2", options(nomem, nostack)) }
    }

    /// Tells the emulator's plug-in `xtask/probes/looks.c` that a row begins.
    pub fn row_begins() {
        // SAFETY: does nothing.
        unsafe { asm!("nop dword ptr [rax + 0x7a110001]", options(nomem, nostack, preserves_flags)) }
    }

    /// Tells it that the row is over.
    pub fn row_ends() {
        // SAFETY: does nothing.
        unsafe { asm!("nop dword ptr [rax + 0x7a110002]", options(nomem, nostack, preserves_flags)) }
    }

    /// The machine frame of the page whose loops run in user mode at [`USER_CODE`].
    pub fn user_frame(env: &Env) -> Mfn {
        env.frame_of(&raw const micro_user_page as u64)
    }

    /// Least ticks of `rounds` system calls. User mode must be set up.
    pub fn user_syscalls(rounds: u32) -> u64 {
        // Between the readings stand two instructions of the loop's own.
        user(&raw const micro_user_syscalls as u64, rounds) - READING - 1
    }

    /// Least ticks of `rounds` page faults. User mode must be set up.
    pub fn user_page_faults(rounds: u32) -> u64 {
        micro_resume.store(in_user_mode(&raw const micro_user_faulted as u64), Relaxed);
        user(&raw const micro_user_faults as u64, rounds) - READING
    }

    fn in_user_mode(label: u64) -> u64 {
        USER_CODE + (label - &raw const micro_user_page as u64)
    }

    fn user(entry: u64, rounds: u32) -> u64 {
        let frame = IretContext {
            rip: in_user_mode(entry),
            cs: u64::from(FLAT_USER_CS),
            // Upcalls may come, as a kernel lets them in user mode.
            rflags: 0x202,
            ss: u64::from(FLAT_USER_SS),
            ..IretContext::default()
        };
        // SAFETY: the loop runs with a page table that shows it nothing but itself, and ends by a system call that
        // returns here; the stub saves what the C convention wants saved.
        unsafe { micro_user_enter(&raw const frame, u64::from(rounds), NOWHERE) }
    }
}

#[cfg(not(target_os = "none"))]
mod hosted {
    //! Nothing of this runs on a host.
    use super::Env;
    use guest_pv_lib::mmu::Mfn;

    pub fn install(_: &Env) {}
    pub fn kernel_page_fault() -> u64 {
        0
    }
    pub fn fpu_instruction() {}
    pub fn undefined_instruction() {}
    pub fn row_begins() {}
    pub fn row_ends() {}
    pub fn user_frame(_: &Env) -> Mfn {
        Mfn(0)
    }
    pub fn user_syscalls(_: u32) -> u64 {
        0
    }
    pub fn user_page_faults(_: u32) -> u64 {
        0
    }
}
