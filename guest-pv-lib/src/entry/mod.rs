//! How the domain builder finds the kernel ([`note`]) and how the kernel gets from there to Rust ([`start`]).
//!
//! [`entry!`](crate::entry!) is the only thing that a kernel writes.

pub mod note;
pub mod start;

/// Makes the binary a PV kernel whose Rust entry is `$main`, a `fn(BootContext) -> !`.
///
/// It emits the ELF notes by which a domain builder recognises the kernel and finds its entry, and the symbol that
/// the entry stub of this library calls. Use it once in a program. Link with the library's linker script (the
/// crate's front page says how).
///
/// `name` and `version` are what the notes `GUEST_OS` and `GUEST_VERSION` say; they default to the package's.
///
/// ```no_run
/// # #![cfg_attr(target_os = "none", no_std, no_main)]
/// use guest_pv_lib::{BootContext, sched};
///
/// guest_pv_lib::entry!(kernel, name = "example", version = "1.0");
///
/// fn kernel(boot: BootContext) -> ! {
///     guest_pv_lib::println!("{} pages", boot.pages());
///     sched::shutdown(sched::Shutdown::PowerOff)
/// }
/// ```
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        $crate::entry!($main, name = env!("CARGO_PKG_NAME"), version = env!("CARGO_PKG_VERSION"));
    };
    ($main:path, name = $name:expr, version = $version:expr $(,)?) => {
        // On a hosted target (`cargo test`, `cargo check` of a workspace) the program is an empty one.
        #[cfg(not(target_os = "none"))]
        fn main() {
            let _: fn($crate::BootContext) -> ! = $main;
        }

        #[cfg(target_os = "none")]
        const _: () = {
            use $crate::entry::note::{Note, kind, padded, text};

            const NAME: &str = $name;
            const VERSION: &str = $version;

            #[used]
            #[unsafe(link_section = ".note.Xen")]
            static XEN_VERSION: Note<[u8; padded("xen-3.0")]> = text(kind::XEN_VERSION, "xen-3.0");
            #[used]
            #[unsafe(link_section = ".note.Xen")]
            static GUEST_OS: Note<[u8; padded(NAME)]> = text(kind::GUEST_OS, NAME);
            #[used]
            #[unsafe(link_section = ".note.Xen")]
            static GUEST_VERSION: Note<[u8; padded(VERSION)]> = text(kind::GUEST_VERSION, VERSION);
            #[used]
            #[unsafe(link_section = ".note.Xen")]
            static FIXED: $crate::entry::start::FixedNotes = $crate::entry::start::FIXED_NOTES;

            /// What the library's entry calls once the console, the shared page and the trap table are there.
            #[unsafe(no_mangle)]
            fn __guest_pv_main(boot: $crate::BootContext) -> ! {
                let main: fn($crate::BootContext) -> ! = $main;
                main(boot)
            }
        };
    };
}
