//! What is intercepted in VMX non-root operation, and how it is told.

use super::*;
use crate::entry::{Entered, enter};
use crate::intercept::*;
use gasang_cpu::{Activity, Exception, Shadow, VmExit};
use gasang_x86::rflags;
use gasang_x86::vmx::ExitReason;
use gasang_x86::vmx::controls::{pin, secondary};

const UNDEFINED: Trap = Trap::Exception(Exception::invalid_opcode());
const REFUSED: Trap = Trap::Exception(Exception::general_protection(0));
const MEMORY: Operand = Operand::Memory(Memory {
    address_bits: 64,
    segment: 3,
    base: Some(0),
    index: None,
    scale: 1,
    displacement: 4,
});

/// A guest under a changed VMCS.
struct Guest(Machine);

impl Guest {
    fn new(primary: u32, secondary: u32, fields: &[(Field, u64)]) -> Guest {
        let mut machine = Machine::current();
        let mut vmcs = valid(&machine.capabilities);
        vmcs.set(Field::PrimaryControls, vmcs.get(Field::PrimaryControls) | u64::from(primary));
        vmcs.set(Field::SecondaryControls, secondary.into());
        for &(field, value) in fields {
            vmcs.set(field, value);
        }
        *machine.state.vmx.vmcs = vmcs;
        assert_eq!(machine.with(|core, known| enter(core, known, true, false)), Ok(Entered::Guest));
        Guest(machine)
    }

    fn at_cpl3(mut self) -> Guest {
        self.0.state.segment[segment::SS].attributes |= access::DPL;
        self
    }

    /// What the call's exit is told as; None if there is none.
    fn exit(&mut self, call: impl FnOnce(&mut Core<'_>) -> Result<(), Trap>) -> Option<VmExit> {
        match self.0.with(|core, _| call(core)) {
            Ok(()) => None,
            Err(Trap::VmExit) => Some(self.0.state.vmx.pending_exit.take().unwrap()),
            Err(other) => panic!("{other:?}"),
        }
    }

    fn qualification(&mut self, call: impl FnOnce(&mut Core<'_>) -> Result<(), Trap>) -> Option<u64> {
        self.exit(call).map(|exit| exit.qualification)
    }
}

fn cr(number: usize) -> CrAccess {
    CrAccess { number, register: 3 }
}

#[test]
fn instructions_exit_as_their_controls_say() {
    let conditional = [
        (ExitReason::Hlt, primary::HLT_EXITING, 0),
        (ExitReason::Invlpg, primary::INVLPG_EXITING, 0),
        (ExitReason::Rdpmc, primary::RDPMC_EXITING, 0),
        (ExitReason::Rdtsc, primary::RDTSC_EXITING, 0),
        (ExitReason::Wbinvd, 0, secondary::WBINVD_EXITING),
    ];
    for (reason, first, second) in conditional {
        assert_eq!(Guest::new(0, 0, &[]).exit(|core| instruction(core, reason, 5)), None);
        let exit = Guest::new(first, second, &[]).exit(|core| instruction(core, reason, 5)).unwrap();
        assert_eq!((exit.reason, exit.qualification, exit.by_instruction), (reason, 5, true));
    }
    for reason in [ExitReason::Cpuid, ExitReason::Invd, ExitReason::Vmcall] {
        assert!(Guest::new(0, 0, &[]).exit(|core| instruction(core, reason, 0)).is_some());
    }
}

#[test]
fn privilege_comes_before_the_exit_but_for_vmx_instructions() {
    let mut guest = Guest::new(primary::HLT_EXITING, 0, &[]).at_cpl3();
    assert_eq!(guest.0.with(|core, _| instruction(core, ExitReason::Hlt, 0)), Err(REFUSED));
    assert_eq!(guest.0.with(|core, _| instruction(core, ExitReason::Xsetbv, 0)), Err(UNDEFINED));
    assert!(guest.exit(|core| instruction(core, ExitReason::Cpuid, 0)).is_some());
    let exit = guest.exit(|core| vmx_instruction(core, ExitReason::Vmread, Some(&MEMORY), 7)).unwrap();
    assert_eq!((exit.qualification, exit.instruction_information >> 28), (4, 7));
    let exit = guest.exit(|core| vmx_instruction(core, ExitReason::Vmxoff, None, 0)).unwrap();
    assert_eq!((exit.qualification, exit.instruction_information), (0, 0));
    guest.0.state.segment[segment::CS].attributes &= !access::LONG;
    let undefined = guest.0.with(|core, _| vmx_instruction(core, ExitReason::Vmread, Some(&MEMORY), 7));
    assert_eq!(undefined, Err::<(), _>(UNDEFINED));
}

#[test]
fn instructions_that_are_not_enabled_do_not_exist() {
    let mut guest = Guest::new(primary::RDTSC_EXITING, 0, &[]);
    assert_eq!(guest.0.with(|core, _| instruction(core, ExitReason::Rdtscp, 0)), Err(UNDEFINED));
    assert_eq!(guest.0.with(|core, _| invpcid(core, &MEMORY, 1)), Err(UNDEFINED));
    let enabled = secondary::ENABLE_RDTSCP | secondary::ENABLE_INVPCID;
    let mut guest = Guest::new(primary::RDTSC_EXITING | primary::INVLPG_EXITING, enabled, &[]);
    assert!(guest.exit(|core| instruction(core, ExitReason::Rdtscp, 0)).is_some());
    let exit = guest.exit(|core| invpcid(core, &MEMORY, 1)).unwrap();
    assert_eq!((exit.qualification, exit.instruction_information >> 28), (4, 1));
    let mut guest = Guest::new(0, enabled, &[]);
    assert_eq!(guest.exit(|core| invpcid(core, &MEMORY, 1)), None);
}

#[test]
fn descriptor_tables_and_random_numbers() {
    let controls = secondary::DESCRIPTOR_TABLE_EXITING | secondary::RDRAND_EXITING;
    let mut guest = Guest::new(0, controls, &[]);
    let exit = guest.exit(|core| descriptor_table(core, TableInstruction::Sidt, &MEMORY, 64)).unwrap();
    assert_eq!((exit.reason, exit.qualification), (ExitReason::GdtrOrIdtrAccess, 4));
    let exit = guest.exit(|core| descriptor_table(core, TableInstruction::Ltr, &MEMORY, 16)).unwrap();
    assert_eq!((exit.reason, exit.instruction_information >> 28), (ExitReason::LdtrOrTrAccess, 3));
    assert!(guest.exit(|core| random(core, ExitReason::Rdrand, 2, 64)).is_some());
    assert!(guest.exit(|core| random(core, ExitReason::Rdseed, 2, 64)).is_none());
    let mut guest = guest.at_cpl3();
    let load = |core: &mut Core<'_>| descriptor_table(core, TableInstruction::Lldt, &MEMORY, 16);
    assert_eq!(guest.0.with(|core, _| load(core)), Err(REFUSED));
    let store = |core: &mut Core<'_>| descriptor_table(core, TableInstruction::Sgdt, &MEMORY, 64);
    assert!(guest.exit(store).is_some());
    guest.0.state.cr4 |= cr4::UMIP;
    assert_eq!(guest.0.with(|core, _| store(core)), Err(REFUSED));
}

#[test]
fn supervisor_components_exit_by_their_bitmap() {
    let Operand::Memory(memory) = MEMORY else { return };
    let saves = |core: &mut Core<'_>| xsaves(core, ExitReason::Xsaves, 0x700, &memory);
    assert_eq!(Guest::new(0, 0, &[]).0.with(|core, _| saves(core)), Err(UNDEFINED));
    let mut guest = Guest::new(0, secondary::ENABLE_XSAVES, &[(Field::XssExitingBitmap, 0x100)]);
    assert_eq!(guest.0.with(|core, _| saves(core)), Err(UNDEFINED));
    guest.0.state.cr4 |= cr4::OSXSAVE;
    assert_eq!(guest.exit(saves), None);
    guest.0.state.msr.xss = 0x100;
    assert_eq!(guest.exit(saves).map(|exit| exit.reason), Some(ExitReason::Xsaves));
}

#[test]
fn writes_of_cr0_exit_where_they_differ_from_the_shadow() {
    let fields = [(Field::Cr0GuestHostMask, cr0::TS | cr0::PG), (Field::Cr0ReadShadow, cr0::PG)];
    let mut guest = Guest::new(0, 0, &fields);
    let whole = guest.0.state.cr0;
    assert_eq!(guest.qualification(|core| mov_to_cr(core, cr(0), whole)), None);
    assert_eq!(guest.qualification(|core| mov_to_cr(core, cr(0), whole | cr0::TS)), Some(0x300));
    assert_eq!(guest.qualification(|core| mov_to_cr(core, cr(0), whole & !cr0::PG)), Some(0x300));
    assert_eq!(guest.qualification(|core| mov_to_cr(core, cr(0), whole & !cr0::WP)), None);
}

#[test]
fn the_guest_reads_the_shadow_and_writes_around_the_mask() {
    let fields = [(Field::Cr4GuestHostMask, cr4::VMXE), (Field::Cr4ReadShadow, 0)];
    let guest = Guest::new(0, 0, &fields);
    let state = &guest.0.state;
    assert_eq!(read_cr4(state), state.cr4 & !cr4::VMXE);
    assert_eq!(written_cr4(state, cr4::PAE), cr4::PAE | cr4::VMXE);
    assert_eq!((read_cr0(state), written_cr0(state, 1)), (state.cr0, 1));
}

#[test]
fn cr3_and_cr8_exit_by_controls() {
    let controls = primary::CR3_LOAD_EXITING | primary::CR8_STORE_EXITING;
    let fields =
        [(Field::Cr3TargetCount, 1), (Field::Cr3TargetValue0, 0x5000), (Field::Cr3TargetValue1, 0x6000)];
    let mut guest = Guest::new(controls, 0, &fields);
    assert_eq!(guest.qualification(|core| mov_to_cr(core, cr(3), 0x5000)), None);
    assert_eq!(guest.qualification(|core| mov_to_cr(core, cr(3), 0x6000)), Some(0x303));
    assert_eq!(guest.qualification(|core| mov_from_cr(core, cr(3))), None);
    assert_eq!(guest.qualification(|core| mov_from_cr(core, cr(8))), Some(0x318));
    assert_eq!(guest.qualification(|core| mov_to_cr(core, cr(8), 1)), None);
}

#[test]
fn clts_and_lmsw_follow_mask_and_shadow() {
    let masked = |shadow| [(Field::Cr0GuestHostMask, cr0::TS | cr0::PE), (Field::Cr0ReadShadow, shadow)];
    let mut guest = Guest::new(0, 0, &masked(cr0::TS | cr0::PE));
    assert_eq!(guest.qualification(clts), Some(0x20));
    assert!(!clts_clears(&guest.0.state));
    // PE cannot be cleared by LMSW: no attempt, no exit.
    assert_eq!(guest.qualification(|core| lmsw(core, 8, None)), None);
    assert_eq!(guest.qualification(|core| lmsw(core, 0xabc1, None)), Some(0xabc1_0030));
    let mut guest = Guest::new(0, 0, &masked(0));
    assert_eq!(guest.qualification(clts), None);
    assert_eq!(guest.qualification(|core| lmsw(core, 6, None)), None);
    let exit = guest.exit(|core| lmsw(core, 1, Some(0x7777))).unwrap();
    assert_eq!((exit.qualification, exit.guest_linear), (0x1_0070, 0x7777));
}

#[test]
fn debug_registers_exit_by_control() {
    let mut guest = Guest::new(primary::MOV_DR_EXITING, 0, &[]);
    assert_eq!(guest.qualification(|core| mov_dr(core, 7, 2, true)), Some(0x217));
    assert_eq!(guest.qualification(|core| mov_dr(core, 0, 0, false)), Some(0));
}

#[test]
fn the_task_priority_is_shadowed() {
    let fields = [(Field::VirtualApicAddress, PAGES), (Field::TprThreshold, 0)];
    let mut guest = Guest::new(primary::USE_TPR_SHADOW, 0, &fields);
    assert!(guest.0.with(|core, _| write_shadowed_cr8(core, 5)));
    assert_eq!(guest.0.peek(PAGES + 0x80, 4), 0x50);
    assert_eq!(guest.0.with(|core, _| read_shadowed_cr8(core)), Some(5));
    assert_eq!(guest.0.with(|core, _| below_threshold(core)), None);
    guest.0.state.vmx.vmcs.set(Field::TprThreshold, 6);
    let exit = guest.0.with(|core, _| below_threshold(core)).unwrap();
    assert_eq!(exit.reason, ExitReason::TprBelowThreshold);
    let mut plain = Guest::new(0, 0, &[]);
    assert_eq!(plain.0.with(|core, _| read_shadowed_cr8(core)), None);
}

fn access_of(port: u16, size: u8) -> PortAccess {
    PortAccess { port, size, input: true, immediate: false, string: None }
}

#[test]
fn ports_exit_by_bitmaps() {
    let bitmaps = [(Field::IoBitmapA, PAGES), (Field::IoBitmapB, PAGES + 0x1000)];
    let mut guest = Guest::new(primary::USE_IO_BITMAPS, 0, &bitmaps);
    guest.0.poke(PAGES + 0x71 / 8, 1, 1 << (0x71 % 8));
    guest.0.poke(PAGES + 0x1000, 1, 1);
    assert_eq!(guest.qualification(|core| port(core, &access_of(0x70, 1))), None);
    assert_eq!(guest.qualification(|core| port(core, &access_of(0x70, 2))), Some(0x0070_0009));
    assert_eq!(guest.qualification(|core| port(core, &access_of(0x7ffd, 4))), Some(0x7ffd_000b));
    assert_eq!(guest.qualification(|core| port(core, &access_of(0xffff, 2))), Some(0xffff_0009));
    assert_eq!(guest.qualification(|core| port(core, &access_of(0xffff, 1))), None);
}

#[test]
fn without_bitmaps_ports_exit_by_control() {
    assert_eq!(Guest::new(0, 0, &[]).exit(|core| port(core, &access_of(0x70, 1))), None);
    let mut guest = Guest::new(primary::UNCONDITIONAL_IO_EXITING, 0, &[]);
    let string = StringAccess { repeated: true, linear: 0x1234, address_bits: 64, segment: 3 };
    let access = PortAccess { input: false, string: Some(string), ..access_of(0x3f8, 1) };
    let exit = guest.exit(|core| port(core, &access)).unwrap();
    assert_eq!((exit.qualification, exit.guest_linear), (0x03f8_0030, 0x1234));
    assert_eq!(exit.instruction_information, 2 << 7 | 3 << 15);
}

#[test]
fn msrs_exit_by_bitmaps() {
    assert!(Guest::new(0, 0, &[]).exit(|core| msr(core, 0x1b, false)).is_some());
    let mut guest = Guest::new(primary::USE_MSR_BITMAPS, 0, &[(Field::MsrBitmaps, PAGES)]);
    guest.0.poke(PAGES + 0x10 / 8, 1, 1);
    guest.0.poke(PAGES + 1024 + 0x82 / 8, 1, 1 << 2);
    guest.0.poke(PAGES + 3072, 1, 1);
    for (index, write, caught) in [
        (0x10, false, true),
        (0x10, true, false),
        (0x11, false, false),
        (0xc000_0082, false, true),
        (0xc000_0080, true, false),
        (0xc000_0000, true, true),
        (0x2000, false, true),
        (0xc000_2000, true, true),
    ] {
        let exit = guest.exit(|core| msr(core, index, write));
        assert_eq!(exit.is_some(), caught, "{index:#x}");
        let reason = if write { ExitReason::Wrmsr } else { ExitReason::Rdmsr };
        assert!(exit.is_none_or(|exit| exit.reason == reason));
    }
}

const NOTHING: Signals = Signals { init: false, start_up: false, nmi: false, interrupt: false };
const EVERYTHING: Signals = Signals { init: true, start_up: true, nmi: true, interrupt: true };

impl Guest {
    fn with_pin_controls(pin: u32, primary: u32, fields: &[(Field, u64)]) -> Guest {
        let pin = u64::from(Machine::new().capabilities.pin.ones | pin);
        let fields: Vec<_> = fields.iter().copied().chain([(Field::PinBasedControls, pin)]).collect();
        Guest::new(primary, 0, &fields)
    }

    fn due(&self, waiting: Signals) -> Option<Due> {
        due(&self.0.state, waiting, || self.0.platform.tsc)
    }

    fn due_reason(&self) -> Option<ExitReason> {
        self.due(NOTHING).map(|due| match due {
            Due::Exit(exit) => exit.reason,
            other => panic!("{other:?}"),
        })
    }
}

#[test]
fn windows_open_when_nothing_is_blocked() {
    let mut guest = Guest::new(primary::INTERRUPT_WINDOW_EXITING, 0, &[]);
    assert!(guest.0.state.vmx.interceptions.windows());
    assert_eq!(guest.due_reason(), None);
    guest.0.state.rflags |= rflags::IF;
    guest.0.state.shadow = Shadow::Sti;
    assert_eq!(guest.due_reason(), None);
    guest.0.state.shadow = Shadow::None;
    assert_eq!(guest.due_reason(), Some(ExitReason::InterruptWindow));
    guest.0.state.activity = Activity::Shutdown;
    assert_eq!(guest.due_reason(), None);

    let nmis = pin::NMI_EXITING | pin::VIRTUAL_NMIS;
    let mut guest = Guest::with_pin_controls(nmis, primary::NMI_WINDOW_EXITING, &[]);
    assert_eq!(guest.due_reason(), Some(ExitReason::NmiWindow));
    guest.0.state.shadow = Shadow::Sti;
    assert_eq!(guest.due_reason(), Some(ExitReason::NmiWindow));
    guest.0.state.nmi_blocked = true;
    assert_eq!(guest.due_reason(), None);
}

#[test]
fn what_is_due_has_an_order() {
    let pins = pin::NMI_EXITING
        | pin::VIRTUAL_NMIS
        | pin::EXTERNAL_INTERRUPT_EXITING
        | pin::ACTIVATE_PREEMPTION_TIMER;
    let windows = primary::NMI_WINDOW_EXITING | primary::INTERRUPT_WINDOW_EXITING;
    let mut guest = Guest::with_pin_controls(pins, windows, &[(Field::VmxPreemptionTimerValue, 2)]);
    guest.0.platform.tsc = 64;
    let state = &mut guest.0.state;
    state.rflags |= rflags::IF;
    state.vmx.monitor_trap_pending = true;
    let exit = |reason| Some(Due::Exit(VmExit::new(reason)));
    assert_eq!(guest.due(EVERYTHING), Some(Due::Init));
    let later = Signals { init: false, ..EVERYTHING };
    assert_eq!(guest.due(later), exit(ExitReason::MonitorTrapFlag));
    guest.0.state.vmx.monitor_trap_pending = false;
    guest.0.state.pending_debug = 1;
    assert_eq!(guest.due(later), None, "debug traps come first");
    guest.0.state.pending_debug = 0;
    assert_eq!(guest.due(later), exit(ExitReason::PreemptionTimerExpired));
    guest.0.state.vmx.preemption_deadline = None;
    assert_eq!(guest.due(later), exit(ExitReason::NmiWindow));
    guest.0.state.nmi_blocked = true;
    assert_eq!(guest.due(later), Some(Due::Nmi));
    let later = Signals { nmi: false, ..later };
    assert_eq!(guest.due(later), exit(ExitReason::InterruptWindow));
    guest.0.state.rflags &= !rflags::IF;
    assert_eq!(guest.due(later), Some(Due::Interrupt { acknowledged: false }));
    assert_eq!(guest.due(NOTHING), None);
}

#[test]
fn a_guest_that_waits_for_a_start_up_ipi_hears_nothing_else() {
    let pins = pin::NMI_EXITING | pin::EXTERNAL_INTERRUPT_EXITING | pin::ACTIVATE_PREEMPTION_TIMER;
    let waits = [(Field::GuestActivityState, 3)];
    let guest = Guest::with_pin_controls(pins, 0, &waits);
    assert_eq!(guest.due(Signals { init: false, ..EVERYTHING }), Some(Due::StartUp));
    assert_eq!(guest.due(Signals { nmi: true, interrupt: true, ..NOTHING }), None);
    assert_eq!(guest.due(EVERYTHING), Some(Due::Init));
    let awake = Guest::with_pin_controls(pins, 0, &[(Field::VmxPreemptionTimerValue, 2)]);
    assert_eq!(awake.due(Signals { start_up: true, ..NOTHING }), None);
}

#[test]
fn signals_that_are_not_intercepted_are_not_due() {
    let mut guest = Guest::new(0, 0, &[]);
    guest.0.state.rflags |= rflags::IF;
    assert_eq!(guest.due(Signals { init: false, ..EVERYTHING }), None);
    assert!(!guest.0.state.vmx.interceptions.windows());
    let mut guest = Guest::with_pin_controls(pin::NMI_EXITING | pin::EXTERNAL_INTERRUPT_EXITING, 0, &[]);
    let waiting = Signals { nmi: true, interrupt: true, ..NOTHING };
    assert_eq!(guest.due(waiting), Some(Due::Nmi));
    // Without virtual NMIs the blocking is of those that exit.
    guest.0.state.nmi_blocked = true;
    assert_eq!(guest.due(waiting), Some(Due::Interrupt { acknowledged: false }));
    guest.0.state.shadow = Shadow::Sti;
    assert_eq!(guest.due(waiting), None);
}

#[test]
fn the_monitor_trap_flag_follows_injected_events() {
    let guest = Guest::new(primary::MONITOR_TRAP_FLAG, 0, &[]);
    assert_eq!(guest.due_reason(), None);
    // An NMI under the flag, and the pseudo-event that is nothing else.
    for (controls, event) in [(primary::MONITOR_TRAP_FLAG, 0x8000_0202), (0, 0x8000_0700)] {
        let injected = [(Field::VmEntryInterruptionInformation, event)];
        let mut guest = Guest::new(controls, 0, &injected);
        assert_eq!(guest.0.with(|core, _| crate::entry::inject(core)), Ok(()));
        assert_eq!(guest.due_reason(), Some(ExitReason::MonitorTrapFlag));
    }
}

#[test]
fn the_preemption_timer_expires() {
    let timer = [(Field::VmxPreemptionTimerValue, 2)];
    let mut guest = Guest::with_pin_controls(pin::ACTIVATE_PREEMPTION_TIMER, 0, &timer);
    assert_eq!(guest.due_reason(), None);
    guest.0.platform.tsc = 64;
    assert_eq!(guest.due_reason(), Some(ExitReason::PreemptionTimerExpired));
}

#[test]
fn long_loops_of_pause_exit() {
    let fields = [(Field::PleGap, 10), (Field::PleWindow, 100)];
    let mut guest = Guest::new(0, secondary::PAUSE_LOOP_EXITING, &fields);
    let mut exits = Vec::new();
    for step in 0..20 {
        guest.0.platform.tsc = 1000 + step * 8;
        exits.push(guest.exit(pause).is_some());
    }
    assert_eq!(exits.iter().position(|&exit| exit), Some(13));
    guest.0.platform.tsc += 50;
    assert!(guest.exit(pause).is_none());
    assert!(Guest::new(primary::PAUSE_EXITING, 0, &[]).exit(pause).is_some());
    // Whatever the gap, the first after an entry begins a loop.
    let mut guest = Guest::new(0, secondary::PAUSE_LOOP_EXITING, &[(Field::PleGap, 0xffff_ffff)]);
    guest.0.platform.tsc = 5;
    assert!(guest.exit(pause).is_none());
    guest.0.platform.tsc = 6;
    assert!(guest.exit(pause).is_some());
}

#[test]
fn the_time_stamp_counter_is_scaled_and_moved() {
    let fields = [(Field::TscOffset, 7u64.wrapping_neg()), (Field::TscMultiplier, 3 << 47)];
    for (first, second, expected) in [
        (primary::USE_TSC_OFFSETTING, secondary::USE_TSC_SCALING, 1500 - 7),
        (primary::USE_TSC_OFFSETTING, 0, 993),
        (0, 0, 1000),
    ] {
        let mut guest = Guest::new(first, second, &fields);
        guest.0.platform.tsc = 1000;
        assert_eq!(guest.0.with(|core, _| core.time_stamp_counter()), expected);
    }
}
