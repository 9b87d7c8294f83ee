//! `elfnote.h`: the notes named `Xen` by which a kernel says how it is to be started.
//!
//! Numbers are four or eight bytes by the note's size; texts are zero-terminated.

consts! {
    /// A `NAME=VALUE` text.
    XEN_ELFNOTE_INFO: u32 = 0;
    /// Virtual address of the PV entry point.
    XEN_ELFNOTE_ENTRY: u32 = 1;
    /// Virtual address of the page that the hypervisor fills with hypercall stubs.
    XEN_ELFNOTE_HYPERCALL_PAGE: u32 = 2;
    /// Virtual address at which guest physical address 0 is mapped; default 0.
    XEN_ELFNOTE_VIRT_BASE: u32 = 3;
    /// What to subtract from the physical addresses of the program headers; default 0.
    XEN_ELFNOTE_PADDR_OFFSET: u32 = 4;
    /// Text: the hypervisor version it was written for (`xen-3.0`).
    XEN_ELFNOTE_XEN_VERSION: u32 = 5;
    /// Text: the operating system.
    XEN_ELFNOTE_GUEST_OS: u32 = 6;
    /// Text: its version.
    XEN_ELFNOTE_GUEST_VERSION: u32 = 7;
    /// Text: the kind of loader (`generic`).
    XEN_ELFNOTE_LOADER: u32 = 8;
    /// Text, 32-bit kernels: `yes`, `no` or `bimodal`.
    XEN_ELFNOTE_PAE_MODE: u32 = 9;
    /// Text: features ([`crate::features`]).
    XEN_ELFNOTE_FEATURES: u32 = 10;
    /// Text: `yes` where the symbol table is to be loaded.
    XEN_ELFNOTE_BSD_SYMTAB: u32 = 11;
    /// Lowest virtual address at which the kernel accepts the hypervisor.
    XEN_ELFNOTE_HV_START_LOW: u32 = 12;
    /// Mask and value pairs that tell valid machine frames in entries that are not present.
    XEN_ELFNOTE_L1_MFN_VALID: u32 = 13;
    /// Non-zero: a suspend may be cancelled.
    XEN_ELFNOTE_SUSPEND_CANCEL: u32 = 14;
    /// Virtual address at which the P2M list is to be mapped (possibly with large pages).
    XEN_ELFNOTE_INIT_P2M: u32 = 15;
    /// Non-zero: the initial RAM disk need not be mapped.
    XEN_ELFNOTE_MOD_START_PFN: u32 = 16;
    /// Number: features that are supported, as bits.
    XEN_ELFNOTE_SUPPORTED_FEATURES: u32 = 17;
    /// Physical address of the 32-bit PVH entry point.
    XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
    /// The highest note of a kernel.
    XEN_ELFNOTE_MAX: u32 = XEN_ELFNOTE_PHYS32_ENTRY;
    /// Crash dump: the system.
    XEN_ELFNOTE_CRASH_INFO: u32 = 0x100_0001;
    /// Crash dump: a CPU's registers.
    XEN_ELFNOTE_CRASH_REGS: u32 = 0x100_0002;
    /// Domain dump: a mark.
    XEN_ELFNOTE_DUMPCORE_NONE: u32 = 0x200_0000;
    /// Domain dump: its header.
    XEN_ELFNOTE_DUMPCORE_HEADER: u32 = 0x200_0001;
    /// Domain dump: the hypervisor's version.
    XEN_ELFNOTE_DUMPCORE_XEN_VERSION: u32 = 0x200_0002;
    /// Domain dump: the version of the format.
    XEN_ELFNOTE_DUMPCORE_FORMAT_VERSION: u32 = 0x200_0003;
}

/// The owner name of the notes, with its terminator.
pub const XEN_ELFNOTE_NAME: &[u8; 4] = b"Xen\0";

abi_module! { "elfnote.h": consts }
