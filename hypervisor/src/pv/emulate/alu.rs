//! Arithmetic as the CPU does it: results and flags of the instructions that read, change and write memory.
//!
//! The operation is done by the very instruction, on registers, with the guest's arithmetic flags: so results and flags are the
//! CPU's own.

use core::arch::asm;
use iced_x86::Mnemonic;

/// CF, PF, AF, ZF, SF, OF.
const ARITHMETIC: u64 = 0x8d5;

/// Loads the arithmetic flags, does `$instruction`, and takes the flags; all other flags stay as they are.
macro_rules! with_flags {
    ($flags:ident, $instruction:expr, $($operands:tt)*) => {
        // SAFETY: works on registers and pushes and pops what it pushed; no flag but the arithmetic ones changes.
        unsafe {
            asm!(
                "pushfq",
                "and qword ptr [rsp], {others}",
                "or [rsp], {flags}",
                "popfq",
                $instruction,
                "pushfq",
                "pop {flags}",
                others = const !(ARITHMETIC as i32),
                flags = inout(reg) $flags,
                $($operands)*
            )
        }
    };
}

/// One instruction in the four sizes of its operands.
macro_rules! sized {
    ($size:ident, $flags:ident, $a:ident, $b:expr, $name:literal) => {
        match $size {
            1 => {
                let (mut a, b) = (($a & 0xff) as u8, ($b & 0xff) as u8);
                with_flags!($flags, concat!($name, " {a}, {b}"), a = inout(reg_byte) a, b = in(reg_byte) b);
                $a = u64::from(a);
            }
            2 => with_flags!($flags, concat!($name, " {a:x}, {b:x}"), a = inout(reg) $a, b = in(reg) $b),
            4 => with_flags!($flags, concat!($name, " {a:e}, {b:e}"), a = inout(reg) $a, b = in(reg) $b),
            _ => with_flags!($flags, concat!($name, " {a}, {b}"), a = inout(reg) $a, b = in(reg) $b),
        }
    };
    ($size:ident, $flags:ident, $a:ident, $name:literal) => {
        match $size {
            1 => {
                let mut a = ($a & 0xff) as u8;
                with_flags!($flags, concat!($name, " {a}"), a = inout(reg_byte) a);
                $a = u64::from(a);
            }
            2 => with_flags!($flags, concat!($name, " {a:x}"), a = inout(reg) $a),
            4 => with_flags!($flags, concat!($name, " {a:e}"), a = inout(reg) $a),
            _ => with_flags!($flags, concat!($name, " {a}"), a = inout(reg) $a),
        }
    };
    ($size:ident, $flags:ident, $a:ident, by $n:expr, $name:literal) => {
        match $size {
            1 => {
                let mut a = ($a & 0xff) as u8;
                with_flags!($flags, concat!($name, " {a}, cl"), a = inout(reg_byte) a, in("cl") $n);
                $a = u64::from(a);
            }
            2 => with_flags!($flags, concat!($name, " {a:x}, cl"), a = inout(reg) $a, in("cl") $n),
            4 => with_flags!($flags, concat!($name, " {a:e}, cl"), a = inout(reg) $a, in("cl") $n),
            _ => with_flags!($flags, concat!($name, " {a}, cl"), a = inout(reg) $a, in("cl") $n),
        }
    };
    ($size:ident, $flags:ident, $a:ident, $b:expr, by $n:expr, $name:literal) => {
        match $size {
            2 => with_flags!($flags, concat!($name, " {a:x}, {b:x}, cl"), a = inout(reg) $a, b = in(reg) $b,
                in("cl") $n),
            4 => with_flags!($flags, concat!($name, " {a:e}, {b:e}, cl"), a = inout(reg) $a, b = in(reg) $b,
                in("cl") $n),
            _ => with_flags!($flags, concat!($name, " {a}, {b}, cl"), a = inout(reg) $a, b = in(reg) $b,
                in("cl") $n),
        }
    };
}

/// An instruction's operands beside the one in memory.
#[derive(Clone, Copy)]
pub struct Operands {
    /// Bytes of the operand in memory: 1, 2, 4 or 8.
    pub size: u32,
    /// The second operand, where there is one.
    pub second: u64,
    /// Bits to shift or rotate by.
    pub count: u8,
}

/// What `mnemonic` makes of `value` and of the flags `rflags`; `None` for an instruction that is not of this kind.
pub fn compute(mnemonic: Mnemonic, value: u64, operands: Operands, rflags: u64) -> Option<(u64, u64)> {
    let Operands { size, second: b, count: n } = operands;
    let (mut a, mut flags) = (value, rflags & ARITHMETIC);
    match mnemonic {
        Mnemonic::Add | Mnemonic::Xadd => sized!(size, flags, a, b, "add"),
        Mnemonic::Adc => sized!(size, flags, a, b, "adc"),
        Mnemonic::Sub => sized!(size, flags, a, b, "sub"),
        Mnemonic::Sbb => sized!(size, flags, a, b, "sbb"),
        Mnemonic::And => sized!(size, flags, a, b, "and"),
        Mnemonic::Or => sized!(size, flags, a, b, "or"),
        Mnemonic::Xor => sized!(size, flags, a, b, "xor"),
        Mnemonic::Inc => sized!(size, flags, a, "inc"),
        Mnemonic::Dec => sized!(size, flags, a, "dec"),
        Mnemonic::Not => sized!(size, flags, a, "not"),
        Mnemonic::Neg => sized!(size, flags, a, "neg"),
        Mnemonic::Shl | Mnemonic::Sal => sized!(size, flags, a, by n, "shl"),
        Mnemonic::Shr => sized!(size, flags, a, by n, "shr"),
        Mnemonic::Sar => sized!(size, flags, a, by n, "sar"),
        Mnemonic::Rol => sized!(size, flags, a, by n, "rol"),
        Mnemonic::Ror => sized!(size, flags, a, by n, "ror"),
        Mnemonic::Rcl => sized!(size, flags, a, by n, "rcl"),
        Mnemonic::Rcr => sized!(size, flags, a, by n, "rcr"),
        Mnemonic::Shld if size > 1 => sized!(size, flags, a, b, by n, "shld"),
        Mnemonic::Shrd if size > 1 => sized!(size, flags, a, b, by n, "shrd"),
        Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => return Some(bit(mnemonic, value, operands, rflags)),
        _ => return None,
    }
    Some((a, rflags & !ARITHMETIC | flags & ARITHMETIC))
}

/// The instructions on single bits, of which CF says what the bit was (SDM Vol. 2, BTS: the other flags stay or are undefined).
fn bit(mnemonic: Mnemonic, value: u64, operands: Operands, rflags: u64) -> (u64, u64) {
    let mask = 1 << (operands.second & u64::from(operands.size * 8 - 1));
    let changed = match mnemonic {
        Mnemonic::Bts => value | mask,
        Mnemonic::Btr => value & !mask,
        _ => value ^ mask,
    };
    (changed, rflags & !1 | u64::from(value & mask != 0))
}

/// The flags after comparing `a` with `b` in `size` bytes.
pub fn compare(a: u64, b: u64, size: u32, rflags: u64) -> u64 {
    let operands = Operands { size, second: b, count: 0 };
    compute(Mnemonic::Sub, a, operands, rflags).map_or(rflags, |(_, flags)| flags)
}
