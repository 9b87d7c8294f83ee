//! `hvm/ioreq.h`: I/O requests from the hypervisor to a device model, in shared pages.
//!
//! Each vCPU has one [`Ioreq`] slot in the request page; its `state` bits hand it back and forth. Buffered writes
//! travel through the ring of [`BufferedIopage`]. Both pages are shared memory: a device model may write to them at
//! any time, so copy a slot out before checking it, and use atomics for `state` and the pointers.

consts! {
    /// Direction: to the guest.
    IOREQ_READ: u8 = 1;
    /// Direction: from the guest.
    IOREQ_WRITE: u8 = 0;
    /// The slot is free.
    STATE_IOREQ_NONE: u8 = 0;
    /// The hypervisor has filled in a request.
    STATE_IOREQ_READY: u8 = 1;
    /// The device model works on it.
    STATE_IOREQ_INPROCESS: u8 = 2;
    /// The device model has answered.
    STATE_IORESP_READY: u8 = 3;
    /// I/O port access.
    IOREQ_TYPE_PIO: u8 = 0;
    /// Memory-mapped access.
    IOREQ_TYPE_COPY: u8 = 1;
    /// PCI configuration access: segment in address bits 63:48, bus 47:40, device 39:35, function 34:32,
    /// register 31:0.
    IOREQ_TYPE_PCI_CONFIG: u8 = 2;
    /// The guest changed its clock.
    IOREQ_TYPE_TIMEOFFSET: u8 = 7;
    /// Drop cached mappings.
    IOREQ_TYPE_INVALIDATE: u8 = 8;

    /// Slots of the buffered ring.
    IOREQ_BUFFER_SLOT_NUM: usize = 511;

    /// I/O port, location 0: PM1a event block.
    ACPI_PM1A_EVT_BLK_ADDRESS_V0: u16 = 0x1f40;
    /// I/O port, location 0: PM1a control block.
    ACPI_PM1A_CNT_BLK_ADDRESS_V0: u16 = 0x1f44;
    /// I/O port, location 0: PM timer.
    ACPI_PM_TMR_BLK_ADDRESS_V0: u16 = 0x1f48;
    /// I/O port, location 0: general-purpose events.
    ACPI_GPE0_BLK_ADDRESS_V0: u16 = 0x1f68;
    /// Bytes of the general-purpose event block, location 0.
    ACPI_GPE0_BLK_LEN_V0: u16 = 8;
    /// I/O port, location 1: PM1a event block.
    ACPI_PM1A_EVT_BLK_ADDRESS_V1: u16 = 0xb000;
    /// I/O port, location 1: PM1a control block.
    ACPI_PM1A_CNT_BLK_ADDRESS_V1: u16 = 0xb004;
    /// I/O port, location 1: PM timer.
    ACPI_PM_TMR_BLK_ADDRESS_V1: u16 = 0xb008;
    /// I/O port, location 1: general-purpose events.
    ACPI_GPE0_BLK_ADDRESS_V1: u16 = 0xafe0;
    /// Bytes of the general-purpose event block, location 1.
    ACPI_GPE0_BLK_LEN_V1: u16 = 4;
}

wire! {
    /// A request. C packs
    /// `state` and its companions into bit fields; here they are the byte [`Ioreq::flags`].
    pub struct Ioreq("struct ioreq", 32) {
        /// Address: port, guest-physical or PCI.
        @0 addr: u64,
        /// Data, or guest-physical address of the data.
        @8 data: u64,
        /// Repetitions.
        @16 count: u32,
        /// Bytes of each.
        @20 size: u32,
        /// Event channel of this vCPU.
        @24 vp_eport: u32,
        @28 _pad0(): u16,
        /// Bits 3:0 state (`STATE_IO*`), bit 4 data is an address, bit 5 direction, bit 6 addresses descend.
        @30 flags(!"bit fields have no offset"): u8,
        /// Kind (`IOREQ_TYPE_*`).
        @31 type_("type"): u8,
    }

    /// A buffered write. C packs direction, size and address into bit fields; here they are
    /// [`BufIoreq::flags`] and [`BufIoreq::addr_hi`].
    pub struct BufIoreq("struct buf_ioreq", 8) {
        /// Kind (`IOREQ_TYPE_*`).
        @0 type_("type"): u8,
        /// Bit 1 direction, bits 3:2 log2 of the size in bytes, bits 7:4 address bits 3:0.
        @1 flags(!"bit fields have no offset"): u8,
        /// Address bits 19:4.
        @2 addr_hi(!"bit fields have no offset"): u16,
        /// Data. An eight-byte write takes two slots, low half first.
        @4 data: u32,
    }

    /// Layout of the buffered ring's page. Pointers run freely.
    pub struct BufferedIopage("struct buffered_iopage", 4096) [shared] {
        /// Index of the next request the device model will read.
        @0 read_pointer: u32,
        /// Index one past the last request.
        @4 write_pointer: u32,
        /// The slots.
        @8 buf_ioreq: [BufIoreq; IOREQ_BUFFER_SLOT_NUM],
    }
}

impl Ioreq {
    /// Bits of `flags` that hold the state.
    pub const FLAG_STATE_MASK: u8 = 0x0f;
    /// Bit of `flags`: `data` is a guest-physical address.
    pub const FLAG_DATA_IS_PTR: u8 = 0x10;
    /// Bit of `flags`: set where the guest reads.
    pub const FLAG_DIR: u8 = 0x20;
    /// Bit of `flags`: repetitions go downwards.
    pub const FLAG_DF: u8 = 0x40;

    /// Who has the slot (`STATE_IO*`).
    #[must_use]
    pub const fn state(&self) -> u8 {
        self.flags & Self::FLAG_STATE_MASK
    }
}

abi_module! { "hvm/ioreq.h": consts, wire }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_shares_its_byte() {
        let mut request = Ioreq { flags: Ioreq::FLAG_DIR | STATE_IOREQ_INPROCESS, ..Default::default() };
        assert_eq!(request.state(), STATE_IOREQ_INPROCESS);
        request.flags |= Ioreq::FLAG_DF | Ioreq::FLAG_DATA_IS_PTR;
        assert_eq!(request.state(), STATE_IOREQ_INPROCESS);
    }
}
