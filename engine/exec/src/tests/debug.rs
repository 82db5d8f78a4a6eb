//! Facts about breakpoints, the trap flag and interrupt shadows.

use super::machine::{CODE, DATA, Machine, STACK};
use crate::Step;
use gasang_cpu::Shadow;
use gasang_x86::{exception as vector, gpr, rflags};

/// Breakpoint 0 at `address`, globally: `kind` 0 execution, 1 write, 2 port, 3 access; length in bytes.
fn set_breakpoint(machine: &mut Machine, address: u64, kind: u64, length: u64) {
    machine.state.dr[0] = address;
    machine.state.dr[7] |= 2 | kind << 16 | (length - 1) << 18;
}

#[test]
fn an_instruction_breakpoint_faults_once_and_rf_passes_it() {
    let mut machine = Machine::new();
    set_breakpoint(&mut machine, CODE, 0, 1);
    machine.execute(&[0x90]);
    assert_eq!((machine.vector(), machine.top()), (Some(vector::DB), CODE));
    assert_eq!(machine.state.dr[6] & 0xf, 1);
    machine.state.rip = CODE;
    machine.state.rflags |= rflags::RF;
    machine.step();
    assert_eq!(machine.state.rip, CODE + 1);
    assert_eq!(machine.state.rflags & rflags::RF, 0);
}

#[test]
fn a_data_breakpoint_traps_after_the_access() {
    let mut machine = Machine::new();
    set_breakpoint(&mut machine, DATA + 4, 1, 4);
    machine.state.gpr[gpr::RDI] = DATA;
    machine.execute(&[0x8b, 0x47, 0x04]); // mov eax, [rdi+4]: a read
    assert_eq!(machine.vector(), None);
    machine.execute(&[0x48, 0x89, 0x07]); // mov [rdi], rax: covers it
    assert_eq!((machine.vector(), machine.top()), (Some(vector::DB), CODE + 6));
    assert_eq!(machine.state.dr[6] & 0xf, 1);
}

#[test]
fn a_faulting_access_leaves_no_breakpoint_behind() {
    let mut machine = Machine::new();
    set_breakpoint(&mut machine, DATA, 1, 8);
    machine.protect(DATA, 0);
    machine.state.gpr[gpr::RDI] = DATA;
    machine.execute(&[0x48, 0x89, 0x07]);
    assert_eq!(machine.vector(), Some(vector::PF));
    assert_eq!((machine.state.pending_debug, machine.state.dr[6] & 0xf), (0, 0));
}

#[test]
fn popf_that_sets_tf_traps_one_instruction_later() {
    let mut machine = Machine::new();
    machine.write(STACK, 8, rflags::TF | rflags::FIXED);
    machine.load(&[0x9d, 0x90]); // popfq; nop
    machine.step();
    assert_eq!(machine.vector(), None);
    machine.step();
    assert_eq!((machine.vector(), machine.top()), (Some(vector::DB), CODE + 2));
}

#[test]
fn int_n_under_tf_enters_its_handler_untraced() {
    let mut machine = Machine::new();
    machine.state.rflags |= rflags::TF;
    machine.execute(&[0xcd, 0x80]);
    assert_eq!((machine.vector(), machine.top()), (Some(0x80), CODE + 2));
    assert_eq!(machine.state.rflags & rflags::TF, 0);
}

#[test]
fn sti_shadows_one_instruction_if_it_changes_if() {
    let mut machine = Machine::new();
    machine.load(&[0xfb, 0xfb, 0x90]);
    machine.step();
    assert_eq!(machine.state.shadow, Shadow::Sti);
    machine.step();
    assert_eq!(machine.state.shadow, Shadow::None);
}

#[test]
fn a_pending_instruction_keeps_its_shadow() {
    let mut machine = Machine::new();
    machine.surroundings.pending = true;
    machine.load(&[0xfb, 0xec]); // sti; in al, dx
    machine.step();
    assert_eq!(machine.step(), Step::Pending);
    assert_eq!(machine.state.shadow, Shadow::Sti);
    machine.surroundings.pending = false;
    assert_eq!(machine.step(), Step::Retired);
    assert_eq!(machine.state.shadow, Shadow::None);
}
