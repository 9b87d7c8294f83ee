//! Domain ids, virtual interrupts, `console_io`, `vm_assist` and small types of `xen.h`.

use crate::GuestHandle;

/// A domain's number (`domid_t`): below [`DOMID_FIRST_RESERVED`] for ordinary domains.
pub type DomId = u16;
/// A page-frame number of whatever address space the field says (`xen_pfn_t`).
pub type XenPfn = u64;

consts! {
    /// The interface version that this crate describes: that of Xen 4.14 to 4.17.
    ///
    /// A guest is compiled for a version; the structures say in their documentation where an older version had
    /// another layout. The number itself never travels, except in `domctl` and `sysctl` as their own versions.
    XEN_LATEST_INTERFACE_VERSION("__XEN_LATEST_INTERFACE_VERSION__"): u32 = 0x0004_0e00;

    /// The first number that no ordinary domain can have.
    DOMID_FIRST_RESERVED: u16 = 0x7ff0;
    /// The calling domain.
    DOMID_SELF: u16 = 0x7ff0;
    /// Owner of everything that is not RAM: restricts a mapping to I/O memory.
    DOMID_IO: u16 = 0x7ff1;
    /// Owner of the hypervisor's pages that are shared with privileged domains (such as the M2P).
    DOMID_XEN: u16 = 0x7ff2;
    /// Owner of pages that are shared copy-on-write between domains.
    DOMID_COW: u16 = 0x7ff3;
    /// No domain.
    DOMID_INVALID: u16 = 0x7ff4;
    /// The idle domain, which owns the idle vCPUs.
    DOMID_IDLE: u16 = 0x7fff;
    /// The bits that a domain id may use.
    DOMID_MASK: u16 = 0x7fff;

    /// Per vCPU: a timer of this vCPU expired, or the time record changed.
    VIRQ_TIMER: u32 = 0;
    /// Per vCPU: the guest is asked to print its state.
    VIRQ_DEBUG: u32 = 1;
    /// Global, dom0: input arrived on the emergency console.
    VIRQ_CONSOLE: u32 = 2;
    /// Global, dom0: a domain shut down, crashed or was destroyed.
    VIRQ_DOM_EXC: u32 = 3;
    /// Global, dom0: the trace buffer has records.
    VIRQ_TBUF: u32 = 4;
    /// Global, dom0: a domain stopped for a debugger.
    VIRQ_DEBUGGER: u32 = 6;
    /// Per vCPU: a profiling sample is available.
    VIRQ_XENOPROF: u32 = 7;
    /// Global, dom0: the hypervisor's console ring grew.
    VIRQ_CON_RING: u32 = 8;
    /// Global, dom0: a physical CPU went on-line or off-line.
    VIRQ_PCPU_STATE: u32 = 9;
    /// Global, dom0: a memory event is waiting.
    VIRQ_MEM_EVENT: u32 = 10;
    /// Global: Argo has a message or room in a ring.
    VIRQ_ARGO: u32 = 11;
    /// Global, dom0: the hypervisor runs low on memory.
    VIRQ_ENOMEM: u32 = 12;
    /// Per vCPU: a performance counter overflowed.
    VIRQ_XENPMU: u32 = 13;
    /// First of eight architectural interrupts; on x86 the machine check ([`crate::mca`]).
    VIRQ_ARCH_0: u32 = 16;
    /// Architectural, unused on x86.
    VIRQ_ARCH_1: u32 = 17;
    /// Architectural, unused on x86.
    VIRQ_ARCH_2: u32 = 18;
    /// Architectural, unused on x86.
    VIRQ_ARCH_3: u32 = 19;
    /// Architectural, unused on x86.
    VIRQ_ARCH_4: u32 = 20;
    /// Architectural, unused on x86.
    VIRQ_ARCH_5: u32 = 21;
    /// Architectural, unused on x86.
    VIRQ_ARCH_6: u32 = 22;
    /// Architectural, unused on x86.
    VIRQ_ARCH_7: u32 = 23;
    /// One more than the highest virtual interrupt.
    NR_VIRQS: u32 = 24;

    /// `console_io`: writes a buffer to the hypervisor's console.
    CONSOLEIO_WRITE("CONSOLEIO_write"): u32 = 0;
    /// `console_io`: reads what was typed there; returns the number of bytes.
    CONSOLEIO_READ("CONSOLEIO_read"): u32 = 1;

    /// `vm_assist`: turns an assistance on.
    VMASST_CMD_ENABLE("VMASST_CMD_enable"): u32 = 0;
    /// `vm_assist`: turns it off.
    VMASST_CMD_DISABLE("VMASST_CMD_disable"): u32 = 1;
    /// 32-bit guests: segments of 4 GiB despite the hypervisor's hole.
    VMASST_TYPE_4GB_SEGMENTS("VMASST_TYPE_4gb_segments"): u32 = 0;
    /// 32-bit guests: raise vector 15 whenever the former acts.
    VMASST_TYPE_4GB_SEGMENTS_NOTIFY("VMASST_TYPE_4gb_segments_notify"): u32 = 1;
    /// Stores into level-1 page tables are emulated.
    VMASST_TYPE_WRITABLE_PAGETABLES("VMASST_TYPE_writable_pagetables"): u32 = 2;
    /// 32-bit guests: page-directory-pointer tables above 4 GiB.
    VMASST_TYPE_PAE_EXTENDED_CR3("VMASST_TYPE_pae_extended_cr3"): u32 = 3;
    /// The virtual IOPL lives in EFLAGS, as in hardware, and is checked as if the kernel ran in ring 0.
    VMASST_TYPE_ARCHITECTURAL_IOPL("VMASST_TYPE_architectural_iopl"): u32 = 4;
    /// The hypervisor sets [`crate::vcpu::XEN_RUNSTATE_UPDATE`] while it writes a runstate record.
    VMASST_TYPE_RUNSTATE_UPDATE_FLAG("VMASST_TYPE_runstate_update_flag"): u32 = 5;
    /// 64-bit guests: the M2P is never visible to user mode.
    VMASST_TYPE_M2P_STRICT("VMASST_TYPE_m2p_strict"): u32 = 32;
}

wire! {
    /// A UUID in the order of its text form (all big-endian).
    pub struct XenUuid("xen_uuid_t", 16) {
        /// The sixteen bytes.
        @0 a: [u8; 16],
    }

    /// A bitmap in the caller's memory (CPUs, nodes), as `domctl` and `sysctl` pass it.
    pub struct XenctlBitmap("struct xenctl_bitmap", 16) {
        /// The bytes, bit 0 of byte 0 first.
        @0 bitmap: GuestHandle<u8>,
        /// How many bits the buffer holds.
        @8 nr_bits: u32,
        @12 _pad0(): u32,
    }
}

/// The name of a domain that outlives its number: a UUID chosen by the toolstack (`xen_domain_handle_t`).
pub type XenDomainHandle = [u8; 16];

abi_module! { "xen.h": consts, wire }
