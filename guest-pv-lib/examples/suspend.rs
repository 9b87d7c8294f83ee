//! A kernel that a toolstack can save and restore: it does what `control/shutdown` says, and looks afterwards whether all
//! that it had is still there.
//!
//! With two CPUs it has one of them suspended while it works; with the option `fifo` it has FIFO event channels.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
mod bare {
    extern crate alloc;

    use core::sync::atomic::AtomicU32;
    use core::sync::atomic::Ordering::Relaxed;
    use core::time::Duration;

    use guest_pv_lib::events::{Channel, Virq, fifo};
    use guest_pv_lib::grant::{self, Access, Granted};
    use guest_pv_lib::memory::Pages;
    use guest_pv_lib::sched::{self, Shutdown};
    use guest_pv_lib::smp::{self, Cpu, CpuSet, Storage};
    use guest_pv_lib::suspend::{self, Outcome, Request};
    use guest_pv_lib::xenstore::{self, Transaction};
    use guest_pv_lib::{BootContext, Errno, events, println, time};

    guest_pv_lib::entry!(kernel, name = "suspend", version = "1");

    static SECOND: Storage<{ 32 << 10 }> = Storage::new();
    static PORTS: fifo::Storage<2> = fifo::Storage::new();
    static TICKS: AtomicU32 = AtomicU32::new(0);
    static BEFORE: AtomicU32 = AtomicU32::new(0);
    static AFTER: AtomicU32 = AtomicU32::new(0);

    /// Something to remember.
    const PATTERN: u8 = 0x5a;

    fn kernel(boot: BootContext) -> ! {
        match run(boot) {
            Ok(reason) => sched::shutdown(reason),
            Err(error) => {
                println!("suspend: {error:?}");
                sched::shutdown(Shutdown::Crash)
            }
        }
    }

    fn run(mut boot: BootContext) -> Result<Shutdown, Errno> {
        if boot.has_option("fifo") {
            events::use_fifo(&boot, &PORTS)?;
        }
        suspend::announce(&boot).map_err(|_| Errno::ENOMEM)?;
        // SAFETY: the tables that the domain started with stay, and nobody else uses GS.
        match unsafe { smp::start(&boot, 1, &SECOND, None, second) } {
            Ok(_) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
        let timer = Channel::bind_virq(Virq::TIMER)?;
        timer.set_handler(|_| count(&TICKS));
        // A channel that a new domain does not have.
        let peer = Channel::alloc_unbound(0)?;
        let mut pages = Pages::new(3).map_err(|_| Errno::ENOMEM)?;
        pages.as_mut().fill(PATTERN);
        let granted = grant_page()?;
        let client = xenstore::connect(&boot)?;
        suspend::watch(&client, "shutdown")?;
        suspend::on(|| count(&BEFORE), |_| count(&AFTER));
        events::unmask_upcalls();
        println!("suspend: ready with {} CPUs", smp::online().count());
        loop {
            sched::wait(Some(Duration::from_millis(200)));
            if client.next_event().is_none() {
                continue;
            }
            match suspend::acknowledge(&client)? {
                None => continue,
                Some(Request::PowerOff) => return Ok(Shutdown::PowerOff),
                Some(Request::Reboot) => return Ok(Shutdown::Reboot),
                Some(Request::Suspend) => {}
            }
            // SAFETY: nothing foreign is mapped, and no frame number is kept.
            let outcome = unsafe { suspend::suspend(&mut boot) }?;
            if let Outcome::Resumed { lost } = &outcome {
                client.restart()?;
                check("the channel to another domain is lost", lost.as_slice() == [peer.port()])?;
                println!("suspend: resumed as {}", name(&client)?);
            } else {
                check("the channel to another domain is open", lives(&peer))?;
                println!("suspend: cancelled as {}", name(&client)?);
            }
            check("memory is what it was", pages.as_ref().iter().all(|&byte| byte == PATTERN))?;
            check("hooks ran", BEFORE.load(Relaxed) == AFTER.load(Relaxed))?;
            look(&granted)?;
            println!("suspend: all is there");
        }
    }

    fn count(what: &AtomicU32) {
        what.fetch_add(1, Relaxed);
    }

    fn check(what: &str, holds: bool) -> Result<(), Errno> {
        if !holds {
            println!("suspend: not so: {what}");
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// Nobody is at the other end yet.
    fn lives(channel: &Channel) -> bool {
        !events::is_connected(channel.port()) && channel.move_to(0).is_ok()
    }

    fn name(
        client: &xenstore::Client<xenstore::GuestRing, xenstore::GuestLink>,
    ) -> Result<alloc::string::String, Errno> {
        let domain = client.read(Transaction::NONE, "domid")?;
        alloc::string::String::from_utf8(domain).map_err(|_| Errno::EINVAL)
    }

    fn grant_page() -> Result<Granted, Errno> {
        let page = Pages::new(1).map_err(|_| Errno::ENOMEM)?;
        Granted::new(page, 0, Access::ReadWrite).map_err(|_| Errno::ENOSPC)
    }

    /// Grants, CPUs, the timer and the memory behind the page tables work.
    fn look(granted: &Granted) -> Result<(), Errno> {
        let free = grant::free_references();
        let further = grant_page()?;
        check("one reference less is free", grant::free_references() == free - 1)?;
        check("references differ", granted.refs() != further.refs())?;
        check("the grant is ended", further.end().is_ok())?;
        let called = AtomicU32::new(0);
        smp::run_on(&CpuSet::online(), &|_| count(&called));
        check("every CPU takes calls", called.load(Relaxed) as usize == smp::online().count())?;
        let (ticks, start) = (TICKS.load(Relaxed), time::now());
        time::set_oneshot(start + 5_000_000)?;
        while TICKS.load(Relaxed) == ticks && time::now() < start + 5_000_000_000 {
            sched::wait(Some(Duration::from_millis(100)));
        }
        check("the timer fires", TICKS.load(Relaxed) != ticks)?;
        check("there is a wall clock", time::wall_clock_at_zero().0 > 1_000_000_000)?;
        check("memory can be had", Pages::new(64).is_ok())
    }

    fn second(_: &'static Cpu) -> ! {
        loop {
            sched::wait(None);
        }
    }
}
