//! A virtual machine: RAM, processors, chipset, clock.

use crate::accelerator::{Accelerator, AcceleratorKind};
use crate::clock::{Clock, ClockKind};
use crate::digest;
use crate::error::Error;
use crate::hardware::Hardware;
use crate::kvm_machine::KvmMachine;
use crate::processor::Processor;
use crate::shared::Shared;
use crate::vcpu::Vcpu;
use gasang_chipset::UART_COUNT;
use gasang_cpu::CpuModel;
use gasang_kvm::InterruptControllers;
use gasang_memory::{GuestMemory, PAGE_SIZE};
use gasang_translate::{CodeLog, CodePages, CodeRecord};
use std::fs::File;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

/// More processors than APIC ids of 8 bits can name make no machine.
const MOST_VCPUS: usize = 255;
/// Interrupt lines, GSIs 0 to 23.
pub(crate) const LINES: u32 = 24;

/// What a machine is made of.
#[derive(Debug, Clone)]
pub struct VmOptions {
    /// Bytes of RAM, a multiple of the page size.
    pub memory: u64,
    /// Processors.
    pub vcpus: usize,
    /// What executes.
    pub accelerator: AcceleratorKind,
    /// MODEL[,+feature,-feature]...
    pub cpu: String,
    /// What makes time pass.
    pub clock: ClockKind,
    /// Nanoseconds from 1970 to the machine's creation, as guests are told that ask KVM's clock.
    pub wall_clock: u64,
    /// Chooses the random numbers of a machine whose clock counts instructions; others have the host's.
    pub seed: u64,
    /// Keep listings of translated blocks.
    pub trace_blocks: bool,
    /// Blocks count how often they are executed.
    pub count_blocks: bool,
    /// Note where the code of each block is.
    pub log_code: bool,
    /// Where KVM cannot go on, translation does.
    pub kvm_may_fail: bool,
    /// Where interrupt controllers and PIT are on KVM.
    pub controllers: InterruptControllers,
    /// The guest may go from translation to KVM and back: it is told of a processor that it finds on both. One that
    /// begins on KVM always may.
    pub switchable: bool,
    /// A VM exit ends a run: the hypervisor is outside.
    pub vm_exits: bool,
    /// RAM begins as the bytes of this file from that offset on, and goes its own way.
    pub memory_image: Option<(Arc<File>, u64)>,
}

impl VmOptions {
    /// A machine of one processor that is whatever the host offers, on the host's clock, with nothing traced.
    pub fn new(memory: u64, accelerator: AcceleratorKind) -> VmOptions {
        VmOptions {
            memory,
            vcpus: 1,
            accelerator,
            cpu: "max".to_owned(),
            clock: ClockKind::Host,
            wall_clock: 0,
            seed: 0,
            trace_blocks: false,
            count_blocks: false,
            log_code: false,
            kvm_may_fail: false,
            controllers: InterruptControllers::Own,
            switchable: false,
            vm_exits: false,
            memory_image: None,
        }
    }
}

/// A virtual machine.
pub struct Vm {
    pub(crate) shared: Arc<Shared>,
    pub(crate) vcpus: Vec<Arc<Vcpu>>,
    code_log: Option<Arc<CodeLog>>,
    /// The machine as KVM has it, if it is there.
    pub(crate) kvm: Mutex<Option<KvmMachine>>,
    /// Where interrupt controllers are while it is.
    pub(crate) controllers: InterruptControllers,
    /// The guest was told of a processor that it finds on either accelerator.
    pub(crate) switchable: bool,
    /// It stands still, and goes on on KVM.
    pub(crate) goes_on_on_kvm: AtomicBool,
}

impl Vm {
    /// A machine after reset.
    ///
    /// # Errors
    /// An option out of its range, a model or feature that is unknown or impossible here, memory that cannot be had.
    pub fn new(options: &VmOptions) -> Result<Vm, Error> {
        check(options)?;
        let model = CpuModel::parse(&options.cpu).map_err(Error::Model)?;
        let memory = match &options.memory_image {
            Some((file, offset)) => {
                file.try_clone().and_then(|file| GuestMemory::over(file, *offset, options.memory))
            }
            None => GuestMemory::new(options.memory),
        };
        let memory = memory.map_err(|source| Error::Host {
            attempt: format!("cannot map {} bytes of guest memory", options.memory),
            source,
        })?;
        let memory = Arc::new(memory);
        let code_pages = match options.accelerator {
            // What KVM cannot execute is translated.
            AcceleratorKind::Translator | AcceleratorKind::Kvm => {
                Some(Arc::new(CodePages::new(&memory, options.vcpus)))
            }
            AcceleratorKind::Interpreter => None,
        };
        let on_kvm = options.accelerator == AcceleratorKind::Kvm;
        let switchable = options.switchable || on_kvm;
        let kvm = switchable
            .then(|| KvmMachine::new(&memory, &model, &options.cpu, options.controllers))
            .transpose()?;
        let (clock, model) = match &kvm {
            // Nobody scales the counter that the guest reads.
            Some(kvm) => (Clock::with_counter_of_host(), kvm.model.clone()),
            None => (Clock::new(options.clock), model),
        };
        let kvm = kvm.filter(|_| on_kvm);
        let (seed, wall_clock) = (options.seed, options.wall_clock);
        let shared = Arc::new(Shared::new(memory, model, clock, wall_clock, seed, options.vcpus, code_pages));
        if options.kvm_may_fail {
            shared.on_kvm.allow_to_leave();
        }
        let code_log = options.log_code.then(Arc::<CodeLog>::default);
        let vcpu = |index| {
            let mut accelerator = Accelerator::new(&shared, index, options)?;
            if let Some(log) = &code_log {
                accelerator.log_code(log);
            }
            let hardware = kvm.as_ref().map(|kvm| Hardware::new(&kvm.machine, index, &shared)).transpose()?;
            let mut processor = Processor::new(index, Arc::clone(&shared), accelerator, hardware);
            processor.state.vmx.stops_at_exits = options.vm_exits;
            Ok(Arc::new(Vcpu::new(index, Arc::clone(&shared), processor)))
        };
        let vcpus = (0..options.vcpus).map(vcpu).collect::<Result<_, Error>>()?;
        let controllers = options.controllers;
        let goes_on_on_kvm = AtomicBool::new(false);
        let vm =
            Vm { shared, vcpus, code_log, kvm: Mutex::new(kvm), controllers, switchable, goes_on_on_kvm };
        if let Some(kvm) = &*vm.kvm() {
            vm.give_controllers(kvm, &mut vm.hold_all()?)?;
        }
        Ok(vm)
    }

    /// What the guest's processors are, for those who ask within.
    pub(crate) fn model(&self) -> &CpuModel {
        &self.shared.model
    }

    /// Processor `index`.
    ///
    /// # Errors
    /// If there is none.
    pub fn vcpu(&self, index: usize) -> Result<Arc<Vcpu>, Error> {
        let missing = || Error::Argument(format!("no vCPU {index}: there are {}", self.vcpus.len()));
        self.vcpus.get(index).cloned().ok_or_else(missing)
    }

    /// RAM as (physical address, length), ascending.
    pub fn memory_regions(&self) -> Vec<(u64, u64)> {
        self.shared.memory.map().regions()
    }

    /// Read RAM at a physical address.
    ///
    /// # Errors
    /// If any of it is not RAM.
    pub fn read_memory(&self, address: u64, length: u64) -> Result<Vec<u8>, Error> {
        // Before anything of that length is allocated.
        self.shared.memory.map().check(address, length)?;
        let mut bytes = vec![0; length as usize];
        self.shared.memory.read_physical(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Write RAM at a physical address. Code translated from it is void.
    ///
    /// # Errors
    /// If any of it is not RAM; nothing is written then.
    pub fn write_memory(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        self.shared.write_memory(address, bytes)
    }

    /// A number that tells RAM's contents from other contents.
    ///
    /// # Errors
    /// What the host says.
    pub fn memory_digest(&self) -> Result<u64, Error> {
        digest::memory(&self.shared.memory)
            .map_err(|source| Error::Host { attempt: "cannot read guest memory".to_owned(), source })
    }

    /// A number that tells the machine's state from other states: processors, RAM, chipset, time.
    ///
    /// # Errors
    /// If a thread is inside a processor; what the host says.
    pub fn state_digest(&self) -> Result<u64, Error> {
        let processors: Vec<u64> =
            self.vcpus.iter().map(|vcpu| vcpu.state_digest()).collect::<Result<_, Error>>()?;
        let chipset = self.shared.with_chipset(None, |chipset, now| {
            // Timers that are due have run, and all that is derived from the time is up to date.
            chipset.advance(now);
            digest::of(&(&*chipset, now))
        });
        Ok(digest::of(&(processors, chipset.0, self.memory_digest()?)))
    }

    /// Drive a global system interrupt line.
    ///
    /// # Errors
    /// If there is no such line.
    pub fn set_interrupt_line(&self, gsi: u32, level: bool) -> Result<(), Error> {
        self.shared.check()?;
        if gsi >= LINES {
            return Err(Error::Argument(format!("no interrupt line {gsi}: there are 0 to {}", LINES - 1)));
        }
        self.shared.with_chipset(None, |chipset, now| chipset.set_line(now, gsi, level));
        Ok(())
    }

    /// Offer bytes to a serial port; how many it took.
    ///
    /// # Errors
    /// If there is no such port.
    pub fn serial_input(&self, index: usize, bytes: &[u8]) -> Result<usize, Error> {
        self.shared.check()?;
        serial_port(index)?;
        Ok(self.shared.with_chipset(None, |chipset, now| chipset.serial_input(now, index, bytes)).0)
    }

    /// Bytes of input that the guest has not read yet.
    ///
    /// # Errors
    /// If there is no such port.
    pub fn serial_pending(&self, index: usize) -> Result<usize, Error> {
        serial_port(index)?;
        Ok(self.shared.with_chipset(None, |chipset, _| chipset.serial_pending(index)).0)
    }

    /// Where the code of each block translated since the last call is; none on a machine that does not log it.
    pub fn take_code_log(&self) -> Vec<CodeRecord> {
        self.code_log.as_ref().map(|log| log.take()).unwrap_or_default()
    }

    /// Nanoseconds of virtual time since creation.
    pub fn virtual_time(&self) -> u64 {
        self.shared.clock.now()
    }
}

fn serial_port(index: usize) -> Result<(), Error> {
    if index < UART_COUNT {
        return Ok(());
    }
    Err(Error::Argument(format!("no serial port {index}: there are 0 to {}", UART_COUNT - 1)))
}

fn check(options: &VmOptions) -> Result<(), Error> {
    let refuse = |message| Err(Error::Argument(message));
    if options.memory == 0 || options.memory % PAGE_SIZE != 0 {
        return refuse(format!(
            "memory of {} bytes is not a whole number of 4096-byte pages",
            options.memory
        ));
    }
    if options.vcpus == 0 || options.vcpus > MOST_VCPUS {
        return refuse(format!("{} vCPUs: a machine has 1 to {MOST_VCPUS}", options.vcpus));
    }
    let kvm = options.switchable || options.accelerator == AcceleratorKind::Kvm;
    if options.clock == ClockKind::Instructions && kvm {
        return refuse("KVM does not count instructions: its clock is the host's".to_owned());
    }
    if options.vm_exits && kvm {
        return refuse("VT-x from outside is of the software processor: bt or interp".to_owned());
    }
    if options.switchable && options.accelerator == AcceleratorKind::Interpreter {
        return refuse("a machine is switched between bt and kvm: begin it on one of these".to_owned());
    }
    if options.clock == ClockKind::Instructions && options.vcpus != 1 {
        return refuse("the clock that counts instructions needs a machine of one vCPU".to_owned());
    }
    Ok(())
}

/// The names of processor models.
pub fn cpu_models() -> Vec<&'static str> {
    CpuModel::models()
}

/// The names of features that may be added to a model or removed from it.
pub fn cpu_features() -> Vec<&'static str> {
    CpuModel::known_features()
}
