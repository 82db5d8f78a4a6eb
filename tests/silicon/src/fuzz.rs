//! Random code from random machine states, in every mode, through T0 and T1: a guest may do anything, the engine may
//! neither panic nor hang nor leave the guest's RAM. What happens follows from a seed alone.

use crate::forms;
use crate::random::Random;
use gasang_cpu::{
    Activity, Core, CpuModel, DescriptorTable, Platform, SegmentRegister, Shadow, Tlb, Trap, VcpuState,
};
use gasang_exec::{Interpreter, Step};
use gasang_memory::GuestMemory;
use gasang_translate::{CodePages, Options, Translator};
use gasang_x86::control::{cr0, cr4, debug, efer, xcr0};
use gasang_x86::descriptor::access;
use gasang_x86::{gpr, rflags, segment};
use std::io;
use std::sync::Arc;

const RAM: u64 = 0x2_0000;
// What lies where at first: page tables, descriptor tables, code, data.
const PAGE_TABLES: u64 = 0x1000;
const DIRECTORY_POINTERS: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
const TABLE: u64 = 0x4000;
const NARROW_TABLE: u64 = 0x5000;
const GDT: u64 = 0x8000;
const LDT: u64 = 0x9000;
const IDT: u64 = 0xa000;
const TSS: u64 = 0xb000;
const CODE: u64 = 0xc000;
const CODE_END: u64 = 0x1_0000;
/// How often execution is resumed, and with how many instructions.
const ROUNDS: u64 = 12;
const BUDGET: u64 = 200;
const TLB_ENTRIES: usize = 16;

/// Surroundings that answer anything, now and then only when asked again.
struct Surroundings {
    random: Random,
    pages: Arc<CodePages>,
    /// Whether the next access has to ask outside.
    asks: bool,
    task_priority: u8,
}

impl Surroundings {
    fn answer(&mut self) -> Result<u64, Trap> {
        if std::mem::replace(&mut self.asks, false) { Err(Trap::Pending) } else { Ok(self.random.next()) }
    }
}

impl Platform for Surroundings {
    fn port_read(&mut self, _: u16, _: u8) -> Result<u32, Trap> {
        self.answer().map(|value| value as u32)
    }

    fn port_write(&mut self, _: u16, _: u8, _: u32) -> Result<(), Trap> {
        self.answer().map(drop)
    }

    fn mmio_read(&mut self, _: u64, _: u8) -> Result<u64, Trap> {
        self.answer()
    }

    fn mmio_write(&mut self, _: u64, _: u8, _: u64) -> Result<(), Trap> {
        self.answer().map(drop)
    }

    fn msr_read(&mut self, msr: u32) -> Option<Result<u64, Trap>> {
        (0x800..0x900).contains(&msr).then(|| self.answer())
    }

    fn msr_write(&mut self, msr: u32, _: u64, _: u64) -> Option<Result<(), Trap>> {
        (0x800..0x900).contains(&msr).then(|| self.answer().map(drop))
    }

    fn task_priority(&mut self) -> u8 {
        self.task_priority
    }

    fn set_task_priority(&mut self, value: u8) {
        self.task_priority = value;
    }

    fn time_stamp_counter(&mut self) -> u64 {
        self.random.next()
    }

    fn random(&mut self) -> u64 {
        self.random.next()
    }

    fn code_written(&mut self, host: u64, length: u64) {
        self.pages.note(0, host, length);
    }

    fn iteration_committed(&mut self) {}
}

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Instructions that were executed.
    pub instructions: u64,
    /// Blocks that were translated.
    pub blocks: u64,
    /// Whether the processor shut down.
    pub shut_down: bool,
}

/// Execute what `seed` says. The thread needs an alternate signal stack.
///
/// # Errors
/// If memory runs out or the host lacks what the engine needs.
///
/// # Panics
/// If the engine does: that is what is looked for.
pub fn run(seed: u64, model: &CpuModel) -> io::Result<Summary> {
    let random = &mut Random::of(seed, 0);
    let memory = Arc::new(GuestMemory::new(RAM)?);
    let pages = Arc::new(CodePages::new(&memory, 1));
    let options = Options {
        cache_bytes: if random.one_in(4) { 0 } else { 1 << 20 },
        strict_flags: random.one_in(2),
        flush_on_write: random.one_in(4),
        eager: random.one_in(2),
        patience: random.pick(&[0, 2, u8::MAX]),
        ..Options::default()
    };
    let mut translator = Translator::new(options, Arc::clone(&pages), 0, &memory, model)?;
    let mut interpreter = Interpreter::new()?;
    let mut surroundings = Surroundings { random: Random::of(seed, 1), pages, asks: false, task_priority: 0 };
    let mut tlb = Tlb::new(TLB_ENTRIES);
    fill_memory(&memory, random);
    let mut state = random_state(random);
    let only_t0 = random.one_in(3);
    let mut core =
        Core { state: &mut state, tlb: &mut tlb, memory: &memory, platform: &mut surroundings, model };
    for _ in 0..ROUNDS {
        // A platform that asks is asked again with the answer; here that is the next round.
        let step = if only_t0 {
            step_some(&mut core, &mut interpreter)
        } else {
            let most = if random.one_in(3) { 1 + random.below(BUDGET) } else { u64::MAX };
            let last = core.state.instructions.saturating_add(most);
            let step =
                translator.run(&mut core, &mut interpreter, 1 + random.below(BUDGET), most, random.one_in(2));
            assert!(core.state.instructions <= last, "{} after {last}", core.state.instructions);
            step
        };
        match step {
            Step::Shutdown => break,
            Step::Halted => core.state.activity = Activity::Active,
            Step::Retired | Step::Pending => {}
        }
        if interrupt(&mut core, random) == Err(Trap::Shutdown) {
            break;
        }
    }
    Ok(Summary {
        instructions: state.instructions,
        blocks: translator.statistics().blocks,
        shut_down: state.activity == Activity::Shutdown,
    })
}

fn step_some(core: &mut Core<'_>, interpreter: &mut Interpreter) -> Step {
    for _ in 0..BUDGET / 4 {
        let step = interpreter.step(core);
        if step != Step::Retired {
            return step;
        }
    }
    Step::Retired
}

/// Now and then, an interrupt or NMI.
fn interrupt(core: &mut Core<'_>, random: &mut Random) -> Result<(), Trap> {
    let open = core.state.shadow == Shadow::None;
    match random.below(8) {
        0 if open && core.state.rflags & rflags::IF != 0 => core.deliver_interrupt(random.next() as u8),
        1 if open && !core.state.nmi_blocked => core.deliver_nmi(),
        _ => Ok(()),
    }
}

fn write(memory: &GuestMemory, at: u64, bytes: &[u8]) {
    memory.write_physical(at, bytes).expect("inside RAM");
}

fn write_word(memory: &GuestMemory, at: u64, word: u64) {
    write(memory, at, &word.to_le_bytes());
}

/// RAM: noise, then tables that make sense, then some noise in them, then code.
fn fill_memory(memory: &GuestMemory, random: &mut Random) {
    let mut noise = vec![0; RAM as usize];
    random.fill(&mut noise);
    write(memory, 0, &noise);
    page_tables(memory, random);
    descriptor_tables(memory, random);
    for _ in 0..random.below(10) {
        let at = PAGE_TABLES + random.below(CODE - PAGE_TABLES - 8);
        write_word(memory, at & !7, random.next() & random.next() & random.next());
    }
    let mut at = CODE;
    while at < CODE_END - 32 {
        let bytes = random_instruction(random);
        write(memory, at, &bytes);
        at += bytes.len() as u64;
    }
}

/// An instruction from the decoder's tables, or bytes.
fn random_instruction(random: &mut Random) -> Vec<u8> {
    if !random.one_in(4)
        && let Some(bytes) = forms::random_bytes(random)
    {
        return bytes;
    }
    (0..1 + random.below(6)).map(|_| if random.one_in(6) { 0x0f } else { random.next() as u8 }).collect()
}

/// The low 128 KiB at themselves, in the format of every paging mode; protection at random.
fn page_tables(memory: &GuestMemory, random: &mut Random) {
    let flags = |random: &mut Random| if random.one_in(8) { random.next() & 0x7f } else { 0x67 };
    for (table, next) in
        [(PAGE_TABLES, DIRECTORY_POINTERS), (DIRECTORY_POINTERS, DIRECTORY), (DIRECTORY, TABLE)]
    {
        write_word(memory, table, next | flags(random) & !0x80);
    }
    for page in 0..RAM >> 12 {
        let no_execute = if random.one_in(8) { 1 << 63 } else { 0 };
        write_word(memory, TABLE + page * 8, page << 12 | flags(random) | no_execute);
        write(memory, NARROW_TABLE + page * 4, &((page << 12 | flags(random)) as u32).to_le_bytes());
    }
    if random.one_in(8) {
        write_word(memory, DIRECTORY, 0xe7);
    }
}

/// Descriptors of every kind, gates to the code, a task-state segment.
fn descriptor_tables(memory: &GuestMemory, random: &mut Random) {
    const KINDS: [u64; 12] = [
        0,
        0x0000_9b00_0000_ffff,
        0x0000_9300_0000_ffff,
        0x00cf_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00af_9b00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00af_fb00_0000_ffff,
        0x0000_8900_b000_0067,
        0,
        0x0000_8200_9000_0fff,
    ];
    for index in 0..64 {
        let descriptor = KINDS[index as usize % KINDS.len()];
        let gate = CODE & 0xffff | (random.below(12) << 3) << 16 | (0x80 | random.below(128)) << 40;
        let descriptor = if index >= 24 && random.one_in(2) { gate } else { descriptor };
        let noise = if random.one_in(8) { 1 << random.below(64) } else { 0 };
        write_word(memory, GDT + index * 8, descriptor ^ noise);
        write_word(memory, LDT + index * 8, descriptor);
    }
    let wide = random.one_in(2);
    for vector in 0..256 {
        let offset = CODE + random.below(0x4000 - 64);
        let selector = random.pick(&[1, 3, 5, 5, 5, 8]) << 3;
        let kind = 0x80 | random.pick(&[0xe, 0xe, 0xf, 6, 7, 5]) | random.below(4) << 5;
        let gate = offset & 0xffff | selector << 16 | kind << 40 | random.below(2) << 32;
        if wide && vector * 16 < 0x1000 {
            write(memory, IDT + vector * 16, &u128::from(gate).to_le_bytes());
        } else if !wide {
            write_word(memory, IDT + vector * 8, gate);
        }
    }
    for word in 0..13 {
        write_word(memory, TSS + 4 + word * 8, 0x1_0000 + random.below(0x1000) * 8);
    }
}

/// A value that means something to somebody.
fn value(random: &mut Random) -> u64 {
    match random.below(10) {
        0 => random.next(),
        1 => random.below(64),
        2 => random.pick(&[
            0xc000_0080,
            0xc000_0081,
            0x10,
            0x1b,
            0x277,
            0x174,
            0x6e0,
            0x808,
            0xc000_0101,
            0xda0,
        ]),
        3 => cr0::PE | cr0::ET | random.next() & cr0::DEFINED,
        4 => random.next() & 0x7f_ffff,
        5 => random.pick(&[!0, 1 << 63, 1 << 47, 0x7fff_ffff, 0xffff_f000, RAM - 4, 0xffff]),
        6 => CODE + random.below(CODE_END - CODE),
        _ => CODE_END + random.below(RAM - CODE_END + 16),
    }
}

fn segment_register(selector: u16, attributes: u32) -> SegmentRegister {
    SegmentRegister { base: 0, limit: !0, attributes, selector }
}

/// CR0, CR4, EFER and the segments of a mode.
fn random_mode(state: &mut VcpuState, random: &mut Random) {
    const CODE_SEGMENT: u32 =
        access::CODE | access::READABLE | access::ACCESSED | access::S | access::PRESENT;
    const DATA_SEGMENT: u32 = access::WRITABLE | access::ACCESSED | access::S | access::PRESENT;
    let big = if random.one_in(2) { access::DB | access::GRANULARITY } else { 0 };
    let privilege = random.pick(&[0, 0, 0, 0, 3, 3, 1, 2]) << access::DPL_SHIFT;
    let paging = if random.one_in(3) { 0 } else { cr0::PG };
    let (mode, long, code) = match random.below(8) {
        0 => {
            for number in 0..6 {
                state.segment[number] = SegmentRegister::real_mode(random.below(0x800) as u16);
            }
            state.segment[segment::CS] = SegmentRegister::real_mode((CODE >> 4) as u16);
            state.cr0 = cr0::ET;
            return;
        }
        1 => {
            state.rflags |= rflags::VM;
            (cr0::PE | paging, false, access::S | access::PRESENT | access::WRITABLE | access::ACCESSED)
        }
        2 | 3 => (cr0::PE | paging, false, CODE_SEGMENT | big),
        4 => (cr0::PE | cr0::PG, true, CODE_SEGMENT | big),
        _ => (cr0::PE | cr0::PG, true, CODE_SEGMENT | access::LONG),
    };
    let virtual_8086 = state.rflags & rflags::VM != 0;
    let privilege = if virtual_8086 { 3 << access::DPL_SHIFT } else { privilege };
    state.cr0 = mode | cr0::ET;
    if long {
        state.efer |= efer::LME | efer::LMA;
        state.cr4 |= cr4::PAE;
    }
    let rights = DATA_SEGMENT | privilege | big;
    state.segment = [segment_register(0x30, rights); 6];
    state.segment[segment::CS] = segment_register(0x40, code | privilege);
    if virtual_8086 {
        for register in &mut state.segment {
            *register = SegmentRegister { attributes: rights & !big, ..SegmentRegister::real_mode(0) };
        }
    }
    for register in &mut state.segment {
        if random.one_in(16) {
            register.attributes ^= 1 << random.below(17);
        }
        if random.one_in(16) {
            register.limit = random.below(0x2_0000) as u32;
        }
        if random.one_in(8) {
            register.base = value(random);
        }
    }
}

fn random_state(random: &mut Random) -> VcpuState {
    let mut state = VcpuState::reset();
    state.rflags |= random.next() & (rflags::STATUS | rflags::IF | rflags::DF | rflags::IOPL | rflags::NT)
        | if random.one_in(16) { rflags::TF } else { 0 }
        | if random.one_in(8) { rflags::AC | rflags::RF } else { 0 };
    state.efer = efer::SCE | efer::NXE;
    state.cr4 = random.next()
        & (cr4::VME | cr4::PVI | cr4::TSD | cr4::DE | cr4::PSE | cr4::PAE | cr4::PGE | cr4::UMIP);
    if !random.one_in(8) {
        state.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE | cr4::FSGSBASE;
    }
    if random.one_in(4) {
        state.cr4 |= random.next() & (cr4::SMEP | cr4::SMAP | cr4::PCE);
    }
    random_mode(&mut state, random);
    state.cr0 |= random.next() & (cr0::MP | cr0::NE | cr0::WP | cr0::AM);
    if random.one_in(8) {
        state.cr0 |= random.next() & (cr0::TS | cr0::EM);
    }
    state.cr3 = PAGE_TABLES;
    state.pdpte = [DIRECTORY | 1, 0, 0, 0];
    state.xcr0 = random.pick(&[xcr0::X87, xcr0::X87 | xcr0::SSE, 7, 7, 7]);
    state.gdtr = DescriptorTable { base: GDT, limit: 0x1ff };
    state.idtr = DescriptorTable { base: IDT, limit: 0xfff };
    state.ldtr = SegmentRegister { base: LDT, limit: 0xfff, attributes: access::PRESENT | 2, selector: 0x58 };
    state.tr = SegmentRegister { base: TSS, limit: 0x67, attributes: access::PRESENT | 11, selector: 0x48 };
    if random.one_in(8) {
        state.dr[..4].fill_with(|| value(random));
        state.dr[7] = debug::DR7_FIXED | random.next() & 0xffff_03ff;
    }
    for register in &mut state.gpr {
        *register = value(random);
    }
    state.gpr[gpr::RSP] = CODE_END + 0x1000 + random.below(0x1000);
    let code = &state.segment[segment::CS];
    state.rip = (CODE + random.below(0x3000)).wrapping_sub(code.base) & 0xffff;
    if random.one_in(32) {
        state.rip = value(random);
    }
    random.fill(&mut state.extended.bytes[..416]);
    let mxcsr = random.next() as u32 & 0xffff;
    state.extended.set_mxcsr(mxcsr);
    state.extended.set_in_use(random.below(8));
    state.msr.lstar = value(random);
    state.msr.star = random.next();
    state.msr.sysenter_eip = value(random);
    state.msr.sysenter_cs = random.below(0x100);
    state
}
