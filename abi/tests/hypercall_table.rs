//! The declarative table of hypercalls: numbers unique and sorted, types that exist, headers that exist.

use std::path::Path;

use xen_abi::hypercall::{Hypercall, TABLE, nr};

/// Expands every argument's type: a row that names a type which the crate does not have fails to compile.
macro_rules! signatures {
    ($($(#[$doc:meta])* $const:ident = $nr:literal, $name:ident($($arg:ident : $ty:ident $(($($of:tt)*))?),*),
       $kind:ident, $right:ident, $header:literal;)*) => {
        /// The sizes of the arguments of each hypercall.
        const SIZES: &[&[usize]] = &[$(&[$(size_of::<xen_abi::hypercall_arg_type!($ty $(($($of)*))?)>()),*]),*];
    };
}
xen_abi::for_each_hypercall!(signatures);

#[test]
fn rows_are_sorted_and_unique() {
    assert!(TABLE.is_sorted_by(|a, b| a.nr < b.nr));
    assert_eq!(Hypercall::by_nr(u64::from(nr::MMU_UPDATE)).map(|call| call.name), Some("mmu_update"));
    assert_eq!(Hypercall::by_nr(u64::MAX), None);
    assert_eq!(Hypercall::by_nr((1 << 32) + 1), None);
}

#[test]
fn arguments_fit_the_registers() {
    for (call, sizes) in TABLE.iter().zip(SIZES) {
        assert!(call.args.len() <= 5, "{}", call.name);
        for (arg, size) in call.args.iter().zip(*sizes) {
            assert_eq!(arg.bits as usize, size * 8, "{}({})", call.name, arg.name);
        }
    }
}

#[test]
fn headers_exist() {
    for call in TABLE {
        assert!(
            Path::new("/usr/include/xen").join(call.header).exists(),
            "{} of {} is missing: run `cargo xtask setup`",
            call.header,
            call.name
        );
    }
}

#[test]
fn rows_read_like_the_declaration() {
    let update = Hypercall::by_nr(1).expect("mmu_update");
    let types: Vec<_> = update.args.iter().map(|arg| arg.ty.replace(' ', "")).collect();
    assert_eq!(types, ["handle(xen::MmuUpdate)", "u32", "raw(u32)", "u32"]);
    assert!(update.callers.pv && !update.callers.hvm && !update.callers.privileged);
}
