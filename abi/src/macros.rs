//! The macros that every module of this crate is written with.
//!
//! A file has at most one [`consts!`] and one [`wire!`] block and exactly one [`abi_module!`] line that names
//! the C header and the blocks. Forgetting a block there is a warning about dead code; forgetting the module
//! in its parent's `children` makes the C check fail.
//!
//! ```text
//! consts! {
//!     /// Sends an event. Argument: [`EvtchnSend`].
//!     EVTCHNOP_SEND("EVTCHNOP_send"): u32 = 4;
//!     /// Same spelling in C: no name needed.
//!     EVTCHNSTAT_CLOSED: u32 = 0;
//!     /// Not in Debian's headers: say why.
//!     OWN_EXTENSION(!"an extension of this project"): u32 = 7;
//! }
//!
//! wire! {
//!     /// Argument of [`EVTCHNOP_SEND`].
//!     pub struct EvtchnSend("struct evtchn_send", 8) {
//!         /// The C name is the Rust name.
//!         @0 port: u32,
//!         /// Another C designator.
//!         @4 type_("type"): u8,
//!         /// Padding without a C name (no comment needed for names with a leading underscore).
//!         @5 _pad0(): [u8; 3],
//!     }
//!     /// Lives in memory shared with another agent: gets neither `Copy`, `Clone` nor `PartialEq`.
//!     pub struct SharedInfo("struct shared_info", 4096) [shared] { /* … */ }
//!     /// Further `repr`s are added to `repr(C)`.
//!     #[repr(packed)]
//!     pub struct Odd(!"not in C", 3) { @0 a: u8, @1 b: u16, }
//! }
//!
//! abi_module! { "event_channel.h": consts, wire }
//! // a file that only groups others:
//! abi_module! { children: ring, console }
//! ```

/// The [`CName`](crate::registry::CName) of an item: `c_name!(rust_name)`, `c_name!(rust_name, "c name")`,
/// `c_name!(rust_name, !"reason")`; an empty second argument is padding.
macro_rules! c_name {
    ($name:ident) => {
        $crate::registry::CName::Is(stringify!($name))
    };
    ($name:ident,) => {
        $crate::registry::CName::Absent("padding")
    };
    ($name:ident, $c:literal) => {
        $crate::registry::CName::Is($c)
    };
    ($name:ident, ! $why:literal) => {
        $crate::registry::CName::Absent($why)
    };
}

/// The line of documentation that a parenthesised C name adds.
macro_rules! c_doc {
    () => {
        "Padding: write zero, ignore when read."
    };
    ($c:literal) => {
        concat!("\n\nC: `", $c, "`")
    };
    (! $why:literal) => {
        concat!("\n\nNot in C: ", $why, ".")
    };
}

/// Defines constants and registers them in the file's `CONSTS`.
macro_rules! consts {
    ($($(#[$meta:meta])* $name:ident $(($($c:tt)*))? : $t:ty = $value:expr;)*) => {
        $(
            $(#[$meta])*
            $(#[doc = c_doc!($($c)*)])?
            pub const $name: $t = $value;
        )*
        const CONSTS: &[$crate::registry::Const] = &[$($crate::registry::Const {
            name: stringify!($name),
            c: c_name!($name $(, $($c)*)?),
            value: $crate::registry::Of::<$t>($name).value(),
        },)*];
    };
}

/// Defines wire structures, asserts their size and every offset, and registers them in the file's `LAYOUTS`.
macro_rules! wire {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident ($(!$absent:literal)? $($c:literal)?, $size:expr) $([$kind:ident])? {
            $($(#[$fmeta:meta])* @$offset:literal $field:ident $(($($fc:tt)*))? : $t:ty),* $(,)?
        }
    )*) => {
        $(wire! { @item [$($kind)?]
            $(#[$meta])*
            #[doc = c_doc!($(!$absent)? $($c)?)]
            #[repr(C)]
            #[derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable)]
            pub struct $name {
                $(
                    $(#[$fmeta])*
                    $(#[doc = c_doc!($($fc)*)])?
                    pub $field: $t,
                )*
            }
        })*
        $(
            const _: () = assert!(size_of::<$name>() == $size);
            $(const _: () = assert!(core::mem::offset_of!($name, $field) == $offset);)*
            impl Default for $name {
                /// All bytes zero.
                fn default() -> Self {
                    zerocopy::FromZeros::new_zeroed()
                }
            }
        )*
        const LAYOUTS: &[$crate::registry::Layout] = &[$($crate::registry::Layout {
            name: stringify!($name),
            c: c_name!($name, $(!$absent)? $($c)?),
            size: size_of::<$name>(),
            align: align_of::<$name>(),
            fields: &[$($crate::registry::Field {
                name: stringify!($field),
                c: c_name!($field $(, $($fc)*)?),
                offset: core::mem::offset_of!($name, $field),
                size: size_of::<$t>(),
                signed: $crate::registry::is_signed(stringify!($t)),
            },)*],
        },)*];
    };
    (@item [] $item:item) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $item
    };
    (@item [shared] $item:item) => {
        #[derive(Debug)]
        $item
    };
}

/// Publishes the file's blocks, or a group's children, as its `ABI` entry of the registry.
macro_rules! abi_module {
    ($($include:literal),+ : $($block:ident),*) => {
        /// What this module registers for the checks.
        pub const ABI: $crate::registry::Module = $crate::registry::Module {
            file: file!(),
            includes: &[$($include),+],
            layouts: abi_module!(@layouts $($block)*),
            consts: abi_module!(@consts $($block)*),
            children: &[],
        };
    };
    (children: $($child:ident),* $(,)?) => {
        /// What the modules below register for the checks.
        pub const ABI: $crate::registry::Module = $crate::registry::Module {
            file: file!(),
            includes: &[],
            layouts: &[],
            consts: &[],
            children: &[$($child::ABI),*],
        };
    };
    (@layouts wire) => { LAYOUTS };
    (@layouts consts wire) => { LAYOUTS };
    (@layouts consts) => { &[] };
    (@layouts) => { &[] };
    (@consts consts) => { CONSTS };
    (@consts consts wire) => { CONSTS };
    (@consts wire) => { &[] };
    (@consts) => { &[] };
}
