//! Hypercalls that control the machine and other domains.
//!
//! An unprivileged domain makes all of them, and must be refused each time. The first domain makes those whose success harms
//! no other domain and not the machine: it may lawfully reboot, switch CPUs off, load a crash kernel, type console keys, end
//! the victim; these are left out. It makes dolls: domains of its own, of which it creates, fills, starts and ends some at any
//! moment and from several vCPUs.

use xen_abi::arch_x86::{FLAT_KERNEL_CS, FLAT_KERNEL_SS, VGCF_IN_KERNEL, VcpuGuestContext};
use xen_abi::domctl::*;
use xen_abi::hypercall::nr;
use xen_abi::sysctl::*;
use zerocopy::IntoBytes;

use super::argument::Cx;
use super::ops::Call;
use super::pool::place;

/// The dolls' numbers.
pub const DOLLS: core::ops::Range<u16> = 20..23;

/// Any of them.
pub fn any(cx: &mut Cx) -> Call {
    if cx.first {
        return match cx.below(10) {
            0..7 => doll(cx),
            7 | 8 => asks(cx),
            _ => platform(cx),
        };
    }
    let number =
        cx.pick(&[nr::DOMCTL, nr::SYSCTL, nr::PLATFORM_OP, nr::KEXEC_OP, nr::MCA, nr::HYPFS_OP, nr::DM_OP]);
    let version = if number == nr::PLATFORM_OP { 0x0300_0001 } else { 0x15 };
    let command = cx.below(90) as u64;
    let domain = u64::from(cx.domid());
    let mut words = [0; 18];
    for word in &mut words {
        *word = cx.number();
    }
    words[0] = command | version << 32;
    words[1] = domain;
    let at = cx.put(&words[..]);
    let first =
        if matches!(number, nr::KEXEC_OP | nr::HYPFS_OP | nr::DM_OP) { cx.below(8) as u64 } else { at };
    Call::new(number, &[first, at, cx.address(), cx.number(), cx.address()])
}

fn domctl(cx: &mut Cx, cmd: u32, domain: u16, payload: &[u8]) -> Call {
    let mut whole =
        XenDomctl { cmd, interface_version: XEN_DOMCTL_INTERFACE_VERSION, domain, ..XenDomctl::default() };
    whole.u[..payload.len()].copy_from_slice(payload);
    let at = cx.put(&whole);
    Call::new(nr::DOMCTL, &[at])
}

/// What a doll is subjected to.
fn doll(cx: &mut Cx) -> Call {
    let id = DOLLS.start + cx.below(DOLLS.len()) as u16;
    match cx.below(24) {
        0..3 => {
            let config = XenDomctlCreatedomain {
                max_vcpus: cx.pick(&[1, 1, 2, 4, 0, 512, 1 << 31]),
                max_evtchn_port: cx.pick(&[u32::MAX, 1023, 4, 131_071]),
                max_grant_frames: cx.pick(&[4, 1, 64, -1]),
                max_maptrack_frames: cx.pick(&[4, 0, 64, -1]),
                grant_opts: cx.pick(&[2, 1, 0]),
                flags: if cx.rarely(8) { cx.number() as u32 } else { 0 },
                ..XenDomctlCreatedomain::default()
            };
            domctl(cx, XEN_DOMCTL_CREATEDOMAIN, id, config.as_bytes())
        }
        3 => {
            let max = cx.pick(&[1, 2, 4]);
            domctl(cx, XEN_DOMCTL_MAX_VCPUS, id, XenDomctlMaxVcpus { max }.as_bytes())
        }
        4 => {
            let max_memkb = cx.pick(&[64, 256, 1024, 0, u64::MAX]);
            domctl(cx, XEN_DOMCTL_MAX_MEM, id, XenDomctlMaxMem { max_memkb }.as_bytes())
        }
        5 | 6 => {
            let mut arg = super::memory::reservation(cx);
            arg.domid = id;
            let at = cx.put(&arg);
            let command = cx.pick(&[6, 6, 0, 1]);
            Call::new(nr::MEMORY_OP, &[command, at])
        }
        7 | 8 => {
            let at = context(cx);
            let payload =
                XenDomctlVcpucontext { vcpu: cx.below(3) as u32, ctxt: at.into(), ..Default::default() };
            domctl(cx, XEN_DOMCTL_SETVCPUCONTEXT, id, payload.as_bytes())
        }
        9 | 10 => domctl(cx, XEN_DOMCTL_UNPAUSEDOMAIN, id, &[]),
        11 => domctl(cx, XEN_DOMCTL_PAUSEDOMAIN, id, &[]),
        12 => domctl(cx, XEN_DOMCTL_RESUMEDOMAIN, id, &[]),
        13..16 => domctl(cx, XEN_DOMCTL_DESTROYDOMAIN, id, &[]),
        16 => domctl(cx, XEN_DOMCTL_SOFT_RESET, id, &[]),
        17 | 18 => {
            let mut words = [0u64; 8];
            for word in &mut words {
                *word = if cx.rarely(2) { cx.address() } else { cx.number() };
            }
            let cmd = cx
                .pick(&[13, 14, 17, 20, 21, 24, 25, 36, 39, 43, 46, 48, 61, 62, 63, 66, 69, 72, 73, 82, 83]);
            domctl(cx, cmd, id, words.as_bytes())
        }
        _ => {
            // A grant or a channel with it, or its memory mapped.
            let entry = cx.entry();
            Call::new(nr::UPDATE_VA_MAPPING_OTHERDOMAIN, &[cx.virt(), entry, 2, u64::from(id)])
        }
    }
}

/// A vCPU's registers, half right, somewhere in the pool. Answers the address.
pub fn context(cx: &mut Cx) -> u64 {
    let mut context = VcpuGuestContext {
        flags: if cx.rarely(4) { cx.number() } else { VGCF_IN_KERNEL },
        kernel_ss: FLAT_KERNEL_SS.into(),
        kernel_sp: cx.address(),
        ..VcpuGuestContext::default()
    };
    context.user_regs.rip = cx.address();
    context.user_regs.rsp = cx.address();
    context.user_regs.cs = FLAT_KERNEL_CS;
    context.user_regs.ss = FLAT_KERNEL_SS;
    context.user_regs.rflags = if cx.rarely(4) { cx.number() } else { 0x202 };
    context.ctrlreg[3] = if cx.rarely(3) { place().root.address() } else { cx.frame() << 12 };
    if cx.rarely(3) {
        context.ctrlreg[1] = if cx.rarely(2) { cx.frame() << 12 } else { cx.number() };
    }
    if cx.rarely(4) {
        context.ldt_base = cx.virt();
        context.ldt_ents = cx.number();
    }
    if cx.rarely(4) {
        context.gdt_ents = cx.pick(&[1, 512, 7168, 8192]);
        context.gdt_frames = core::array::from_fn(|_| cx.frame());
    }
    if cx.rarely(4) {
        context.debugreg = core::array::from_fn(|_| cx.number());
        context.fs_base = cx.number();
        context.gs_base_kernel = cx.number();
    }
    context.trap_ctxt[14].address = cx.address();
    context.trap_ctxt[14].cs = FLAT_KERNEL_CS;
    let page = cx.page();
    let at = super::pool::address(page);
    for (n, word) in context.as_bytes().chunks(8).enumerate() {
        let mut whole = [0; 8];
        whole.copy_from_slice(word);
        super::edge::poke(at + 8 * n as u64, u64::from_le_bytes(whole));
    }
    at
}

/// Questions about domains and the machine.
fn asks(cx: &mut Cx) -> Call {
    let mut words = [0u64; 16];
    for word in &mut words {
        *word = match cx.below(3) {
            0 => cx.address(),
            1 => cx.number(),
            _ => cx.below(8) as u64,
        };
    }
    if cx.rarely(2) {
        let cmd = cx.pick(&[
            XEN_DOMCTL_GETDOMAININFO,
            XEN_DOMCTL_GETVCPUCONTEXT,
            XEN_DOMCTL_GETVCPUINFO,
            XEN_DOMCTL_GETVCPUAFFINITY,
            XEN_DOMCTL_GETTSCINFO,
            XEN_DOMCTL_GETPAGEFRAMEINFO3,
            XEN_DOMCTL_GETVCPUEXTSTATE,
            XEN_DOMCTL_GET_VCPU_MSRS,
            XEN_DOMCTL_GET_CPU_POLICY,
            XEN_DOMCTL_GET_EXT_VCPUCONTEXT,
        ]);
        let domain = cx.domid();
        return domctl(cx, cmd, domain, words.as_bytes());
    }
    let cmd = cx.pick(&[
        XEN_SYSCTL_TBUF_OP,
        XEN_SYSCTL_PHYSINFO,
        XEN_SYSCTL_SCHED_ID,
        XEN_SYSCTL_PERFC_OP,
        XEN_SYSCTL_GETDOMAININFOLIST,
        XEN_SYSCTL_GETCPUINFO,
        XEN_SYSCTL_AVAILHEAP,
        XEN_SYSCTL_GET_PMSTAT,
        XEN_SYSCTL_LOCKPROF_OP,
        XEN_SYSCTL_CPUTOPOINFO,
        XEN_SYSCTL_NUMAINFO,
        XEN_SYSCTL_PCITOPOINFO,
        XEN_SYSCTL_GET_CPU_LEVELLING_CAPS,
        XEN_SYSCTL_GET_CPU_FEATURESET,
        XEN_SYSCTL_GET_CPU_POLICY,
    ]);
    let mut whole =
        XenSysctl { cmd, interface_version: XEN_SYSCTL_INTERFACE_VERSION, ..XenSysctl::default() };
    whole.u.copy_from_slice(words.as_bytes());
    let at = cx.put(&whole);
    Call::new(nr::SYSCTL, &[at])
}

/// `platform_op`: what reads.
fn platform(cx: &mut Cx) -> Call {
    // read_memtype, getidletime, firmware_info, get_cpuinfo, get_cpu_version, get_symbol, and numbers that are none.
    let command = cx.pick(&[33, 53, 50, 55, 48, 63, 0, 99]);
    let mut words = [0u64; 17];
    for word in &mut words {
        *word = if cx.rarely(2) { cx.address() } else { cx.number() };
    }
    words[0] = command | 0x0300_0001 << 32;
    let at = cx.put(&words[..]);
    Call::new(nr::PLATFORM_OP, &[at])
}
