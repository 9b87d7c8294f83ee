//! A kernel that uses its disk while a toolstack saves and restores the domain: it writes a pattern and reads it back, over
//! and over, and is always suspended with a write under way. Each line starts with `saved:`; the domain ends as crashed
//! where something is wrong.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
mod bare {
    extern crate alloc;

    use core::time::Duration;

    use guest_pv_lib::sched::{self, Shutdown};
    use guest_pv_lib::suspend::{self, Outcome};
    use guest_pv_lib::xenstore::{self, Client, GuestLink, GuestRing};
    use guest_pv_lib::{BootContext, println};
    use pv_drivers::blk::{Data, Failure, Front, FrontOptions, Operation, Request, SECTOR};
    use pv_drivers::transport::Transport;
    use pv_drivers::transport::guest::Guest;
    use pv_drivers::xenbus::{Bus, End, Watch};

    guest_pv_lib::entry!(kernel, name = "saved", version = "1");

    type Domain = Guest<Client<GuestRing, GuestLink>>;

    /// How long a step may take.
    const PATIENCE: Duration = Duration::from_secs(60);
    /// Sectors that a request writes or reads.
    const SECTORS: u64 = 64;

    /// Why the kernel cannot go on.
    type Wrong = &'static str;

    fn kernel(boot: BootContext) -> ! {
        match run(boot) {
            Ok(reason) => sched::shutdown(reason),
            Err(why) => {
                println!("saved: FAILED: {why}");
                sched::shutdown(Shutdown::Crash)
            }
        }
    }

    fn run(mut boot: BootContext) -> Result<Shutdown, Wrong> {
        suspend::announce(&boot).map_err(|_| "no memory")?;
        let client = xenstore::connect(&boot).map_err(|_| "no connection to xenstore")?;
        suspend::offer(&client).map_err(|_| "xenstore refused")?;
        let mut disk = Disk::new(Bus::new(Guest::new(client)))?;
        disk.wait_for(|front| front.is_connected().then_some(()))?;
        println!("saved: ready");
        let buffer =
            disk.bus.transport().buffer(SECTORS as usize * SECTOR / 4096).map_err(|_| "no memory")?;
        let mut data = Data::Buffer(buffer);
        for round in 0u8.. {
            fill(&mut data, |byte| *byte = round)?;
            disk.submit(Operation::Write, data)?;
            let (request, outcome) = disk.serve_toolstack(&mut boot)?;
            match request {
                Some(suspend::Request::PowerOff) => return Ok(Shutdown::PowerOff),
                Some(suspend::Request::Reboot) => return Ok(Shutdown::Reboot),
                Some(suspend::Request::Suspend) | None => {}
            }
            data = disk.finish(Operation::Write)?;
            fill(&mut data, |byte| *byte = !round)?;
            disk.submit(Operation::Read, data)?;
            data = disk.finish(Operation::Read)?;
            let mut right = true;
            fill(&mut data, |byte| right &= *byte == round)?;
            if !right {
                return Err("what was read is not what was written");
            }
            if let Some(how) = outcome {
                println!("saved: {how}, and the disk has what was written");
            }
            disk.bus.transport().wait(Some(Duration::from_millis(20)));
        }
        Ok(Shutdown::PowerOff)
    }

    fn fill(data: &mut Data<Domain>, work: impl FnMut(&mut u8)) -> Result<(), Wrong> {
        let Data::Buffer(buffer) = data else { return Err("the memory did not come back") };
        buffer.as_mut().iter_mut().for_each(work);
        Ok(())
    }

    struct Disk {
        bus: Bus<Domain>,
        front: Front<Domain>,
        wishes: Watch<Domain>,
    }

    impl Disk {
        fn new(bus: Bus<Domain>) -> Result<Self, Wrong> {
            let path = bus.front_ends("vbd").into_iter().next().ok_or("this domain has no disk")?;
            let end = End::front(&bus, &path).map_err(|_| "the disk's directory is incomplete")?;
            let wishes = bus.watch(suspend::NODE).map_err(|_| "xenstore refused a watch")?;
            Ok(Self { front: Front::new(end, FrontOptions::default()), bus, wishes })
        }

        fn wait_for<R>(&mut self, mut done: impl FnMut(&mut Front<Domain>) -> Option<R>) -> Result<R, Wrong> {
            let end = self.bus.transport().now() + PATIENCE;
            loop {
                if let Some(result) = done(&mut self.front) {
                    return Ok(result);
                }
                if !(self.bus.poll() | self.front.poll()) {
                    self.bus.transport().wait(Some(Duration::from_millis(100)));
                    if self.bus.transport().now() > end {
                        return Err("nothing happens any more");
                    }
                }
            }
        }

        /// Gives a request to the back end.
        fn submit(&mut self, operation: Operation, data: Data<Domain>) -> Result<(), Wrong> {
            let request = Request { tag: 0, operation, sector: 0, sectors: SECTORS, data, offset: 0 };
            self.front.submit(request).map_err(|_| "a request was not taken")?;
            self.front.poll();
            Ok(())
        }

        /// The memory of a request that is done. One whose connection ended is made again.
        fn finish(&mut self, operation: Operation) -> Result<Data<Domain>, Wrong> {
            loop {
                let done = self.wait_for(Front::completed)?;
                match done.result {
                    Ok(()) => return Ok(done.data),
                    Err(Failure::Disconnected) => {
                        println!("saved: once more: {operation:?}");
                        self.wait_for(|front| front.is_connected().then_some(()))?;
                        self.submit(operation, done.data)?;
                    }
                    Err(_) => return Err("a request failed"),
                }
            }
        }

        /// Does what the toolstack asks for, if anything; and says how the domain went on, if it was suspended.
        fn serve_toolstack(
            &mut self,
            boot: &mut BootContext,
        ) -> Result<(Option<suspend::Request>, Option<&'static str>), Wrong> {
            self.bus.poll();
            if !self.wishes.take() {
                return Ok((None, None));
            }
            let request = suspend::acknowledge(self.bus.store()).map_err(|_| "xenstore refused")?;
            if request != Some(suspend::Request::Suspend) {
                return Ok((request, None));
            }
            // SAFETY: the front end maps nothing of another domain's, and nothing here has machine frames.
            let outcome = unsafe { suspend::suspend(boot) }.map_err(|_| "not suspended")?;
            if outcome == Outcome::Cancelled {
                return Ok((request, Some("cancelled")));
            }
            self.bus.store().restart().map_err(|_| "no xenstore after the restore")?;
            self.front.resume().map_err(|_| "no disk after the restore")?;
            Ok((request, Some("restored")))
        }
    }
}
