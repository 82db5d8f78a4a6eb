//! Random VMCSs: whatever a hypervisor writes, nothing panics; and what could be entered can be entered again.

use super::*;
use crate::entry::{Entered, enter, inject};
use crate::exit::leave;
use crate::intercept::{PortAccess, Signals, below_threshold, due, msr, port};
use gasang_cpu::{Activity, Operation, VmExit};
use gasang_x86::vmx::ExitReason;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// A value that is likely to matter.
    fn interesting(&mut self, old: u64) -> u64 {
        match self.below(7) {
            0 => 0,
            1 => u64::MAX,
            2 => old ^ 1 << self.below(64),
            3 => PAGES + 0x1000 * (self.next() & 15),
            4 => self.next(),
            5 => self.next() & 0xff,
            _ => old | self.next() & self.next() & self.next(),
        }
    }
}

fn change(vmcs: &mut Vmcs, random: &mut Random, fields: usize) {
    for _ in 0..fields {
        let field = Field::ALL[random.below(Field::COUNT)];
        let value = random.interesting(vmcs.get(field));
        vmcs.set(field, value);
    }
}

#[test]
fn random_control_structures_never_panic() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut counts = [0; 4];
    for _ in 0..1500 {
        let mut machine = Machine::current();
        let mut vmcs = valid(&machine.capabilities);
        let fields = 1 + random.below(12);
        change(&mut vmcs, &mut random, fields);
        *machine.state.vmx.vmcs = vmcs;
        match machine.with(|core, known| enter(core, known, true, false)) {
            Ok(Entered::Failed(..)) => counts[0] += 1,
            Ok(Entered::Returned(_)) => counts[1] += 1,
            Ok(Entered::Guest) => {
                counts[2] += 1;
                run(&mut machine, &mut random);
            }
            Err(trap) => {
                counts[3] += 1;
                assert_eq!((trap, machine.state.activity), (Trap::Shutdown, Activity::Shutdown));
            }
        }
        assert!(machine.state.vmx.vmcs.get(Field::ExitReason) <= u64::from(u32::MAX));
    }
    assert!(counts[..3].iter().all(|&count| count > 25), "{counts:?}");
}

/// In the guest: inject, ask what is due, leave.
fn run(machine: &mut Machine, random: &mut Random) {
    assert_eq!(machine.state.vmx.operation, Operation::NonRoot);
    let injected = machine.with(|core, _| inject(core));
    if injected != Err(Trap::VmExit) {
        let waiting = Signals { nmi: true, interrupt: true, ..Default::default() };
        let _ = due(&machine.state, waiting, || random.next());
        let _ = machine.with(|core, _| below_threshold(core));
        let access = PortAccess {
            port: random.next() as u16,
            size: 1 << random.below(3),
            input: true,
            immediate: false,
            string: None,
        };
        let _ = machine.with(|core, _| port(core, &access).and_then(|()| msr(core, 0x10, true)));
        if machine.state.vmx.pending_exit.is_none() {
            machine.state.exit(VmExit::new(ExitReason::Cpuid));
        }
    }
    match machine.with(|core, _| leave(core)) {
        Ok(exit) => assert!(exit.is_some() && machine.state.vmx.operation == Operation::Root),
        Err(trap) => assert_eq!((trap, machine.state.activity), (Trap::Shutdown, Activity::Shutdown)),
    }
}

#[test]
fn what_was_entered_can_be_entered_again() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut entered = 0;
    for _ in 0..1000 {
        let mut machine = Machine::current();
        let mut vmcs = valid(&machine.capabilities);
        let fields = 1 + random.below(4);
        change(&mut vmcs, &mut random, fields);
        *machine.state.vmx.vmcs = vmcs;
        if machine.with(|core, known| enter(core, known, true, false)) != Ok(Entered::Guest) {
            continue;
        }
        machine.state.exit(VmExit::new(ExitReason::ExternalInterrupt));
        if machine.with(|core, _| leave(core)).is_err() {
            continue;
        }
        entered += 1;
        let again = machine.with(|core, known| enter(core, known, false, false));
        assert_eq!(again, Ok(Entered::Guest), "{:?}", machine.state.vmx.vmcs);
    }
    assert!(entered > 100, "{entered}");
}
