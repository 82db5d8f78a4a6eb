//! A machine to execute single instructions on: 2 MiB mapped one to one in 4 KiB pages, 64-bit mode at CPL 0, a handler
//! address for each vector, and a platform that remembers what it was asked.

use crate::{Interpreter, Step};
use gasang_cpu::{Core, CpuModel, Platform, SegmentRegister, Tlb, Trap, VcpuState};
use gasang_memory::GuestMemory;
use gasang_x86::control::{cr0, cr4, efer, xcr0};
use gasang_x86::descriptor::{access, system};
use gasang_x86::{gpr, segment};

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const PT: u64 = 0x4000;
const IDT: u64 = 0x5000;
const GDT: u64 = 0x6000;
const TSS: u64 = 0x7000;
const HANDLERS: u64 = 0x8000;
/// Where `run` puts code.
pub const CODE: u64 = 0x1_0000;
/// The top of the stack.
pub const STACK: u64 = 0x2_0000;
/// Pages of data.
pub const DATA: u64 = 0x3_0000;
/// An address of a device (beyond RAM), mapped.
pub const DEVICE: u64 = 0x1f_f000;

const CODE64: u64 = 0x0020_9b00_0000_0000;
const DATA64: u64 = 0x0000_9300_0000_0000;
const USER_DATA: u64 = 0x0000_f300_0000_0000;
const USER_CODE: u64 = 0x0020_fb00_0000_0000;

/// What the platform was asked, and what it answers.
#[derive(Debug, Default)]
pub struct Surroundings {
    pub port_value: u32,
    pub ports_read: Vec<(u16, u8)>,
    pub ports_written: Vec<(u16, u8, u32)>,
    pub device: Vec<u8>,
    pub device_writes: Vec<(u64, u8, u64)>,
    /// Answer the next device access with `Pending`.
    pub pending: bool,
    pub iterations: u64,
}

impl Surroundings {
    fn answer(&mut self) -> Result<(), Trap> {
        if self.pending { Err(Trap::Pending) } else { Ok(()) }
    }
}

impl Platform for Surroundings {
    fn port_read(&mut self, port: u16, size: u8) -> Result<u32, Trap> {
        self.answer()?;
        self.ports_read.push((port, size));
        Ok(self.port_value)
    }
    fn port_write(&mut self, port: u16, size: u8, value: u32) -> Result<(), Trap> {
        self.answer()?;
        self.ports_written.push((port, size, value));
        Ok(())
    }
    fn mmio_read(&mut self, address: u64, size: u8) -> Result<u64, Trap> {
        self.answer()?;
        let mut bytes = [0; 8];
        let at = (address % 4096) as usize;
        let size = usize::from(size);
        bytes[..size].copy_from_slice(&self.device[at..at + size]);
        Ok(u64::from_le_bytes(bytes))
    }
    fn mmio_write(&mut self, address: u64, size: u8, value: u64) -> Result<(), Trap> {
        self.answer()?;
        let at = (address % 4096) as usize;
        self.device[at..at + usize::from(size)].copy_from_slice(&value.to_le_bytes()[..usize::from(size)]);
        self.device_writes.push((address, size, value));
        Ok(())
    }
    fn msr_read(&mut self, _: u32) -> Option<Result<u64, Trap>> {
        None
    }
    fn msr_write(&mut self, _: u32, _: u64, _: u64) -> Option<Result<(), Trap>> {
        None
    }
    fn task_priority(&mut self) -> u8 {
        0
    }
    fn set_task_priority(&mut self, _: u8) {}
    fn time_stamp_counter(&mut self) -> u64 {
        1000
    }
    fn random(&mut self) -> u64 {
        0x1234_5678_9abc_def0
    }
    fn code_written(&mut self, _: u64, _: u64) {}
    fn iteration_committed(&mut self) {
        self.iterations += 1;
    }
}

/// A processor with its memory and surroundings.
pub struct Machine {
    pub memory: GuestMemory,
    pub state: VcpuState,
    pub tlb: Tlb,
    pub surroundings: Surroundings,
    pub model: CpuModel,
    pub interpreter: Interpreter,
}

impl Machine {
    /// 64-bit mode, CPL 0, SSE and AVX enabled, every page mapped for everyone.
    pub fn new() -> Machine {
        // RAM ends below the last page of the 2 MiB that are mapped: that page is a device.
        let memory = GuestMemory::new(DEVICE).unwrap();
        let mut machine = Machine {
            memory,
            state: VcpuState::reset(),
            tlb: Tlb::new(64),
            surroundings: Surroundings { device: vec![0; 4096], ..Surroundings::default() },
            model: CpuModel::parse("max").unwrap(),
            interpreter: Interpreter::new().unwrap(),
        };
        machine.reset();
        machine
    }

    /// The state that a new machine has, tables included; the rest of memory stays.
    pub fn reset(&mut self) {
        self.state = VcpuState::reset();
        self.build_tables();
        self.tlb.flush_all();
        self.enter_64bit_mode();
    }

    fn build_tables(&mut self) {
        self.write(PML4, 8, PDPT | 7);
        self.write(PDPT, 8, PD | 7);
        self.write(PD, 8, PT | 7);
        for page in 0..512 {
            self.write(PT + page * 8, 8, page << 12 | 7);
        }
        for (index, descriptor) in [0, CODE64, DATA64, USER_DATA, USER_CODE].into_iter().enumerate() {
            self.write(GDT + index as u64 * 8, 8, descriptor);
        }
        for vector in 0..256 {
            let handler = HANDLERS + vector * 16;
            let gate = handler & 0xffff | 8 << 16 | 0xee00 << 32;
            self.write(IDT + vector * 16, 8, gate);
            self.write(IDT + vector * 16 + 8, 8, 0);
        }
        self.write(TSS + 4, 8, STACK - 0x1000);
    }

    fn enter_64bit_mode(&mut self) {
        let state = &mut self.state;
        state.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
        state.cr3 = PML4;
        state.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE | cr4::FSGSBASE;
        state.xcr0 = xcr0::X87 | xcr0::SSE | xcr0::AVX;
        state.efer = efer::LME | efer::LMA | efer::SCE | efer::NXE;
        state.gdtr.base = GDT;
        state.gdtr.limit = 0x7f;
        state.idtr.base = IDT;
        state.idtr.limit = 0xfff;
        state.tr.base = TSS;
        state.tr.limit = 0x67;
        state.tr.attributes = access::PRESENT | system::TSS_BUSY;
        self.set_privilege(0);
        self.state.gpr[gpr::RSP] = STACK;
        self.state.rip = CODE;
    }

    /// Flat 64-bit segments of this privilege level.
    pub fn set_privilege(&mut self, level: u32) {
        let common = access::PRESENT | access::S | access::ACCESSED | level << access::DPL_SHIFT;
        let flat = |attributes, selector| SegmentRegister { base: 0, limit: !0, attributes, selector };
        let selectors = if level == 0 { (0x08, 0x10) } else { (0x23, 0x1b) };
        let code = common | access::CODE | access::READABLE | access::LONG | access::GRANULARITY;
        let data = common | access::WRITABLE | access::DB | access::GRANULARITY;
        self.state.segment = [flat(data, selectors.1); 6];
        self.state.segment[segment::CS] = flat(code, selectors.0);
    }

    /// Compatibility mode: 32-bit or 16-bit flat segments.
    pub fn set_code_bits(&mut self, bits: u32) {
        let code = &mut self.state.segment[segment::CS].attributes;
        *code &= !(access::LONG | access::DB);
        if bits == 32 {
            *code |= access::DB;
        }
    }

    /// Give the page at `linear` these low bits (0: not present) in its entry.
    pub fn protect(&mut self, linear: u64, bits: u64) {
        let page = linear >> 12;
        self.write(PT + page * 8, 8, page << 12 | bits);
        self.tlb.flush_all();
    }

    /// The page-table entry of a page.
    pub fn entry(&self, linear: u64) -> u64 {
        self.read(PT + (linear >> 12) * 8, 8)
    }

    pub fn write(&mut self, address: u64, size: usize, value: u64) {
        self.memory.write_physical(address, &value.to_le_bytes()[..size]).unwrap();
    }

    pub fn read(&self, address: u64, size: usize) -> u64 {
        let mut bytes = [0; 8];
        self.memory.read_physical(address, &mut bytes[..size]).unwrap();
        u64::from_le_bytes(bytes)
    }

    /// Put code at RIP.
    pub fn load(&mut self, code: &[u8]) {
        self.memory.write_physical(self.state.rip, code).unwrap();
    }

    pub fn step(&mut self) -> Step {
        self.interpreter.step(&mut Core {
            state: &mut self.state,
            tlb: &mut self.tlb,
            memory: &self.memory,
            platform: &mut self.surroundings,
            model: &self.model,
        })
    }

    pub fn with_core<T>(&mut self, action: impl FnOnce(&mut Core<'_>) -> T) -> T {
        action(&mut Core {
            state: &mut self.state,
            tlb: &mut self.tlb,
            memory: &self.memory,
            platform: &mut self.surroundings,
            model: &self.model,
        })
    }

    /// Put code at RIP and execute its first instruction.
    pub fn execute(&mut self, code: &[u8]) -> Step {
        self.load(code);
        self.step()
    }

    /// The vector whose handler is about to run.
    pub fn vector(&self) -> Option<u8> {
        let offset = self.state.rip.checked_sub(HANDLERS).filter(|offset| offset % 16 == 0)?;
        u8::try_from(offset / 16).ok()
    }

    /// The word at the top of the stack: the error code of an exception that has one.
    pub fn top(&self) -> u64 {
        self.read(self.state.gpr[gpr::RSP], 8)
    }
}
