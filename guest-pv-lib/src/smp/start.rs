//! Bringing CPUs up and down.
//!
//! The starting CPU prepares everything for the new one: its area, its record of the shared page, its ports, and the
//! registers that it starts with. The new CPU begins in [`secondary`] with upcalls masked.

use core::cell::UnsafeCell;
use core::sync::atomic::AtomicBool;
#[cfg(target_os = "none")]
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use xen_abi::hypercall::nr;
use xen_abi::vcpu::VCPUOP_IS_UP;

use super::{Cpu, State};
use crate::hypercall::{Errno, check, raw};

/// The memory that a CPU other than the first needs: an area and a stack of `STACK` bytes, below which lies a page
/// that is unmapped when the CPU starts, so that a stack that runs over ends in a fault.
///
/// A static of the kernel's image:
///
/// ```
/// use guest_pv_lib::smp::Storage;
///
/// static SECOND: Storage<{ 32 << 10 }> = Storage::new();
/// ```
#[repr(C, align(4096))]
pub struct Storage<const STACK: usize> {
    guard: UnsafeCell<[u8; 4096]>,
    stack: UnsafeCell<[u8; STACK]>,
    cpu: Cpu,
    taken: AtomicBool,
}

// SAFETY: the cells are never read or written through a `Storage`: the guard is nobody's, the stack the CPU's that
// took the storage.
unsafe impl<const STACK: usize> Sync for Storage<STACK> {}

impl<const STACK: usize> Storage<STACK> {
    /// Storage that no CPU uses yet.
    #[must_use]
    pub const fn new() -> Self {
        assert!(
            STACK >= 8192 && STACK.is_multiple_of(16),
            "a stack is at least 8 KiB, a multiple of 16 bytes"
        );
        Self {
            guard: UnsafeCell::new([0; 4096]),
            stack: UnsafeCell::new([0; STACK]),
            cpu: Cpu::new(0, State::Down),
            taken: AtomicBool::new(false),
        }
    }
}

impl<const STACK: usize> Default for Storage<STACK> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const STACK: usize> core::fmt::Debug for Storage<STACK> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Storage").field("cpu", &self.cpu).finish_non_exhaustive()
    }
}

/// One `vcpu_op`.
///
/// # Safety
///
/// `arg` must be null where the command takes nothing, or the address of its structure. What the command does to CPU
/// `number`, and to memory that the structure names, must be something that the caller may do.
unsafe fn op(command: u32, number: u32, arg: u64) -> Result<u64, Errno> {
    // SAFETY: the caller's promise.
    check(unsafe { raw::call3(nr::VCPU_OP, u64::from(command), u64::from(number), arg) })
}

/// Whether the hypervisor counts CPU `number` as up; `ENOENT` where the domain has no such CPU.
///
/// # Errors
///
/// As said.
#[doc(alias = "VCPUOP_is_up")]
pub fn is_up(number: u32) -> Result<bool, Errno> {
    // SAFETY: asks, and takes no argument.
    unsafe { op(VCPUOP_IS_UP, number, 0) }.map(|up| up != 0)
}

#[cfg(target_os = "none")]
mod bare {
    use xen_abi::arch_x86::{FLAT_KERNEL_CS, FLAT_KERNEL_SS, VGCF_IN_KERNEL, VcpuGuestContext};
    use xen_abi::vcpu::{
        VCPUOP_DOWN, VCPUOP_INITIALISE, VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, VCPUOP_REGISTER_VCPU_INFO,
        VCPUOP_UP, VcpuRegisterRunstateMemoryArea, VcpuRegisterVcpuInfo,
    };
    use zerocopy::FromZeros;

    use super::super::{MAX_CPUS, call, cpu, is_live, this_cpu};
    use super::*;
    use crate::mmu::{Flush, Mfn, Pte, update_va_mapping};
    use crate::traps::stubs;
    use crate::{BootContext, events, sync};

    /// Starts CPU `number` on `storage`: it runs `main`, with upcalls masked, in the address space whose root table is
    /// `root` (none: the one that the domain started with).
    ///
    /// From the first call on the kernel's GS base belongs to the library. Call it on one CPU at a time.
    ///
    /// # Errors
    ///
    /// `ENOENT` where the domain has no such CPU, `EEXIST` where it was started before, `EBUSY` where the storage is
    /// another CPU's, `EFAULT` where it is not part of the image, and what the hypervisor says.
    ///
    /// # Safety
    ///
    /// `root` must be a root table that maps the kernel, and stay one as long as the CPU uses it. No CPU may use its GS
    /// base for anything else.
    #[doc(alias("VCPUOP_initialise", "VCPUOP_up"))]
    pub unsafe fn start<const STACK: usize>(
        boot: &BootContext,
        number: u32,
        storage: &'static Storage<STACK>,
        root: Option<Mfn>,
        main: fn(&'static Cpu) -> !,
    ) -> Result<&'static Cpu, Errno> {
        if number == 0 || cpu(number).is_some() {
            return Err(Errno::EEXIST);
        }
        // Also says whether there is such a CPU.
        if is_up(number)? {
            return Err(Errno::EEXIST);
        }
        if number as usize >= MAX_CPUS {
            return Err(Errno::ENOENT);
        }
        go_live(boot)?;
        if storage.taken.swap(true, AcqRel) {
            return Err(Errno::EBUSY);
        }
        let area = &storage.cpu;
        area.main.store(main as *mut (), Relaxed);
        area.info.upcall_mask.store(1, Relaxed);
        register_info(boot, number, area)?;
        let stack = storage.stack.get() as u64;
        // SAFETY: nobody has a reference to the guard, and nobody will.
        unsafe { update_va_mapping(storage.guard.get() as u64, Pte::EMPTY, Flush::All) }?;
        let root = root.unwrap_or_else(|| boot.root_table());
        // SAFETY: the storage was taken above, so the stack is this CPU's alone, for good; the root is what the caller
        // promised, or the one that the domain started with.
        unsafe { initialise(number, area, stack + STACK as u64, root) }?;
        area.enlist(number);
        area.set_state(State::Starting);
        // SAFETY: initialised just now; the command takes no argument.
        if let Err(error) = give_ports(boot, area).and_then(|()| unsafe { op(VCPUOP_UP, number, 0) }) {
            area.set_state(State::Down);
            return Err(error);
        }
        Ok(area)
    }

    /// The ports and queues of a CPU.
    fn give_ports(boot: &BootContext, area: &'static Cpu) -> Result<(), Errno> {
        events::fifo::init_queues(boot, area)?;
        call::init(area)?;
        sync::init(area)
    }

    /// Moves the first CPU's record out of the shared page into its area, and lets CPUs find their areas by GS.
    fn go_live(boot: &BootContext) -> Result<(), Errno> {
        if is_live() {
            return Ok(());
        }
        let area = this_cpu();
        area.enlist(0);
        let masked = events::mask_upcalls();
        area.info.upcall_mask.store(1, Relaxed);
        // SAFETY: the area is never freed, and the caller of `start` has no other use for GS.
        unsafe { crate::cpu::segments::set_kernel_gs_base(core::ptr::from_ref(area) as u64) }?;
        // The hypervisor copies the record and makes everything pending once more.
        register_info(boot, 0, area)?;
        // SAFETY: both were done just now, and this is the only CPU.
        unsafe { super::super::cpu::set_live() };
        if !masked {
            events::unmask_upcalls();
        }
        register_runstate(area)?;
        call::init(area)?;
        sync::init(area)
    }

    /// Tells the hypervisor that the record of CPU `number` is in `area`.
    fn register_info(boot: &BootContext, number: u32, area: &'static Cpu) -> Result<(), Errno> {
        let at = &raw const area.info as u64;
        let mfn = boot.p2m().mfn(boot.pfn_of(at)).ok_or(Errno::EFAULT)?;
        let arg = VcpuRegisterVcpuInfo {
            mfn: mfn.0,
            offset: (at & 4095) as u32,
            ..VcpuRegisterVcpuInfo::default()
        };
        // SAFETY: the structure lives across the call. The hypervisor writes to the record from now on, which is atomics of an
        // area that is never freed.
        unsafe { op(VCPUOP_REGISTER_VCPU_INFO, number, &raw const arg as u64) }.map(drop)
    }

    /// Registers the calling CPU's area once more, in a domain that has gone on elsewhere. Upcalls are masked.
    #[cfg(feature = "alloc")]
    pub(crate) fn rejoin(boot: &BootContext) -> Result<(), Errno> {
        if !is_live() {
            return Ok(());
        }
        let area = this_cpu();
        // The hypervisor copies this record over the area's, and it is as old as the CPU: an upcall must not come at once.
        if let Some(record) = crate::shared::info().vcpu.get(area.number() as usize) {
            record.upcall_mask.store(1, core::sync::atomic::Ordering::Release);
        }
        register_info(boot, area.number(), area)?;
        area.info.upcall_mask.store(1, Relaxed);
        register_runstate(area)
    }

    /// Lets the hypervisor keep the calling CPU's runstate up to date in its area.
    fn register_runstate(area: &'static Cpu) -> Result<(), Errno> {
        let arg = VcpuRegisterRunstateMemoryArea { addr: area.runstate_address().into() };
        // SAFETY: as for `register_info`.
        unsafe { op(VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, area.number(), &raw const arg as u64) }.map(drop)
    }

    /// Gives CPU `number` the registers that it starts with.
    ///
    /// # Safety
    ///
    /// The memory below `stack` must be the CPU's alone, for good; `root` must be a root table that maps the kernel, and stay
    /// one.
    unsafe fn initialise(number: u32, area: &'static Cpu, stack: u64, root: Mfn) -> Result<(), Errno> {
        // Five KiB: the starting CPU's stack has them.
        let mut context = VcpuGuestContext::new_zeroed();
        context.flags = VGCF_IN_KERNEL;
        context.user_regs.rip = secondary as *const () as u64;
        // As if it had been called: one word below a multiple of 16.
        context.user_regs.rsp = stack - 8;
        context.user_regs.rdi = core::ptr::from_ref(area) as u64;
        context.user_regs.rflags = 0x200;
        context.user_regs.cs = FLAT_KERNEL_CS;
        context.user_regs.ss = FLAT_KERNEL_SS;
        context.kernel_ss = FLAT_KERNEL_SS.into();
        context.kernel_sp = stack;
        context.ctrlreg[3] = root.address();
        context.gs_base_kernel = core::ptr::from_ref(area) as u64;
        context.event_callback_eip = stubs::event_address();
        context.failsafe_callback_eip = stubs::failsafe_address();
        // Unlike the trap table this one is indexed by vector.
        stubs::entries().for_each(|entry| context.trap_ctxt[usize::from(entry.vector)] = entry);
        // SAFETY: the structure lives across the call. The CPU starts in `secondary` with what that takes; the stack and the
        // root are what the caller promised.
        unsafe { op(VCPUOP_INITIALISE, number, &raw const context as u64) }.map(drop)
    }

    /// Where a CPU starts.
    extern "sysv64" fn secondary(area: &'static Cpu) -> ! {
        if let Err(error) = register_runstate(area) {
            panic!("runstate of CPU {}: {error:?}", area.number());
        }
        area.set_state(State::Online);
        // SAFETY: `start` put a function of this type there.
        let main = unsafe { core::mem::transmute::<*mut (), fn(&'static Cpu) -> !>(area.main.load(Acquire)) };
        main(area)
    }

    /// Takes the calling CPU down for good. Its channels stay open: what they wait for does not come.
    #[doc(alias = "VCPUOP_down")]
    pub fn stop() -> ! {
        let area = this_cpu();
        events::mask_upcalls();
        call::go_down(area);
        loop {
            // SAFETY: the command takes no argument, and nothing on this CPU is to run again.
            let _ = unsafe { op(VCPUOP_DOWN, area.number(), 0) };
        }
    }
}

#[cfg(all(target_os = "none", feature = "alloc"))]
pub(crate) use bare::rejoin;
#[cfg(target_os = "none")]
pub use bare::{start, stop};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_lies_behind_the_stack_in_one_page() {
        static STORAGE: Storage<8192> = Storage::new();
        let base = &raw const STORAGE as usize;
        assert_eq!(base % 4096, 0);
        assert_eq!(STORAGE.stack.get() as usize, base + 4096);
        assert_eq!(&raw const STORAGE.cpu as usize % 1024, 0);
        assert!(!STORAGE.taken.load(core::sync::atomic::Ordering::Relaxed));
    }
}
