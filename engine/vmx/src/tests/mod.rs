//! Tests of VMX operation, and the small machine they run on: a hypervisor in 64-bit mode, everything mapped one to one.

mod checks;
mod functions;
mod instructions;
mod intercept;
mod random;
mod shadowing;
mod transitions;

use crate::Capabilities;
use crate::capabilities::REVISION;
use crate::instructions::{Outcome, vmclear, vmptrld, vmxon};
use gasang_cpu::{Core, CpuModel, DescriptorTable, Platform, SegmentRegister, Tlb, Trap, VcpuState, Vmcs};
use gasang_memory::GuestMemory;
use gasang_x86::control::{cr0, cr4, efer};
use gasang_x86::descriptor::access;
use gasang_x86::msr::feature_control;
use gasang_x86::vmx::Field;
use gasang_x86::vmx::controls::{entry, exit, primary};
use gasang_x86::{paging, segment};

/// The VMXON region.
pub const VMXON: u64 = 0x1_0000;
/// The VMCS that is current.
pub const VMCS: u64 = 0x1_1000;
/// Another VMCS.
pub const OTHER: u64 = 0x1_2000;
/// Free pages for bitmaps, MSR areas and the like.
pub const PAGES: u64 = 0x4_0000;
/// Page tables.
pub const TABLES: u64 = 0x2_0000;
pub const GDT: u64 = 0x1000;
pub const IDT: u64 = 0x2000;
pub const TSS: u64 = 0x3000;
pub const STACK: u64 = 0x7000;
pub const CODE64: u32 = access::PRESENT
    | access::S
    | access::CODE
    | access::READABLE
    | access::ACCESSED
    | access::LONG
    | access::GRANULARITY;
pub const DATA: u32 =
    access::PRESENT | access::S | access::WRITABLE | access::ACCESSED | access::DB | access::GRANULARITY;

/// Surroundings that answer simply.
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
    fn msr_read(&mut self, _msr: u32) -> Option<Result<u64, Trap>> {
        None
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
    pub capabilities: Capabilities,
}

pub fn flat(selector: u16, attributes: u32) -> SegmentRegister {
    SegmentRegister { base: 0, limit: u32::MAX, attributes, selector }
}

impl Machine {
    /// In 64-bit mode at CPL 0, fit for VMXON.
    pub fn new() -> Machine {
        let model = CpuModel::parse("max").unwrap();
        let capabilities = Capabilities::new(&model);
        let mut machine = Machine {
            state: VcpuState::reset(),
            tlb: Tlb::new(64),
            memory: GuestMemory::new(4 << 20).unwrap(),
            platform: FakePlatform::default(),
            model,
            capabilities,
        };
        let state = &mut machine.state;
        state.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE | cr0::WP;
        state.cr3 = TABLES;
        state.cr4 = cr4::PAE | cr4::VMXE | cr4::OSFXSR;
        state.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        state.segment = [flat(0x10, DATA); 6];
        state.segment[segment::CS] = flat(0x08, CODE64);
        state.tr =
            SegmentRegister { base: TSS, limit: 0x67, attributes: access::PRESENT | 11, selector: 0x30 };
        state.ldtr = SegmentRegister { attributes: access::UNUSABLE, ..Default::default() };
        state.gdtr = DescriptorTable { base: GDT, limit: 0xff };
        state.idtr = DescriptorTable { base: IDT, limit: 0xfff };
        state.gpr[gasang_x86::gpr::RSP] = STACK;
        state.rip = 0x1234;
        state.vmx.feature_control = feature_control::LOCK | feature_control::VMX_OUTSIDE_SMX;
        machine.lay_out();
        machine
    }

    /// Page tables, a GDT, handlers, and the revision identifiers of the regions.
    fn lay_out(&mut self) {
        let open = paging::PRESENT | paging::WRITABLE | paging::USER;
        self.poke(TABLES, 8, (TABLES + 0x1000) | open);
        self.poke(TABLES + 0x1000, 8, (TABLES + 0x2000) | open);
        for page in 0..2 {
            self.poke(TABLES + 0x2000 + page * 8, 8, page << 21 | open | paging::PAGE_SIZE);
        }
        self.poke(GDT + 8, 8, 0x00af_9b00_0000_ffff);
        self.poke(GDT + 16, 8, 0x00cf_9300_0000_ffff);
        for vector in 0..256 {
            // An interrupt gate of DPL 3 to 0x8000 + 16 * vector.
            self.poke(IDT + vector * 16, 8, 0x0000_ee00_0008_0000 | (0x8000 + vector * 16));
        }
        for region in [VMXON, VMCS, OTHER] {
            self.poke(region, 4, u64::from(REVISION));
        }
    }

    /// In VMX root operation, without a current VMCS.
    pub fn root() -> Machine {
        let mut machine = Machine::new();
        assert_eq!(machine.with(|core, capabilities| vmxon(core, capabilities, VMXON)), Ok(Outcome::Succeed));
        machine
    }

    /// In VMX root operation with a clear current VMCS.
    pub fn current() -> Machine {
        let mut machine = Machine::root();
        assert_eq!(machine.with(|core, _| vmclear(core, VMCS)), Ok(Outcome::Succeed));
        assert_eq!(
            machine.with(|core, capabilities| vmptrld(core, capabilities, VMCS)),
            Ok(Outcome::Succeed)
        );
        machine
    }

    pub fn with<T>(&mut self, call: impl FnOnce(&mut Core<'_>, &Capabilities) -> T) -> T {
        let mut core = Core {
            state: &mut self.state,
            tlb: &mut self.tlb,
            memory: &self.memory,
            platform: &mut self.platform,
            model: &self.model,
        };
        call(&mut core, &self.capabilities)
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
}

/// RIP of the guest, and of the host.
pub const GUEST_RIP: u64 = 0x9000;
pub const HOST_RIP: u64 = 0xa000;

/// A VMCS that VM entries accept: a 64-bit guest and a 64-bit host, with nothing intercepted.
pub fn valid(capabilities: &Capabilities) -> Vmcs {
    let mut vmcs = Vmcs::default();
    let primary = capabilities.primary.ones | primary::ACTIVATE_SECONDARY_CONTROLS;
    let exit = capabilities.exit.ones | exit::HOST_ADDRESS_SPACE_SIZE | exit::SAVE_DEBUG_CONTROLS;
    let entry = capabilities.entry.ones | entry::IA32E_MODE_GUEST | entry::LOAD_DEBUG_CONTROLS;
    let modes = efer::LME | efer::LMA;
    for (field, value) in [
        (Field::PinBasedControls, u64::from(capabilities.pin.ones)),
        (Field::PrimaryControls, u64::from(primary)),
        (Field::VmExitControls, u64::from(exit | exit::LOAD_EFER | exit::SAVE_EFER)),
        (Field::VmEntryControls, u64::from(entry | entry::LOAD_EFER)),
        (Field::VmcsLinkPointer, u64::MAX),
        (Field::HostEfer, modes | efer::NXE | efer::SCE),
        (Field::HostRip, HOST_RIP),
        (Field::HostRsp, STACK),
        (Field::HostGdtrBase, GDT),
        (Field::HostIdtrBase, IDT),
        (Field::HostTrBase, TSS),
        (Field::HostTrSelector, 0x30),
        (Field::HostCsSelector, 0x08),
        (Field::HostSsSelector, 0x10),
        (Field::HostDsSelector, 0x10),
        (Field::HostFsBase, 0xf000),
        (Field::GuestEfer, modes | efer::NXE),
        (Field::GuestRip, GUEST_RIP),
        (Field::GuestRsp, STACK - 0x800),
        (Field::GuestRflags, gasang_x86::rflags::FIXED),
        (Field::GuestDr7, 0x400),
        (Field::GuestGdtrBase, GDT),
        (Field::GuestGdtrLimit, 0xff),
        (Field::GuestIdtrBase, IDT),
        (Field::GuestIdtrLimit, 0xfff),
        (Field::GuestTrSelector, 0x30),
        (Field::GuestTrBase, TSS),
        (Field::GuestTrLimit, 0x67),
        (Field::GuestTrAccessRights, u64::from(access::PRESENT | 11)),
        (Field::GuestLdtrAccessRights, u64::from(access::UNUSABLE)),
    ] {
        vmcs.set(field, value);
    }
    for (number, (selector, _, limit, rights)) in crate::guest_state::SEGMENTS.into_iter().enumerate() {
        let (name, attributes) = if number == segment::CS { (0x08, CODE64) } else { (0x10, DATA) };
        vmcs.set(selector, name);
        vmcs.set(limit, u64::from(u32::MAX));
        vmcs.set(rights, u64::from(attributes));
    }
    for (control0, control3, control4) in [
        (Field::HostCr0, Field::HostCr3, Field::HostCr4),
        (Field::GuestCr0, Field::GuestCr3, Field::GuestCr4),
    ] {
        vmcs.set(control0, cr0::PE | cr0::PG | cr0::ET | cr0::NE | cr0::WP);
        vmcs.set(control3, TABLES);
        vmcs.set(control4, cr4::PAE | cr4::VMXE | cr4::OSFXSR);
    }
    vmcs
}
