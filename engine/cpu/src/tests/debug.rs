//! Facts about debug registers (SDM vol. 3, 17.2).

use super::*;
use gasang_x86::control::debug;
use gasang_x86::rflags;

#[test]
fn debug_registers_keep_their_fixed_bits() {
    let mut machine = Machine::long();
    let mut core = machine.core();
    core.write_dr(6, 0).unwrap();
    core.write_dr(7, 0xffff_dfff).unwrap();
    assert_eq!(core.read_dr(6), Ok(debug::DR6_FIXED));
    assert_eq!(core.read_dr(7), Ok(0xffff_07ff));
    assert_eq!(core.write_dr(7, 1 << 32), Err(general_protection(0)));
    core.write_dr(0, 0xffff_8000_0000_0000).unwrap();
    assert_eq!(core.read_dr(0), Ok(0xffff_8000_0000_0000));
}

#[test]
fn dr4_and_dr5_are_aliases_without_de() {
    let mut machine = Machine::long();
    assert_eq!(machine.core().read_dr(4), Ok(debug::DR6_FIXED));
    machine.state.cr4 |= cr4::DE;
    assert_eq!(machine.core().read_dr(4), Err(Exception::invalid_opcode().into()));
}

#[test]
fn general_detect_guards_the_debug_registers() {
    let mut machine = Machine::long();
    machine.core().write_dr(7, debug::DR7_GD).unwrap();
    assert_eq!(machine.core().read_dr(0), Err(Exception::debug_fault(debug::DR6_BD).into()));
    machine.enter_user(USER_CODE);
    assert_eq!(machine.core().read_dr(0), Err(general_protection(0)));
}

#[test]
fn breakpoints_match_where_they_overlap() {
    let mut machine = Machine::long();
    let mut core = machine.core();
    core.write_dr(0, 0x1234).unwrap();
    core.write_dr(1, 0x2003).unwrap();
    core.write_dr(2, 0x3000).unwrap();
    // 0: execution; 1: writes of 4 bytes; 2: reads and writes of 8 bytes.
    core.write_dr(7, 0x15 | 0xd << 20 | 0xb << 24).unwrap();
    assert_eq!(core.instruction_breakpoints(), 1);
    assert_eq!(core.data_breakpoints(0x1234, 1, true), 0);
    assert_eq!(core.data_breakpoints(0x1ffe, 4, true), 2, "the address is aligned to the length");
    assert_eq!(core.data_breakpoints(0x1ffe, 4, false), 0);
    assert_eq!(core.data_breakpoints(0x1ffe, 2, true), 0);
    assert_eq!(core.data_breakpoints(0x3007, 1, false), 4);
    assert_eq!(core.data_breakpoints(0x3008, 1, false), 0);
    core.state.rflags |= rflags::RF;
    assert_eq!(core.instruction_breakpoints(), 0);
}

#[test]
fn io_breakpoints_need_de() {
    let mut machine = Machine::long();
    machine.core().write_dr(0, 0x3f8).unwrap();
    machine.core().write_dr(7, 1 | 2 << 16).unwrap();
    assert_eq!(machine.core().io_breakpoints(0x3f8, 1), 0);
    machine.state.cr4 |= cr4::DE;
    assert_eq!(machine.core().io_breakpoints(0x3f8, 1), 1);
    assert_eq!(machine.core().io_breakpoints(0x3f9, 1), 0);
}
