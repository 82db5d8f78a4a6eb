//! A processor's state to KVM and back.

use crate::host_error;
use gasang_cpu::{CpuModel, DescriptorTable, ExtendedState, SegmentRegister, Shadow, VcpuState};
use gasang_x86::control::{cr0, xcr0};
use gasang_x86::descriptor::access;
use gasang_x86::segment;
use kvm_bindings::{
    KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW, KVM_X86_SHADOW_INT_MOV_SS,
    KVM_X86_SHADOW_INT_STI, kvm_debugregs, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs, kvm_vcpu_events,
    kvm_xcr, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use std::io;

fn segment_to(register: &SegmentRegister) -> kvm_segment {
    let bit = |bit| u8::from(register.attributes & bit != 0);
    kvm_segment {
        base: register.base,
        limit: register.limit,
        selector: register.selector,
        type_: (register.attributes & access::TYPE) as u8,
        present: bit(access::PRESENT),
        dpl: register.dpl(),
        db: bit(access::DB),
        s: bit(access::S),
        l: bit(access::LONG),
        g: bit(access::GRANULARITY),
        avl: bit(access::AVL),
        unusable: bit(access::UNUSABLE),
        padding: 0,
    }
}

fn segment_from(register: &kvm_segment) -> SegmentRegister {
    let (selector, limit, base) = (register.selector, register.limit, register.base);
    if register.unusable != 0 || register.present == 0 {
        return SegmentRegister { base, limit, attributes: access::UNUSABLE, selector };
    }
    let bits = [
        (register.present, access::PRESENT),
        (register.db, access::DB),
        (register.s, access::S),
        (register.l, access::LONG),
        (register.g, access::GRANULARITY),
        (register.avl, access::AVL),
    ];
    let set = bits.iter().filter(|(value, _)| *value != 0).fold(0, |all, (_, bit)| all | bit);
    let dpl = u32::from(register.dpl) << access::DPL_SHIFT & access::DPL;
    let attributes = set | dpl | u32::from(register.type_) & access::TYPE;
    SegmentRegister { base, limit, attributes, selector }
}

fn table_to(table: DescriptorTable) -> kvm_dtable {
    kvm_dtable { base: table.base, limit: table.limit, padding: [0; 3] }
}

fn table_from(table: &kvm_dtable) -> DescriptorTable {
    DescriptorTable { base: table.base, limit: table.limit }
}

/// The general-purpose registers of KVM's structure, in encoding order.
fn general(registers: &mut kvm_regs) -> [&mut u64; 16] {
    let kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, .. } =
        registers;
    [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15]
}

fn registers_to(state: &VcpuState) -> kvm_regs {
    let mut registers = kvm_regs { rip: state.rip, rflags: state.rflags, ..Default::default() };
    general(&mut registers).into_iter().zip(state.gpr).for_each(|(place, value)| *place = value);
    registers
}

fn registers_from(state: &mut VcpuState, mut registers: kvm_regs) {
    (state.rip, state.rflags) = (registers.rip, registers.rflags);
    state.gpr.iter_mut().zip(general(&mut registers)).for_each(|(place, value)| *place = *value);
}

/// The system registers; `old` has what is not ours to say: the interrupt that waits, the local APIC's base.
fn system_to(state: &VcpuState, old: kvm_sregs) -> kvm_sregs {
    let [es, cs, ss, ds, fs, gs] = state.segment.each_ref().map(segment_to);
    kvm_sregs {
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr: segment_to(&state.tr),
        ldt: segment_to(&state.ldtr),
        gdt: table_to(state.gdtr),
        idt: table_to(state.idtr),
        // ET cannot be 0 on any processor that has KVM.
        cr0: state.cr0 | cr0::ET,
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4,
        efer: state.efer,
        ..old
    }
}

fn system_from(state: &mut VcpuState, registers: &kvm_sregs) {
    for (number, register) in [
        (segment::ES, &registers.es),
        (segment::CS, &registers.cs),
        (segment::SS, &registers.ss),
        (segment::DS, &registers.ds),
        (segment::FS, &registers.fs),
        (segment::GS, &registers.gs),
    ] {
        state.segment[number] = segment_from(register);
    }
    state.tr = segment_from(&registers.tr);
    state.ldtr = segment_from(&registers.ldt);
    (state.gdtr, state.idtr) = (table_from(&registers.gdt), table_from(&registers.idt));
    (state.cr0, state.cr2, state.cr3, state.cr4) =
        (registers.cr0, registers.cr2, registers.cr3, registers.cr4);
    state.efer = registers.efer;
}

/// Where KVM's image has PKRU, which the engine keeps apart: at the host's offset.
fn protection_keys_offset() -> Option<usize> {
    let leaf = std::arch::x86_64::__cpuid_count(0xd, xcr0::PKRU.trailing_zeros());
    (leaf.eax >= 4 && leaf.ebx as usize + 4 <= size_of::<kvm_xsave>()).then_some(leaf.ebx as usize)
}

fn extended_to(state: &VcpuState, model: &CpuModel) -> kvm_xsave {
    let mut settled = model.settled(&state.extended);
    // Or KVM would take the initial MXCSR.
    settled.set_in_use(settled.in_use() | xcr0::X87 | xcr0::SSE);
    let mut bytes = settled.bytes;
    if model.xcr0_allowed() & xcr0::PKRU != 0
        && let Some(offset) = protection_keys_offset()
    {
        bytes[offset..offset + 4].copy_from_slice(&state.pkru.to_le_bytes());
        let mut image = ExtendedState { bytes };
        image.set_in_use(image.in_use() | xcr0::PKRU);
        bytes = image.bytes;
    }
    let mut image = kvm_xsave::default();
    for (word, bytes) in image.region.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes(bytes.try_into().unwrap_or_default());
    }
    image
}

fn extended_from(state: &mut VcpuState, image: &kvm_xsave) {
    for (bytes, word) in state.extended.bytes.chunks_exact_mut(4).zip(image.region) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let in_use = state.extended.in_use();
    state.pkru = 0;
    if in_use & xcr0::PKRU != 0
        && let Some(offset) = protection_keys_offset()
    {
        let value = state.extended.bytes[offset..offset + 4].try_into().unwrap_or_default();
        state.pkru = u32::from_le_bytes(value);
        state.extended.bytes[offset..offset + 4].fill(0);
        state.extended.set_in_use(in_use & !xcr0::PKRU);
    }
}

fn events_to(state: &VcpuState) -> kvm_vcpu_events {
    let mut events = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        ..Default::default()
    };
    events.nmi.masked = state.nmi_blocked.into();
    events.interrupt.shadow = match state.shadow {
        Shadow::None => 0,
        Shadow::Sti => KVM_X86_SHADOW_INT_STI as u8,
        Shadow::MovSs => KVM_X86_SHADOW_INT_MOV_SS as u8,
    };
    events
}

/// What KVM had begun to deliver and has not delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Undelivered {
    /// An external interrupt that was acknowledged.
    pub interrupt: Option<u8>,
    /// An NMI.
    pub nmi: bool,
}

fn events_from(state: &mut VcpuState, events: &kvm_vcpu_events) -> Undelivered {
    state.nmi_blocked = events.nmi.masked != 0;
    state.shadow = match u32::from(events.interrupt.shadow) {
        shadow if shadow & KVM_X86_SHADOW_INT_MOV_SS != 0 => Shadow::MovSs,
        shadow if shadow & KVM_X86_SHADOW_INT_STI != 0 => Shadow::Sti,
        _ => Shadow::None,
    };
    // An exception, or an INT, whose delivery did not come to its end happens again: RIP is still its instruction's.
    let external = events.interrupt.injected != 0 && events.interrupt.soft == 0;
    Undelivered {
        interrupt: external.then_some(events.interrupt.nr),
        nmi: events.nmi.pending != 0 || events.nmi.injected != 0,
    }
}

/// Give KVM the state, but for the MSRs.
///
/// # Errors
/// What KVM says: it refuses states that no processor can be in.
pub(crate) fn load(fd: &VcpuFd, state: &VcpuState, model: &CpuModel) -> io::Result<()> {
    let old = fd.get_sregs().map_err(host_error)?;
    let system = system_to(state, kvm_sregs { interrupt_bitmap: [0; 4], ..old });
    fd.set_sregs(&system).map_err(host_error)?;
    fd.set_regs(&registers_to(state)).map_err(host_error)?;
    if model.xcr0_allowed() != 0 {
        let mut registers = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        registers.xcrs[0] = kvm_xcr { xcr: 0, reserved: 0, value: state.xcr0 };
        fd.set_xcrs(&registers).map_err(host_error)?;
    }
    // SAFETY: the host's image of what KVM lets guests use is no larger than the structure: nobody asked for AMX, which alone
    // is (arch_prctl's ARCH_REQ_XCOMP_GUEST_PERM).
    unsafe { fd.set_xsave(&extended_to(state, model)) }.map_err(host_error)?;
    let mut debug = kvm_debugregs { dr6: state.dr[6], dr7: state.dr[7], ..Default::default() };
    debug.db.copy_from_slice(&state.dr[..4]);
    fd.set_debug_regs(&debug).map_err(host_error)?;
    fd.set_vcpu_events(&events_to(state)).map_err(host_error)
}

/// Take the state from KVM, but for the MSRs.
///
/// # Errors
/// What KVM says.
pub(crate) fn store(fd: &VcpuFd, state: &mut VcpuState, model: &CpuModel) -> io::Result<Undelivered> {
    registers_from(state, fd.get_regs().map_err(host_error)?);
    system_from(state, &fd.get_sregs().map_err(host_error)?);
    if model.xcr0_allowed() != 0 {
        let registers = fd.get_xcrs().map_err(host_error)?;
        state.xcr0 = registers.xcrs[0].value;
    }
    extended_from(state, &fd.get_xsave().map_err(host_error)?);
    let debug = fd.get_debug_regs().map_err(host_error)?;
    state.dr[..4].copy_from_slice(&debug.db);
    (state.dr[6], state.dr[7]) = (debug.dr6, debug.dr7);
    let events = fd.get_vcpu_events().map_err(host_error)?;
    Ok(events_from(state, &events))
}
