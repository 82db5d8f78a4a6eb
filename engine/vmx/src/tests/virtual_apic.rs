//! The virtual-APIC page, accesses to the APIC-access page, and virtual interrupts.

use super::*;
use crate::entry::{Entered, enter};
use crate::intercept::{Due, Signals, due};
use crate::virtual_apic::*;
use gasang_cpu::{Exception, Privilege, VmExit};
use gasang_x86::rflags;
use gasang_x86::vmx::controls::{pin, secondary};
use gasang_x86::vmx::virtual_apic as apic;
use gasang_x86::vmx::{ExitReason, Field};

/// The virtual-APIC page, …
const VIRTUAL: u64 = PAGES;
/// … the APIC-access page, …
const ACCESSED: u64 = PAGES + 0x1000;
/// … and the posted-interrupt descriptor.
const DESCRIPTOR: u64 = PAGES + 0x2000;
const REGISTERS: u32 = secondary::APIC_REGISTER_VIRTUALIZATION;
const DELIVERY: u32 = secondary::VIRTUAL_INTERRUPT_DELIVERY;

/// A guest with a TPR shadow and secondary controls.
fn guest(secondary: u32, fields: &[(Field, u64)], prepare: impl FnOnce(&mut Machine)) -> Machine {
    let mut machine = Machine::current();
    let mut vmcs = valid(&machine.capabilities);
    let external = if secondary & DELIVERY != 0 { pin::EXTERNAL_INTERRUPT_EXITING } else { 0 };
    vmcs.set(Field::PinBasedControls, vmcs.get(Field::PinBasedControls) | u64::from(external));
    vmcs.set(Field::PrimaryControls, vmcs.get(Field::PrimaryControls) | u64::from(primary::USE_TPR_SHADOW));
    vmcs.set(Field::SecondaryControls, secondary.into());
    vmcs.set(Field::VirtualApicAddress, VIRTUAL);
    vmcs.set(Field::ApicAccessAddress, ACCESSED);
    vmcs.set(Field::PostedInterruptDescriptorAddress, DESCRIPTOR);
    vmcs.set(Field::PostedInterruptNotificationVector, 0xf2);
    for &(field, value) in fields {
        vmcs.set(field, value);
    }
    *machine.state.vmx.vmcs = vmcs;
    prepare(&mut machine);
    assert_eq!(machine.with(|core, known| enter(core, known, true, false)), Ok(Entered::Guest));
    machine
}

fn accessed(secondary: u32) -> Machine {
    guest(secondary::VIRTUALIZE_APIC_ACCESSES | secondary, &[], |_| {})
}

fn read(machine: &mut Machine, offset: u64, size: usize) -> Result<u64, Trap> {
    machine.with(|core, _| core.read(ACCESSED + offset, size, Privilege::Supervisor))
}

fn write(machine: &mut Machine, offset: u64, size: usize) -> Result<(), Trap> {
    machine.with(|core, _| core.write(ACCESSED + offset, size, 0x4433_2211, Privilege::Supervisor))
}

/// What follows the write that the instruction has made.
fn follow(machine: &mut Machine) -> Option<VmExit> {
    let access = machine.state.vmx.virtual_apic.access.take().filter(|access| access.written)?;
    machine.with(|core, _| follow_write(core, access.offset))
}

fn qualification(machine: &mut Machine) -> u64 {
    let exit = machine.state.vmx.pending_exit.take().unwrap();
    assert_eq!(exit.reason, ExitReason::ApicAccess);
    exit.qualification
}

/// Requested and in service.
fn status(machine: &Machine) -> u64 {
    machine.state.vmx.vmcs.get(Field::GuestInterruptStatus)
}

#[test]
fn accesses_exit_unless_they_are_virtualized() {
    let mut machine = accessed(0);
    machine.poke(VIRTUAL + apic::TPR, 4, 0x55);
    assert_eq!(read(&mut machine, apic::TPR, 4), Ok(0x55));
    for (offset, size) in [(apic::TPR, 8), (apic::TPR + 2, 4), (apic::EOI, 4), (apic::ID, 1)] {
        assert_eq!(read(&mut machine, offset, size), Err(Trap::VmExit));
        assert_eq!(qualification(&mut machine), offset);
    }
    assert_eq!(write(&mut machine, apic::EOI, 4), Err(Trap::VmExit));
    assert_eq!(qualification(&mut machine), apic::EOI | 1 << 12);
    let fetched = machine.with(|core, _| core.fetch(ACCESSED, &mut [0; 15]));
    assert_eq!(fetched, Err(Trap::VmExit));
    assert_eq!(qualification(&mut machine), 2 << 12);
}

#[test]
fn what_is_virtualized_depends_on_two_controls() {
    let every = (0..0x1000).step_by(16);
    let virtualized = |controls, write_it: bool| {
        let mut machine = accessed(controls);
        let virtualizes = |&offset: &u64| {
            machine.state.vmx.virtual_apic.access = None;
            if write_it {
                write(&mut machine, offset, 4).is_ok()
            } else {
                read(&mut machine, offset, 4).is_ok()
            }
        };
        every.clone().filter(virtualizes).count()
    };
    assert_eq!(
        [virtualized(0, false), virtualized(DELIVERY, false), virtualized(REGISTERS, false)],
        [1, 1, 42]
    );
    assert_eq!([virtualized(0, true), virtualized(DELIVERY, true), virtualized(REGISTERS, true)], [1, 3, 17]);
}

#[test]
fn one_instruction_writes_one_register() {
    let mut machine = accessed(REGISTERS);
    assert_eq!(read(&mut machine, apic::TPR, 4), Ok(0));
    assert_eq!(write(&mut machine, apic::TPR, 1), Err(Trap::VmExit), "of another size");
    assert_eq!(write(&mut machine, apic::TPR, 4), Ok(()));
    assert_eq!(read(&mut machine, apic::TPR, 4), Err(Trap::VmExit), "after a write");
    assert_eq!(write(&mut machine, apic::ID, 4), Err(Trap::VmExit), "another");
}

#[test]
fn writes_are_followed_by_what_the_register_is() {
    let mut machine = accessed(REGISTERS);
    write(&mut machine, apic::TPR, 4).unwrap();
    assert_eq!((follow(&mut machine), machine.peek(VIRTUAL + apic::TPR, 4)), (None, 0x11));
    write(&mut machine, apic::ICR_HIGH, 4).unwrap();
    assert_eq!((follow(&mut machine), machine.peek(VIRTUAL + apic::ICR_HIGH, 4)), (None, 0x4400_0000));
    write(&mut machine, apic::ICR, 4).unwrap();
    let exit = follow(&mut machine).unwrap();
    assert_eq!((exit.reason, exit.qualification), (ExitReason::ApicWrite, apic::ICR));
}

#[test]
fn a_priority_below_the_threshold_is_due_at_entry() {
    let fields = [(Field::TprThreshold, 3)];
    let prepare = |machine: &mut Machine| machine.poke(VIRTUAL + apic::TPR, 4, 0x2f);
    let machine = guest(secondary::VIRTUALIZE_APIC_ACCESSES, &fields, prepare);
    let due = due(&machine.state, Signals::default(), || 0);
    assert_eq!(due, Some(Due::Exit(VmExit::new(ExitReason::TprBelowThreshold))));
}

#[test]
fn msrs_of_x2apic_mode_are_virtualized() {
    let mode = secondary::VIRTUALIZE_X2APIC_MODE;
    let mut plain = guest(mode, &[], |machine| machine.poke(VIRTUAL + apic::TPR, 8, 0x1_0000_0022));
    assert_eq!(
        plain.with(|core, _| [0x808, 0x803, 0x900].map(|index| read_msr(core, index))),
        [Some(0x1_0000_0022), None, None]
    );
    let refused = Err(Exception::general_protection(0).into());
    assert_eq!(plain.with(|core, _| write_msr(core, 0x808, 0x100)), refused);
    assert_eq!(plain.with(|core, _| write_msr(core, 0x808, 0x44)), Ok(true));
    assert_eq!(plain.peek(VIRTUAL + apic::TPR, 8), 0x44);
    assert_eq!(plain.with(|core, _| write_msr(core, 0x80b, 0)), Ok(false));
    let mut all = guest(mode | REGISTERS | DELIVERY, &[], |_| {});
    assert_eq!(all.with(|core, _| read_msr(core, 0x8ff)), Some(0));
    assert_eq!(all.with(|core, _| write_msr(core, 0x80b, 1)), refused);
    assert_eq!(all.with(|core, _| write_msr(core, 0x83f, 0x61)), Ok(true));
    assert_eq!((follow(&mut all), status(&all)), (None, 0x61));
    assert_eq!(all.with(|core, _| write_msr(core, 0x83f, 0xf)), Ok(true));
    assert_eq!(follow(&mut all).map(|exit| exit.qualification), Some(apic::SELF_IPI));
}

/// A guest with a request of vector 0x51.
fn requested(fields: &[(Field, u64)]) -> Machine {
    let all = [(Field::GuestInterruptStatus, 0x51)].into_iter().chain(fields.iter().copied());
    let prepare = |machine: &mut Machine| machine.poke(VIRTUAL + apic::IRR + 0x20, 4, 1 << 0x11);
    guest(DELIVERY | secondary::VIRTUALIZE_APIC_ACCESSES, &all.collect::<Vec<_>>(), prepare)
}

#[test]
fn a_virtual_interrupt_is_delivered_when_nothing_blocks_it() {
    let mut machine = requested(&[]);
    let now = |machine: &Machine| due(&machine.state, Signals::default(), || 0);
    assert_eq!(now(&machine), None);
    machine.state.rflags |= rflags::IF;
    assert_eq!(now(&machine), Some(Due::VirtualInterrupt));
    assert_eq!(machine.with(|core, _| take_interrupt(core)), 0x51);
    assert_eq!((status(&machine), now(&machine)), (0x5100, None));
    let registers = [apic::IRR, apic::ISR].map(|first| machine.peek(VIRTUAL + first + 0x20, 4));
    assert_eq!((registers, machine.peek(VIRTUAL + apic::PPR, 4)), ([0, 1 << 0x11], 0x50));
}

#[test]
fn priorities_hold_interrupts_back() {
    let mut machine = requested(&[(Field::GuestInterruptStatus, 0x6251)]);
    assert!(!machine.state.vmx.virtual_apic.interrupt);
    assert_eq!(machine.peek(VIRTUAL + apic::PPR, 4), 0x60);
    machine.state.vmx.virtual_register_written(apic::EOI);
    assert_eq!((follow(&mut machine), status(&machine)), (None, 0x51));
    assert!(machine.state.vmx.virtual_apic.interrupt);
    machine.poke(VIRTUAL + apic::TPR, 4, 0x58);
    machine.state.vmx.virtual_register_written(apic::TPR);
    assert_eq!((follow(&mut machine), machine.state.vmx.virtual_apic.interrupt), (None, false));
    assert_eq!(machine.peek(VIRTUAL + apic::PPR, 4), 0x58);
}

#[test]
fn ends_of_interrupts_exit_by_bitmap() {
    let mut machine = requested(&[(Field::GuestInterruptStatus, 0x62_00), (Field::EoiExitBitmap1, 1 << 34)]);
    machine.state.vmx.virtual_register_written(apic::EOI);
    let exit = follow(&mut machine).unwrap();
    assert_eq!((exit.reason, exit.qualification), (ExitReason::VirtualizedEoi, 0x62));
}

#[test]
fn only_plain_ipis_to_itself_are_virtualized() {
    let mut machine = requested(&[(Field::GuestInterruptStatus, 0)]);
    let mut send = |command| {
        machine.poke(VIRTUAL + apic::ICR, 4, command);
        machine.state.vmx.virtual_register_written(apic::ICR);
        follow(&mut machine).is_none()
    };
    assert!([0x4_0041, 0x4_4042, 0x4_0843].into_iter().all(&mut send));
    assert!(![0x41, 0x8_0041, 0x4_0441, 0x4_8041, 0x4_000f, 0x14_0041].into_iter().any(&mut send));
    assert_eq!(status(&machine), 0x43);
}

#[test]
fn an_interrupt_window_comes_in_the_place_of_virtual_interrupts() {
    let window = u64::from(primary::INTERRUPT_WINDOW_EXITING | primary::USE_TPR_SHADOW);
    let controls = u64::from(Machine::new().capabilities.primary.ones | primary::ACTIVATE_SECONDARY_CONTROLS);
    let machine = requested(&[(Field::PrimaryControls, controls | window)]);
    assert!(!machine.state.vmx.virtual_apic.interrupt);
}

#[test]
fn what_is_posted_is_requested() {
    let posting = u64::from(pin::PROCESS_POSTED_INTERRUPTS | pin::EXTERNAL_INTERRUPT_EXITING);
    let ones = Machine::new().capabilities;
    let fields = [
        (Field::PinBasedControls, u64::from(ones.pin.ones) | posting),
        (
            Field::VmExitControls,
            valid(&ones).get(Field::VmExitControls) | u64::from(exit::ACKNOWLEDGE_INTERRUPT),
        ),
    ];
    let mut machine = requested(&fields);
    assert!(notifies(&machine.state, 0xf2) && !notifies(&machine.state, 0xf1));
    machine.poke(DESCRIPTOR + 8, 8, 1 << 63 | 1);
    machine.poke(DESCRIPTOR + 32, 8, 3);
    machine.with(|core, _| process_posted(core));
    assert_eq!((status(&machine), machine.state.vmx.virtual_apic.interrupt), (0x7f, true));
    assert_eq!((machine.peek(DESCRIPTOR + 8, 8), machine.peek(DESCRIPTOR + 32, 8)), (0, 2));
    let registers = [0x20, 0x30].map(|offset| machine.peek(VIRTUAL + apic::IRR + offset, 4));
    assert_eq!(registers, [1 << 0x11 | 1, 1 << 31]);
    assert!(!notifies(&requested(&[]).state, 0xf2));
}
