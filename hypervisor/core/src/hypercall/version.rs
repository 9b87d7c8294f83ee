//! `xen_version(cmd, arg)`: what this hypervisor is and offers; `vm_assist(cmd, type)`: what a guest wants differently.
//!
//! To guests this is Xen 4.17: they take their decisions by that number. What tells Paravane apart is the extra version
//! and the compile information.

use super::{Cx, Outcome, low32};
use crate::guest_ptr::GuestPtr;
use crate::ids::{DomId, PAGE_SIZE};
use crate::platform::Platform;
use crate::regs::Regs;
use core::sync::atomic::Ordering;
use xen_abi::errno::Errno;
use xen_abi::features::{
    XENFEAT_DIRECT_MAPPED, XENFEAT_DOM0, XENFEAT_GNTTAB_MAP_AVAIL_BITS, XENFEAT_HIGHMEM_ASSIST,
    XENFEAT_MEMORY_OP_VNODE_SUPPORTED, XENFEAT_MMU_PT_UPDATE_PRESERVE_AD, XENFEAT_PAE_PGDIR_ABOVE_4GB,
};
use xen_abi::version::*;
use xen_abi::xen::{
    VMASST_CMD_DISABLE, VMASST_CMD_ENABLE, VMASST_TYPE_4GB_SEGMENTS, VMASST_TYPE_4GB_SEGMENTS_NOTIFY,
    VMASST_TYPE_ARCHITECTURAL_IOPL, VMASST_TYPE_M2P_STRICT, VMASST_TYPE_PAE_EXTENDED_CR3,
    VMASST_TYPE_RUNSTATE_UPDATE_FLAG, VMASST_TYPE_WRITABLE_PAGETABLES,
};
use zerocopy::{Immutable, IntoBytes};

/// Version that guests see: major in bits 31..16, minor below.
const VERSION: i64 = 4 << 16 | 17;
/// What follows `4.17` in a version text.
const EXTRAVERSION: &str = ".0-paravane";
/// The guests that can run here.
const CAPABILITIES: &str = "xen-3.0-x86_64 ";
/// Release of this project.
const RELEASE: &str = concat!("paravane ", env!("CARGO_PKG_VERSION"));
/// What the unprivileged see where they may not know.
const DENIED: &str = "<denied>";
/// First address of the hypervisor's part of every address space (`HYPERVISOR_VIRT_START`).
const VIRT_START: u64 = 0xffff_8000_0000_0000;

/// The assists that a 64-bit PV guest may switch; several have no effect on one, and are accepted all the same.
pub(crate) const VALID_ASSISTS: u64 = 1 << VMASST_TYPE_4GB_SEGMENTS
    | 1 << VMASST_TYPE_4GB_SEGMENTS_NOTIFY
    | 1 << VMASST_TYPE_WRITABLE_PAGETABLES
    | 1 << VMASST_TYPE_PAE_EXTENDED_CR3
    | 1 << VMASST_TYPE_ARCHITECTURAL_IOPL
    | 1 << VMASST_TYPE_RUNSTATE_UPDATE_FLAG
    | 1 << VMASST_TYPE_M2P_STRICT;

/// A zero-terminated text in a field of `N` bytes, cut to fit.
fn text<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    let length = text.len().min(N.saturating_sub(1));
    field[..length].copy_from_slice(&text.as_bytes()[..length]);
    field
}

/// `xen_version(cmd, arg)`.
///
/// # Errors
/// `EFAULT`, `EINVAL`, `ENOSYS` for an unknown command, `EPERM` and `ENODATA` for the build identifier.
pub fn xen_version<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    match number(args[0]) {
        Some(version) => Outcome::Done(version),
        None => describe(cx, low32(args[0]), args[1]).into(),
    }
}

/// The answer to `XENVER_version`, if that is the command. Guests ask for it to have events delivered: it is the cheapest
/// way into the hypervisor and out again.
pub fn number(cmd: u64) -> Option<i64> {
    (low32(cmd) == XENVER_VERSION).then_some(VERSION)
}

#[inline(never)]
fn describe<P: Platform>(cx: Cx<'_, P>, cmd: u32, arg: u64) -> Result<i64, Errno> {
    let denied = !cx.domain.privileged;
    match cmd {
        XENVER_EXTRAVERSION => put(cx, arg, &text::<XEN_EXTRAVERSION_LEN>(EXTRAVERSION)),
        XENVER_COMPILE_INFO => put(cx, arg, &compile_info()),
        XENVER_CAPABILITIES => put(cx, arg, &text::<XEN_CAPABILITIES_INFO_LEN>(CAPABILITIES)),
        XENVER_CHANGESET => put(cx, arg, &text::<XEN_CHANGESET_INFO_LEN>(RELEASE)),
        XENVER_PLATFORM_PARAMETERS => put(cx, arg, &XenPlatformParameters { virt_start: VIRT_START }),
        XENVER_GET_FEATURES => features(cx, arg),
        XENVER_PAGESIZE if arg != 0 => Err(Errno::EINVAL),
        XENVER_PAGESIZE => Ok(PAGE_SIZE as i64),
        XENVER_GUEST_HANDLE => {
            let handle = *cx.domain.handle.lock();
            put(cx, arg, &handle)
        }
        XENVER_COMMANDLINE if denied => put(cx, arg, &text::<{ DENIED.len() + 1 }>(DENIED)),
        XENVER_COMMANDLINE => put(cx, arg, &text::<XEN_COMMANDLINE_LEN>(&cx.hv.options.command_line)),
        XENVER_BUILD_ID => build_id(cx, arg, denied),
        _ => Err(Errno::ENOSYS),
    }
}

fn put<P: Platform, T: IntoBytes + Immutable>(cx: Cx<'_, P>, arg: u64, value: &T) -> Result<i64, Errno> {
    GuestPtr::<T>::new(arg).write(cx.hv, value)?;
    Ok(0)
}

fn compile_info() -> XenCompileInfo {
    XenCompileInfo {
        compiler: text("rustc"),
        compile_by: text("paravane"),
        compile_domain: text(""),
        compile_date: text(""),
    }
}

fn features<P: Platform>(cx: Cx<'_, P>, arg: u64) -> Result<i64, Errno> {
    let at = GuestPtr::<XenFeatureInfo>::new(arg);
    let mut info = at.read(cx.hv)?;
    if info.submap_idx != 0 {
        return Err(Errno::EINVAL);
    }
    info.submap = 1 << XENFEAT_MEMORY_OP_VNODE_SUPPORTED
        | 1 << XENFEAT_MMU_PT_UPDATE_PRESERVE_AD
        | 1 << XENFEAT_HIGHMEM_ASSIST
        | 1 << XENFEAT_GNTTAB_MAP_AVAIL_BITS
        | 1 << XENFEAT_DIRECT_MAPPED;
    if cx.domain.has_vm_assist(VMASST_TYPE_PAE_EXTENDED_CR3) {
        info.submap |= 1 << XENFEAT_PAE_PGDIR_ABOVE_4GB;
    }
    if cx.domain.id == DomId(0) {
        info.submap |= 1 << XENFEAT_DOM0;
    }
    at.write(cx.hv, &info)?;
    Ok(0)
}

/// There is no build identifier: the arguments are judged all the same, as if there were one.
fn build_id<P: Platform>(cx: Cx<'_, P>, arg: u64, denied: bool) -> Result<i64, Errno> {
    if denied {
        return Err(Errno::EPERM);
    }
    if arg != 0 && GuestPtr::<XenBuildId>::new(arg).read(cx.hv)?.len == 0 {
        return Err(Errno::EINVAL);
    }
    Err(Errno::ENODATA)
}

/// `vm_assist(cmd, type)`.
///
/// # Errors
/// `EINVAL` for an assist that PV guests do not have, `ENOSYS` for an unknown command.
pub fn vm_assist<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    let type_ = low32(args[1]);
    let Some(bit) = 1u64.checked_shl(type_).filter(|bit| VALID_ASSISTS & bit != 0) else {
        return Errno::EINVAL.into();
    };
    match low32(args[0]) {
        VMASST_CMD_ENABLE => cx.domain.vm_assist.fetch_or(bit, Ordering::Relaxed),
        VMASST_CMD_DISABLE => cx.domain.vm_assist.fetch_and(!bit, Ordering::Relaxed),
        _ => return Errno::ENOSYS.into(),
    };
    Outcome::Done(0)
}
