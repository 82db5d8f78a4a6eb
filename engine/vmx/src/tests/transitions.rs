//! VM entries and exits as wholes.

use super::*;
use crate::entry::{Entered, Refusal, enter, inject};
use crate::exit::{self, leave};
use crate::msr_lists::ENTRY_SIZE;
use gasang_cpu::{Activity, Exception, Operation, Shadow, VmExit};
use gasang_x86::vmx::controls::exit as exit_controls;
use gasang_x86::vmx::controls::{interruptibility, interruption, pending_debug, pin};
use gasang_x86::vmx::{ExitReason, InstructionError};
use gasang_x86::{gpr, msr, rflags};

impl Machine {
    /// With a valid current VMCS.
    fn ready() -> Machine {
        let mut machine = Machine::current();
        *machine.state.vmx.vmcs = valid(&machine.capabilities);
        machine
    }

    fn enter(&mut self, launch: bool) -> Result<Entered, Trap> {
        self.with(|core, capabilities| enter(core, capabilities, launch, false))
    }

    /// In the guest.
    fn guest() -> Machine {
        Machine::guest_of(|_| {})
    }

    fn guest_of(change: impl FnOnce(&mut Machine)) -> Machine {
        let mut machine = Machine::ready();
        change(&mut machine);
        assert_eq!(machine.enter(true), Ok(Entered::Guest));
        machine
    }

    fn leave(&mut self, exit: VmExit) {
        assert_eq!(self.state.exit(exit), Trap::VmExit);
        assert!(self.with(|core, _| leave(core)).unwrap().is_some());
    }

    fn set(&mut self, field: Field, value: u64) {
        self.state.vmx.vmcs.set(field, value);
    }

    fn get(&self, field: Field) -> u64 {
        self.state.vmx.vmcs.get(field)
    }

    fn event(&mut self, kind: u32, vector: u32) {
        let information = interruption::VALID | kind << interruption::TYPE_SHIFT | vector;
        self.set(Field::VmEntryInterruptionInformation, information.into());
    }

    /// One entry of an MSR area.
    fn msr_entry(&mut self, number: u64, index: u32, value: u64) {
        self.poke(PAGES + number * ENTRY_SIZE, 8, index.into());
        self.poke(PAGES + number * ENTRY_SIZE + 8, 8, value);
    }
}

fn failed(error: InstructionError) -> Result<Entered, Trap> {
    Ok(Entered::Failed(Outcome::FailValid(error), None))
}

#[test]
fn an_entry_loads_the_guest() {
    let machine = Machine::guest();
    let state = &machine.state;
    assert_eq!(state.vmx.operation, Operation::NonRoot);
    assert_eq!((state.rip, state.gpr[gpr::RSP]), (GUEST_RIP, STACK - 0x800));
    assert!(state.in_64bit_mode() && state.cpl() == 0 && state.vmx.vmcs.launched);
    assert_eq!(state.vmx.preemption_deadline, None);
}

#[test]
fn an_exit_loads_the_host_and_tells_why() {
    let mut machine = Machine::guest();
    machine.state.rip = 0x9abc;
    machine.state.dr[7] = 0x455;
    let exit = VmExit { instruction_length: 2, ..VmExit::of_instruction(ExitReason::Cpuid) };
    machine.leave(exit.qualified(0x77));
    let state = &machine.state;
    assert_eq!(state.vmx.operation, Operation::Root);
    assert_eq!((state.rip, state.gpr[gpr::RSP], state.rflags), (HOST_RIP, STACK, rflags::FIXED));
    assert_eq!((state.dr[7], state.gdtr.limit, state.idtr.limit), (0x400, 0xffff, 0xffff));
    assert_eq!(state.segment[segment::FS].base, 0xf000);
    assert!(!state.segment[segment::GS].usable() && state.in_64bit_mode());
    assert_eq!(machine.get(Field::ExitReason), 10);
    assert_eq!(machine.get(Field::ExitQualification), 0x77);
    assert_eq!(machine.get(Field::VmExitInstructionLength), 2);
    assert_eq!((machine.get(Field::GuestRip), machine.get(Field::GuestDr7)), (0x9abc, 0x455));
}

#[test]
fn what_a_guest_is_saved_as_can_be_entered_again() {
    let mut machine = Machine::guest();
    machine.state.rflags |= rflags::IF | rflags::CF;
    machine.state.shadow = Shadow::Sti;
    machine.state.segment[segment::ES] =
        SegmentRegister { attributes: access::UNUSABLE, ..Default::default() };
    let before = machine.state.clone();
    machine.leave(VmExit::new(ExitReason::ExternalInterrupt));
    let blocking = u64::from(interruptibility::BLOCKING_BY_STI);
    assert_eq!(machine.get(Field::GuestInterruptibilityState), blocking);
    assert_eq!(machine.state.shadow, Shadow::None);
    assert_eq!(machine.enter(false), Ok(Entered::Guest));
    let after = &machine.state;
    assert_eq!((after.rip, after.rflags, after.shadow), (before.rip, before.rflags, before.shadow));
    assert_eq!((after.segment, after.ldtr, after.tr), (before.segment, before.ldtr, before.tr));
    assert_eq!(
        (after.cr0, after.cr3, after.cr4, after.efer),
        (before.cr0, before.cr3, before.cr4, before.efer)
    );
    assert_eq!((after.gdtr, after.idtr, after.dr), (before.gdtr, before.idtr, before.dr));
}

#[test]
fn launch_states_are_told_apart() {
    let mut machine = Machine::ready();
    assert_eq!(machine.enter(false), failed(InstructionError::VmresumeNotLaunched));
    assert_eq!(machine.enter(true), Ok(Entered::Guest));
    machine.leave(VmExit::of_instruction(ExitReason::Hlt));
    assert_eq!(machine.enter(true), failed(InstructionError::VmlaunchNotClear));
    assert_eq!(machine.get(Field::VmInstructionError), 4);
    assert_eq!(machine.enter(false), Ok(Entered::Guest));
}

#[test]
fn an_entry_needs_a_current_vmcs_and_no_blocking_by_mov_ss() {
    let mut machine = Machine::root();
    assert_eq!(machine.enter(true), Ok(Entered::Failed(Outcome::FailInvalid, None)));
    let mut machine = Machine::ready();
    let entered = machine.with(|core, known| enter(core, known, true, true));
    assert_eq!(entered, failed(InstructionError::BlockedByMovSs));
}

#[test]
fn controls_and_host_state_fail_in_the_host() {
    let mut machine = Machine::ready();
    machine.set(Field::HostCr4, 0);
    let host = Outcome::FailValid(InstructionError::InvalidHostStateField);
    assert_eq!(machine.enter(true), Ok(Entered::Failed(host, Some(crate::Check::HostCr4Fixed))));
    machine.set(Field::PinBasedControls, 0);
    let controls = Outcome::FailValid(InstructionError::InvalidControlField);
    assert_eq!(machine.enter(true), Ok(Entered::Failed(controls, Some(crate::Check::PinReserved))));
    assert_eq!(machine.state.rip, 0x1234);
    assert!(!machine.state.vmx.vmcs.launched);
}

#[test]
fn invalid_guest_state_is_told_as_an_exit() {
    let mut machine = Machine::ready();
    machine.event(interruption::NMI, 2);
    machine.set(Field::VmcsLinkPointer, 8);
    let refusal = Refusal::Guest(crate::Check::LinkPointerAddress);
    assert_eq!(machine.enter(true), Ok(Entered::Returned(refusal)));
    assert_eq!(machine.get(Field::ExitReason), 0x8000_0021);
    assert_eq!(machine.get(Field::ExitQualification), 4);
    assert_eq!(machine.state.rip, HOST_RIP);
    assert_eq!(machine.state.vmx.operation, Operation::Root);
    assert!(!machine.state.vmx.vmcs.launched);
    assert_ne!(machine.get(Field::VmEntryInterruptionInformation) >> 31, 0);
    assert_eq!(machine.get(Field::GuestRip), GUEST_RIP);
}

#[test]
fn msrs_are_loaded_and_stored() {
    let mut machine = Machine::ready();
    machine.msr_entry(0, msr::KERNEL_GS_BASE, 0x1111);
    machine.msr_entry(1, msr::LSTAR, 0x2222);
    machine.msr_entry(8, msr::LSTAR, 0);
    machine.msr_entry(16, msr::LSTAR, 0x4444);
    for (address, count, place, entries) in [
        (Field::VmEntryMsrLoadAddress, Field::VmEntryMsrLoadCount, 0, 2),
        (Field::VmExitMsrStoreAddress, Field::VmExitMsrStoreCount, 8, 1),
        (Field::VmExitMsrLoadAddress, Field::VmExitMsrLoadCount, 16, 1),
    ] {
        machine.set(address, PAGES + place * ENTRY_SIZE);
        machine.set(count, entries);
    }
    assert_eq!(machine.enter(true), Ok(Entered::Guest));
    assert_eq!((machine.state.msr.kernel_gs_base, machine.state.msr.lstar), (0x1111, 0x2222));
    machine.state.msr.lstar = 0x3333;
    // The guest need not be privileged.
    machine.state.segment[segment::SS].attributes |= access::DPL;
    machine.leave(VmExit::new(ExitReason::ExternalInterrupt));
    assert_eq!(machine.peek(PAGES + 8 * ENTRY_SIZE + 8, 8), 0x3333);
    assert_eq!(machine.state.msr.lstar, 0x4444);
    assert_eq!(machine.get(Field::GuestSsAccessRights) as u32 & access::DPL, access::DPL);
}

#[test]
fn an_msr_that_cannot_be_loaded_fails_the_entry() {
    for (index, value) in [
        (u64::from(msr::FS_BASE), 0),
        (u64::from(msr::LSTAR), 1 << 63),
        (0x802, 0),
        (1 << 32 | u64::from(msr::LSTAR), 0),
        (0xdead, 0),
    ] {
        let mut machine = Machine::ready();
        machine.msr_entry(0, msr::LSTAR, 0);
        machine.poke(PAGES + 16, 8, index);
        machine.poke(PAGES + 24, 8, value);
        machine.set(Field::VmEntryMsrLoadAddress, PAGES);
        machine.set(Field::VmEntryMsrLoadCount, 2);
        assert_eq!(machine.enter(true), Ok(Entered::Returned(Refusal::Msr(2))), "{index:#x}");
        assert_eq!((machine.get(Field::ExitReason), machine.get(Field::ExitQualification)), (0x8000_0022, 2));
        assert!(!machine.state.vmx.vmcs.launched);
    }
}

#[test]
fn a_host_msr_that_cannot_be_loaded_aborts() {
    let mut machine = Machine::guest_of(|machine| {
        machine.msr_entry(0, 0xdead, 0);
        machine.set(Field::VmExitMsrLoadAddress, PAGES);
        machine.set(Field::VmExitMsrLoadCount, 1);
    });
    machine.state.exit(VmExit::new(ExitReason::Hlt));
    assert_eq!(machine.with(|core, _| leave(core)), Err(Trap::Shutdown));
    assert_eq!(machine.state.activity, Activity::Shutdown);
    assert_eq!(machine.peek(VMCS + 4, 4), u64::from(exit::abort::MSR_LOAD));
}

#[test]
fn an_interrupt_is_injected() {
    let mut machine = Machine::guest_of(|machine| {
        machine.set(Field::GuestRflags, rflags::FIXED | rflags::IF);
        machine.event(interruption::EXTERNAL_INTERRUPT, 0x41);
    });
    assert_eq!(machine.state.rip, GUEST_RIP);
    assert_eq!(machine.with(|core, _| inject(core)), Ok(()));
    assert_eq!(machine.state.rip, 0x8410);
    assert_eq!(machine.peek(machine.state.gpr[gpr::RSP], 8), GUEST_RIP);
    assert_eq!((machine.state.vmx.injection, machine.state.vmx.delivering), (None, None));
    assert_eq!(machine.with(|core, _| inject(core)), Ok(()));
    assert_eq!(machine.state.rip, 0x8410);
}

#[test]
fn an_injected_page_fault_leaves_cr2_and_is_not_intercepted() {
    let mut machine = Machine::guest_of(|machine| {
        machine.set(Field::ExceptionBitmap, 1 << 14);
        machine.event(interruption::HARDWARE_EXCEPTION, interruption::ERROR_CODE | 14);
        machine.set(Field::VmEntryExceptionErrorCode, 6);
    });
    machine.state.cr2 = 0x5555;
    assert_eq!(machine.with(|core, _| inject(core)), Ok(()));
    assert_eq!((machine.state.cr2, machine.state.rip), (0x5555, 0x80e0));
    assert_eq!(machine.peek(machine.state.gpr[gpr::RSP], 8), 6);
}

#[test]
fn an_injected_software_interrupt_returns_behind_its_instruction() {
    let mut machine = Machine::guest_of(|machine| {
        machine.event(interruption::SOFTWARE_INTERRUPT, 0x80);
        machine.set(Field::VmEntryInstructionLength, 2);
    });
    assert_eq!(machine.with(|core, _| inject(core)), Ok(()));
    assert_eq!(machine.peek(machine.state.gpr[gpr::RSP], 8), GUEST_RIP + 2);
}

#[test]
fn an_injected_nmi_blocks_nmis() {
    for virtual_nmis in [false, true] {
        let mut machine = Machine::guest_of(|machine| {
            machine.event(interruption::NMI, 2);
            let bits = if virtual_nmis { pin::NMI_EXITING | pin::VIRTUAL_NMIS } else { 0 };
            let controls = machine.get(Field::PinBasedControls) | u64::from(bits);
            machine.set(Field::PinBasedControls, controls);
        });
        assert_eq!(machine.with(|core, _| inject(core)), Ok(()));
        assert!(machine.state.nmi_blocked);
        machine.leave(VmExit::new(ExitReason::ExternalInterrupt));
        assert_eq!(machine.state.nmi_blocked, !virtual_nmis, "virtual ones are the guest's alone");
        let blocking = u64::from(interruptibility::BLOCKING_BY_NMI);
        assert_eq!(machine.get(Field::GuestInterruptibilityState), blocking);
    }
}

#[test]
fn a_fault_met_by_injection_exits_with_what_was_injected() {
    let mut machine = Machine::guest_of(|machine| {
        machine.set(Field::ExceptionBitmap, 1 << 14);
        machine.set(Field::GuestRflags, rflags::FIXED | rflags::IF);
        machine.set(Field::GuestRsp, 0x7fff_0000);
        machine.event(interruption::EXTERNAL_INTERRUPT, 0x41);
    });
    assert_eq!(machine.with(|core, _| inject(core)), Err(Trap::VmExit));
    assert!(machine.with(|core, _| leave(core)).is_ok());
    assert_eq!(machine.get(Field::ExitReason), 0);
    assert_eq!(machine.get(Field::VmExitInterruptionInformation), 0x8000_0b0e);
    assert_eq!(machine.get(Field::IdtVectoringInformation), 0x8000_0041);
    assert_eq!(machine.get(Field::ExitQualification), 0x7ffe_fff8);
    assert_eq!((machine.state.cr2, machine.get(Field::GuestRip)), (0, GUEST_RIP));
    assert_eq!(machine.get(Field::VmEntryInterruptionInformation) >> 31, 0);
}

#[test]
fn an_intercepted_exception_changes_nothing() {
    let mut machine = Machine::guest_of(|machine| machine.set(Field::ExceptionBitmap, 1 << 1 | 1 << 14));
    let fault = Exception::page_fault(0xdead_b000, 2);
    assert_eq!(machine.with(|core, _| core.deliver_exception(fault)), Err(Trap::VmExit));
    assert_eq!(machine.state.cr2, 0);
    machine.with(|core, _| leave(core)).unwrap();
    assert_eq!(machine.get(Field::ExitQualification), 0xdead_b000);
    assert_eq!(machine.get(Field::VmExitInterruptionErrorCode), 2);
    assert_eq!(machine.get(Field::GuestRflags) & rflags::RF, rflags::RF);
}

#[test]
fn a_triple_fault_exits() {
    let mut machine = Machine::guest_of(|machine| machine.set(Field::GuestIdtrLimit, 0));
    assert_eq!(machine.with(|core, _| core.deliver_exception(Exception::divide())), Err(Trap::VmExit));
    machine.with(|core, _| leave(core)).unwrap();
    assert_eq!(machine.get(Field::ExitReason), 2);
    assert_eq!(machine.get(Field::IdtVectoringInformation), 0);
    assert_eq!(machine.get(Field::GuestActivityState), 0);
}

#[test]
fn a_double_fault_that_exits_tells_no_vectoring() {
    let mut machine = Machine::guest_of(|machine| {
        machine.set(Field::GuestIdtrLimit, 0);
        machine.set(Field::ExceptionBitmap, 1 << 8);
    });
    assert_eq!(machine.with(|core, _| core.deliver_exception(Exception::divide())), Err(Trap::VmExit));
    machine.with(|core, _| leave(core)).unwrap();
    assert_eq!(machine.get(Field::VmExitInterruptionInformation), 0x8000_0b08);
    assert_eq!(machine.get(Field::IdtVectoringInformation), 0);
}

#[test]
fn breakpoints_are_intercepted_with_their_length() {
    let mut machine = Machine::guest_of(|machine| machine.set(Field::ExceptionBitmap, 1 << 3));
    let next = GUEST_RIP + 1;
    assert_eq!(machine.with(|core, _| core.software_exception(3, next)), Err(Trap::VmExit));
    machine.with(|core, _| leave(core)).unwrap();
    assert_eq!(machine.get(Field::VmExitInterruptionInformation), 0x8000_0603);
    assert_eq!(machine.get(Field::VmExitInstructionLength), 1);
    assert_eq!(machine.get(Field::GuestRip), GUEST_RIP);
}

#[test]
fn an_nmi_that_exits_blocks_nmis_in_the_host() {
    let mut machine = Machine::guest();
    machine.leave(exit::nmi());
    assert!(machine.state.nmi_blocked);
    assert_eq!(machine.get(Field::GuestInterruptibilityState), 0);
    assert_eq!(machine.get(Field::VmExitInterruptionInformation), 0x8000_0202);
}

#[test]
fn an_acknowledged_interrupt_is_told() {
    let mut machine = Machine::guest();
    machine.leave(exit::external_interrupt(Some(0x31)));
    assert_eq!(machine.get(Field::ExitReason), 1);
    assert_eq!(machine.get(Field::VmExitInterruptionInformation), 0x8000_0031);
}

#[test]
fn pending_debug_exceptions_survive() {
    let pending = pending_debug::B1 | pending_debug::ENABLED_BREAKPOINT;
    let mut machine = Machine::guest_of(|machine| machine.set(Field::GuestPendingDebugExceptions, pending));
    assert_eq!(machine.state.pending_debug, 2);
    machine.leave(VmExit::new(ExitReason::ExternalInterrupt));
    assert_eq!(machine.get(Field::GuestPendingDebugExceptions), pending);
    assert_eq!(machine.state.pending_debug, 0);
}

#[test]
fn the_preemption_timer_runs_and_is_saved() {
    let mut machine = Machine::guest_of(|machine| {
        machine.platform.tsc = 0x1000;
        let pin = machine.get(Field::PinBasedControls) | u64::from(pin::ACTIVATE_PREEMPTION_TIMER);
        let exit = machine.get(Field::VmExitControls)
            | u64::from(gasang_x86::vmx::controls::exit::SAVE_PREEMPTION_TIMER);
        machine.set(Field::PinBasedControls, pin);
        machine.set(Field::VmExitControls, exit);
        machine.set(Field::VmxPreemptionTimerValue, 10);
    });
    assert_eq!(machine.state.vmx.preemption_deadline, Some(0x1000 + 10 * 32));
    machine.platform.tsc = 0x1000 + 4 * 32;
    machine.leave(VmExit::new(ExitReason::ExternalInterrupt));
    assert_eq!(machine.get(Field::VmxPreemptionTimerValue), 6);
    assert_eq!(machine.state.vmx.preemption_deadline, None);
}

impl Machine {
    fn clear(&mut self, field: Field, bits: u64) {
        let value = self.get(field) & !bits;
        self.set(field, value);
    }

    /// A guest with PAE paging, whose page-directory-pointer entries lie at `PAGES`.
    fn pae_guest(&mut self) {
        self.clear(Field::VmEntryControls, entry::IA32E_MODE_GUEST.into());
        self.clear(Field::GuestEfer, efer::LMA | efer::LME);
        self.set(Field::GuestCsAccessRights, u64::from(CODE64 & !access::LONG | access::DB));
        self.set(Field::GuestCr3, PAGES);
        self.poke(PAGES + 8, 8, 0x5001);
    }
}

#[test]
fn page_directory_pointers_come_from_memory_without_ept() {
    let mut machine = Machine::guest_of(Machine::pae_guest);
    assert_eq!(machine.state.pdpte, [0, 0x5001, 0, 0]);
    machine.leave(VmExit::of_instruction(ExitReason::Cpuid));
    assert!(machine.state.in_64bit_mode());
    machine.poke(PAGES, 8, 3);
    let refusal = Refusal::Guest(crate::Check::PdpteReserved);
    assert_eq!(machine.enter(false), Ok(Entered::Returned(refusal)));
    assert_eq!(machine.get(Field::ExitQualification), 2);
}

#[test]
fn a_guest_that_changes_its_mode_is_entered_in_it() {
    let mut machine = Machine::guest();
    machine.state.efer &= !efer::LMA;
    machine.leave(VmExit::of_instruction(ExitReason::Cpuid));
    assert_eq!(machine.get(Field::VmEntryControls) & u64::from(entry::IA32E_MODE_GUEST), 0);
}

/// A 32-bit host with PAE paging, and such a guest.
fn legacy_host() -> Machine {
    let mut machine = Machine::ready();
    machine.pae_guest();
    machine.clear(Field::VmExitControls, exit_controls::HOST_ADDRESS_SPACE_SIZE.into());
    machine.clear(Field::HostEfer, efer::LMA | efer::LME);
    machine.set(Field::HostCr3, PAGES + 0x20);
    machine.poke(PAGES + 0x20, 8, 0x6001);
    machine.state.efer &= !(efer::LMA | efer::LME);
    machine
}

#[test]
fn a_32_bit_host_gets_its_segments_and_page_directory_pointers() {
    let mut machine = legacy_host();
    assert_eq!(machine.enter(true), Ok(Entered::Guest));
    machine.leave(VmExit::of_instruction(ExitReason::Cpuid));
    assert_eq!((machine.state.code_bits(), machine.state.stack_bits()), (32, 32));
    assert_eq!(machine.state.pdpte, [0x6001, 0, 0, 0]);
    assert!(!machine.state.long_mode());
}

#[test]
fn invalid_page_directory_pointers_of_the_host_abort() {
    let mut machine = legacy_host();
    assert_eq!(machine.enter(true), Ok(Entered::Guest));
    machine.poke(PAGES + 0x20, 8, 3);
    machine.state.exit(VmExit::new(ExitReason::Hlt));
    assert_eq!(machine.with(|core, _| leave(core)), Err(Trap::Shutdown));
    assert_eq!(machine.peek(VMCS + 4, 4), u64::from(exit::abort::HOST_PDPTE));
}

#[test]
fn a_guest_msr_that_cannot_be_stored_aborts() {
    let mut machine = Machine::guest_of(|machine| {
        machine.msr_entry(0, 0xdead, 0);
        machine.set(Field::VmExitMsrStoreAddress, PAGES);
        machine.set(Field::VmExitMsrStoreCount, 1);
    });
    machine.state.exit(VmExit::new(ExitReason::Hlt));
    assert_eq!(machine.with(|core, _| leave(core)), Err(Trap::Shutdown));
    assert_eq!(machine.peek(VMCS + 4, 4), u64::from(exit::abort::MSR_STORE));
}

#[test]
fn an_injected_event_takes_the_place_of_pending_debug_exceptions() {
    let pending = pending_debug::BS;
    let machine = Machine::guest_of(|machine| {
        machine.set(Field::GuestPendingDebugExceptions, pending);
        machine.event(interruption::NMI, 2);
    });
    assert_eq!(machine.state.pending_debug, 0);
}

#[test]
fn without_an_exit_there_is_nothing_to_leave() {
    let mut machine = Machine::guest();
    assert_eq!(machine.with(|core, _| leave(core)), Ok(None));
    assert_eq!(machine.state.vmx.operation, Operation::NonRoot);
}

#[test]
fn injection_saves_the_resume_flag_as_it_is() {
    for flag in [0, rflags::RF] {
        let mut machine = Machine::guest_of(|machine| {
            machine.set(Field::GuestRflags, rflags::FIXED | flag);
            machine.event(interruption::HARDWARE_EXCEPTION, interruption::ERROR_CODE | 13);
        });
        assert_eq!(machine.with(|core, _| inject(core)), Ok(()));
        assert_eq!(machine.peek(machine.state.gpr[gpr::RSP] + 24, 8), rflags::FIXED | flag);
    }
}

#[test]
fn delivery_that_exits_has_woken_the_processor() {
    let mut machine = Machine::guest_of(|machine| {
        machine.set(Field::ExceptionBitmap, 1 << 14);
        machine.set(Field::GuestActivityState, 1);
        machine.set(Field::GuestRsp, 0x7fff_0000);
        machine.event(interruption::NMI, 2);
    });
    assert_eq!(machine.state.activity, Activity::Halted);
    assert_eq!(machine.with(|core, _| inject(core)), Err(Trap::VmExit));
    machine.with(|core, _| leave(core)).unwrap();
    assert_eq!(machine.get(Field::GuestActivityState), 0);
    let blocking = u64::from(interruptibility::BLOCKING_BY_NMI);
    assert_eq!(machine.get(Field::GuestInterruptibilityState), blocking);
}
