//! What must be in the hypervisor's code although no emulator behaves differently without it.

use std::fs;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use xtask::{elf, project};

use crate::support::trial;

/// `clac`.
const CLAC: &[u8] = &[0x0f, 0x01, 0xca];
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

/// Runs `check` on the bytes of a function of the hypervisor.
fn function(name: &str, check: impl FnOnce(&[u8]) -> bool) -> Result<()> {
    let file = fs::read(project::dist().join("paravane.debug.elf")).context("the hypervisor is not built")?;
    let code = elf::function(&file, name)?;
    ensure!(check(code), "{name}: {code:02x?}");
    Ok(())
}

/// Where these bytes are first.
fn place(code: &[u8], bytes: &[u8]) -> Option<usize> {
    code.windows(bytes.len()).position(|found| found == bytes)
}

/// Exceptions, NMIs and interrupts keep the AC flag of the code that they interrupt, which opens guest memory to the hypervisor
/// where the CPU has SMAP: each entry clears it right behind the registers that it saves.
fn gate() -> Result<()> {
    const SAVING: usize = 48;
    ["trap_common", "trap_own_stack"]
        .iter()
        .try_for_each(|entry| function(entry, |code| place(code, CLAC).is_some_and(|at| at < SAVING)))
}

/// A CPU that speculates beyond the comparison of a hypercall's number (Spectre variant 1) stays within the table.
fn mask() -> Result<()> {
    function("syscall_entry", |code| {
        place(code, MASK).zip(place(code, TABLE_CALL)).is_some_and(|(mask, call)| mask < call)
    })
}
