//! The FIFO layout: the change to it, its priorities, and more ports than the two-level layout has.

use core::sync::atomic::{AtomicU64, Ordering};

use guest_pv_lib::events::fifo::Storage;
use guest_pv_lib::events::{self, Channel, Port};
use guest_pv_lib::{BootContext, Errno, println};
use xen_abi::xen::DOMID_SELF;

use crate::{Step, check, ok};

static STORAGE: Storage<5> = Storage::new();

/// Changes the layout where the command line asks for it, with an event that is pending meanwhile and a masked one.
pub fn switch(boot: &BootContext) -> Step {
    if !boot.has_option("fifo") {
        return Ok(());
    }
    let pending = ok(Channel::bind_ipi(0), "bind_ipi")?;
    let masked = ok(Channel::bind_ipi(0), "bind_ipi")?;
    masked.mask();
    pending.notify();
    masked.notify();
    ok(events::use_fifo(boot, &STORAGE), "use_fifo")?;
    check(events::use_fifo(boot, &STORAGE) == Err(Errno::EBUSY), "a second change is refused")?;
    events::unmask_upcalls();
    check(events::take(masked.port()), "the masked event got lost, or came")?;
    check(pending.take() && !pending.take(), "the pending event got lost, or came twice")?;
    events::mask_upcalls();
    println!("fifo: changed over with an event pending and another masked");
    Ok(())
}

/// Ports in the order in which they fired, eight bits each.
static ORDER: AtomicU64 = AtomicU64::new(0);

fn note(port: Port) {
    let _ = ORDER.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |order| {
        Some(order << 8 | u64::from(port.0 & 255))
    });
}

/// Events that wait together come by priority, those of one priority in the order in which they were sent.
pub fn priorities(boot: &BootContext) -> Step {
    let first = ok(Channel::bind_ipi(0), "bind_ipi")?;
    if !boot.has_option("fifo") {
        return check(first.set_priority(3) == Err(Errno::ENOSYS), "two-level ports have no priorities");
    }
    let [second, low, high] = [(); 3].map(|()| Channel::bind_ipi(0));
    let [second, low, high] = [ok(second, "bind_ipi")?, ok(low, "bind_ipi")?, ok(high, "bind_ipi")?];
    ok(low.set_priority(15), "set_priority")?;
    ok(high.set_priority(0), "set_priority")?;
    check(high.set_priority(16) == Err(Errno::EINVAL), "a priority that does not exist")?;
    for channel in [&first, &second, &low, &high] {
        channel.set_handler(note);
    }
    events::mask_upcalls();
    for channel in [&low, &second, &first, &high] {
        channel.notify();
    }
    events::unmask_upcalls();
    let expected = [&high, &second, &first, &low]
        .into_iter()
        .fold(0, |order, channel| order << 8 | u64::from(channel.number() & 255));
    check(ORDER.load(Ordering::Relaxed) == expected, "events came in another order")?;
    println!("priorities: the urgent event first, then in the order of sending");
    Ok(())
}

/// One more than the two-level layout has.
const MANY: usize = 4097;

pub fn ports(boot: &BootContext) -> Step {
    if !boot.has_option("fifo") {
        return Ok(());
    }
    let mut channels = [const { None::<Channel> }; MANY];
    for slot in &mut channels {
        *slot = Some(ok(Channel::alloc_unbound(DOMID_SELF), "alloc_unbound")?);
    }
    let Some(last) = channels.iter().flatten().max_by_key(|channel| channel.number()) else {
        return Err("no channels");
    };
    check(last.number() > 4096, "the numbers do not go beyond those of the two-level layout")?;
    let peer = ok(Channel::interdomain(DOMID_SELF, last.port()), "interdomain")?;
    peer.notify();
    check(last.take() && !last.take(), "an event of a high port")?;
    drop(peer);
    channels.iter_mut().for_each(|slot| drop(slot.take()));
    println!("ports: more than 4096, and events on the last");
    Ok(())
}
