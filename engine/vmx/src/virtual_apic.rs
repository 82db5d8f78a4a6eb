//! What comes of writing the virtual-APIC page, and virtual interrupts (SDM vol. 3, chapter 30).

use crate::intercept::below_threshold;
use gasang_cpu::{Core, Exception, Trap, VcpuState, VirtualApic, VmExit};
use gasang_x86::vmx::controls::{pin, primary, secondary};
use gasang_x86::vmx::virtual_apic as apic;
use gasang_x86::vmx::{ExitReason, Field};
use std::ops::RangeInclusive;

/// The MSRs of x2APIC mode; their registers in the virtual-APIC page are 16 bytes apart.
const X2APIC: RangeInclusive<u32> = 0x800..=0x8ff;
/// ICR as an IPI to this processor alone, fixed and by edge, has it, but for its vector.
const SELF_IPI: u32 = 1 << 18;
/// What of ICR must be so; not the level, bit 14, nor the destination mode, bit 11.
const SELF_IPI_MASK: u32 = !(0xff | 1 << 11 | 1 << 14);
/// In a posted-interrupt descriptor, behind the 256 bits of the requests: the word that begins with "outstanding
/// notification".
const POSTED: u64 = 32;
const OUTSTANDING: u64 = 1;

fn has(state: &VcpuState, control: u32) -> bool {
    state.vmx.interceptions.secondary & control != 0
}

fn delivers(state: &VcpuState) -> bool {
    has(state, secondary::VIRTUAL_INTERRUPT_DELIVERY)
}

/// The guest interrupt status (SDM vol. 3, 25.4.2): the highest virtual interrupt requested, and the one in service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Status {
    requested: u8,
    in_service: u8,
}

impl Status {
    fn of(state: &VcpuState) -> Status {
        let [requested, in_service] =
            (state.vmx.vmcs.get32(Field::GuestInterruptStatus) as u16).to_le_bytes();
        Status { requested, in_service }
    }

    fn record(self, state: &mut VcpuState) {
        let value = u16::from_le_bytes([self.requested, self.in_service]);
        state.vmx.vmcs.set(Field::GuestInterruptStatus, value.into());
    }
}

/// The register that has the bit of a vector, and the bit.
fn place(first: u64, vector: u8) -> (u64, u32) {
    (first + u64::from(vector / 32) * 16, 1 << (vector % 32))
}

/// Set or clear the bit of a vector in IRR or ISR.
fn mark(core: &mut Core<'_>, first: u64, vector: u8, on: bool) {
    let (register, bit) = place(first, vector);
    let value = core.virtual_register(register);
    core.set_virtual_register(register, if on { value | bit } else { value & !bit });
}

/// The highest vector in IRR or ISR; 0 if there is none.
fn highest(core: &Core<'_>, first: u64) -> u8 {
    let registers = (0..8u8).rev().map(|index| (index, core.virtual_register(place(first, index * 32).0)));
    let found = registers.into_iter().find(|(_, value)| *value != 0);
    found.map_or(0, |(index, value)| index * 32 + value.ilog2() as u8)
}

/// PPR virtualization (SDM vol. 3, 30.1.3).
fn virtualize_processor_priority(core: &mut Core<'_>) {
    let task = core.virtual_register(apic::TPR) & 0xff;
    let in_service = u32::from(Status::of(core.state).in_service);
    let priority = if task >> 4 >= in_service >> 4 { task } else { in_service & 0xf0 };
    core.set_virtual_register(apic::PPR, priority);
}

/// Evaluation of pending virtual interrupts (SDM vol. 3, 30.2.1).
fn evaluate(core: &mut Core<'_>) {
    let window = core.state.vmx.interceptions.primary & primary::INTERRUPT_WINDOW_EXITING != 0;
    let priority = core.virtual_register(apic::PPR) & 0xff;
    let requested = u32::from(Status::of(core.state).requested);
    core.state.vmx.virtual_apic.interrupt = !window && requested >> 4 > priority >> 4;
}

/// What the virtual APIC does at VM entry (SDM vol. 3, 27.3.2.5, 27.7.7).
pub(crate) fn begin(core: &mut Core<'_>) {
    let delivers = delivers(core.state);
    let below_threshold = !delivers && below_threshold(core).is_some();
    core.state.vmx.virtual_apic = VirtualApic { below_threshold, ..Default::default() };
    if delivers {
        virtualize_processor_priority(core);
        evaluate(core);
    }
}

/// TPR virtualization (SDM vol. 3, 30.1.2).
fn virtualize_task_priority(core: &mut Core<'_>) -> Option<VmExit> {
    if !delivers(core.state) {
        return below_threshold(core);
    }
    virtualize_processor_priority(core);
    evaluate(core);
    None
}

/// EOI virtualization (SDM vol. 3, 30.1.4).
fn virtualize_end_of_interrupt(core: &mut Core<'_>) -> Option<VmExit> {
    let status = Status::of(core.state);
    let vector = status.in_service;
    mark(core, apic::ISR, vector, false);
    let in_service = highest(core, apic::ISR);
    Status { in_service, ..status }.record(core.state);
    virtualize_processor_priority(core);
    if end_exits(core.state, vector) {
        return Some(VmExit::new(ExitReason::VirtualizedEoi).qualified(vector.into()));
    }
    evaluate(core);
    None
}

/// Whether the EOI-exit bitmap has a vector.
fn end_exits(state: &VcpuState, vector: u8) -> bool {
    let bitmap = match vector / 64 {
        0 => Field::EoiExitBitmap0,
        1 => Field::EoiExitBitmap1,
        2 => Field::EoiExitBitmap2,
        _ => Field::EoiExitBitmap3,
    };
    state.vmx.vmcs.get(bitmap) >> (vector % 64) & 1 != 0
}

/// Self-IPI virtualization (SDM vol. 3, 30.1.5).
fn virtualize_self_ipi(core: &mut Core<'_>, vector: u8) {
    mark(core, apic::IRR, vector, true);
    request(core, vector);
}

/// A virtual interrupt is requested; IRR has it.
fn request(core: &mut Core<'_>, vector: u8) {
    let status = Status::of(core.state);
    Status { requested: status.requested.max(vector), ..status }.record(core.state);
    evaluate(core);
}

/// What follows an instruction that wrote the virtual-APIC page (SDM vol. 3, 30.4.3.2, 30.5): a VM exit like a trap, or
/// nothing that anybody else must know. CR8 and the MSRs of x2APIC mode are written so too.
pub fn follow_write(core: &mut Core<'_>, offset: u64) -> Option<VmExit> {
    let delivers = delivers(core.state);
    match offset & !0xf {
        apic::TPR => {
            let priority = core.virtual_register(apic::TPR) & 0xff;
            core.set_virtual_register(apic::TPR, priority);
            return virtualize_task_priority(core);
        }
        apic::EOI if delivers => {
            core.set_virtual_register(apic::EOI, 0);
            return virtualize_end_of_interrupt(core);
        }
        apic::ICR if delivers => {
            let command = core.virtual_register(apic::ICR);
            if command & SELF_IPI_MASK == SELF_IPI && command as u8 >= 16 {
                virtualize_self_ipi(core, command as u8);
                return None;
            }
        }
        apic::SELF_IPI => {
            let vector = core.virtual_register(apic::SELF_IPI) as u8;
            if vector >= 16 {
                virtualize_self_ipi(core, vector);
                return None;
            }
        }
        apic::ICR_HIGH => {
            let destination = core.virtual_register(apic::ICR_HIGH) & 0xff00_0000;
            core.set_virtual_register(apic::ICR_HIGH, destination);
            return None;
        }
        _ => {}
    }
    Some(VmExit::new(ExitReason::ApicWrite).qualified(offset))
}

/// What RDMSR reads of x2APIC mode where it is virtualized (SDM vol. 3, 30.5); None if the MSR is read as usual. After
/// what comes first, the privilege and the MSR bitmaps.
pub fn read_msr(core: &Core<'_>, index: u32) -> Option<u64> {
    if !has(core.state, secondary::VIRTUALIZE_X2APIC_MODE) || !X2APIC.contains(&index) {
        return None;
    }
    let offset = register_of(index);
    let virtualized = offset == apic::TPR || has(core.state, secondary::APIC_REGISTER_VIRTUALIZATION);
    let read = |offset| u64::from(core.virtual_register(offset));
    virtualized.then(|| read(offset) | read(offset + 4) << 32)
}

/// The register of an MSR of x2APIC mode.
fn register_of(index: u32) -> u64 {
    u64::from(index & 0xff) * 16
}

/// WRMSR of a register of x2APIC mode that is virtualized; false if the MSR is written as usual.
///
/// # Errors
/// #GP(0) for a value that the register cannot have.
pub fn write_msr(core: &mut Core<'_>, index: u32, value: u64) -> Result<bool, Trap> {
    if !has(core.state, secondary::VIRTUALIZE_X2APIC_MODE) || !X2APIC.contains(&index) {
        return Ok(false);
    }
    let offset = register_of(index);
    let most = match offset {
        apic::TPR => 0xff,
        apic::EOI if delivers(core.state) => 0,
        apic::SELF_IPI if delivers(core.state) => 0xff,
        _ => return Ok(false),
    };
    if value > most {
        return Err(Exception::general_protection(0).into());
    }
    core.set_virtual_register(offset, value as u32);
    core.set_virtual_register(offset + 4, 0);
    core.state.vmx.virtual_register_written(offset);
    Ok(true)
}

/// Take the virtual interrupt that is recognized, to be delivered (SDM vol. 3, 30.2.2): its vector.
pub fn take_interrupt(core: &mut Core<'_>) -> u8 {
    let vector = Status::of(core.state).requested;
    mark(core, apic::ISR, vector, true);
    mark(core, apic::IRR, vector, false);
    core.set_virtual_register(apic::PPR, u32::from(vector & 0xf0));
    let requested = highest(core, apic::IRR);
    Status { requested, in_service: vector }.record(core.state);
    core.state.vmx.virtual_apic.interrupt = false;
    vector
}

/// Whether an interrupt that was acknowledged only tells of posted interrupts (SDM vol. 3, 30.6).
pub fn notifies(state: &VcpuState, vector: u8) -> bool {
    state.vmx.interceptions.pin & pin::PROCESS_POSTED_INTERRUPTS != 0
        && state.vmx.vmcs.get(Field::PostedInterruptNotificationVector) == u64::from(vector)
}

/// Posted-interrupt processing after acknowledgement (SDM vol. 3, 30.6); the caller ends the interrupt at the local APIC.
pub fn process_posted(core: &mut Core<'_>) {
    let descriptor = core.state.vmx.vmcs.get(Field::PostedInterruptDescriptorAddress);
    clear(core, descriptor + POSTED, OUTSTANDING);
    let mut highest = None;
    for index in 0..4u8 {
        let posted = clear(core, descriptor + u64::from(index) * 8, u64::MAX);
        if posted != 0 {
            highest = Some(index * 64 + posted.ilog2() as u8);
            for (half, bits) in [(0, posted as u32), (32, (posted >> 32) as u32)] {
                let (register, _) = place(apic::IRR, index * 64 + half);
                let value = core.virtual_register(register) | bits;
                core.set_virtual_register(register, value);
            }
        }
    }
    match highest {
        Some(vector) => request(core, vector),
        None => evaluate(core),
    }
}

/// Clear bits of a word in memory that other processors write too, as one operation: which of them were set.
fn clear(core: &Core<'_>, address: u64, bits: u64) -> u64 {
    let Some(host) = core.memory.host(address) else { return 0 };
    loop {
        let old = core.memory.load(host, 8);
        if core.memory.compare_exchange_u64(host, old, old & !bits) {
            return old & bits;
        }
    }
}
