//! The modes of the processor that generated code knows.

use gasang_cpu::{SegmentRegister, Shadow, VcpuState};
use gasang_x86::control::{cr0, debug};
use gasang_x86::descriptor::access::{self, READABLE};
use gasang_x86::{rflags, segment};

/// Whether T1 knows the processor's mode: 64-bit code without anything to watch between instructions.
pub fn translatable(state: &VcpuState) -> bool {
    let watched = state.rflags & (rflags::TF | rflags::RF | rflags::VM) != 0
        || state.shadow != Shadow::None
        || state.pending_debug != 0
        || state.vmx.injection.is_some()
        || state.dr[7] & debug::DR7_ENABLED != 0;
    let aligned_only = state.cr0 & cr0::AM != 0 && state.rflags & rflags::AC != 0 && state.cpl() == 3;
    let known_privilege = matches!(state.cpl(), 0 | 3);
    let known_segments = state.in_64bit_mode() || flat_32bit_code(state);
    known_privilege && known_segments && !watched && !aligned_only
}

/// 32-bit code whose segments, but for FS and GS, begin at 0 and end at 4 GiB.
fn flat_32bit_code(state: &VcpuState) -> bool {
    let data = access::PRESENT | access::S | access::WRITABLE | access::DB;
    let flat = |register: &SegmentRegister, wanted: u32, unwanted: u32| {
        register.base == 0
            && register.limit == u32::MAX
            && register.attributes & (wanted | unwanted) == wanted
    };
    let data_is_flat = [segment::ES, segment::SS, segment::DS].iter().all(|&index| {
        flat(&state.segment[index], data, access::CODE | access::EXPAND_DOWN | access::UNUSABLE)
    });
    state.code_bits() == 32
        && state.protected_mode()
        && state.rip <= u64::from(u32::MAX)
        && data_is_flat
        && flat(
            &state.segment[segment::CS],
            access::PRESENT | access::S | access::CODE | READABLE,
            access::UNUSABLE,
        )
}
