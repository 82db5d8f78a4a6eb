//! Facts about extended page tables (SDM vol. 3, 29.3).

use super::*;
use gasang_x86::exception as vector;
use gasang_x86::vmx::controls::{ept, ept_pointer, ept_violation as about, secondary};
use gasang_x86::vmx::{ExitReason, Field};

const PAGE: u64 = 0x40_0000_0000;
const FRAME: u64 = 0x20_0000;
/// EPT tables, beyond those of the guest.
const EPT: u64 = 0x30_0000;
const DIRECTORY: u64 = EPT + 0x2000;
/// The table for the guest-physical addresses from `FRAME` on, 4 KiB each.
const LEAVES: u64 = EPT + 0x3000;
const LARGE: u64 = ept::PERMISSIONS | ept::LARGE | 6 << ept::MEMORY_TYPE_SHIFT;
const SMALL: u64 = ept::PERMISSIONS | 6 << ept::MEMORY_TYPE_SHIFT;

/// A guest in 64-bit mode with `PAGE` at `FRAME`; its physical addresses are the processor's own.
fn guest() -> Machine {
    let mut machine = Machine::long();
    machine.map(PAGE, FRAME, OPEN);
    machine.poke(EPT, 8, EPT + 0x1000 | ept::PERMISSIONS);
    machine.poke(EPT + 0x1000, 8, DIRECTORY | ept::PERMISSIONS);
    machine.poke(DIRECTORY, 8, LARGE);
    machine.poke(DIRECTORY + 8, 8, LEAVES | ept::PERMISSIONS);
    for page in 0..512 {
        machine.poke(LEAVES + page * 8, 8, FRAME + page * 4096 | SMALL);
    }
    machine.state.vmx.operation = Operation::NonRoot;
    machine.state.vmx.interceptions.secondary = secondary::ENABLE_EPT;
    point_to_tables(&mut machine, 0);
    machine.tlb.flush_all();
    machine
}

fn point_to_tables(machine: &mut Machine, flags: u64) {
    let pointer = EPT | ept_pointer::WRITE_BACK | 3 << ept_pointer::WALK_LENGTH_SHIFT | flags;
    machine.state.vmx.vmcs.set(Field::EptPointer, pointer);
}

/// What a VM exit for an EPT violation says: the qualification, and the linear and guest-physical addresses.
fn violation(machine: &mut Machine) -> (u64, u64, u64) {
    let exit = machine.state.vmx.pending_exit.take().unwrap();
    assert_eq!(exit.reason, ExitReason::EptViolation);
    (exit.qualification, exit.guest_linear, exit.guest_physical)
}

/// A violation at an open page's own address.
const OF_THE_PAGE: u64 =
    about::LINEAR_ADDRESS_VALID | about::TRANSLATION_OF_LINEAR | about::USER_LINEAR | about::WRITABLE_LINEAR;

#[test]
fn guest_physical_addresses_lead_where_ept_says() {
    let mut machine = guest();
    machine.poke(FRAME + 0x5007, 1, 0x77);
    machine.poke(LEAVES, 8, FRAME + 0x5000 | SMALL);
    assert_eq!(machine.read(PAGE + 7), Ok(0x77));
    assert_eq!(machine.core().translate_for_debugger(PAGE + 7), Some(FRAME + 0x5007));
    machine.poke(DIRECTORY + 8, 8, LARGE);
    machine.tlb.flush_all();
    assert_eq!(machine.core().translate_for_debugger(PAGE + 7), Some(7), "2 MByte at once");
}

#[test]
fn an_access_that_ept_does_not_permit_is_a_violation() {
    type Attempt = fn(&mut Machine) -> Result<(), Trap>;
    let accesses: [(u64, Attempt); 3] = [
        (ept::READ, |machine| machine.read(PAGE + 7).map(|_| ())),
        (ept::WRITE, |machine| machine.write(PAGE + 7)),
        (ept::EXECUTE, |machine| machine.execute(PAGE + 7)),
    ];
    let possible = [0, ept::READ, ept::EXECUTE, ept::READ | ept::WRITE, ept::READ | ept::EXECUTE];
    for permissions in possible {
        for (wanted, access) in accesses {
            let mut machine = guest();
            machine.poke(LEAVES, 8, FRAME | permissions | 6 << ept::MEMORY_TYPE_SHIFT);
            let outcome = access(&mut machine);
            if permissions & wanted != 0 {
                assert_eq!(outcome, Ok(()));
                continue;
            }
            assert_eq!(outcome, Err(Trap::VmExit));
            let told = (wanted | permissions << 3 | OF_THE_PAGE, PAGE + 7, FRAME + 7);
            assert_eq!(violation(&mut machine), told);
        }
    }
}

#[test]
fn a_violation_tells_what_the_guest_permits() {
    let user = about::USER_LINEAR;
    let writable = about::WRITABLE_LINEAR;
    for (flags, told) in [
        (OPEN & !entry::WRITABLE, user),
        (OPEN & !entry::USER, writable),
        (OPEN | entry::EXECUTE_DISABLE, user | writable | about::EXECUTE_DISABLE_LINEAR),
    ] {
        let mut machine = guest();
        machine.map(PAGE, FRAME, flags);
        machine.poke(LEAVES, 8, 0);
        assert_eq!(machine.read(PAGE), Err(Trap::VmExit));
        let of_the_page = about::LINEAR_ADDRESS_VALID | about::TRANSLATION_OF_LINEAR;
        assert_eq!(violation(&mut machine).0, about::READ | of_the_page | told);
    }
}

#[test]
fn without_paging_all_is_writable_and_the_users() {
    let mut machine = guest();
    machine.state.cr0 &= !cr0::PG;
    machine.state.efer &= !efer::LMA;
    machine.poke(LEAVES, 8, 0);
    assert_eq!(machine.read(FRAME), Err(Trap::VmExit));
    assert_eq!(violation(&mut machine).0, about::READ | OF_THE_PAGE);
}

#[test]
fn what_was_read_only_is_looked_up_again_for_a_write() {
    let mut machine = guest();
    machine.poke(LEAVES, 8, FRAME | SMALL & !ept::WRITE);
    assert_eq!(machine.read(PAGE), Ok(0));
    assert_eq!(machine.write(PAGE), Err(Trap::VmExit));
    machine.poke(LEAVES, 8, FRAME | SMALL);
    assert_eq!(machine.write(PAGE), Ok(()));
}

#[test]
fn the_guests_own_page_fault_comes_first() {
    let mut machine = guest();
    machine.poke(LEAVES, 8, 0);
    machine.map(PAGE, FRAME, OPEN & !entry::WRITABLE);
    assert!(matches!(machine.write(PAGE), Err(Trap::Exception(fault)) if fault.error_code == Some(3)));
}

#[test]
fn paging_structures_are_reached_through_ept() {
    let mut machine = guest();
    let leaf = machine.leaf(PAGE);
    machine.poke(DIRECTORY, 8, LARGE & !ept::PERMISSIONS);
    assert_eq!(machine.read(PAGE), Err(Trap::VmExit));
    let root = machine.state.cr3 + (PAGE >> 39 & 0x1ff) * 8;
    assert_eq!(violation(&mut machine), (about::READ | about::LINEAR_ADDRESS_VALID, PAGE, root));
    machine.poke(DIRECTORY, 8, LARGE & !ept::WRITE);
    assert_eq!(machine.read(PAGE), Err(Trap::VmExit), "there are accessed flags to be set");
    let (qualification, _, address) = violation(&mut machine);
    let rights = (ept::READ | ept::EXECUTE) << 3;
    assert_eq!(qualification, about::WRITE | about::LINEAR_ADDRESS_VALID | rights);
    // The root's is set since the processor was started.
    let next = (machine.peek(root, 8) & !0xfff) + (PAGE >> 30 & 0x1ff) * 8;
    assert_eq!(address, next);
    assert_eq!(machine.peek(leaf, 8) & entry::ACCESSED, 0);
    machine.poke(DIRECTORY, 8, LARGE);
    assert_eq!(machine.write(PAGE), Ok(()));
    machine.poke(DIRECTORY, 8, LARGE & !ept::WRITE);
    machine.tlb.flush_all();
    assert_eq!(machine.write(PAGE), Ok(()), "nothing is left to be set");
}

#[test]
fn accessed_and_dirty_flags_are_kept_on_demand() {
    let mut machine = guest();
    let marks = |machine: &Machine| machine.peek(LEAVES, 8) & (ept::ACCESSED | ept::DIRTY);
    machine.write(PAGE).unwrap();
    assert_eq!(marks(&machine), 0);
    point_to_tables(&mut machine, ept_pointer::ACCESSED_AND_DIRTY);
    machine.tlb.flush_all();
    machine.read(PAGE).unwrap();
    assert_eq!(marks(&machine), ept::ACCESSED);
    assert_ne!(machine.peek(EPT, 8) & ept::ACCESSED, 0);
    assert_ne!(machine.peek(DIRECTORY, 8) & ept::DIRTY, 0, "paging structures count as written");
    machine.write(PAGE).unwrap();
    assert_eq!(marks(&machine), ept::ACCESSED | ept::DIRTY);
    machine.poke(DIRECTORY, 8, LARGE & !ept::WRITE);
    machine.tlb.flush_all();
    assert_eq!(machine.read(PAGE), Err(Trap::VmExit));
    let (qualification, ..) = violation(&mut machine);
    assert_eq!(qualification & 3, about::READ | about::WRITE);
}

#[test]
fn entries_that_are_none_are_misconfigurations() {
    let bad = [
        (LEAVES, FRAME | ept::WRITE | 6 << ept::MEMORY_TYPE_SHIFT),
        (LEAVES, FRAME | ept::WRITE | ept::EXECUTE | 6 << ept::MEMORY_TYPE_SHIFT),
        (LEAVES, FRAME | ept::PERMISSIONS | 2 << ept::MEMORY_TYPE_SHIFT),
        (LEAVES, FRAME | SMALL | 1 << 46),
        (DIRECTORY + 8, LEAVES | ept::PERMISSIONS | 1 << 3),
        (DIRECTORY + 8, LARGE | 0x1000),
        (EPT, EPT + 0x1000 | ept::PERMISSIONS | ept::LARGE),
    ];
    for (place, value) in bad {
        let mut machine = guest();
        machine.poke(place, 8, value);
        assert_eq!(machine.read(PAGE), Err(Trap::VmExit), "{value:#x}");
        let exit = machine.state.vmx.pending_exit.unwrap();
        assert_eq!(exit.reason, ExitReason::EptMisconfiguration);
    }
}

/// A guest whose pages are logged: accessed and dirty flags are set for what a read needs, and none for `PAGE` itself.
fn logged_guest(index: u64) -> Machine {
    let mut machine = guest();
    point_to_tables(&mut machine, ept_pointer::ACCESSED_AND_DIRTY);
    machine.read(PAGE).unwrap();
    machine.state.vmx.interceptions.secondary |= secondary::ENABLE_PML;
    machine.state.vmx.vmcs.set(Field::PmlAddress, LOG);
    machine.state.vmx.vmcs.set(Field::PmlIndex, index);
    machine
}

/// The page-modification log.
const LOG: u64 = EPT + 0x5000;

#[test]
fn a_page_that_becomes_dirty_is_logged_once() {
    let mut machine = logged_guest(511);
    machine.read(PAGE + 0x123).unwrap();
    assert_eq!(machine.state.vmx.vmcs.get(Field::PmlIndex), 511);
    machine.write(PAGE + 0x123).unwrap();
    machine.tlb.flush_all();
    machine.write(PAGE + 0x456).unwrap();
    assert_eq!(machine.state.vmx.vmcs.get(Field::PmlIndex), 510);
    assert_eq!(machine.peek(LOG + 511 * 8, 8), FRAME);
}

#[test]
fn without_room_in_the_log_no_flag_is_set() {
    for index in [512, 0xffff] {
        let mut machine = logged_guest(index);
        assert_eq!(machine.write(PAGE), Err(Trap::VmExit));
        let exit = machine.state.vmx.pending_exit.take().unwrap();
        assert_eq!((exit.reason, exit.qualification), (ExitReason::PageModificationLogFull, 0));
        assert_eq!(machine.peek(LEAVES, 8) & ept::DIRTY, 0);
        assert_eq!(machine.read(PAGE), Ok(0), "nothing is left to be set for it");
    }
    let mut machine = logged_guest(0);
    machine.write(PAGE).unwrap();
    assert_eq!(machine.state.vmx.vmcs.get(Field::PmlIndex), 0xffff);
}

#[test]
fn what_is_probed_does_not_find_the_log_full_later() {
    let mut machine = logged_guest(0);
    machine.core().probe(PAGE, Access::Write, Privilege::Supervisor).unwrap();
    assert_eq!(machine.state.vmx.vmcs.get(Field::PmlIndex), 0xffff);
    assert_eq!(machine.write(PAGE), Ok(()));
}

#[test]
fn executing_is_permitted_by_the_mode_of_the_address() {
    const READ_WRITE: u64 = ept::READ | ept::WRITE;
    for (user, rights, permitted) in [
        (true, ept::PERMISSIONS, false),
        (false, ept::PERMISSIONS, true),
        (true, READ_WRITE | ept::USER_EXECUTE, true),
        (false, READ_WRITE | ept::USER_EXECUTE, false),
    ] {
        let mut machine = guest();
        machine.state.vmx.interceptions.secondary |= secondary::MODE_BASED_EXECUTE_CONTROL;
        for place in [EPT, EPT + 0x1000, DIRECTORY, DIRECTORY + 8] {
            machine.poke(place, 8, machine.peek(place, 8) | ept::USER_EXECUTE);
        }
        machine.map(PAGE, FRAME, if user { OPEN } else { OPEN & !entry::USER });
        machine.poke(LEAVES, 8, FRAME | rights | 6 << ept::MEMORY_TYPE_SHIFT);
        machine.tlb.flush_all();
        machine.read(PAGE).unwrap();
        let outcome = machine.execute(PAGE);
        assert_eq!(outcome, if permitted { Ok(()) } else { Err(Trap::VmExit) });
        if !permitted {
            let told = if user { about::EXECUTABLE } else { about::USER_EXECUTABLE };
            let (qualification, ..) = violation(&mut machine);
            let rights = about::READABLE | about::WRITABLE | told;
            let of_the_page = OF_THE_PAGE & if user { !0 } else { !about::USER_LINEAR };
            assert_eq!(qualification, about::FETCH | rights | of_the_page);
        }
    }
}

/// The virtualization-exception information area.
const AREA: u64 = EPT + 0x6000;

/// A guest whose violations are exceptions; `PAGE` has this EPT entry.
fn informed_guest(leaf: u64) -> Machine {
    let mut machine = guest();
    machine.poke(LEAVES, 8, leaf);
    machine.state.vmx.interceptions.secondary |= secondary::EPT_VIOLATION_EXCEPTION;
    machine.state.vmx.vmcs.set(Field::VirtualizationExceptionInformationAddress, AREA);
    machine.state.vmx.vmcs.set(Field::EptpIndex, 9);
    machine
}

#[test]
fn a_convertible_violation_is_an_exception_that_its_delivery_tells() {
    for leaf in [0, FRAME | SMALL & !ept::WRITE] {
        let mut machine = informed_guest(leaf);
        assert_eq!(machine.write(PAGE + 7), Err(Exception::virtualization().into()));
        assert_eq!(machine.peek(AREA + 4, 4), 0, "not told yet");
        machine.state.vmx.interceptions.exceptions = 1 << vector::VE;
        let delivered = machine.core().deliver_exception(Exception::virtualization());
        assert_eq!(delivered, Err(Trap::VmExit), "told before it is intercepted");
        let rights = (leaf & ept::PERMISSIONS) << 3;
        let told = [0, 8, 16, 24].map(|offset| machine.peek(AREA + offset, 8));
        let qualification = about::WRITE | rights | OF_THE_PAGE;
        assert_eq!(told, [0xffff_ffff_0000_0030, qualification, PAGE + 7, FRAME + 7]);
        assert_eq!(machine.peek(AREA + 32, 2), 9);
    }
}

#[test]
fn a_violation_that_is_not_convertible_is_a_vm_exit() {
    type Change = fn(&mut Machine);
    let changes: [Change; 4] = [
        |machine| machine.poke(AREA + 4, 4, 1),
        |machine| machine.poke(LEAVES, 8, ept::SUPPRESS_EXCEPTION),
        |machine| machine.poke(LEAVES, 8, FRAME | SMALL & !ept::WRITE | ept::SUPPRESS_EXCEPTION),
        |machine| machine.state.vmx.delivering = Some(crate::vmx::Interruption::default()),
    ];
    for change in changes {
        let mut machine = informed_guest(0);
        change(&mut machine);
        assert_eq!(machine.write(PAGE), Err(Trap::VmExit));
        violation(&mut machine);
    }
}

#[test]
fn a_walk_is_remembered_until_it_is_invalidated() {
    let mut machine = guest();
    machine.map(PAGE + 0x1000, FRAME, OPEN);
    machine.poke(FRAME + 0x5007, 1, 0x77);
    machine.tlb.flush_all();
    assert_eq!(machine.read(PAGE + 7), Ok(0));
    machine.poke(LEAVES, 8, FRAME + 0x5000 | SMALL);
    assert_eq!(machine.read(PAGE + 0x1007), Ok(0), "by another linear address");
    machine.tlb.flush_owners(|_| true);
    assert_eq!(machine.read(PAGE + 0x1007), Ok(0x77));
}

#[test]
fn a_write_to_a_page_that_was_read_marks_it_as_dirty() {
    let mut machine = guest();
    point_to_tables(&mut machine, ept_pointer::ACCESSED_AND_DIRTY);
    machine.tlb.flush_all();
    machine.map(PAGE + 0x1000, FRAME, OPEN);
    machine.read(PAGE).unwrap();
    assert_eq!(machine.peek(LEAVES, 8) & ept::DIRTY, 0);
    machine.write(PAGE + 0x1000).unwrap();
    assert_ne!(machine.peek(LEAVES, 8) & ept::DIRTY, 0);
}
