//! A guest whose user mode looks like the host's child process: the same window, the same mode, and an exception for
//! an end.

use crate::case::{Case, ENDLESS, EXTENDED_BYTES, Outcome, Registers};
use crate::layout::{
    CODE, CODE_BYTES, CODE_PAGES, DATA, DATA_BYTES, DATA_PAGES, HIGH, LOW, PAGE, WRITABLE_PAGES,
};
use crate::platform::Surroundings;
use gasang_cpu::{Core, CpuModel, DescriptorTable, SegmentRegister, Tlb, VcpuState};
use gasang_exec::{Interpreter, Step};
use gasang_memory::GuestMemory;
use gasang_translate::{CodePages, Options, Statistics, Translator};
use gasang_x86::control::{cr0, cr4, efer, xcr0};
use gasang_x86::{gpr, rflags, segment};
use std::io;
use std::sync::Arc;

// Physical pages.
const PML4: u64 = 0x1000;
const USER_DIRECTORY_POINTERS: u64 = 0x2000;
const USER_DIRECTORY: u64 = 0x3000;
const USER_TABLE: u64 = 0x4000;
const KERNEL_DIRECTORY_POINTERS: u64 = 0x5000;
const KERNEL_DIRECTORY: u64 = 0x6000;
const KERNEL_TABLE: u64 = 0x7000;
const GDT: u64 = 0x8000;
const IDT: u64 = 0x9000;
const TSS: u64 = 0xa000;
const STACK: u64 = 0xb000;
const HANDLERS: u64 = 0xc000;
/// The data pages: the first two are neighbours, the others are not.
const DATA_FRAMES: [u64; DATA_PAGES as usize] = [0x10_000, 0x11_000, 0x14_000, 0x12_000];
const CODE_FRAMES: [u64; CODE_PAGES as usize] = [0x18_000, 0x1a_000];
const RAM: u64 = 0x20_000;

/// Linear address of the kernel's pages: physical address plus this.
const KERNEL: u64 = 0xffff_ff80_0000_0000;
/// HLT, at each vector's handler.
const HLT: u8 = 0xf4;
/// Bytes of a handler.
const HANDLER_BYTES: u64 = 16;
const VECTORS: u64 = 32;
const TSS_BYTES: u16 = 0x68;

// Page-table entries.
const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const USER: u64 = 4;
const NO_EXECUTE: u64 = 1 << 63;

// Selectors, as Linux has them.
const KERNEL_CODE: u16 = 0x10;
const USER_DATA: u16 = 0x2b;
const USER_CODE: u16 = 0x33;
const TASK: u16 = 0x40;

/// Steps or instructions after which execution counts as endless.
const LIMIT: u64 = 100_000;

/// Who executes.
pub enum Tier {
    /// T0.
    Interpreter,
    /// T1.
    Translator(Box<Translator>),
}

/// A guest and what executes it. Its thread needs an alternate signal stack.
pub struct Guest {
    tier: Tier,
    interpreter: Interpreter,
    memory: Arc<GuestMemory>,
    pages: Arc<CodePages>,
    state: Box<VcpuState>,
    kernel_state: Box<VcpuState>,
    tlb: Tlb,
    surroundings: Surroundings,
    model: CpuModel,
    backgrounds: Vec<[u8; DATA_BYTES]>,
    code_before: (u64, u64),
}

impl Guest {
    /// A guest for T0 (no options) or T1, with these contents for its data pages.
    ///
    /// # Errors
    /// If memory runs out or the host lacks what the engine needs.
    pub fn new(translator: Option<Options>, backgrounds: &[[u8; DATA_BYTES]]) -> io::Result<Guest> {
        let memory = Arc::new(GuestMemory::new(RAM)?);
        let pages = Arc::new(CodePages::new(&memory, 1));
        let model = CpuModel::parse("max").map_err(io::Error::other)?;
        let tier = match translator {
            None => Tier::Interpreter,
            Some(options) => {
                Tier::Translator(Box::new(Translator::new(options, Arc::clone(&pages), 0, &memory, &model)?))
            }
        };
        let kernel_state = Box::new(initial_state());
        let guest = Guest {
            tier,
            interpreter: Interpreter::new()?,
            state: kernel_state.clone(),
            kernel_state,
            tlb: Tlb::new(64),
            surroundings: Surroundings::new(Arc::clone(&pages)),
            memory,
            pages,
            model,
            backgrounds: backgrounds.to_vec(),
            code_before: (0, CODE_BYTES as u64),
        };
        guest.build_kernel();
        Ok(guest)
    }

    /// What T1 has done so far.
    pub fn statistics(&self) -> Option<Statistics> {
        match &self.tier {
            Tier::Interpreter => None,
            Tier::Translator(translator) => Some(translator.statistics()),
        }
    }

    /// The contents that its data pages may start with.
    pub fn backgrounds(&self) -> &[[u8; DATA_BYTES]] {
        &self.backgrounds
    }

    fn write(&self, physical: u64, bytes: &[u8]) {
        self.memory.write_physical(physical, bytes).expect("the layout lies in RAM");
    }

    fn write_entry(&self, table: u64, index: u64, entry: u64) {
        self.write(table + index * 8, &entry.to_le_bytes());
    }

    /// Page tables above the lowest, descriptor tables, handlers.
    fn build_kernel(&self) {
        let all = PRESENT | WRITABLE | USER;
        self.write_entry(PML4, 0, USER_DIRECTORY_POINTERS | all);
        for window in [LOW, HIGH] {
            self.write_entry(USER_DIRECTORY_POINTERS, window >> 30 & 511, USER_DIRECTORY | all);
            self.write_entry(USER_DIRECTORY, window >> 21 & 511, USER_TABLE | all);
        }
        let kernel = PRESENT | WRITABLE;
        self.write_entry(PML4, KERNEL >> 39 & 511, KERNEL_DIRECTORY_POINTERS | kernel);
        self.write_entry(KERNEL_DIRECTORY_POINTERS, 0, KERNEL_DIRECTORY | kernel);
        self.write_entry(KERNEL_DIRECTORY, 0, KERNEL_TABLE | kernel);
        for page in [GDT, IDT, TSS, STACK, HANDLERS] {
            self.write_entry(KERNEL_TABLE, page / PAGE, page | kernel);
        }
        self.write_entry(GDT, u64::from(KERNEL_CODE >> 3), 0x00af_9b00_0000_ffff);
        self.write_entry(GDT, u64::from(USER_DATA >> 3), 0x00cf_f300_0000_ffff);
        self.write_entry(GDT, u64::from(USER_CODE >> 3), 0x00af_fb00_0000_ffff);
        self.write(TSS + 4, &(KERNEL + STACK + PAGE).to_le_bytes());
        // No I/O permission bitmap.
        self.write(TSS + 0x66, &TSS_BYTES.to_le_bytes());
        self.write(HANDLERS, &[HLT; PAGE as usize]);
        for vector in 0..VECTORS {
            self.write(IDT + vector * 16, &gate(KERNEL + HANDLERS + vector * HANDLER_BYTES));
        }
    }

    /// Execute a case until an exception; what became of it.
    pub fn run(&mut self, case: &Case, outcome: &mut Outcome) {
        self.load_memory(case);
        self.load_registers(&case.registers);
        if self.execute() {
            self.collect(outcome);
        } else {
            outcome.vector = ENDLESS;
        }
    }

    fn load_memory(&mut self, case: &Case) {
        for page in 0..DATA_PAGES {
            let writable = if page < WRITABLE_PAGES { WRITABLE } else { 0 };
            let entry = DATA_FRAMES[page as usize] | PRESENT | USER | writable | NO_EXECUTE;
            self.write_entry(USER_TABLE, DATA / PAGE + page, entry);
        }
        for page in 0..CODE_PAGES {
            let entry = CODE_FRAMES[page as usize] | PRESENT | USER;
            self.write_entry(USER_TABLE, CODE / PAGE + page, entry);
        }
        self.tlb.flush_all();
        let mut data = self.backgrounds[case.background as usize];
        for patch in &case.patches {
            let (start, length) = (patch.offset as usize, patch.length as usize);
            data[start..start + length].copy_from_slice(&patch.bytes[..length]);
        }
        for (frame, bytes) in DATA_FRAMES.iter().zip(data.chunks(PAGE as usize)) {
            self.write(*frame, bytes);
        }
        let (start, length) = self.code_before;
        self.write_code(start, &vec![0xcc; length as usize]);
        self.write_code(u64::from(case.code_offset), case.code());
        self.code_before = (u64::from(case.code_offset), case.code().len() as u64);
    }

    /// Write code at an offset of the code pages, as a device would: the translator hears of it.
    fn write_code(&self, offset: u64, bytes: &[u8]) {
        let (mut offset, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let (part, tail) = rest.split_at(rest.len().min((PAGE - offset % PAGE) as usize));
            let physical = CODE_FRAMES[(offset / PAGE) as usize] + offset % PAGE;
            self.pages.write_physical(physical, part).expect("code pages are RAM");
            offset += part.len() as u64;
            rest = tail;
        }
    }

    fn load_registers(&mut self, registers: &Registers) {
        let instructions = self.state.instructions;
        self.state.clone_from(&self.kernel_state);
        let state = &mut self.state;
        state.instructions = instructions;
        state.gpr = registers.gpr;
        state.rip = registers.rip;
        state.rflags = registers.rflags | rflags::FIXED | rflags::IF;
        state.segment[segment::FS].base = registers.fs_base;
        state.segment[segment::GS].base = registers.gs_base;
        state.extended.bytes[..EXTENDED_BYTES].copy_from_slice(&registers.extended);
    }

    /// Execute until HLT in a handler; whether it came to that.
    fn execute(&mut self) -> bool {
        let mut core = Core {
            state: &mut self.state,
            tlb: &mut self.tlb,
            memory: &self.memory,
            platform: &mut self.surroundings,
            model: &self.model,
        };
        let end = core.state.instructions + LIMIT;
        let mut step = Step::Retired;
        for _ in 0..LIMIT {
            if step != Step::Retired || core.state.instructions >= end {
                break;
            }
            step = match &mut self.tier {
                Tier::Interpreter => self.interpreter.step(&mut core),
                Tier::Translator(translator) => {
                    translator.run(&mut core, &mut self.interpreter, LIMIT, u64::MAX, false)
                }
            };
        }
        step == Step::Halted
    }

    fn read_word(&self, physical: u64) -> u64 {
        let mut bytes = [0; 8];
        self.memory.read_physical(physical, &mut bytes).expect("the layout lies in RAM");
        u64::from_le_bytes(bytes)
    }

    /// What the exception left in the registers and on the kernel's stack.
    fn collect(&self, outcome: &mut Outcome) {
        let state = &self.state;
        let handler = state.rip.wrapping_sub(KERNEL + HANDLERS) / HANDLER_BYTES;
        outcome.vector = handler as u32;
        let frame = state.gpr[gpr::RSP].wrapping_sub(KERNEL);
        let has_error_code = matches!(handler, 8 | 10..=14 | 17 | 21);
        outcome.error_code = if has_error_code { self.read_word(frame) as u32 } else { 0 };
        let frame = if has_error_code { frame + 8 } else { frame };
        outcome.cr2 = state.cr2;
        let registers = &mut outcome.registers;
        registers.gpr = state.gpr;
        registers.rip = self.read_word(frame);
        registers.rflags = self.read_word(frame + 16);
        registers.gpr[gpr::RSP] = self.read_word(frame + 24);
        registers.fs_base = state.segment[segment::FS].base;
        registers.gs_base = state.segment[segment::GS].base;
        registers.extended.copy_from_slice(&state.extended.bytes[..EXTENDED_BYTES]);
        for (frame, bytes) in DATA_FRAMES.iter().zip(outcome.memory.chunks_mut(PAGE as usize)) {
            self.memory.read_physical(*frame, bytes).expect("the layout lies in RAM");
        }
    }
}

/// A 64-bit interrupt gate to the kernel's code, for user mode to use as well.
fn gate(handler: u64) -> [u8; 16] {
    let low = handler & 0xffff | u64::from(KERNEL_CODE) << 16 | 0xee00 << 32 | (handler >> 16 & 0xffff) << 48;
    (u128::from(low) | u128::from(handler >> 32) << 64).to_le_bytes()
}

fn user_segment(selector: u16, attributes: u32) -> SegmentRegister {
    SegmentRegister { base: 0, limit: !0, attributes, selector }
}

/// A processor in user mode, as Linux configures one.
fn initial_state() -> VcpuState {
    let mut state = VcpuState::reset();
    state.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
    state.cr3 = PML4;
    state.cr4 = cr4::DE
        | cr4::PAE
        | cr4::MCE
        | cr4::PGE
        | cr4::OSFXSR
        | cr4::OSXMMEXCPT
        | cr4::UMIP
        | cr4::FSGSBASE
        | cr4::OSXSAVE
        | cr4::SMEP
        | cr4::SMAP;
    state.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    state.xcr0 = xcr0::X87 | xcr0::SSE | xcr0::AVX;
    state.segment = [user_segment(0, 0xc0f3); 6];
    state.segment[segment::SS].selector = USER_DATA;
    state.segment[segment::CS] = user_segment(USER_CODE, 0xa0fb);
    state.tr = SegmentRegister {
        base: KERNEL + TSS,
        limit: u32::from(TSS_BYTES) - 1,
        attributes: 0x8b,
        selector: TASK,
    };
    state.gdtr = DescriptorTable { base: KERNEL + GDT, limit: 0x4f };
    state.idtr = DescriptorTable { base: KERNEL + IDT, limit: (VECTORS * 16 - 1) as u16 };
    state
}
