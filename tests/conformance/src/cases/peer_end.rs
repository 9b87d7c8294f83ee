//! How domains end (sched.h, domctl.h), and what is left of them where others hold something of theirs.

use core::sync::atomic::Ordering::Relaxed;

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::Pte;
use xen_abi::arch_x86::VcpuGuestContext;
use xen_abi::domctl::*;
use xen_abi::hypercall::nr;
use xen_abi::sched::*;
use xen_abi::xen::DOMID_SELF;
use zerocopy::IntoBytes;

use crate::call::{NO_DOMAIN, op};
use crate::harness::{Verdict, check, need, same};
use crate::peer::control::{domctl, info, plain};
use crate::peer::{FREE, PAGES, Peer, sleep, with_peer};

/// The peer ends itself.
fn shut_down(peer: &Peer<'_>, reason: u32) -> Result<u32, crate::harness::Verdict> {
    let at = peer.put(SchedShutdown { reason }.as_bytes());
    peer.last_call(nr::SCHED_OP, &[u64::from(SCHEDOP_SHUTDOWN), at])
}

case! {
    /// A domain that ends itself stays, stopped, with the reason that it gave.
    #[peer]
    fn by_itself(env) {
        for reason in [SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT, SHUTDOWN_CRASH, SHUTDOWN_WATCHDOG, 77] {
            with_peer(env, |peer| same("reason", shut_down(peer, reason)?, reason))?;
        }
        Ok(())
    }
}

case! {
    /// A domain that suspended goes on behind its hypercall when it is resumed. Its next end has a reason of its own.
    #[peer]
    fn suspended_and_resumed(env) {
        with_peer(env, |peer| {
            same("reason", shut_down(peer, SHUTDOWN_SUSPEND)?, SHUTDOWN_SUSPEND)?;
            same("resume", plain(XEN_DOMCTL_RESUMEDOMAIN, peer.id()), Ok(0))?;
            same("the hypercall's answer", peer.resumed(), Ok(0))?;
            let found = need("getdomaininfo", info(peer.id()))?;
            same("no longer shut down", found.flags & XEN_DOMINF_SHUTDOWN, 0)?;
            same("resume of one that runs", plain(XEN_DOMCTL_RESUMEDOMAIN, peer.id()), Ok(0))?;
            same("a call", peer.call(nr::XEN_VERSION, &[0]), Ok(4 << 16 | 17))?;
            same("another reason", shut_down(peer, SHUTDOWN_REBOOT)?, SHUTDOWN_REBOOT)
        })
    }
}

case! {
    /// A domain that does not poke its watchdog in time is shut down, and says why; one that stops it goes on.
    #[peer]
    fn by_its_watchdog(env) {
        with_peer(env, |peer| {
            let set = |id, timeout| peer.op(nr::SCHED_OP, SCHEDOP_WATCHDOG, &mut SchedWatchdog { id, timeout });
            same("set", set(0, 1), Ok(1))?;
            same("second", set(0, 100), Ok(2))?;
            // Xen gives the error in the lower half of the register only, which is what kernels look at.
            let third = set(0, 1).unwrap_or_else(|error| i64::from(-error.0).cast_unsigned());
            same("no third", third as u32, (-Errno::ENOSPC.0).cast_unsigned())?;
            same("stop", set(1, 0), Ok(0))?;
            sleep(&[], 1_300_000_000);
            same("runs", peer.domain().shutdown_reason(), None)?;
            same("poke", set(2, 1), Ok(0))?;
            sleep(&[], 800_000_000);
            same("poke again", set(2, 1), Ok(0))?;
            sleep(&[], 800_000_000);
            same("runs still", peer.domain().shutdown_reason(), None)?;
            for _ in 0..40 {
                sleep(&[], 100_000_000);
                if peer.domain().shutdown_reason().is_some() {
                    break;
                }
            }
            same("ended", peer.domain().shutdown_reason(), Some(SHUTDOWN_WATCHDOG))
        })
    }
}

case! {
    /// An exception that a domain has no handler for ends it as crashed, and nobody else.
    #[peer]
    fn by_an_exception(env) {
        // ud2; an access to nothing; lgdt, which is not emulated.
        for code in [&[0x0f, 0x0b][..], &[0x48, 0xa1, 0, 0, 0, 0, 0, 0, 0, 0], &[0x0f, 0x01, 0x17]] {
            with_peer(env, |peer| {
                peer.load(FREE, code)?;
                same("reason", peer.last_run(peer.virt(FREE))?, SHUTDOWN_CRASH)
            })?;
        }
        Ok(())
    }
}

case! {
    /// The control domain shuts another one down.
    #[peer]
    fn by_the_control_domain(env) {
        let shutdown = |domain_id, reason| {
            let mut arg = SchedRemoteShutdown { domain_id, reason, ..SchedRemoteShutdown::default() };
            op(nr::SCHED_OP, SCHEDOP_REMOTE_SHUTDOWN, &mut arg)
        };
        same("nobody", shutdown(NO_DOMAIN, SHUTDOWN_POWEROFF), Err(Errno::ESRCH))?;
        with_peer(env, |peer| {
            same("remote_shutdown", shutdown(peer.id(), SHUTDOWN_REBOOT), Ok(0))?;
            same("reason", peer.domain().shutdown_reason(), Some(SHUTDOWN_REBOOT))?;
            same("again", shutdown(peer.id(), SHUTDOWN_CRASH), Ok(0))?;
            same("the first reason stays", peer.domain().shutdown_reason(), Some(SHUTDOWN_REBOOT))
        })
    }
}

case! {
    /// A frame that another domain still maps when its owner ends stays what it is, and keeps the shell of its owner until
    /// it is let go.
    #[peer]
    fn frame_of_the_dead(env) {
        let place = env.page(0);
        let mut id = 0;
        let outcome = with_peer(env, |peer| {
            id = peer.id();
            peer.look(FREE, |page| page.0[9].store(99, Relaxed))?;
            need("map", crate::peer::map_foreign(place.virt(), Pte::data(peer.mfn(FREE)).0, peer.id()))?;
            same("its contents", place.get(9), 99)
        });
        let contents = place.get(9);
        let shell = info(id);
        let destroyed_again = plain(XEN_DOMCTL_DESTROYDOMAIN, id);
        need("unmap", crate::peer::map_foreign(place.virt(), Pte::data(place.mfn()).0, DOMID_SELF))?;
        same("with_peer finds the shell", outcome, Err(crate::harness::Verdict::Failure("the peer is gone")))?;
        let shell = need("getdomaininfo", shell)?;
        same("dying", shell.flags & XEN_DOMINF_DYING, XEN_DOMINF_DYING)?;
        same("pages", shell.tot_pages, 1)?;
        same("destroydomain again", destroyed_again, Ok(0))?;
        same("contents", contents, 99)?;
        same("gone with its last frame", info(id).map(|_| ()), Err(Errno::ESRCH))
    }
}

case! {
    /// What a domain leaves in its memory nobody sees who gets that memory next.
    #[peer]
    fn secrets_of_the_dead(env) {
        const SECRET: u64 = 0x005e_c2e7_0fa6_3ead;
        for _ in 0..3 {
            with_peer(env, |peer| {
                for page in FREE..PAGES {
                    let known = peer.look(page, |words| {
                        let known = words.0.iter().filter(|word| word.load(Relaxed) == SECRET).count();
                        words.0.iter().for_each(|word| word.store(SECRET, Relaxed));
                        known
                    })?;
                    same("words of the one before", known, 0)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

case! {
    /// While a shell is left, its identifier is not given to another domain.
    #[peer]
    fn number_of_the_dead(env) {
        let place = env.page(0);
        let mut id = 0;
        let _ = with_peer(env, |peer| {
            id = peer.id();
            need("map", crate::peer::map_foreign(place.virt(), Pte::data(peer.mfn(FREE)).0, peer.id())).map(drop)
        });
        let mut config = crate::peer::control::config();
        let taken = crate::peer::control::domctl(XEN_DOMCTL_CREATEDOMAIN, id, &mut config).map(|_| ());
        need("unmap", crate::peer::map_foreign(place.virt(), Pte::data(place.mfn()).0, DOMID_SELF))?;
        same("taken", taken, Err(Errno::EEXIST))?;
        let created = crate::peer::control::domctl(XEN_DOMCTL_CREATEDOMAIN, id, &mut config).map(|(_, id)| id);
        same("free again", created, Ok(id))?;
        same("destroydomain", plain(XEN_DOMCTL_DESTROYDOMAIN, id), Ok(0))
    }
}

case! {
    /// A domain can be ended before it has anything, or while it is paused.
    #[peer]
    fn unfinished(env) {
        let domain = crate::peer::control::Domain::create()?;
        let id = domain.id();
        need("destroydomain", domain.destroy())?;
        same("gone", info(id).map(|_| ()), Err(Errno::ESRCH))?;
        with_peer(env, |peer| {
            need("pause", peer.domain().pause())?;
            check("paused", info(peer.id()).is_ok_and(|found| found.flags & XEN_DOMINF_PAUSED != 0))
        })
    }
}

/// `jmp` to itself.
const LOOP: [u8; 2] = [0xeb, 0xfe];

/// The peer runs without end, and has begun to.
fn run_for_ever(peer: &Peer<'_>) -> crate::harness::Outcome {
    peer.load(FREE, &LOOP)?;
    peer.start_run(peer.virt(FREE))?;
    for _ in 0..1000 {
        sleep(&[], 1_000_000);
        if peers_context(peer)?.user_regs.rip == peer.virt(FREE) {
            return Ok(());
        }
    }
    Err(Verdict::Error("the peer does not begin"))
}

fn peers_context(peer: &Peer<'_>) -> Result<VcpuGuestContext, Verdict> {
    let mut context = VcpuGuestContext::default();
    let mut payload =
        XenDomctlVcpucontext { ctxt: (&raw mut context as u64).into(), ..XenDomctlVcpucontext::default() };
    need("getvcpucontext", domctl(XEN_DOMCTL_GETVCPUCONTEXT, peer.id(), &mut payload))?;
    Ok(context)
}

case! {
    /// A domain that never stops by itself is ended like any other.
    #[peer]
    fn while_it_runs(env) {
        for _ in 0..3 {
            with_peer(env, run_for_ever)?;
        }
        Ok(())
    }
}

case! {
    /// A domain that never stops by itself is paused: its clock stands, and it goes on when it may.
    #[peer]
    fn paused_while_it_runs(env) {
        with_peer(env, |peer| {
            run_for_ever(peer)?;
            need("pause", peer.domain().pause())?;
            let time = || info(peer.id()).map(|found| found.cpu_time);
            let before = need("getdomaininfo", time())?;
            sleep(&[], 20_000_000);
            same("its time stands", time(), Ok(before))?;
            need("unpause", peer.domain().unpause())?;
            let goes_on = (0..1000).any(|_| {
                sleep(&[], 1_000_000);
                time().is_ok_and(|now| now > before)
            });
            check("it goes on", goes_on)
        })
    }
}

case! {
    /// A vCPU that never stops by itself is set to go on somewhere else.
    #[peer]
    fn redirected_while_it_runs(env) {
        with_peer(env, |peer| {
            run_for_ever(peer)?;
            // mov eax, 42; ret
            peer.load(FREE + 1, &[0xb8, 42, 0, 0, 0, 0xc3])?;
            let mut context = peers_context(peer)?;
            context.user_regs.rip = peer.virt(FREE + 1);
            same("setvcpucontext", peer.domain().set_context(0, &context), Ok(0))?;
            same("it comes back from there", peer.resumed(), Ok(42))
        })
    }
}
