//! What must be in the hypervisor's code although no emulator behaves differently without it.

use std::fs;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use xtask::{elf, project};

use crate::support::trial;

/// `clac`.
const CLAC: &[u8] = &[0x0f, 0x01, 0xca];
/// The opcode of `call rel32`.
const CALL: u8 = 0xe8;
/// Those of `jne` and `jmp`, with a distance of 8 bits and of 32.
const JNE: [&[u8]; 2] = [&[0x75], &[0x0f, 0x85]];
const JMP: [&[u8]; 2] = [&[0xeb], &[0xe9]];
/// `sbb ecx, ecx; and eax, ecx`.
const MASK: &[u8] = &[0x19, 0xc9, 0x21, 0xc8];
/// `call [rcx + rax * 8]`.
const TABLE_CALL: &[u8] = &[0xff, 0x14, 0xc1];

pub fn trials() -> Vec<Trial> {
    vec![
        trial("code::handlers_start_with_the_gate_closed", gate),
        trial("code::a_hypercalls_number_is_masked_before_the_call", mask),
    ]
}

/// The hypervisor with its symbols.
fn hypervisor() -> Result<Vec<u8>> {
    fs::read(project::dist().join("paravane.debug.elf")).context("the hypervisor is not built")
}

/// Where these bytes are first.
fn place(code: &[u8], bytes: &[u8]) -> Option<usize> {
    code.windows(bytes.len()).position(|found| found == bytes)
}

/// Exceptions, NMIs and interrupts keep the AC flag of the code that they interrupt, which opens guest memory to the hypervisor
/// where the CPU has SMAP: each entry clears it on its way to each function that it calls.
fn gate() -> Result<()> {
    let entries = [
        ("trap_common", ["trap_from_guest", "trap_from_hypervisor"].as_slice()),
        ("trap_own_stack", &["trap_on_own_stack"]),
    ];
    let file = hypervisor()?;
    for (entry, handlers) in entries {
        let (start, mut code) = elf::function(&file, entry)?;
        let mut at = start;
        for handler in handlers {
            let (target, _) = elf::function(&file, handler)?;
            let call =
                call_of(at, code, target).with_context(|| format!("{entry} does not call {handler}"))?;
            ensure!(closes_gate(code, call), "{entry}: {handler} is called with the gate open");
            (at, code) = (at + call as u64, &code[call..]);
        }
    }
    Ok(())
}

/// Whether `code` closes the gate before offset `call`: on its way, or by a `jne` to where that is done, and back.
fn closes_gate(code: &[u8], call: usize) -> bool {
    let aside = |at| {
        let target = jump(code, at, JNE)?;
        let back = target + place(code.get(target..)?, CLAC)? + CLAC.len();
        jump(code, back, JMP).filter(|back| *back > at && *back <= call)
    };
    place(&code[..call], CLAC).is_some() || (0..call).any(|at| aside(at).is_some())
}

/// Where the jump at offset `at` goes, if one of these is there and leads to within `code`.
fn jump(code: &[u8], at: usize, [short, near]: [&[u8]; 2]) -> Option<usize> {
    let rest = code.get(at..)?;
    let (distance, length) = if let Some(operand) = rest.strip_prefix(short) {
        (isize::from(*operand.first()? as i8), short.len() + 1)
    } else {
        let operand = rest.strip_prefix(near)?.first_chunk()?;
        (i32::from_le_bytes(*operand) as isize, near.len() + 4)
    };
    (at + length).checked_add_signed(distance).filter(|target| *target < code.len())
}

/// Where `code`, which lies at `start`, first calls `target`.
fn call_of(start: u64, code: &[u8], target: u64) -> Option<usize> {
    code.windows(5).enumerate().position(|(at, bytes)| {
        let [opcode, distance @ ..] = bytes else { return false };
        let distance = <[u8; 4]>::try_from(distance).map_or(0, i32::from_le_bytes);
        let behind = start + at as u64 + bytes.len() as u64;
        *opcode == CALL && behind.wrapping_add_signed(distance.into()) == target
    })
}

/// A CPU that speculates beyond the comparison of a hypercall's number (Spectre variant 1) stays within the table.
fn mask() -> Result<()> {
    let file = hypervisor()?;
    let (_, code) = elf::function(&file, "syscall_entry")?;
    let masked = place(code, MASK).zip(place(code, TABLE_CALL)).is_some_and(|(mask, call)| mask < call);
    ensure!(masked, "{code:02x?}");
    Ok(())
}
