//! Registers and stacks for people.

use crate::cpu::msr;
use crate::cpu::percpu::this_cpu;
use crate::mm::layout::CPU_AREA;
use crate::mm::uaccess::copy_from_guest;
use core::fmt;
use hypervisor_core::ids::GuestVirt;
use hypervisor_core::regs::Regs;

/// 16 digits. What a domain's end prints is one stretch of work, and the formatter's padding is a call for each digit.
struct Hex(u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digit = |place: usize| b"0123456789abcdef"[(self.0 >> (60 - 4 * place)) as usize & 15];
        let digits: [u8; 16] = core::array::from_fn(digit);
        f.write_str(str::from_utf8(&digits).unwrap_or_default())
    }
}

/// Prints a register frame.
pub fn registers(r: &Regs) {
    crate::error!("rip {:04x}:{} rflags {:08x} rsp {:04x}:{}", r.cs, Hex(r.rip), r.rflags, r.ss, Hex(r.rsp));
    crate::error!("rax {} rbx {} rcx {} rdx {}", Hex(r.rax), Hex(r.rbx), Hex(r.rcx), Hex(r.rdx));
    crate::error!("rsi {} rdi {} rbp {} r8  {}", Hex(r.rsi), Hex(r.rdi), Hex(r.rbp), Hex(r.r8));
    crate::error!("r9  {} r10 {} r11 {} r12 {}", Hex(r.r9), Hex(r.r10), Hex(r.r11), Hex(r.r12));
    crate::error!("r13 {} r14 {} r15 {}", Hex(r.r13), Hex(r.r14), Hex(r.r15));
}

/// Prints the registers of a guest, and what its stack says: more of it with `all`, for the domain whose end is the machine's. What
/// another domain's end makes the hypervisor say is bounded. Not for exceptions with a stack of their own: the guest's memory may fault.
pub fn guest(r: &Regs, all: bool) {
    let (lines, calls) = if all { (4, 32) } else { (1, 4) };
    registers(r);
    guest_stack(r.rsp, lines);
    guest_calls(r.rbp, calls);
}

/// Prints what the CPU's banks say of a machine check (SDM Vol. 3, 17.3).
pub fn machine_check() {
    const CAPABILITIES: u32 = 0x179;
    const STATUS: u32 = 0x17a;
    const BANK_STATUS: u32 = 0x401;
    const VALID: u64 = 1 << 63;
    let banks = msr::try_read(CAPABILITIES).unwrap_or(0) as u8;
    crate::error!("machine check: status {:#x}", msr::try_read(STATUS).unwrap_or(0));
    for bank in 0..u32::from(banks) {
        let status = msr::try_read(BANK_STATUS + 4 * bank).unwrap_or(0);
        if status & VALID != 0 {
            let address = msr::try_read(BANK_STATUS + 1 + 4 * bank).unwrap_or(0);
            crate::error!("bank {bank}: status {status:#018x} address {address:#x}");
        }
    }
}

/// The return address of a guest's stack frame and the next frame's address, as far as they can be read and go upwards.
fn guest_call(frame: u64) -> Option<(u64, Option<u64>)> {
    let mut words = [0u64; 2];
    let to = zerocopy::IntoBytes::as_mut_bytes(&mut words[..]);
    let readable = frame != 0 && frame & 7 == 0 && copy_from_guest(to, GuestVirt(frame)).is_ok();
    let [next, rip] = words;
    (readable && rip != 0).then_some((rip, (next > frame).then_some(next)))
}

/// Prints up to `most` return addresses of a guest's stack, following frame pointers.
fn guest_calls(frame: u64, most: usize) {
    for (rip, _) in core::iter::successors(guest_call(frame), |(_, next)| guest_call((*next)?)).take(most) {
        crate::error!("  called from 0x{}", Hex(rip));
    }
}

/// Prints the words at a guest's stack pointer, as far as they can be read.
fn guest_stack(rsp: u64, lines: u64) {
    for line in 0..lines {
        let mut words = [0u64; 4];
        let at = GuestVirt(rsp.wrapping_add(line * 32));
        if copy_from_guest(zerocopy::IntoBytes::as_mut_bytes(&mut words[..]), at).is_err() {
            return;
        }
        let [a, b, c, d] = words;
        crate::error!("stack {at}: {} {} {} {}", Hex(a), Hex(b), Hex(c), Hex(d));
    }
}

/// Prints the return addresses of the hypervisor's stack, following frame pointers within this CPU's area.
pub fn backtrace(mut frame: u64) {
    // Not the area that `frame` names: where a guest's registers are still in place, that is the guest's choice.
    let area = core::ptr::from_ref(this_cpu()) as u64 & !(CPU_AREA - 1);
    for _ in 0..32 {
        if frame & 7 != 0 || frame < area + 0x1000 || frame + 16 > area + CPU_AREA {
            return;
        }
        // SAFETY: two words within this CPU's own stack.
        let [next, rip] = unsafe { (frame as *const [u64; 2]).read() };
        if rip == 0 {
            return;
        }
        crate::error!("  called from 0x{}", Hex(rip));
        if next <= frame {
            return;
        }
        frame = next;
    }
}
