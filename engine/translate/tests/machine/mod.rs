//! A small 64-bit machine for tests.

use gasang_cpu::{Core, CpuModel, ExtendedState, Platform, SegmentRegister, Tlb, Trap, VcpuState};
use gasang_exec::{Interpreter, Step};
use gasang_memory::GuestMemory;
use gasang_translate::{CodePages, Options, Translator};
use gasang_x86::control::{cr0, cr4, efer, xcr0};
use gasang_x86::descriptor::access;
use gasang_x86::{gpr, segment};
use std::sync::Arc;

/// Where the program lies.
pub const CODE: u64 = 0x10_0000;
/// What RSI points to at the start.
pub const DATA: u64 = 0x20_0000;
/// The stack pointer at the start.
pub const STACK: u64 = 0x30_0000;
/// A physical address that is no RAM.
#[allow(dead_code, reason = "not every test reaches a device")]
pub const UNCLAIMED: u64 = 0xd000_0000;

pub struct Surroundings {
    pages: Arc<CodePages>,
}

impl Platform for Surroundings {
    fn port_read(&mut self, _port: u16, _size: u8) -> Result<u32, Trap> {
        Ok(0x5a)
    }
    fn port_write(&mut self, _port: u16, _size: u8, _value: u32) -> Result<(), Trap> {
        Ok(())
    }
    fn mmio_read(&mut self, _address: u64, _size: u8) -> Result<u64, Trap> {
        Ok(0x1122_3344_5566_7788)
    }
    fn mmio_write(&mut self, _address: u64, _size: u8, _value: u64) -> Result<(), Trap> {
        Ok(())
    }
    fn msr_read(&mut self, _msr: u32) -> Option<Result<u64, Trap>> {
        None
    }
    fn msr_write(&mut self, _msr: u32, _value: u64, _tsc_offset: u64) -> Option<Result<(), Trap>> {
        None
    }
    fn task_priority(&mut self) -> u8 {
        0
    }
    fn set_task_priority(&mut self, _value: u8) {}
    fn time_stamp_counter(&mut self) -> u64 {
        7
    }
    fn random(&mut self) -> u64 {
        4
    }
    fn code_written(&mut self, host: u64, length: u64) {
        self.pages.note(0, host, length);
    }
    fn iteration_committed(&mut self) {}
}

/// Processor 0, its memory and its engine.
pub struct Machine {
    pub memory: Arc<GuestMemory>,
    pub state: Box<VcpuState>,
    pub tlb: Tlb,
    pub surroundings: Surroundings,
    pub model: CpuModel,
    pub interpreter: Interpreter,
    pub translator: Option<Translator>,
}

fn flat(selector: u16, attributes: u32) -> SegmentRegister {
    SegmentRegister { base: 0, limit: 0xffff_ffff, attributes, selector }
}

impl Machine {
    /// A 64-bit machine at CPL 0: identity-mapped 4 KiB pages for 4 MiB, a 1 GiB page for devices at 3 GiB.
    pub fn new(code: &[u8], options: Option<Options>) -> Machine {
        let memory = Arc::new(GuestMemory::new(8 << 20).unwrap());
        let put = |address: u64, value: u64| memory.write_physical(address, &value.to_le_bytes()).unwrap();
        put(0x1000, 0x2007);
        put(0x2000, 0x3007);
        put(0x2018, 0xc000_0087);
        for table in 0..2 {
            put(0x3000 + table * 8, 0x4007 + table * 0x1000);
            for page in 0..512 {
                put(0x4000 + table * 0x1000 + page * 8, (table << 21 | page << 12) | 7);
            }
        }
        memory.write_physical(CODE, code).unwrap();
        let mut state = Box::new(VcpuState::reset());
        state.cr0 = cr0::PE | cr0::PG | cr0::WP | cr0::NE | cr0::ET;
        state.cr3 = 0x1000;
        state.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
        state.efer = efer::LME | efer::LMA | efer::NXE;
        state.xcr0 = xcr0::X87 | xcr0::SSE | xcr0::AVX;
        let data = access::PRESENT
            | access::S
            | access::WRITABLE
            | access::ACCESSED
            | access::DB
            | access::GRANULARITY;
        state.segment = [flat(0x10, data); 6];
        let code_attributes = data & !access::DB | access::CODE | access::LONG;
        state.segment[segment::CS] = flat(8, code_attributes);
        state.extended = ExtendedState::initial();
        state.rip = CODE;
        state.gpr[gpr::RSP] = STACK;
        state.gpr[gpr::RSI] = DATA;
        let pages = Arc::new(CodePages::new(&memory, 1));
        let model = CpuModel::parse("max").unwrap();
        let translator =
            options.map(|options| Translator::new(options, Arc::clone(&pages), 0, &memory, &model).unwrap());
        Machine {
            memory,
            state,
            tlb: Tlb::new(64),
            surroundings: Surroundings { pages },
            model,
            interpreter: Interpreter::new().unwrap(),
            translator,
        }
    }

    /// Make it a 32-bit machine in compatibility mode.
    #[allow(dead_code, reason = "not every test wants one")]
    pub fn narrow(mut self) -> Machine {
        let code = &mut self.state.segment[segment::CS];
        code.attributes = code.attributes & !access::LONG | access::DB;
        self
    }

    /// Run to HLT.
    pub fn run(&mut self) {
        for _ in 0..1_000_000 {
            let mut core = Core {
                state: &mut self.state,
                tlb: &mut self.tlb,
                memory: &self.memory,
                platform: &mut self.surroundings,
                model: &self.model,
            };
            let step = match &mut self.translator {
                Some(translator) => translator.run(&mut core, &mut self.interpreter, 10_000, u64::MAX, false),
                None => self.interpreter.step(&mut core),
            };
            match step {
                Step::Retired => {}
                Step::Halted => return,
                Step::Pending | Step::Shutdown => panic!("{step:?} at {:#x}", self.state.rip),
            }
        }
        panic!("no HLT reached; rip {:#x}", self.state.rip);
    }
}
