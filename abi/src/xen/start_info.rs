//! What a PV domain is started with: `start_info`, its flags, and dom0's VGA console record.
//!
//! The initial address space, in the order of virtual addresses, each part page-aligned: the kernel's image,
//! the initial RAM disk (unless it is passed by frame), the list of frames (unless the kernel asks for it
//! elsewhere), `start_info` (its address is in RSI at the entry), the page tables (read-only), one page of stack.
//! At least 512 KiB follow, and the end is aligned to 4 MiB.

consts! {
    /// The domain is privileged.
    SIF_PRIVILEGED: u32 = 1 << 0;
    /// The domain is the first one.
    SIF_INITDOMAIN: u32 = 1 << 1;
    /// `mod_start` is a list of [`XenMultibootModList`].
    SIF_MULTIBOOT_MOD: u32 = 1 << 2;
    /// `mod_start` is a frame number, not an address: the module is not mapped.
    SIF_MOD_START_PFN: u32 = 1 << 3;
    /// The toolstack understands a P2M list mapped at one address range.
    SIF_VIRT_P2M_4TOOLS: u32 = 1 << 4;
    /// Power-management options of the hypervisor's command line.
    SIF_PM_MASK: u32 = 0xff << 8;
    /// Size of the command line with its terminator.
    MAX_GUEST_CMDLINE: usize = 1024;

    /// [`Dom0VgaConsoleInfo`] describes VGA text mode 3.
    XEN_VGATYPE_TEXT_MODE_3: u8 = 0x03;
    /// It describes a linear frame buffer set by VESA.
    XEN_VGATYPE_VESA_LFB: u8 = 0x23;
    /// It describes a linear frame buffer set by EFI.
    XEN_VGATYPE_EFI_LFB: u8 = 0x70;
}

wire! {
    /// The record in RSI at a PV kernel's entry.
    ///
    /// Interface versions before 3.2.3 had the unprivileged form of `console` only.
    pub struct StartInfo("struct start_info", 1168) {
        /// `xen-<version>-<platform>`, zero-terminated.
        @0 magic: [u8; 32],
        /// Pages the domain owns.
        @32 nr_pages: u64,
        /// Machine address of the shared page.
        @40 shared_info: u64,
        /// `SIF_*`.
        @48 flags: u32,
        @52 _pad0(): u32,
        /// Machine frame of the xenstore ring.
        @56 store_mfn: u64,
        /// Event channel of xenstore.
        @64 store_evtchn: u32,
        @68 _pad1(): u32,
        /// [`StartInfoConsoleDomU`] or, for the first domain, [`StartInfoConsoleDom0`].
        @72 console: [u8; 16],
        /// Virtual address of the level-4 table. (The last field that a resumed domain finds filled in is
        /// `console`.)
        @88 pt_base: u64,
        /// Frames of the initial page tables.
        @96 nr_pt_frames: u64,
        /// Virtual address of the P2M list.
        @104 mfn_list: u64,
        /// The initial RAM disk: virtual address, or frame number with [`SIF_MOD_START_PFN`].
        @112 mod_start: u64,
        /// Its size in bytes.
        @120 mod_len: u64,
        /// The command line, zero-terminated.
        @128 cmd_line: [u8; MAX_GUEST_CMDLINE],
        /// First frame of the P2M list where the kernel placed it with `XEN_ELFNOTE_INIT_P2M`.
        @1152 first_p2m_pfn: u64,
        /// Frames of that list and of its page tables.
        @1160 nr_p2m_frames: u64,
    }

    /// [`StartInfo::console`] of an unprivileged domain.
    pub struct StartInfoConsoleDomU("__typeof__(((struct start_info *)0)->console.domU)", 16) {
        /// Machine frame of the console ring.
        @0 mfn: u64,
        /// Its event channel.
        @8 evtchn: u32,
        @12 _pad0(): u32,
    }

    /// [`StartInfo::console`] of the first domain.
    pub struct StartInfoConsoleDom0("__typeof__(((struct start_info *)0)->console.dom0)", 8) {
        /// Offset of [`Dom0VgaConsoleInfo`] from the start of `start_info`; 0 for none.
        @0 info_off: u32,
        /// How many of its bytes are valid.
        @4 info_size: u32,
    }

    /// A module of a multiboot package; the list ends with `mod_start` 0. Addresses count from the package.
    pub struct XenMultibootModList("struct xen_multiboot_mod_list", 16) {
        /// First byte.
        @0 mod_start: u32,
        /// Last byte (inclusive).
        @4 mod_end: u32,
        /// Its command line.
        @8 cmdline: u32,
        @12 pad("pad"): u32,
    }

    /// The VGA console as the boot loader left it, so that dom0 can drive it.
    ///
    /// Interface versions before 4.13 end at byte 36 (no `ext_lfb_base`), before 3.2.6 at byte 28.
    pub struct Dom0VgaConsoleInfo("struct dom0_vga_console_info", 40) {
        /// `XEN_VGATYPE_*`.
        @0 video_type: u8,
        @1 _pad0(): [u8; 3],
        /// [`Dom0VgaTextMode3`] or [`Dom0VgaVesaLfb`].
        @4 u: [u32; 9],
    }

    /// [`Dom0VgaConsoleInfo::u`] in text mode.
    pub struct Dom0VgaTextMode3("__typeof__(((struct dom0_vga_console_info *)0)->u.text_mode_3)", 10) {
        /// Font height in pixels.
        @0 font_height: u16,
        /// Cursor column.
        @2 cursor_x: u16,
        /// Cursor row.
        @4 cursor_y: u16,
        /// Rows of text.
        @6 rows: u16,
        /// Columns of text.
        @8 columns: u16,
    }

    /// [`Dom0VgaConsoleInfo::u`] with a frame buffer.
    pub struct Dom0VgaVesaLfb("__typeof__(((struct dom0_vga_console_info *)0)->u.vesa_lfb)", 36) {
        /// Width in pixels.
        @0 width: u16,
        /// Height in pixels.
        @2 height: u16,
        /// Bytes from one line to the next.
        @4 bytes_per_line: u16,
        /// Bits per pixel.
        @6 bits_per_pixel: u16,
        /// Physical address, low half.
        @8 lfb_base: u32,
        /// Size in units of 64 KiB.
        @12 lfb_size: u32,
        /// Lowest bit of red.
        @16 red_pos: u8,
        /// Bits of red.
        @17 red_size: u8,
        /// Lowest bit of green.
        @18 green_pos: u8,
        /// Bits of green.
        @19 green_size: u8,
        /// Lowest bit of blue.
        @20 blue_pos: u8,
        /// Bits of blue.
        @21 blue_size: u8,
        /// Lowest reserved bit.
        @22 rsvd_pos: u8,
        /// Reserved bits.
        @23 rsvd_size: u8,
        /// VESA capabilities.
        @24 gbl_caps: u32,
        /// VESA mode attributes.
        @28 mode_attrs: u16,
        @30 pad("pad"): u16,
        /// Physical address, high half.
        @32 ext_lfb_base: u32,
    }
}

impl StartInfo {
    /// The console of an unprivileged domain.
    #[must_use]
    pub fn console_domu(&self) -> StartInfoConsoleDomU {
        zerocopy::transmute!(self.console)
    }

    /// The console of the first domain.
    #[must_use]
    pub fn console_dom0(&self) -> StartInfoConsoleDom0 {
        let halves: [StartInfoConsoleDom0; 2] = zerocopy::transmute!(self.console);
        halves[0]
    }
}

abi_module! { "xen.h": consts, wire }
