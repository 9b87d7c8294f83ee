//! `xen_version` (version.h).

use guest_pv_lib::Errno;
use xen_abi::arch_x86::HYPERVISOR_VIRT_START;
use xen_abi::hypercall::nr;
use xen_abi::version::*;

use crate::call::{FAULTS, Ret, all_fault, hc2, op};
use crate::harness::{check, need, same};

fn version(command: u32, at: u64) -> Ret {
    hc2(nr::XEN_VERSION, u64::from(command), at)
}

returns! {
    /// XENVER_version is major << 16 | minor.
    number(env): version(XENVER_VERSION, 0) => Ok(4 << 16 | 17);
    /// XENVER_pagesize takes no argument and returns the page size.
    pagesize(env): version(XENVER_PAGESIZE, 0) => Ok(4096);
    /// XENVER_pagesize with an argument is refused.
    pagesize_with_argument(env): version(XENVER_PAGESIZE, env.page(0).virt()) => Err(Errno::EINVAL);
    /// A command that does not exist.
    unknown_command(env): version(99, 0) => Err(Errno::ENOSYS);
    /// Bad pointers, how the hypervisor was compiled.
    compile_info_fault(env): all_fault(|at| version(XENVER_COMPILE_INFO, at)) => FAULTS;
    /// Bad pointers, extraversion.
    extraversion_fault(env): all_fault(|at| version(XENVER_EXTRAVERSION, at)) => FAULTS;
    /// Bad pointers, capabilities.
    capabilities_fault(env): all_fault(|at| version(XENVER_CAPABILITIES, at)) => FAULTS;
    /// Bad pointers, platform parameters.
    platform_parameters_fault(env): all_fault(|at| version(XENVER_PLATFORM_PARAMETERS, at)) => FAULTS;
    /// Bad pointers, features.
    features_fault(env): all_fault(|at| version(XENVER_GET_FEATURES, at)) => FAULTS;
    /// Bad pointers, domain handle.
    guest_handle_fault(env): all_fault(|at| version(XENVER_GUEST_HANDLE, at)) => FAULTS;
    /// Bad pointers, the hypervisor's command line.
    commandline_fault(env): all_fault(|at| version(XENVER_COMMANDLINE, at)) => FAULTS;
}

case! {
    /// Texts are terminated inside their fixed size.
    fn texts_are_terminated(env) {
        for command in [XENVER_EXTRAVERSION, XENVER_CAPABILITIES, XENVER_CHANGESET, XENVER_COMMANDLINE] {
            let mut text = [0xffu8; 1024];
            need("xen_version", op(nr::XEN_VERSION, command, &mut text))?;
            check("a terminator", text.contains(&0))?;
        }
        let _ = env;
        Ok(())
    }
}

case! {
    /// The start of the hypervisor's address range is the one that every 64-bit PV kernel is built for.
    fn platform_parameters(env) {
        let _ = env;
        let mut parameters = XenPlatformParameters::default();
        need("xen_version", op(nr::XEN_VERSION, XENVER_PLATFORM_PARAMETERS, &mut parameters))?;
        same("virt_start", parameters.virt_start, HYPERVISOR_VIRT_START)
    }
}

case! {
    /// A PV first domain is told: mmu_pt_update_preserve_ad, gnttab_map_avail_bits, dom0; not the ones of
    /// translated guests.
    fn features(env) {
        use xen_abi::features::*;
        let _ = env;
        let mut info = XenFeatureInfo::default();
        need("xen_version", op(nr::XEN_VERSION, XENVER_GET_FEATURES, &mut info))?;
        let has = |bit: u32| info.submap >> bit & 1 == 1;
        check("mmu_pt_update_preserve_ad", has(XENFEAT_MMU_PT_UPDATE_PRESERVE_AD))?;
        check("gnttab_map_avail_bits", has(XENFEAT_GNTTAB_MAP_AVAIL_BITS))?;
        check("dom0", has(XENFEAT_DOM0) == env.boot.is_initial_domain())?;
        check("no auto_translated_physmap", !has(XENFEAT_AUTO_TRANSLATED_PHYSMAP))?;
        check("no hvm_callback_vector", !has(XENFEAT_HVM_CALLBACK_VECTOR))
    }
}

case! {
    /// Feature words behind the last one are refused.
    fn features_behind_the_last_word(env) {
        let _ = env;
        let mut info = XenFeatureInfo { submap_idx: 1000, ..XenFeatureInfo::default() };
        same("word 1000", op(nr::XEN_VERSION, XENVER_GET_FEATURES, &mut info), Err(Errno::EINVAL))
    }
}
