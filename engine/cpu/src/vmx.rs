//! What VMX adds to a processor's state: the mode of operation, the current VMCS, and the VM exit that is about to
//! happen. What entries, exits and the instructions do with it is the matter of gasang-vmx.

use crate::exception::{Exception, Trap};
use crate::state::VcpuState;
use crate::virtual_apic::VirtualApic;
use crate::virtualization_exception::Violation;
use crate::vmx_journal::{Journal, TransitionCounts};
use gasang_x86::control::{cr0, cr4};
use gasang_x86::exception as vector;
use gasang_x86::msr::feature_control;
use gasang_x86::vmx::controls::{interruption, pin, primary, secondary};
use gasang_x86::vmx::{ExitReason, Field};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;

/// A virtual-machine control structure, as the processor holds it while it is current.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Vmcs {
    values: [u64; Field::COUNT],
    /// The launch state: VMLAUNCH wants it clear, VMRESUME launched.
    pub launched: bool,
    /// Bit 31 of the region's first word: a shadow VMCS, which no VM entry can use.
    pub shadow: bool,
}

impl Default for Vmcs {
    fn default() -> Vmcs {
        Vmcs { values: [0; Field::COUNT], launched: false, shadow: false }
    }
}

impl std::fmt::Debug for Vmcs {
    /// The fields that are not 0.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut list = formatter.debug_struct("Vmcs");
        list.field("launched", &self.launched).field("shadow", &self.shadow);
        for (field, value) in self.fields().filter(|(_, value)| *value != 0) {
            list.field(&format!("{field:?}"), &format_args!("{value:#x}"));
        }
        list.finish()
    }
}

/// A `Vmcs` as it is saved: the fields that are not 0, by name.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedVmcs {
    fields: BTreeMap<String, u64>,
    launched: bool,
    shadow: bool,
}

impl Serialize for Vmcs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = self.fields().filter(|(_, value)| *value != 0);
        let fields = fields.map(|(field, value)| (format!("{field:?}"), value)).collect();
        SavedVmcs { fields, launched: self.launched, shadow: self.shadow }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Vmcs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Vmcs, D::Error> {
        let SavedVmcs { fields, launched, shadow } = SavedVmcs::deserialize(deserializer)?;
        let mut vmcs = Vmcs { launched, shadow, ..Vmcs::default() };
        for (name, value) in fields {
            let known = Field::ALL.iter().find(|field| format!("{field:?}") == name);
            let field = known.ok_or_else(|| D::Error::custom(format!("unknown VMCS field {name}")))?;
            vmcs.set(*field, value);
        }
        Ok(vmcs)
    }
}

impl Vmcs {
    /// The value of a field.
    #[inline]
    pub fn get(&self, field: Field) -> u64 {
        self.values[field as usize]
    }

    /// Host address of the values, by the numbers of fields.
    pub fn values_address(&self) -> u64 {
        self.values.as_ptr() as u64
    }

    /// The value of a field of at most 32 bits, or the low half of a wider one.
    #[inline]
    pub fn get32(&self, field: Field) -> u32 {
        self.get(field) as u32
    }

    /// Set a field; what it has no bits for is lost.
    #[inline]
    pub fn set(&mut self, field: Field, value: u64) {
        self.values[field as usize] = value & field.width().mask();
    }

    /// Every field and its value.
    pub fn fields(&self) -> impl Iterator<Item = (Field, u64)> + '_ {
        Field::ALL.iter().map(|&field| (field, self.get(field)))
    }
}

/// Whether the processor is in VMX operation (SDM vol. 3, 24.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[repr(u8)]
pub enum Operation {
    /// Not in VMX operation.
    #[default]
    Off,
    /// VMX root operation: the hypervisor runs.
    Root,
    /// VMX non-root operation: its guest runs.
    NonRoot,
}

/// What causes VM exits at present, for those who must ask often: derived from the VMCS at VM entry, and all zero
/// outside VMX non-root operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interceptions {
    /// The exception bitmap.
    pub exceptions: u32,
    /// Which bits of a page fault's error code count.
    pub page_fault_mask: u32,
    /// What they must be for the bitmap's bit 14 to be taken as it is.
    pub page_fault_match: u32,
    /// Pin-based controls.
    pub pin: u32,
    /// Primary processor-based controls.
    pub primary: u32,
    /// Secondary processor-based controls; zero unless they are activated.
    pub secondary: u32,
    /// Tertiary processor-based controls; zero unless they are activated.
    pub tertiary: u64,
}

impl Interceptions {
    /// Whether reading the time-stamp counter is more than adding an offset.
    #[inline]
    pub fn time_stamp_counter(&self) -> bool {
        self.primary & primary::RDTSC_EXITING != 0 || self.secondary & secondary::USE_TSC_SCALING != 0
    }

    /// Whether a VM exit follows each instruction.
    #[inline]
    pub fn monitor_trap_flag(&self) -> bool {
        self.primary & primary::MONITOR_TRAP_FLAG != 0
    }

    /// Whether a VM exit waits for interrupts or NMIs to be possible.
    #[inline]
    pub fn windows(&self) -> bool {
        self.primary & (primary::INTERRUPT_WINDOW_EXITING | primary::NMI_WINDOW_EXITING) != 0
    }

    /// Whether external interrupts cause VM exits, whatever IF is.
    #[inline]
    pub fn external_interrupts(&self) -> bool {
        self.pin & pin::EXTERNAL_INTERRUPT_EXITING != 0
    }

    /// Whether an exception causes a VM exit (SDM vol. 3, 26.2, "Exceptions").
    #[inline]
    pub fn exception(&self, number: u8, error_code: u32) -> bool {
        let bit = self.exceptions >> (number & 31) & 1 != 0;
        if number != vector::PF {
            return bit;
        }
        bit == (error_code & self.page_fault_mask == self.page_fault_match)
    }
}

/// An event: what is injected, what was intercepted, or what was being delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interruption {
    /// Vector, type and valid bits (`gasang_x86::vmx::controls::interruption`).
    pub information: u32,
    /// The error code, if the information says that there is one.
    pub error_code: u32,
    /// For software interrupts and software exceptions: length of the instruction.
    pub instruction_length: u32,
}

/// A VM exit that is about to happen: what goes to the VM-exit information fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VmExit {
    /// The basic exit reason.
    pub reason: ExitReason,
    /// Exit qualification.
    pub qualification: u64,
    /// The interrupt or exception that caused the exit.
    pub interruption: Option<Interruption>,
    /// The event during whose delivery the exit occurred; the event itself did not cause it.
    pub idt_vectoring: Option<Interruption>,
    /// Guest-linear address, for the exits that have one.
    pub guest_linear: u64,
    /// Guest-physical address, for EPT violations, EPT misconfigurations and SPP.
    pub guest_physical: u64,
    /// VM-exit instruction information.
    pub instruction_information: u32,
    /// Whether executing an instruction caused the exit, so that its length is to be told.
    pub by_instruction: bool,
    /// The length of that instruction.
    pub instruction_length: u32,
}

impl VmExit {
    /// An exit for which nothing but the reason is told.
    pub const fn new(reason: ExitReason) -> VmExit {
        VmExit {
            reason,
            qualification: 0,
            interruption: None,
            idt_vectoring: None,
            guest_linear: 0,
            guest_physical: 0,
            instruction_information: 0,
            by_instruction: false,
            instruction_length: 0,
        }
    }

    /// An exit that executing an instruction causes; whoever knows its length sets it.
    pub const fn of_instruction(reason: ExitReason) -> VmExit {
        VmExit { by_instruction: true, ..VmExit::new(reason) }
    }

    /// The same with an exit qualification.
    pub const fn qualified(self, qualification: u64) -> VmExit {
        VmExit { qualification, ..self }
    }

    /// The exit that an intercepted exception causes (SDM vol. 3, 28.2.2): for #PF the qualification is the linear
    /// address, for #DB what DR6 would have shown.
    pub fn of_exception(exception: &Exception) -> VmExit {
        let qualification = match exception.vector {
            vector::PF | vector::DB => exception.payload,
            _ => 0,
        };
        let code = if exception.error_code.is_some() { interruption::ERROR_CODE } else { 0 };
        let kind = interruption::HARDWARE_EXCEPTION << interruption::TYPE_SHIFT;
        VmExit {
            qualification,
            interruption: Some(Interruption {
                information: interruption::VALID | kind | code | u32::from(exception.vector),
                error_code: exception.error_code.unwrap_or(0),
                instruction_length: 0,
            }),
            ..VmExit::new(ExitReason::ExceptionOrNmi)
        }
    }
}

/// The state of VMX.
#[derive(Debug, Clone, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmxState {
    /// Whether the processor is in VMX operation.
    pub operation: Operation,
    /// The operand of VMXON: no VMCS lies there.
    pub vmxon_pointer: u64,
    /// Physical address of the current VMCS.
    pub current: Option<u64>,
    /// The current VMCS; meaningless if there is none.
    pub vmcs: Box<Vmcs>,
    /// IA32_FEATURE_CONTROL.
    pub feature_control: u64,
    /// What causes VM exits.
    pub interceptions: Interceptions,
    /// With `Trap::VmExit`: the exit.
    #[serde(skip)]
    pub pending_exit: Option<VmExit>,
    /// The event that is being delivered, for the IDT-vectoring information.
    pub delivering: Option<Interruption>,
    /// With a virtualization exception: what caused it.
    pub violation: Option<Violation>,
    /// The event that the VM entry injects, until it is delivered.
    pub injection: Option<Interruption>,
    /// The instruction is an IRET that has ended the blocking of NMIs.
    pub iret_unblocked: bool,
    /// The platform's time-stamp counter when the VMX-preemption timer expires, while it is active.
    pub preemption_deadline: Option<u64>,
    /// The instruction before the one that is executed was MOV SS or POP SS: no VM entry.
    pub blocked_by_mov_ss: bool,
    /// Time-stamp counter at the first and the last PAUSE of what may be a loop at CPL 0, if there was one since VM entry.
    pub pause_loop: Option<[u64; 2]>,
    /// How many transitions there were.
    #[serde(skip)]
    pub transitions: Box<TransitionCounts>,
    /// Whoever executes stops at each VM exit.
    #[serde(skip)]
    pub stops_at_exits: bool,
    /// Where transitions are noted, if somebody watches.
    #[serde(skip)]
    pub journal: Option<Box<Journal>>,
    /// The distance of the host's time-stamp counter from the platform's, while the guest has its own.
    pub host_tsc_offset: Option<u64>,
    /// Under TSC scaling: the multiplier, and the offset that is added to the product.
    pub tsc_scaling: Option<(u64, u64)>,
    /// A VM entry asked for a monitor trap flag VM exit before the guest's first instruction.
    pub monitor_trap_pending: bool,
    /// What is pending of the virtual APIC.
    pub virtual_apic: VirtualApic,
}

impl VmxState {
    /// After RESET: out of VMX operation, and IA32_FEATURE_CONTROL locked without VMX. A machine whose firmware offers
    /// VMX changes that before it starts.
    pub fn reset() -> VmxState {
        VmxState {
            operation: Operation::Off,
            vmxon_pointer: 0,
            current: None,
            vmcs: Box::default(),
            feature_control: feature_control::LOCK,
            interceptions: Interceptions::default(),
            pending_exit: None,
            delivering: None,
            violation: None,
            injection: None,
            iret_unblocked: false,
            preemption_deadline: None,
            blocked_by_mov_ss: false,
            pause_loop: None,
            transitions: Box::default(),
            stops_at_exits: false,
            journal: None,
            host_tsc_offset: None,
            tsc_scaling: None,
            monitor_trap_pending: false,
            virtual_apic: VirtualApic::default(),
        }
    }

    /// The EPT pointer, if guest-physical addresses are translated.
    #[inline]
    pub fn ept_pointer(&self) -> Option<u64> {
        let enabled = self.interceptions.secondary & secondary::ENABLE_EPT != 0;
        enabled.then(|| self.vmcs.get(Field::EptPointer))
    }

    /// Bits of CR0 that VMX operation fixes to 1 (SDM vol. 3, 24.8).
    pub fn cr0_fixed(&self) -> u64 {
        let unrestricted = self.interceptions.secondary & secondary::UNRESTRICTED_GUEST != 0;
        match self.operation {
            Operation::Off => 0,
            Operation::NonRoot if unrestricted => cr0::NE,
            Operation::Root | Operation::NonRoot => cr0::PE | cr0::NE | cr0::PG,
        }
    }

    /// Bits of CR4 that VMX operation fixes to 1.
    pub fn cr4_fixed(&self) -> u64 {
        if self.operation == Operation::Off { 0 } else { cr4::VMXE }
    }

    /// The instruction that caused the pending exit has this length. Other exits do not tell it.
    pub fn tell_instruction_length(&mut self, length: u32) {
        if let Some(exit) = self.pending_exit.as_mut().filter(|exit| exit.by_instruction) {
            exit.instruction_length = length;
        }
    }

    /// Host address of the values that VMREAD and VMWRITE access without more ado: in VMX root operation, of the current
    /// VMCS. 0 if there are none. It holds until the next VMX instruction or VM exit.
    #[inline]
    pub fn accessible_values(&self) -> u64 {
        if self.operation == Operation::Root && self.current.is_some() {
            self.vmcs.values_address()
        } else {
            0
        }
    }

    /// VMX non-root operation.
    #[inline]
    pub fn non_root(&self) -> bool {
        self.operation == Operation::NonRoot
    }
}

impl VcpuState {
    /// Note the VM exit that the returned trap announces. What was being delivered is noted with it.
    #[cold]
    pub fn exit(&mut self, exit: VmExit) -> Trap {
        let idt_vectoring = self.vmx.delivering.take();
        let delivered_length = idt_vectoring.map_or(0, |event| event.instruction_length);
        let instruction_length = exit.instruction_length.max(delivered_length);
        self.vmx.pending_exit = Some(VmExit { idt_vectoring, instruction_length, ..exit });
        Trap::VmExit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_as_many_bits_as_they_have() {
        let mut vmcs = Vmcs::default();
        for &field in Field::ALL {
            vmcs.set(field, u64::MAX);
            assert_eq!(vmcs.get(field), field.width().mask(), "{field:?}");
        }
    }

    #[test]
    fn page_faults_are_intercepted_by_their_error_codes() {
        let all = Interceptions { exceptions: 1 << 14, ..Default::default() };
        assert!(all.exception(14, 7) && !all.exception(13, 0));
        let writes = Interceptions { page_fault_mask: 2, page_fault_match: 2, ..all };
        assert!(writes.exception(14, 2) && !writes.exception(14, 1));
        let others = Interceptions { exceptions: 0, ..writes };
        assert!(others.exception(14, 1) && !others.exception(14, 2));
    }

    #[test]
    fn an_unrestricted_guest_may_leave_protected_mode() {
        let mut vmx = VmxState { operation: Operation::NonRoot, ..VmxState::reset() };
        assert_eq!((vmx.cr0_fixed(), vmx.cr4_fixed()), (0x8000_0021, cr4::VMXE));
        vmx.interceptions.secondary = secondary::UNRESTRICTED_GUEST;
        assert_eq!(vmx.cr0_fixed(), cr0::NE);
        assert_eq!((VmxState::reset().cr0_fixed(), VmxState::reset().cr4_fixed()), (0, 0));
    }

    #[test]
    fn only_instructions_have_lengths() {
        let mut state = VcpuState::reset();
        state.exit(VmExit::new(ExitReason::ExternalInterrupt));
        state.vmx.tell_instruction_length(3);
        assert_eq!(state.vmx.pending_exit.unwrap().instruction_length, 0);
        state.exit(VmExit::of_instruction(ExitReason::Cpuid));
        state.vmx.tell_instruction_length(3);
        assert_eq!(state.vmx.pending_exit.unwrap().instruction_length, 3);
    }

    #[test]
    fn nothing_is_intercepted_outside_non_root_operation() {
        let none = Interceptions::default();
        assert!((0..32).all(|number| !none.exception(number, 0)));
    }
}
