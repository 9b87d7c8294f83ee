//! `hvm/hvm_op.h`, the part of `HVMOP_altp2m`: alternate guest-physical maps ("views") of a hardware guest.
//!
//! A view starts as a copy of the host view; single pages of it can be given other permissions or another frame.
//! `HVM_PARAM_ALTP2M` says who may use the operations.

use crate::GuestHandle;

consts! {
    /// The interface version that [`XenHvmAltp2mOp::version`] must hold.
    HVMOP_ALTP2M_INTERFACE_VERSION: u32 = 1;
    /// Whether views are on for the domain: [`XenHvmAltp2mDomainState`].
    HVMOP_ALTP2M_GET_DOMAIN_STATE("HVMOP_altp2m_get_domain_state"): u32 = 1;
    /// Turns views on or off: [`XenHvmAltp2mDomainState`].
    HVMOP_ALTP2M_SET_DOMAIN_STATE("HVMOP_altp2m_set_domain_state"): u32 = 2;
    /// Delivers #VE to a vCPU: [`XenHvmAltp2mVcpuEnableNotify`].
    HVMOP_ALTP2M_VCPU_ENABLE_NOTIFY("HVMOP_altp2m_vcpu_enable_notify"): u32 = 3;
    /// Creates a view: [`XenHvmAltp2mView`].
    HVMOP_ALTP2M_CREATE_P2M("HVMOP_altp2m_create_p2m"): u32 = 4;
    /// Destroys a view: [`XenHvmAltp2mView`].
    HVMOP_ALTP2M_DESTROY_P2M("HVMOP_altp2m_destroy_p2m"): u32 = 5;
    /// Switches all vCPUs to a view: [`XenHvmAltp2mView`].
    HVMOP_ALTP2M_SWITCH_P2M("HVMOP_altp2m_switch_p2m"): u32 = 6;
    /// Permissions of a page: [`XenHvmAltp2mMemAccess`].
    HVMOP_ALTP2M_SET_MEM_ACCESS("HVMOP_altp2m_set_mem_access"): u32 = 7;
    /// Frame behind a page: [`XenHvmAltp2mChangeGfn`].
    HVMOP_ALTP2M_CHANGE_GFN("HVMOP_altp2m_change_gfn"): u32 = 8;
    /// Permissions of many pages: [`XenHvmAltp2mSetMemAccessMulti`].
    HVMOP_ALTP2M_SET_MEM_ACCESS_MULTI("HVMOP_altp2m_set_mem_access_multi"): u32 = 9;
    /// Whether a page raises #VE: [`XenHvmAltp2mSuppressVe`].
    HVMOP_ALTP2M_SET_SUPPRESS_VE("HVMOP_altp2m_set_suppress_ve"): u32 = 10;
    /// Reads the same: [`XenHvmAltp2mSuppressVe`].
    HVMOP_ALTP2M_GET_SUPPRESS_VE("HVMOP_altp2m_get_suppress_ve"): u32 = 11;
    /// Reads the permissions of a page: [`XenHvmAltp2mMemAccess`].
    HVMOP_ALTP2M_GET_MEM_ACCESS("HVMOP_altp2m_get_mem_access"): u32 = 12;
    /// Stops #VE for a vCPU: [`XenHvmAltp2mVcpuDisableNotify`].
    HVMOP_ALTP2M_VCPU_DISABLE_NOTIFY("HVMOP_altp2m_vcpu_disable_notify"): u32 = 13;
    /// Which view a vCPU uses: [`XenHvmAltp2mGetVcpuP2mIdx`].
    HVMOP_ALTP2M_GET_P2M_IDX("HVMOP_altp2m_get_p2m_idx"): u32 = 14;
    /// Whether a range raises #VE: [`XenHvmAltp2mSuppressVeMulti`].
    HVMOP_ALTP2M_SET_SUPPRESS_VE_MULTI("HVMOP_altp2m_set_suppress_ve_multi"): u32 = 15;
    /// Whether the guest may switch to a view: [`XenHvmAltp2mSetVisibility`].
    HVMOP_ALTP2M_SET_VISIBILITY("HVMOP_altp2m_set_visibility"): u32 = 16;
}

wire! {
    /// Argument of `HVMOP_altp2m`.
    #[repr(align(8))]
    pub struct XenHvmAltp2mOp("struct xen_hvm_altp2m_op", 80) {
        /// [`HVMOP_ALTP2M_INTERFACE_VERSION`].
        @0 version: u32,
        /// What to do (`HVMOP_ALTP2M_*`).
        @4 cmd: u32,
        /// Which domain.
        @8 domain: u16,
        /// Zero.
        @10 pad1: u16,
        /// Zero.
        @12 pad2: u32,
        /// The command's payload.
        @16 u: [u8; 64],
    }

    /// Payload: whether views are on.
    pub struct XenHvmAltp2mDomainState("struct xen_hvm_altp2m_domain_state", 1) {
        /// 1 for on, 0 for off.
        @0 state: u8,
    }

    /// Payload: where #VE information goes.
    pub struct XenHvmAltp2mVcpuEnableNotify("struct xen_hvm_altp2m_vcpu_enable_notify", 16) {
        /// Which vCPU.
        @0 vcpu_id: u32,
        /// Zero.
        @4 pad: u32,
        /// Guest frame of the information page.
        @8 gfn: u64,
    }

    /// Payload: no more #VE.
    pub struct XenHvmAltp2mVcpuDisableNotify("struct xen_hvm_altp2m_vcpu_disable_notify", 4) {
        /// Which vCPU.
        @0 vcpu_id: u32,
    }

    /// Payload: a view.
    pub struct XenHvmAltp2mView("struct xen_hvm_altp2m_view", 4) {
        /// Its number; out when creating.
        @0 view: u16,
        /// Permissions of all pages of a new view (`XENMEM_access_*`).
        @2 hvmmem_default_access: u16,
    }

    /// Payload: permissions of a page.
    pub struct XenHvmAltp2mMemAccess("struct xen_hvm_altp2m_mem_access", 16) {
        /// Which view.
        @0 view: u16,
        /// `XENMEM_access_*`.
        @2 access: u16,
        /// Zero.
        @4 pad: u32,
        /// Guest frame.
        @8 gfn: u64,
    }

    /// Payload: permissions of many pages.
    pub struct XenHvmAltp2mSetMemAccessMulti("struct xen_hvm_altp2m_set_mem_access_multi", 32) {
        /// Which view.
        @0 view: u16,
        /// Zero.
        @2 pad: u16,
        /// Number of pages.
        @4 nr: u32,
        /// Zero at first; the hypervisor keeps its progress here.
        @8 opaque: u64,
        /// The guest frames.
        @16 pfn_list: GuestHandle<u64>,
        /// Permissions of each.
        @24 access_list: GuestHandle<u8>,
    }

    /// Payload: another frame behind a page.
    pub struct XenHvmAltp2mChangeGfn("struct xen_hvm_altp2m_change_gfn", 24) {
        /// Which view.
        @0 view: u16,
        /// Zero.
        @2 pad1: u16,
        /// Zero.
        @4 pad2: u32,
        /// Guest frame to change.
        @8 old_gfn: u64,
        /// Guest frame whose memory it shows; all ones to revert.
        @16 new_gfn: u64,
    }

    /// Payload: whether a page raises #VE.
    pub struct XenHvmAltp2mSuppressVe("struct xen_hvm_altp2m_suppress_ve", 16) {
        /// Which view.
        @0 view: u16,
        /// 1 to suppress it.
        @2 suppress_ve: u8,
        /// Zero.
        @3 pad1: u8,
        /// Zero.
        @4 pad2: u32,
        /// Guest frame.
        @8 gfn: u64,
    }

    /// Payload: whether a range raises #VE.
    pub struct XenHvmAltp2mSuppressVeMulti("struct xen_hvm_altp2m_suppress_ve_multi", 32) {
        /// Which view.
        @0 view: u16,
        /// 1 to suppress it.
        @2 suppress_ve: u8,
        /// Zero.
        @3 pad1: u8,
        /// Zero at first; out: errno of the first failure.
        @4 first_error: i32,
        /// First guest frame; the hypervisor advances it.
        @8 first_gfn: u64,
        /// Last guest frame, inclusive.
        @16 last_gfn: u64,
        /// Out: guest frame of the first failure.
        @24 first_error_gfn: u64,
    }

    /// Payload: the view of a vCPU.
    pub struct XenHvmAltp2mGetVcpuP2mIdx("struct xen_hvm_altp2m_get_vcpu_p2m_idx", 8) {
        /// Which vCPU.
        @0 vcpu_id: u32,
        /// Out: its view.
        @4 altp2m_idx: u16,
        @6 _pad0(): [u8; 2],
    }

    /// Payload: whether the guest may switch to a view.
    pub struct XenHvmAltp2mSetVisibility("struct xen_hvm_altp2m_set_visibility", 4) {
        /// Which view.
        @0 altp2m_idx: u16,
        /// 1 if it may.
        @2 visible: u8,
        /// Zero.
        @3 pad: u8,
    }
}

abi_module! { "hvm/hvm_op.h": consts, wire }
