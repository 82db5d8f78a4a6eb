//! No state that a guest can make, and no operand, makes the processor panic.

use super::*;
use gasang_x86::{msr, rflags};

/// A small generator (xorshift64): the same sequence in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Addresses and values near what matters: tables, page edges, the ends of number ranges.
    fn interesting(&mut self) -> u64 {
        let near = self.below(32).wrapping_sub(16);
        let place = match self.below(8) {
            0 => 0,
            1 => 1 << 16,
            2 => 1 << 32,
            3 => 1 << 47,
            4 => 0xffff_8000_0000_0000,
            5 => self.below(4 << 20),
            6 => self.next(),
            _ => GDT + self.below(0x8000),
        };
        place.wrapping_add(near)
    }
}

fn machine(random: &mut Random) -> Machine {
    let mut machine = match random.below(4) {
        0 => Machine::real(),
        1 => Machine::protected(),
        _ => Machine::long(),
    };
    for _ in 0..random.below(40) {
        let (at, value) = (GDT + random.below(0x3000), random.next());
        machine.poke(at, 8, value);
    }
    let state = &mut machine.state;
    if random.below(2) == 0 && state.protected_mode() && !state.long_mode() && random.below(2) == 0 {
        machine.enter_virtual_8086(random.below(4));
    } else if random.below(2) == 0 && machine.state.protected_mode() {
        let code = if random.below(2) == 0 && machine.state.long_mode() { USER_CODE } else { USER_CODE32 };
        machine.enter_user(code);
    }
    let state = &mut machine.state;
    for register in [gpr::RSP, gpr::RCX, gpr::RDX, gpr::R11] {
        state.gpr[register] = random.interesting();
    }
    state.rflags ^= random.next() & (rflags::WRITABLE & !rflags::VM);
    state.rip = random.interesting();
    let toggled =
        random.next() & (cr4::PSE | cr4::PGE | cr4::SMEP | cr4::SMAP | cr4::VME | cr4::UMIP | cr4::PVI);
    state.cr4 ^= toggled | cr4::OSXSAVE;
    for table in [&mut state.gdtr, &mut state.idtr] {
        if random.below(4) == 0 {
            *table = DescriptorTable { base: random.interesting(), limit: random.next() as u16 };
        }
    }
    if random.below(4) == 0 {
        let register = random.below(6) as usize;
        state.segment[register].limit = random.next() as u32;
        state.segment[register].base = random.interesting();
        state.segment[register].attributes ^= random.next() as u32 & (access::DB | access::EXPAND_DOWN);
    }
    if random.below(4) == 0 {
        state.tr.limit = random.next() as u32 & 0xff;
        state.tr.base = random.interesting();
    }
    machine
}

fn call(core: &mut Core<'_>, random: &mut Random) -> Result<(), Trap> {
    let selector = random.below(0x80) as u16;
    let value = random.interesting();
    let bits = [16, 32, 64][random.below(if core.state.in_64bit_mode() { 3 } else { 2 }) as usize];
    let vector = random.next() as u8;
    match random.below(24) {
        0 => core.deliver_interrupt(vector),
        1 => core.deliver_exception(Exception::page_fault(value, 2)),
        2 => core.software_interrupt(vector, value),
        3 => core.far_jump(selector, value, bits, value),
        4 => core.far_call(selector, value, bits, value),
        5 => core.far_return(bits, random.next() & 0xffff),
        6 => core.iret(bits, value),
        7 => core.syscall(value),
        8 => core.sysret(bits),
        9 => core.sysenter(value),
        10 => core.sysexit(bits),
        11 => core.load_segment(random.below(6) as usize, selector),
        12 => core.lldt(selector),
        13 => core.ltr(selector),
        14 => core.lar(selector).and(core.lsl(selector)).map(|_| ()),
        15 => core.write_cr(random.below(9) as usize, value),
        16 => core.write_cr(0, random.next() & cr0::DEFINED),
        17 => core.wrmsr(msr::TSC + random.below(0x400) as u32, value),
        18 => core.check_io(random.next() as u16, 1 << random.below(3)),
        19 => core.xsave(value & !63, random.next(), SaveKind::Compacted, bits == 64),
        20 => core.xrstor(value & !63, random.next(), false, bits == 64),
        21 => core.fxrstor(value & !15, bits == 64),
        22 => core.popf(random.next(), bits),
        _ => core.invpcid(random.below(5), [random.below(0x1100), value]),
    }
}

#[test]
fn random_states_and_operands_never_panic() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut outcomes = [0; 4];
    for _ in 0..1500 {
        let mut machine = machine(&mut random);
        for _ in 0..8 {
            let before = machine.state.clone();
            let result = call(&mut machine.core(), &mut random);
            outcomes[match result {
                Ok(()) => 0,
                Err(Trap::Exception(_)) => 1,
                Err(Trap::Pending) => 2,
                Err(Trap::Shutdown) => 3,
                Err(Trap::VmExit) => panic!("a VM exit outside VMX operation"),
            }] += 1;
            if let Err(Trap::Exception(exception)) = result {
                assert!(exception.vector < 32 && machine.state.cr0 | cr0::TS == before.cr0 | cr0::TS);
            }
            let offset = random.interesting();
            let size = 1 << random.below(5);
            let register = random.below(6) as usize;
            if let Ok(linear) = machine.core().logical_to_linear(register, offset, size, Access::Write) {
                let _ = machine.write(linear);
            }
        }
    }
    assert!(outcomes.iter().all(|&count| count > 0), "{outcomes:?}");
}
