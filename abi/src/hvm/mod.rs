//! Hardware guests: the headers under `hvm/` of Xen's public interface.
//!
//! | module | subject |
//! |---|---|
//! | [`params`] | numbered parameters of a domain |
//! | [`hvm_op`], [`altp2m`] | what the guest asks of the hypervisor |
//! | [`dm_op`], [`ioreq`] | what a device model asks, and the requests it serves |
//! | [`hvm_vcpu`], [`hvm_info_table`], [`hvm_xs_strings`] | start of day |
//! | [`save`], [`save_devices`] | saved state |

pub mod altp2m;
pub mod dm_op;
pub mod hvm_info_table;
pub mod hvm_op;
pub mod hvm_vcpu;
pub mod hvm_xs_strings;
pub mod ioreq;
pub mod params;
pub mod save;
pub mod save_devices;

abi_module! {
    children: altp2m, dm_op, hvm_info_table, hvm_op, hvm_vcpu, hvm_xs_strings, ioreq, params, save, save_devices
}
