//! Tests of the whole processor, and the small machine they run on.

mod debug;
mod delivery;
mod ept;
mod extended;
mod far;
mod flags;
mod non_root;
mod paging;
mod protected;
mod random;
mod registers;
mod returns;
mod segments;
mod syscall;
mod tasks;

use crate::*;
use gasang_memory::GuestMemory;
use gasang_x86::control::{cr0, cr4, efer};
use gasang_x86::descriptor::{access, system};
use gasang_x86::{gpr, paging as entry, segment};

pub const GDT: u64 = 0x1000;
pub const IDT: u64 = 0x2000;
pub const TSS: u64 = 0x3000;
/// Handlers begin here, 16 bytes apart.
pub const HANDLERS: u64 = 0x8000;
/// The stack of the running code ends here.
pub const STACK: u64 = 0x7000;
/// The ring 0 stack of the TSS ends here.
pub const STACK0: u64 = 0x6000;
/// IST1 ends here.
pub const STACK_IST1: u64 = 0x5000;
const TABLES: u64 = 0x10_0000;

pub const KERNEL_CODE: u16 = 0x08;
pub const KERNEL_DATA: u16 = 0x10;
pub const USER_CODE32: u16 = 0x1b;
pub const USER_DATA: u16 = 0x23;
pub const USER_CODE: u16 = 0x2b;
pub const TSS_SELECTOR: u16 = 0x30;
/// Descriptors that a test fills.
pub const FREE: u16 = 0x50;

/// Pages that everything is mapped with unless a test says otherwise.
pub const OPEN: u64 = entry::PRESENT | entry::WRITABLE | entry::USER;

/// Surroundings that answer simply and remember what they were told.
#[derive(Default)]
pub struct FakePlatform {
    pub tsc: u64,
    pub task_priority: u8,
}

impl Platform for FakePlatform {
    fn port_read(&mut self, _port: u16, _size: u8) -> Result<u32, Trap> {
        Ok(0)
    }
    fn port_write(&mut self, _port: u16, _size: u8, _value: u32) -> Result<(), Trap> {
        Ok(())
    }
    fn mmio_read(&mut self, _address: u64, _size: u8) -> Result<u64, Trap> {
        Err(Trap::Pending)
    }
    fn mmio_write(&mut self, _address: u64, _size: u8, _value: u64) -> Result<(), Trap> {
        Err(Trap::Pending)
    }
    fn msr_read(&mut self, msr: u32) -> Option<Result<u64, Trap>> {
        (msr == gasang_x86::msr::APIC_BASE).then_some(Ok(0xfee0_0900))
    }
    fn msr_write(&mut self, _msr: u32, _value: u64, _tsc_offset: u64) -> Option<Result<(), Trap>> {
        None
    }
    fn task_priority(&mut self) -> u8 {
        self.task_priority
    }
    fn set_task_priority(&mut self, value: u8) {
        self.task_priority = value;
    }
    fn time_stamp_counter(&mut self) -> u64 {
        self.tsc
    }
    fn random(&mut self) -> u64 {
        4
    }
    fn code_written(&mut self, _host: u64, _length: u64) {}
    fn iteration_committed(&mut self) {}
}

/// One processor with RAM.
pub struct Machine {
    pub state: VcpuState,
    pub tlb: Tlb,
    pub memory: GuestMemory,
    pub platform: FakePlatform,
    pub model: CpuModel,
    next_table: u64,
}

/// A code or data descriptor with base 0 and the limit 4 GiB.
pub fn flat(attributes: u32, dpl: u32) -> u64 {
    let rights = attributes | access::PRESENT | access::S | access::GRANULARITY | dpl << access::DPL_SHIFT;
    descriptor(0, 0xfffff, rights)
}

/// A descriptor from its parts; `limit` has 20 bits.
pub fn descriptor(base: u64, limit: u64, attributes: u32) -> u64 {
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | u64::from(attributes) << 40
        | (limit & 0xf_0000) << 32
        | (base >> 24 & 0xff) << 56
}

/// A gate; in IA-32e mode the offset's high half goes into the next eight bytes.
pub fn gate(selector: u16, offset: u64, kind: u32, dpl: u32, parameters: u64) -> u64 {
    offset & 0xffff
        | u64::from(selector) << 16
        | parameters << 32
        | u64::from(kind | access::PRESENT | dpl << access::DPL_SHIFT) << 40
        | (offset >> 16 & 0xffff) << 48
}

pub const CODE64: u32 = access::CODE | access::READABLE | access::LONG;
pub const CODE32: u32 = access::CODE | access::READABLE | access::DB;
pub const DATA: u32 = access::WRITABLE | access::DB;

pub fn general_protection(code: u32) -> Trap {
    Exception::general_protection(code).into()
}

impl Machine {
    /// After RESET, in real mode.
    pub fn real() -> Machine {
        Machine {
            state: VcpuState::reset(),
            tlb: Tlb::new(64),
            memory: GuestMemory::new(4 << 20).unwrap(),
            platform: FakePlatform::default(),
            model: CpuModel::parse("max").unwrap(),
            next_table: TABLES,
        }
    }

    /// 32-bit protected mode at CPL 0, flat, without paging, all handlers in place.
    pub fn protected() -> Machine {
        let mut machine = Machine::real();
        machine.state.cr0 = cr0::PE | cr0::ET | cr0::NE | cr0::WP;
        machine.fill_gdt(flat(CODE32, 0), descriptor(TSS, 0xfff, system::TSS_AVAILABLE | access::PRESENT));
        for vector in 0..256 {
            let entry = gate(KERNEL_CODE, HANDLERS + vector * 16, system::INTERRUPT_GATE, 0, 0);
            machine.poke(IDT + vector * 8, 8, entry);
        }
        machine.poke(TSS + 4, 4, STACK0);
        machine.poke(TSS + 8, 4, u64::from(KERNEL_DATA));
        machine.start();
        machine
    }

    /// 64-bit mode at CPL 0, the first 2 MiB mapped one to one for everybody, all handlers in place.
    pub fn long() -> Machine {
        let mut machine = Machine::real();
        machine.state.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE | cr0::WP;
        machine.state.cr4 = cr4::PAE | cr4::PGE | cr4::OSFXSR;
        machine.state.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        machine.state.cr3 = machine.new_table();
        for page in 0..256 {
            machine.map(page << 12, page << 12, OPEN);
        }
        machine.fill_gdt(flat(CODE64, 0), descriptor(TSS, 0xfff, system::TSS_AVAILABLE | access::PRESENT));
        for vector in 0..256 {
            let entry = gate(KERNEL_CODE, HANDLERS + vector * 16, system::INTERRUPT_GATE, 0, 0);
            machine.poke(IDT + vector * 16, 8, entry);
        }
        machine.poke(TSS + 4, 8, STACK0);
        machine.poke(TSS + 36, 8, STACK_IST1);
        machine.start();
        machine
    }

    fn fill_gdt(&mut self, kernel_code: u64, tss: u64) {
        for (selector, value) in [
            (KERNEL_CODE, kernel_code),
            (KERNEL_DATA, flat(DATA, 0)),
            (USER_CODE32, flat(CODE32, 3)),
            (USER_DATA, flat(DATA, 3)),
            (USER_CODE, flat(CODE64, 3)),
            (TSS_SELECTOR, tss),
        ] {
            self.set_descriptor(selector, value);
        }
        self.state.gdtr = DescriptorTable { base: GDT, limit: 0xff };
        self.state.idtr = DescriptorTable { base: IDT, limit: 0xfff };
    }

    /// Load the segments and the task register.
    fn start(&mut self) {
        self.state.segment[segment::SS].attributes &= !access::DPL;
        let code = self.segment(KERNEL_CODE);
        self.state.segment[segment::CS] = code;
        let mut core = self.core();
        for register in [segment::SS, segment::DS, segment::ES] {
            core.load_segment(register, KERNEL_DATA).unwrap();
        }
        core.ltr(TSS_SELECTOR).unwrap();
        self.state.gpr[gpr::RSP] = STACK;
        self.state.rip = 0x1234;
    }

    /// What loading `selector` gives, privilege aside.
    pub fn segment(&mut self, selector: u16) -> SegmentRegister {
        self.core().descriptor(selector).unwrap().unwrap().segment(selector)
    }

    /// Continue at CPL 3 in `code`, with IF set.
    pub fn enter_user(&mut self, code: u16) {
        for (register, selector) in [(segment::CS, code), (segment::SS, USER_DATA), (segment::DS, USER_DATA)]
        {
            self.state.segment[register] = self.segment(selector);
        }
        self.state.rflags |= gasang_x86::rflags::IF;
    }

    /// Continue in VM86 mode with the given IOPL.
    pub fn enter_virtual_8086(&mut self, iopl: u64) {
        use gasang_x86::rflags;
        self.state.rflags = rflags::VM | rflags::FIXED | iopl << rflags::IOPL_SHIFT;
        for register in &mut self.state.segment {
            *register = SegmentRegister::virtual_8086(0x100);
        }
        self.state.rip = 0x10;
        self.state.gpr[gpr::RSP] = 0x800;
    }

    pub fn core(&mut self) -> Core<'_> {
        Core {
            state: &mut self.state,
            tlb: &mut self.tlb,
            memory: &self.memory,
            platform: &mut self.platform,
            model: &self.model,
        }
    }

    /// Write at a physical address.
    pub fn poke(&mut self, address: u64, size: usize, value: u64) {
        self.memory.write_physical(address, &value.to_le_bytes()[..size]).unwrap();
    }

    /// Read at a physical address.
    pub fn peek(&self, address: u64, size: usize) -> u64 {
        let mut bytes = [0; 8];
        self.memory.read_physical(address, &mut bytes[..size]).unwrap();
        u64::from_le_bytes(bytes)
    }

    /// Write values of 8 bytes upward from `address`.
    pub fn poke_all(&mut self, address: u64, width: usize, values: &[u64]) {
        for (index, value) in values.iter().enumerate() {
            self.poke(address + (index * width) as u64, width, *value);
        }
    }

    pub fn set_descriptor(&mut self, selector: u16, value: u64) {
        self.poke(GDT + u64::from(selector & 0xfff8), 8, value);
    }

    pub fn new_table(&mut self) -> u64 {
        self.next_table += 0x1000;
        self.next_table - 0x1000
    }

    /// Map a 4 KiB page in 4-level structures.
    pub fn map(&mut self, linear: u64, physical: u64, flags: u64) {
        let leaf = self.leaf(linear);
        self.poke(leaf, 8, physical | flags);
    }

    /// Physical address of the entry that maps the 4 KiB page of `linear`.
    pub fn leaf(&mut self, linear: u64) -> u64 {
        let mut table = self.state.cr3 & !0xfff;
        for shift in [39, 30, 21] {
            let at = table + (linear >> shift & 0x1ff) * 8;
            if self.peek(at, 8) == 0 {
                let new = self.new_table();
                self.poke(at, 8, new | OPEN);
            }
            table = self.peek(at, 8) & 0x000f_ffff_ffff_f000;
        }
        table + (linear >> 12 & 0x1ff) * 8
    }

    /// Read as the program would.
    pub fn read(&mut self, linear: u64) -> Result<u64, Trap> {
        let mut core = self.core();
        let privilege = core.privilege();
        core.read(linear, 1, privilege)
    }

    /// Write as the program would.
    pub fn write(&mut self, linear: u64) -> Result<(), Trap> {
        let mut core = self.core();
        let privilege = core.privilege();
        core.write(linear, 1, 0x5a, privilege)
    }

    /// Fetch as the program would.
    pub fn execute(&mut self, linear: u64) -> Result<(), Trap> {
        let mut core = self.core();
        let privilege = core.privilege();
        core.translate(linear, Access::Execute, privilege).map(|_| ())
    }

    pub fn rsp(&self) -> u64 {
        self.state.gpr[gpr::RSP]
    }

    pub fn selector(&self, register: usize) -> u16 {
        self.state.segment[register].selector
    }
}

/// The handler of `vector`.
pub fn handler(vector: u64) -> u64 {
    HANDLERS + vector * 16
}
