//! The crate against a second witness: `xen-sys`, the output of bindgen on the headers of another Xen version.
//!
//! Its bindings were made for interface version 0 (the oldest), so what changed since is not compared: the end of
//! `dom0_vga_console_info`, and `flags` of `vcpu_time_info`, which was padding.

use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};

use xen_abi::registry::{CName, Layout, Value};

/// A constant as `xen-sys` has it: name and value.
type Number = (&'static str, u64);
/// A structure as `xen-sys` has it: name, size, members with their offsets.
type Shape = (&'static str, usize, &'static [(&'static str, usize)]);

macro_rules! numbers {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), xen_sys::$name as u64)),*] };
}

macro_rules! shapes {
    ($($name:ident { $($field:ident),* })*) => {
        &[$((
            stringify!($name),
            size_of::<xen_sys::$name>(),
            &[$((stringify!($field), offset_of!(xen_sys::$name, $field))),*],
        )),*]
    };
}

#[test]
fn constants_agree() {
    let mut ours = BTreeMap::new();
    xen_abi::ABI.walk(&mut |module| {
        for item in module.consts {
            if let (CName::Is(c), Value::Int(value)) = (item.c, item.value) {
                ours.insert(c, value);
            }
        }
    });
    for (name, theirs) in NUMBERS {
        assert_eq!(ours.get(name), Some(theirs), "{name}");
    }
}

#[test]
fn layouts_agree() {
    let mut ours: BTreeMap<&str, &Layout> = BTreeMap::new();
    xen_abi::ABI.walk(&mut |module| {
        for layout in module.layouts {
            if let CName::Is(c) = layout.c {
                ours.insert(c.trim_start_matches("struct "), layout);
            }
        }
    });
    for (name, size, fields) in SHAPES {
        let layout = ours.get(name).unwrap_or_else(|| panic!("{name} is not in the crate"));
        assert_eq!(layout.size, *size, "size of {name}");
        for (field, offset) in *fields {
            let here = layout.fields.iter().find(|here| here.c == CName::Is(field));
            assert_eq!(here.map(|here| here.offset), Some(*offset), "{name}.{field}");
        }
    }
}

const NUMBERS: &[Number] = numbers! {
    FLAT_RING3_CS32, FLAT_RING3_CS64, FLAT_RING3_DS32, FLAT_RING3_DS64, FLAT_RING3_SS32,
    FLAT_RING3_SS64, FLAT_KERNEL_DS64, FLAT_KERNEL_DS32, FLAT_KERNEL_DS, FLAT_KERNEL_CS64,
    FLAT_KERNEL_CS32, FLAT_KERNEL_CS, FLAT_KERNEL_SS64, FLAT_KERNEL_SS32, FLAT_KERNEL_SS,
    FLAT_USER_DS64, FLAT_USER_DS32, FLAT_USER_DS, FLAT_USER_CS64, FLAT_USER_CS32, FLAT_USER_CS,
    FLAT_USER_SS64, FLAT_USER_SS32, FLAT_USER_SS, SEGBASE_FS, SEGBASE_GS_USER, SEGBASE_GS_KERNEL,
    SEGBASE_GS_USER_SEL, VGCF_IN_SYSCALL, FIRST_RESERVED_GDT_PAGE, FIRST_RESERVED_GDT_BYTE,
    FIRST_RESERVED_GDT_ENTRY, XEN_LEGACY_MAX_VCPUS, VGCF_I387_VALID, VGCF_failsafe_disables_events,
    VGCF_syscall_disables_events, VGCF_online, XEN_CPUID_NO_SUBLEAF, XEN_HVM_DEBUGCONS_IOPORT,
    __HYPERVISOR_set_trap_table, __HYPERVISOR_mmu_update, __HYPERVISOR_set_gdt,
    __HYPERVISOR_stack_switch, __HYPERVISOR_set_callbacks, __HYPERVISOR_fpu_taskswitch,
    __HYPERVISOR_sched_op_compat, __HYPERVISOR_platform_op, __HYPERVISOR_set_debugreg,
    __HYPERVISOR_get_debugreg, __HYPERVISOR_update_descriptor, __HYPERVISOR_memory_op,
    __HYPERVISOR_multicall, __HYPERVISOR_update_va_mapping, __HYPERVISOR_set_timer_op,
    __HYPERVISOR_event_channel_op_compat, __HYPERVISOR_xen_version, __HYPERVISOR_console_io,
    __HYPERVISOR_physdev_op_compat, __HYPERVISOR_grant_table_op, __HYPERVISOR_vm_assist,
    __HYPERVISOR_update_va_mapping_otherdomain, __HYPERVISOR_iret, __HYPERVISOR_vcpu_op,
    __HYPERVISOR_set_segment_base, __HYPERVISOR_mmuext_op, __HYPERVISOR_xsm_op, __HYPERVISOR_nmi_op,
    __HYPERVISOR_sched_op, __HYPERVISOR_callback_op, __HYPERVISOR_xenoprof_op,
    __HYPERVISOR_event_channel_op, __HYPERVISOR_physdev_op, __HYPERVISOR_hvm_op,
    __HYPERVISOR_sysctl, __HYPERVISOR_domctl, __HYPERVISOR_kexec_op, __HYPERVISOR_tmem_op,
    __HYPERVISOR_argo_op, __HYPERVISOR_xenpmu_op, __HYPERVISOR_dm_op, __HYPERVISOR_hypfs_op,
    __HYPERVISOR_arch_0, __HYPERVISOR_arch_1, __HYPERVISOR_arch_2, __HYPERVISOR_arch_3,
    __HYPERVISOR_arch_4, __HYPERVISOR_arch_5, __HYPERVISOR_arch_6, __HYPERVISOR_arch_7, VIRQ_TIMER,
    VIRQ_DEBUG, VIRQ_CONSOLE, VIRQ_DOM_EXC, VIRQ_TBUF, VIRQ_DEBUGGER, VIRQ_XENOPROF, VIRQ_CON_RING,
    VIRQ_PCPU_STATE, VIRQ_MEM_EVENT, VIRQ_ARGO, VIRQ_ENOMEM, VIRQ_XENPMU, VIRQ_ARCH_0, VIRQ_ARCH_1,
    VIRQ_ARCH_2, VIRQ_ARCH_3, VIRQ_ARCH_4, VIRQ_ARCH_5, VIRQ_ARCH_6, VIRQ_ARCH_7, NR_VIRQS,
    MMU_NORMAL_PT_UPDATE, MMU_MACHPHYS_UPDATE, MMU_PT_UPDATE_PRESERVE_AD,
    MMU_PT_UPDATE_NO_TRANSLATE, MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L2_TABLE, MMUEXT_PIN_L3_TABLE,
    MMUEXT_PIN_L4_TABLE, MMUEXT_UNPIN_TABLE, MMUEXT_NEW_BASEPTR, MMUEXT_TLB_FLUSH_LOCAL,
    MMUEXT_INVLPG_LOCAL, MMUEXT_TLB_FLUSH_MULTI, MMUEXT_INVLPG_MULTI, MMUEXT_TLB_FLUSH_ALL,
    MMUEXT_INVLPG_ALL, MMUEXT_FLUSH_CACHE, MMUEXT_SET_LDT, MMUEXT_NEW_USER_BASEPTR,
    MMUEXT_CLEAR_PAGE, MMUEXT_COPY_PAGE, MMUEXT_FLUSH_CACHE_GLOBAL, MMUEXT_MARK_SUPER,
    MMUEXT_UNMARK_SUPER, CONSOLEIO_write, CONSOLEIO_read, VMASST_CMD_enable, VMASST_CMD_disable,
    VMASST_TYPE_4gb_segments, VMASST_TYPE_4gb_segments_notify, VMASST_TYPE_writable_pagetables,
    VMASST_TYPE_pae_extended_cr3, VMASST_TYPE_architectural_iopl, VMASST_TYPE_runstate_update_flag,
    VMASST_TYPE_m2p_strict, XEN_PVCLOCK_TSC_STABLE_BIT, XEN_PVCLOCK_GUEST_STOPPED,
    MAX_GUEST_CMDLINE, SIF_PRIVILEGED, SIF_INITDOMAIN, SIF_MULTIBOOT_MOD, SIF_MOD_START_PFN,
    SIF_VIRT_P2M_4TOOLS, SIF_PM_MASK, XEN_VGATYPE_TEXT_MODE_3, XEN_VGATYPE_VESA_LFB,
    XEN_VGATYPE_EFI_LFB, EVTCHNOP_bind_interdomain, EVTCHNOP_bind_virq, EVTCHNOP_bind_pirq,
    EVTCHNOP_close, EVTCHNOP_send, EVTCHNOP_status, EVTCHNOP_alloc_unbound, EVTCHNOP_bind_ipi,
    EVTCHNOP_bind_vcpu, EVTCHNOP_unmask, EVTCHNOP_reset, EVTCHNOP_init_control,
    EVTCHNOP_expand_array, EVTCHNOP_set_priority, BIND_PIRQ__WILL_SHARE, EVTCHNSTAT_closed,
    EVTCHNSTAT_unbound, EVTCHNSTAT_interdomain, EVTCHNSTAT_pirq, EVTCHNSTAT_virq, EVTCHNSTAT_ipi,
    EVTCHN_FIFO_PRIORITY_MAX, EVTCHN_FIFO_PRIORITY_DEFAULT, EVTCHN_FIFO_PRIORITY_MIN,
    EVTCHN_FIFO_MAX_QUEUES, EVTCHN_FIFO_PENDING, EVTCHN_FIFO_MASKED, EVTCHN_FIFO_LINKED,
    EVTCHN_FIFO_BUSY, EVTCHN_FIFO_LINK_BITS, EVTCHN_FIFO_LINK_MASK, EVTCHN_FIFO_NR_CHANNELS,
    SCHEDOP_yield, SCHEDOP_block, SCHEDOP_shutdown, SCHEDOP_poll, SCHEDOP_remote_shutdown,
    SCHEDOP_shutdown_code, SCHEDOP_watchdog, SCHEDOP_pin_override, SHUTDOWN_poweroff,
    SHUTDOWN_reboot, SHUTDOWN_suspend, SHUTDOWN_crash, SHUTDOWN_watchdog, SHUTDOWN_soft_reset,
    SHUTDOWN_MAX, XEN_ELFNOTE_INFO, XEN_ELFNOTE_ENTRY, XEN_ELFNOTE_HYPERCALL_PAGE,
    XEN_ELFNOTE_VIRT_BASE, XEN_ELFNOTE_PADDR_OFFSET, XEN_ELFNOTE_XEN_VERSION, XEN_ELFNOTE_GUEST_OS,
    XEN_ELFNOTE_GUEST_VERSION, XEN_ELFNOTE_LOADER, XEN_ELFNOTE_PAE_MODE, XEN_ELFNOTE_FEATURES,
    XEN_ELFNOTE_BSD_SYMTAB, XEN_ELFNOTE_HV_START_LOW, XEN_ELFNOTE_L1_MFN_VALID,
    XEN_ELFNOTE_SUSPEND_CANCEL, XEN_ELFNOTE_INIT_P2M, XEN_ELFNOTE_MOD_START_PFN,
    XEN_ELFNOTE_SUPPORTED_FEATURES, XEN_ELFNOTE_PHYS32_ENTRY, XEN_ELFNOTE_MAX,
    XEN_ELFNOTE_CRASH_INFO, XEN_ELFNOTE_CRASH_REGS, XEN_ELFNOTE_DUMPCORE_NONE,
    XEN_ELFNOTE_DUMPCORE_HEADER, XEN_ELFNOTE_DUMPCORE_XEN_VERSION,
    XEN_ELFNOTE_DUMPCORE_FORMAT_VERSION
};

const SHAPES: &[Shape] = shapes! {
    iret_context { rax, r11, rcx, flags, rip, cs, rflags, rsp, ss }
    cpu_user_regs { r15, r14, r13, r12, r11, r10, r9, r8, error_code, entry_vector, cs,
        saved_upcall_mask, ss, es, ds, fs, gs }
    arch_vcpu_info { cr2, pad }
    trap_info { vector, flags, cs, address }
    vcpu_guest_context { fpu_ctxt, flags, user_regs, trap_ctxt, ldt_base, ldt_ents, gdt_frames,
        gdt_ents, kernel_ss, kernel_sp, ctrlreg, debugreg, event_callback_eip,
        failsafe_callback_eip, syscall_callback_eip, vm_assist, fs_base, gs_base_kernel,
        gs_base_user }
    arch_shared_info { max_pfn, pfn_to_mfn_frame_list_list, nmi_reason, p2m_cr3, p2m_vaddr,
        p2m_generation }
    xen_cpuid_leaf { leaf, subleaf, a, b, c, d }
    xen_msr_entry { idx, flags, val }
    mmuext_op { cmd, arg1, arg2 }
    mmu_update { ptr, val }
    multicall_entry { op, result, args }
    vcpu_time_info { version, pad0, tsc_timestamp, system_time, tsc_to_system_mul, tsc_shift }
    vcpu_info { evtchn_upcall_pending, evtchn_upcall_mask, evtchn_pending_sel, arch, time }
    shared_info { vcpu_info, evtchn_pending, evtchn_mask, wc_version, wc_sec, wc_nsec, wc_sec_hi,
        arch }
    start_info { magic, nr_pages, shared_info, flags, store_mfn, store_evtchn, console, pt_base,
        nr_pt_frames, mfn_list, mod_start, mod_len, cmd_line, first_p2m_pfn, nr_p2m_frames }
    xen_multiboot_mod_list { mod_start, mod_end, cmdline, pad }
    xen_uuid_t { a }
    evtchn_alloc_unbound { dom, remote_dom, port }
    evtchn_bind_interdomain { remote_dom, remote_port, local_port }
    evtchn_bind_virq { virq, vcpu, port }
    evtchn_bind_pirq { pirq, flags, port }
    evtchn_bind_ipi { vcpu, port }
    evtchn_close { port }
    evtchn_send { port }
    evtchn_status { dom, port, status, vcpu, u }
    evtchn_bind_vcpu { port, vcpu }
    evtchn_unmask { port }
    evtchn_reset { dom }
    evtchn_init_control { control_gfn, offset, vcpu, link_bits }
    evtchn_expand_array { array_gfn }
    evtchn_set_priority { port, priority }
    evtchn_op { cmd, u }
    evtchn_fifo_control_block { ready, head }
    sched_shutdown { reason }
    sched_poll { ports, nr_ports, timeout }
    sched_remote_shutdown { domain_id, reason }
    sched_watchdog { id, timeout }
    sched_pin_override { pcpu }
};
