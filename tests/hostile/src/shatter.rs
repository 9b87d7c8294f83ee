//! Memory with no two free frames in a row, and what the hypervisor needs several frames for.
//!
//! The domain takes all memory that it may have in pairs of frames and gives one frame of each pair back, again and again until no pair is
//! left. Then it lets its grant table grow: what the hypervisor keeps for each frame of that takes more than one frame.

use guest_pv_lib::hypercall::raw;
use guest_pv_lib::println;
use guest_pv_lib::sched::{Shutdown, shutdown};
use xen_abi::grant_table::{GNTST_OKAY, GNTTABOP_SETUP_TABLE, GnttabSetupTable};
use xen_abi::hypercall::nr;
use xen_abi::memory::{XENMEM_DECREASE_RESERVATION, XENMEM_INCREASE_RESERVATION, XenMemoryReservation};
use xen_abi::xen::DOMID_SELF;

/// Extents of a hypercall.
const LIST: usize = 512;
/// Frames that the grant table gets.
const GRANT_FRAMES: usize = 48;

/// Takes, or gives back, extents of this order; answers how many it were.
fn reservation(command: u32, list: &mut [u64], order: u32) -> usize {
    let request = XenMemoryReservation {
        extent_start: (list.as_mut_ptr() as u64).into(),
        nr_extents: list.len() as u64,
        extent_order: order,
        domid: DOMID_SELF,
        ..Default::default()
    };
    // SAFETY: the list is this function's; the frames that come and go are used by nothing.
    let done = unsafe { raw::call2(nr::MEMORY_OP, command.into(), &raw const request as u64) };
    usize::try_from(done).unwrap_or(0)
}

pub fn run() -> ! {
    let mut list = [0; LIST];
    let (mut taken, mut rounds) = (0, 0);
    loop {
        let mut pairs = 0;
        loop {
            let got = reservation(XENMEM_INCREASE_RESERVATION, &mut list, 1);
            pairs += got;
            if reservation(XENMEM_DECREASE_RESERVATION, &mut list[..got], 0) != got {
                println!("hostile: frames do not go back");
                shutdown(Shutdown::Crash);
            }
            if got < LIST {
                break;
            }
        }
        taken += pairs;
        rounds += 1;
        if pairs == 0 {
            break;
        }
    }
    println!("hostile: shattered {taken} pairs of frames in {rounds} rounds");
    let mut frames = [0u64; GRANT_FRAMES];
    let mut setup = GnttabSetupTable {
        dom: DOMID_SELF,
        nr_frames: GRANT_FRAMES as u32,
        frame_list: (frames.as_mut_ptr() as u64).into(),
        ..Default::default()
    };
    // SAFETY: the list has room for as many frames.
    let done =
        unsafe { raw::call3(nr::GRANT_TABLE_OP, GNTTABOP_SETUP_TABLE.into(), &raw mut setup as u64, 1) };
    if done == 0 && setup.status == GNTST_OKAY {
        println!("hostile: the grant table has {GRANT_FRAMES} frames");
    } else {
        println!("hostile: the grant table did not grow: {done}, {}", setup.status);
    }
    shutdown(Shutdown::PowerOff)
}
