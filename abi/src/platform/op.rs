//! The frame of a platform operation; clock, memory types, microcode, MSRs, symbols.

use crate::GuestHandle;

consts! {
    /// The version that every [`XenPlatformOp`] carries; another one is answered with `-EACCES`.
    XENPF_INTERFACE_VERSION: u32 = 0x0300_0001;

    /// Sets the wall clock, 32-bit seconds. Argument: [`XenpfSettime32`].
    XENPF_SETTIME32("XENPF_settime32"): u32 = 17;
    /// Sets the type of a memory range (MTRR). Argument: [`XenpfAddMemtype`].
    XENPF_ADD_MEMTYPE("XENPF_add_memtype"): u32 = 31;
    /// Undoes it. Argument: [`XenpfDelMemtype`].
    XENPF_DEL_MEMTYPE("XENPF_del_memtype"): u32 = 32;
    /// Reads an MTRR. Argument: [`XenpfReadMemtype`].
    XENPF_READ_MEMTYPE("XENPF_read_memtype"): u32 = 33;
    /// Loads microcode. Argument: [`XenpfMicrocodeUpdate`].
    XENPF_MICROCODE_UPDATE("XENPF_microcode_update"): u32 = 35;
    /// Tells of a quirk of the chip set. Argument: [`XenpfPlatformQuirk`].
    XENPF_PLATFORM_QUIRK("XENPF_platform_quirk"): u32 = 39;
    /// Accesses MSRs of a CPU in one go. Argument: [`XenpfResourceOp`]; returns how many succeeded.
    XENPF_RESOURCE_OP("XENPF_resource_op"): u32 = 61;
    /// Sets the wall clock. Argument: [`XenpfSettime64`]. `XENPF_settime` was the 32-bit form before interface
    /// version 4.6 and is this one since.
    XENPF_SETTIME64("XENPF_settime64"): u32 = 62;
    /// Reads the hypervisor's symbol table. Argument: [`XenpfSymdata`].
    XENPF_GET_SYMBOL("XENPF_get_symbol"): u32 = 63;

    /// Do not balance interrupts.
    QUIRK_NOIRQBALANCING: u32 = 1;
    /// The I/O APIC forgets which register is selected.
    QUIRK_IOAPIC_BAD_REGSEL: u32 = 2;
    /// It does not.
    QUIRK_IOAPIC_GOOD_REGSEL: u32 = 3;

    /// Read an MSR.
    XEN_RESOURCE_OP_MSR_READ: u32 = 0;
    /// Write an MSR.
    XEN_RESOURCE_OP_MSR_WRITE: u32 = 1;
}

wire! {
    /// Argument of `platform_op`.
    pub struct XenPlatformOp("struct xen_platform_op", 136) {
        /// One of `XENPF_*`.
        @0 cmd: u32,
        /// [`XENPF_INTERFACE_VERSION`].
        @4 interface_version: u32,
        /// The command's argument, in its first bytes.
        @8 u: [u64; 16],
    }

    /// Argument of [`XENPF_SETTIME32`]: the time at a system time.
    pub struct XenpfSettime32("struct xenpf_settime32", 16) {
        /// In: Unix time in seconds.
        @0 secs: u32,
        /// In: nanoseconds of it.
        @4 nsecs: u32,
        /// In: the system time, in ns, at which it is valid.
        @8 system_time: u64,
    }

    /// Argument of [`XENPF_SETTIME64`].
    pub struct XenpfSettime64("struct xenpf_settime64", 24) {
        /// In: Unix time in seconds.
        @0 secs: u64,
        /// In: nanoseconds of it.
        @8 nsecs: u32,
        @12 mbz("mbz"): u32,
        /// In: the system time, in ns, at which it is valid.
        @16 system_time: u64,
    }

    /// Argument of [`XENPF_ADD_MEMTYPE`].
    pub struct XenpfAddMemtype("struct xenpf_add_memtype", 32) {
        /// In: first frame.
        @0 mfn: u64,
        /// In: frames.
        @8 nr_mfns: u64,
        /// In: type, as the MTRRs have it.
        @16 type_("type"): u32,
        /// Out: a handle for the removal.
        @20 handle: u32,
        /// Out: the MTRR that was used.
        @24 reg: u32,
        @28 _pad0(): u32,
    }

    /// Argument of [`XENPF_DEL_MEMTYPE`].
    pub struct XenpfDelMemtype("struct xenpf_del_memtype", 8) {
        /// In: the handle, or 0.
        @0 handle: u32,
        /// In: the MTRR.
        @4 reg: u32,
    }

    /// Argument of [`XENPF_READ_MEMTYPE`].
    pub struct XenpfReadMemtype("struct xenpf_read_memtype", 32) {
        /// In: the MTRR.
        @0 reg: u32,
        @4 _pad0(): u32,
        /// Out: first frame.
        @8 mfn: u64,
        /// Out: frames; 0 where it is not in use.
        @16 nr_mfns: u64,
        /// Out: type.
        @24 type_("type"): u32,
        @28 _pad1(): u32,
    }

    /// Argument of [`XENPF_MICROCODE_UPDATE`].
    pub struct XenpfMicrocodeUpdate("struct xenpf_microcode_update", 16) {
        /// In: the data.
        @0 data: GuestHandle<u8>,
        /// In: bytes.
        @8 length: u32,
        @12 _pad0(): u32,
    }

    /// Argument of [`XENPF_PLATFORM_QUIRK`].
    pub struct XenpfPlatformQuirk("struct xenpf_platform_quirk", 4) {
        /// In: one of `QUIRK_*`.
        @0 quirk_id: u32,
    }

    /// One access of [`XENPF_RESOURCE_OP`].
    pub struct XenpfResourceEntry("struct xenpf_resource_entry", 24) {
        /// In: `XEN_RESOURCE_OP_*`; out: a negative error number of the entry that failed.
        @0 u: u32,
        @4 rsvd("rsvd"): u32,
        /// In: the MSR. Reading the TSC gives scaled system time, at one moment with the entry before it.
        @8 idx: u64,
        /// In or out: its value.
        @16 val: u64,
    }

    /// Argument of [`XENPF_RESOURCE_OP`].
    pub struct XenpfResourceOp("struct xenpf_resource_op", 16) {
        /// In: accesses.
        @0 nr_entries: u32,
        /// In: the CPU.
        @4 cpu: u32,
        /// In: the accesses.
        @8 entries: GuestHandle<XenpfResourceEntry>,
    }

    /// Argument of [`XENPF_GET_SYMBOL`].
    pub struct XenpfSymdata("struct xenpf_symdata", 32) {
        /// In: size of the buffer; out: length of the name.
        @0 namelen: u32,
        /// In: which symbol; out: the next one; the same at the end.
        @4 symnum: u32,
        /// In: the buffer.
        @8 name: GuestHandle<u8>,
        /// Out: the symbol's address.
        @16 address: u64,
        /// Out: its type, as `nm` has it.
        @24 type_("type"): u8,
        @25 _pad0(): [u8; 7],
    }
}

abi_module! { "platform.h": consts, wire }
