//! The host's state, loaded by VM exits (SDM vol. 3, 28.5).

use crate::guest_state::CR0_KEPT;
use gasang_cpu::{Activity, DescriptorTable, SegmentRegister, Shadow, VcpuState};
use gasang_x86::control::{cr4, debug, efer};
use gasang_x86::descriptor::access;
use gasang_x86::vmx::Field;
use gasang_x86::vmx::controls::exit;
use gasang_x86::{gpr, rflags, segment};

const FLAT: u32 = access::S | access::PRESENT | access::GRANULARITY | access::ACCESSED | access::WRITABLE;
const CODE: u32 = FLAT | access::CODE;
const DATA: u32 = FLAT | access::DB;
const BUSY_TSS: u32 = access::PRESENT | 11;

/// The selectors of ES, CS, SS, DS, FS, GS in encoding order.
pub(crate) const SELECTORS: [Field; 6] = [
    Field::HostEsSelector,
    Field::HostCsSelector,
    Field::HostSsSelector,
    Field::HostDsSelector,
    Field::HostFsSelector,
    Field::HostGsSelector,
];

/// Load the host's state from the current VMCS, as the last VM entry checked it. The page-directory-pointer entries of a
/// host with PAE paging are the caller's.
pub fn load_host(state: &mut VcpuState) {
    let controls = state.vmx.vmcs.get32(Field::VmExitControls);
    let long = controls & exit::HOST_ADDRESS_SPACE_SIZE != 0;
    load_control_registers(state, controls, long);
    load_segments(state, long);
    let vmcs = &state.vmx.vmcs;
    state.gpr[gpr::RSP] = vmcs.get(Field::HostRsp);
    state.rip = vmcs.get(Field::HostRip);
    state.rflags = rflags::FIXED;
    state.activity = Activity::Active;
    state.shadow = Shadow::None;
    state.pending_debug = 0;
}

fn load_control_registers(state: &mut VcpuState, controls: u32, long: bool) {
    let vmcs = &state.vmx.vmcs;
    state.cr0 = vmcs.get(Field::HostCr0) & !CR0_KEPT | state.cr0 & CR0_KEPT;
    state.cr3 = vmcs.get(Field::HostCr3);
    let value = vmcs.get(Field::HostCr4);
    state.cr4 = if long { value | cr4::PAE } else { value & !cr4::PCIDE };
    state.dr[7] = debug::DR7_FIXED;
    state.msr.sysenter_cs = vmcs.get(Field::HostSysenterCs);
    state.msr.sysenter_esp = vmcs.get(Field::HostSysenterEsp);
    state.msr.sysenter_eip = vmcs.get(Field::HostSysenterEip);
    let modes = efer::LMA | efer::LME;
    state.efer = if long { state.efer | modes } else { state.efer & !modes };
    if controls & exit::LOAD_EFER != 0 {
        state.efer = vmcs.get(Field::HostEfer);
    }
    if controls & exit::LOAD_PAT != 0 {
        state.msr.pat = vmcs.get(Field::HostPat);
    }
}

fn load_segments(state: &mut VcpuState, long: bool) {
    let vmcs = &state.vmx.vmcs;
    for (number, (register, field)) in state.segment.iter_mut().zip(SELECTORS).enumerate() {
        let selector = vmcs.get(field) as u16;
        let attributes = match number {
            segment::CS if long => CODE | access::LONG,
            segment::CS => CODE | access::DB,
            _ if selector == 0 => access::UNUSABLE,
            _ => DATA,
        };
        let base = match number {
            segment::FS => vmcs.get(Field::HostFsBase),
            segment::GS => vmcs.get(Field::HostGsBase),
            _ => 0,
        };
        *register = SegmentRegister { base, limit: u32::MAX, attributes, selector };
    }
    state.ldtr = SegmentRegister { attributes: access::UNUSABLE, ..Default::default() };
    state.tr = SegmentRegister {
        base: vmcs.get(Field::HostTrBase),
        limit: 0x67,
        attributes: BUSY_TSS,
        selector: vmcs.get(Field::HostTrSelector) as u16,
    };
    state.gdtr = DescriptorTable { base: vmcs.get(Field::HostGdtrBase), limit: 0xffff };
    state.idtr = DescriptorTable { base: vmcs.get(Field::HostIdtrBase), limit: 0xffff };
}
