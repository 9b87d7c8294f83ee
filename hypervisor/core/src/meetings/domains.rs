//! What the privileged domain can do to domain 1, and domain 1 to its own vCPUs and memory meanwhile.

use super::frames::memory;
use super::world::{FLAT_PAYLOAD, Who, World};
use super::{Op, last, meet, meet_often, op};
use crate::ids::Mfn;
use core::sync::atomic::Ordering::Relaxed;
use std::boxed::Box;
use xen_abi::arch_x86::{VGCF_IN_KERNEL, VGCF_ONLINE, VcpuGuestContext};
use xen_abi::domctl::*;
use xen_abi::hypercall::nr;
use xen_abi::memory::{XENMEM_DECREASE_RESERVATION, XENMEM_INCREASE_RESERVATION};
use xen_abi::sched::*;
use xen_abi::vcpu::*;
use zerocopy::{FromZeros, Immutable, IntoBytes};

/// The end of what others meet on.
pub(super) const DESTROY: Op =
    last(0, "destroy", |w, who| domctl(w, who, XEN_DOMCTL_DESTROYDOMAIN, 1, &[0u64]));
/// The end of its neighbour.
pub(super) const DESTROY_NEIGHBOUR: Op =
    last(0, "destroy the neighbour", |w, who| domctl(w, who, XEN_DOMCTL_DESTROYDOMAIN, 2, &[0u64]));

/// The vCPU that is not in use at first.
const THIRD: u64 = 2;

/// Two vCPUs may do this for a third one at the same time.
const GIVE_INFO: Op = op(1, "give it a vcpu_info", |w, who| {
    let info = VcpuRegisterVcpuInfo { mfn: w.page.0, offset: 64 * who.cpu as u32, rsvd: 0 };
    let at = w.put(who, 0, &[info]);
    vcpu(w, who, VCPUOP_REGISTER_VCPU_INFO, at)
});

const OPS: &[Op] = &[
    last(0, "pause", |w, who| domctl(w, who, XEN_DOMCTL_PAUSEDOMAIN, 1, &[0u64])),
    op(0, "unpause", |w, who| domctl(w, who, XEN_DOMCTL_UNPAUSEDOMAIN, 1, &[0u64])).after(&["pause"]),
    op(0, "resume", |w, who| domctl(w, who, XEN_DOMCTL_RESUMEDOMAIN, 1, &[0u64])).after(&["shutdown"]),
    DESTROY,
    op(0, "limit", |w, who| domctl(w, who, XEN_DOMCTL_MAX_MEM, 1, &[4u64])),
    op(0, "raise the limit", |w, who| domctl(w, who, XEN_DOMCTL_MAX_MEM, 1, &[1024u64])),
    op(0, "set a context", |w, who| {
        let at = w.put(who, FLAT_PAYLOAD, &[*context(w, true)]);
        domctl(w, who, XEN_DOMCTL_SETVCPUCONTEXT, 1, &[THIRD, at])
    }),
    op(0, "get a context", |w, who| {
        let at = w.put(who, FLAT_PAYLOAD, &[0u64]);
        domctl(w, who, XEN_DOMCTL_GETVCPUCONTEXT, 1, &[0, at])
    }),
    op(0, "look", |w, who| domctl(w, who, XEN_DOMCTL_GETDOMAININFO, 1, &[0u64])),
    op(0, "write the hypercall page", |w, who| domctl(w, who, XEN_DOMCTL_HYPERCALL_INIT, 1, &[w.page.0])),
    op(0, "create another", |w, who| {
        let config = XenDomctlCreatedomain {
            max_vcpus: 1,
            max_evtchn_port: 1023,
            max_grant_frames: 4,
            max_maptrack_frames: 1,
            grant_opts: 2,
            ..Default::default()
        };
        domctl(w, who, XEN_DOMCTL_CREATEDOMAIN, 5, &[config])
    }),
    op(0, "destroy the other", |w, who| domctl(w, who, XEN_DOMCTL_DESTROYDOMAIN, 5, &[0u64]))
        .after(&["create another"]),
    last(0, "remote shutdown", |w, who| {
        let arg = SchedRemoteShutdown { domain_id: 1, reason: SHUTDOWN_CRASH, ..Default::default() };
        let at = w.put(who, 0, &[arg]);
        w.did(who, nr::SCHED_OP, &[SCHEDOP_REMOTE_SHUTDOWN.into(), at])
    }),
    last(1, "shutdown", |w, who| {
        let at = w.put(who, 0, &[SchedShutdown { reason: SHUTDOWN_SUSPEND }]);
        w.did(who, nr::SCHED_OP, &[SCHEDOP_SHUTDOWN.into(), at])
    }),
    op(1, "initialise", |w, who| {
        let at = w.put(who, FLAT_PAYLOAD, &[*context(w, false)]);
        vcpu(w, who, VCPUOP_INITIALISE, at)
    }),
    op(1, "initialise on the page", |w, who| {
        let mut context = context(w, false);
        context.ctrlreg[3] = w.page.addr().0;
        let at = w.put(who, FLAT_PAYLOAD, &[*context]);
        vcpu(w, who, VCPUOP_INITIALISE, at)
    }),
    op(1, "bring up", |w, who| vcpu(w, who, VCPUOP_UP, 0)).after(&["initialise"]),
    op(1, "take down", |w, who| vcpu(w, who, VCPUOP_DOWN, 0)).after(&["initialise", "bring up"]),
    GIVE_INFO,
    op(1, "send an NMI", |w, who| vcpu(w, who, VCPUOP_SEND_NMI, 0)).after(&["initialise"]),
    op(1, "set a timer", |w, who| w.did(who, nr::SET_TIMER_OP, &[w.hv.platform.time.load(Relaxed) + 5])),
    op(0, "time passes", |w, _| {
        w.hv.platform.time.fetch_add(10, Relaxed);
        w.hv.run_timers();
        true
    })
    .after(&["set a timer"]),
    op(1, "take a page", |w, who| memory(w, who, XENMEM_INCREASE_RESERVATION, Mfn(0))),
    op(1, "give one up", |w, who| memory(w, who, XENMEM_DECREASE_RESERVATION, w.page)),
];

/// `domctl` with a payload.
fn domctl<T: IntoBytes + Immutable>(w: &World, who: Who, cmd: u32, domain: u16, payload: &[T]) -> bool {
    let op = XenDomctl { cmd, domain, interface_version: XEN_DOMCTL_INTERFACE_VERSION, ..Default::default() };
    let at = w.put(who, 0, &[op]);
    w.put(who, 16, payload);
    w.did(who, nr::DOMCTL, &[at])
}

fn vcpu(w: &World, who: Who, cmd: u32, arg: u64) -> bool {
    w.call(who, nr::VCPU_OP, &[cmd.into(), THIRD, arg]).is_some_and(|answer| answer >= 0)
}

fn context(w: &World, online: bool) -> Box<VcpuGuestContext> {
    let mut context = Box::new(VcpuGuestContext::new_zeroed());
    context.flags = VGCF_IN_KERNEL | if online { VGCF_ONLINE } else { 0 };
    context.ctrlreg[3] = w.tables[1][0].addr().0;
    context
}

#[test]
fn on_a_domain() {
    meet(OPS);
}

/// The hypervisor holds one reference for the place of a `vcpu_info`, also where two vCPUs choose it at the same time. The moment that
/// matters is short.
#[test]
fn on_a_vcpu_info() {
    meet_often(&[Op { before: false, ..GIVE_INFO }], 1000);
}
