//! What a domain's first vCPU finds: `start_info`, `shared_info`, the hypercall page and its registers.

use super::layout::Layout;
use super::memory::Memory;
use super::{BuildError, DomainSource};
use crate::domain::{Domain, Vcpu, VcpuFlags};
use crate::ids::{Mfn, PAGE_SIZE, Port};
use crate::platform::Platform;
use crate::regs::Regs;
use core::sync::atomic::Ordering::Relaxed;
use xen_abi::arch_x86::{FLAT_KERNEL_CS, FLAT_KERNEL_SS};
use xen_abi::hypercall::nr;
use xen_abi::xen::*;
use zerocopy::{FromZeros, IntoBytes};

const PAGE: u64 = PAGE_SIZE as u64;
/// RFLAGS: the bit that is always set, and the interrupt flag.
const RFLAGS: u64 = 1 << 1 | 1 << 9;
/// Bytes of a hypercall stub.
const STUB: usize = 32;

/// Pages of rings of a domain that is not the first: the console's, then xenstore's.
pub(super) const RING_PAGES: u64 = 2;

/// The rings of a domain that is not the first: each one's frame and the domain's port. Port 0 at xenstore's: nobody serves it,
/// and the domain may do so itself.
pub(super) struct Rings {
    pub(super) console: (Mfn, Port),
    pub(super) store: (Mfn, Port),
}

/// Writes `start_info`. `rings` are those of a domain that is not the first; behind the first one's record comes
/// that of its screen.
pub(super) fn write_start_info<P: Platform>(
    memory: &Memory<'_, P>,
    layout: &Layout,
    domain: &Domain<P>,
    source: &DomainSource<'_>,
    rings: Option<Rings>,
) -> Result<(), BuildError> {
    let mut info = StartInfo::new_zeroed();
    let magic = b"xen-3.0-x86_64";
    info.magic[..magic.len()].copy_from_slice(magic);
    info.nr_pages = domain.pages.current();
    info.shared_info = domain.shared_info.addr().0;
    info.flags = if domain.privileged { SIF_PRIVILEGED } else { 0 };
    match rings {
        Some(Rings { console: (mfn, port), store }) => {
            let ring =
                StartInfoConsoleDomU { mfn: mfn.0, evtchn: port.0, ..StartInfoConsoleDomU::new_zeroed() };
            info.console.copy_from_slice(ring.as_bytes());
            (info.store_mfn, info.store_evtchn) = (store.0.0, store.1.0);
        }
        None => info.flags |= SIF_INITDOMAIN,
    }
    info.pt_base = layout.address(layout.tables.start);
    info.nr_pt_frames = layout.tables.end - layout.tables.start;
    info.mfn_list = layout.p2m_address;
    if let (Some(page), Some(initrd)) = (layout.initrd, source.initrd) {
        info.mod_len = initrd.len() as u64;
        info.mod_start = if layout.initrd_mapped { layout.address(page) } else { page };
        info.flags |= if layout.initrd_mapped { 0 } else { SIF_MOD_START_PFN };
    }
    if !layout.p2m_tables.is_empty() {
        info.first_p2m_pfn = layout.p2m_tables.start;
        info.nr_p2m_frames = layout.p2m.end - layout.p2m_tables.start;
    }
    let line = info.cmd_line.get_mut(..source.cmdline.len());
    line.ok_or(BuildError::CommandLineTooLong(source.cmdline.len()))?
        .copy_from_slice(source.cmdline.as_bytes());
    let at = layout.start_info * PAGE;
    memory.clear_pages(layout.start_info..layout.start_info + 1);
    if let Some(video) = source.video.filter(|v| v.len() <= PAGE_SIZE - size_of::<StartInfo>()) {
        let console =
            StartInfoConsoleDom0 { info_off: size_of::<StartInfo>() as u32, info_size: video.len() as u32 };
        info.console[..size_of::<StartInfoConsoleDom0>()].copy_from_slice(console.as_bytes());
        memory.copy(at + size_of::<StartInfo>() as u64, video);
    }
    memory.copy(at, info.as_bytes());
    Ok(())
}

/// Gives a vCPU its first context; its address space is set already.
pub(super) fn set_first_context<P: Platform>(vcpu: &Vcpu<P>, layout: &Layout, entry: u64) {
    *vcpu.saved.lock() = Regs {
        rip: entry,
        cs: u64::from(FLAT_KERNEL_CS),
        rflags: RFLAGS,
        rsp: layout.address(layout.stack + 1),
        ss: u64::from(FLAT_KERNEL_SS),
        rsi: layout.address(layout.start_info),
        ..Regs::default()
    };
    vcpu.pv.kernel_mode.store(1, Relaxed);
    vcpu.pv.set_flags(VcpuFlags::INITIALISED, true);
}

/// The page of hypercall stubs: 32 bytes for each number. `syscall` overwrites RCX and R11, which a call into the page
/// keeps; `iret` does not come back, and takes them from the stack.
pub fn hypercall_page() -> [u8; PAGE_SIZE] {
    // int3 between the stubs.
    let mut page = [0xcc; PAGE_SIZE];
    for (number, stub) in (0u32..).zip(page.as_chunks_mut::<STUB>().0) {
        let [a, b, c, d] = number.to_le_bytes();
        if number == nr::IRET {
            // push rcx; push r11; push rax; mov eax, number; syscall
            stub[..11].copy_from_slice(&[0x51, 0x41, 0x53, 0x50, 0xb8, a, b, c, d, 0x0f, 0x05]);
        } else {
            // push rcx; push r11; mov eax, number; syscall; pop r11; pop rcx; ret
            let code = [0x51, 0x41, 0x53, 0xb8, a, b, c, d, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3];
            stub[..14].copy_from_slice(&code);
        }
    }
    page
}
