//! The few functions of the crate: errors in return values, memory flags, payloads of unions, handles.

use xen_abi::GuestHandle;
use xen_abi::errno::Errno;
use xen_abi::memory::{xenmemf_address_bits, xenmemf_get_address_bits, xenmemf_get_node, xenmemf_node};
use xen_abi::xen::{StartInfo, StartInfoConsoleDom0, StartInfoConsoleDomU};
use zerocopy::IntoBytes;

#[test]
fn errors_travel_negated() {
    assert_eq!(Errno::EFAULT.to_ret(), -14);
    assert_eq!(Errno::from_ret(-14), Some(Errno::EFAULT));
    assert_eq!(Errno::from_ret(-4095), Some(Errno(4095)));
    assert_eq!(Errno::from_ret(0), None);
    assert_eq!(Errno::from_ret(-4096), None);
    assert_eq!(Errno::from_ret(i64::MIN), None);
}

#[test]
fn unknown_errors_survive() {
    assert_eq!(Errno::EBUSY.to_string(), "EBUSY");
    assert_eq!(Errno(4095).to_string(), "Errno(4095)");
    assert_eq!(Errno(-1).name(), None);
}

#[test]
fn memory_flags_hold_width_and_node() {
    let flags = xenmemf_address_bits(32) | xenmemf_node(3);
    assert_eq!(flags, 0x420);
    assert_eq!((xenmemf_get_address_bits(flags), xenmemf_get_node(flags)), (32, 3));
    assert_eq!(xenmemf_get_node(0), 0xff);
}

#[test]
fn start_info_console_has_two_forms() {
    let domu = StartInfoConsoleDomU { mfn: 0x1234_5678_9abc, evtchn: 2, ..Default::default() };
    let mut start_info = StartInfo::default();
    start_info.console.copy_from_slice(domu.as_bytes());
    assert_eq!(start_info.console_domu(), domu);
    let dom0 = StartInfoConsoleDom0 { info_off: 0x5678_9abc, info_size: 0x1234 };
    assert_eq!(start_info.console_dom0(), dom0);
}

#[test]
fn handles_are_addresses() {
    let handle = GuestHandle::<u32>::from(0xffff_8800_0000_1000);
    assert_eq!(handle.cast::<u8>().addr(), handle.addr());
    assert!(!handle.is_null() && GuestHandle::<u32>::NULL.is_null());
    assert_eq!(format!("{handle:?}"), "0xffff880000001000");
}
