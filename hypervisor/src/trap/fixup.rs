//! Faults that the hypervisor expects of a few instructions of its own.
//!
//! Each such place puts three words into the section `.fixup_table`: the range of instructions that may fault, and where
//! to go on. The range holds no calls and changes no stack, so the registers at the fault are good at the target.

/// Where to go on after a fault at `rip`, if it is expected there.
pub fn find(rip: u64) -> Option<u64> {
    unsafe extern "C" {
        static fixup_table_start: [u64; 3];
        static fixup_table_end: [u64; 3];
    }
    // SAFETY: the linker script puts the section's entries between these symbols; it is never written.
    let table = unsafe {
        let start = &raw const fixup_table_start;
        let len = (&raw const fixup_table_end).offset_from_unsigned(start);
        core::slice::from_raw_parts(start, len)
    };
    table.iter().find(|[start, end, _]| (*start..*end).contains(&rip)).map(|[_, _, target]| *target)
}
