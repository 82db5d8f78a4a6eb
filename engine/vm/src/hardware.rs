//! A processor that the host's own virtualization executes: what KVM does of the loop, and what stays the engine's.
//!
//! Interrupt controllers, timers and devices are those of every accelerator; KVM executes instructions, and leaves for
//! whatever it has no part in. Its copy of the state is the valid one until something here needs the state.

use crate::attention::LEAVE;
use crate::error::Error;
use crate::exit::Exit;
use crate::host::let_signals_wait;
use crate::processor::{Processor, Unfinished};
use crate::shared::{NEVER, Shared};
use crate::tracepoints::Tracepoint;
use gasang_cpu::{Activity, Platform, Trap, VcpuState};
use gasang_exec::Step;
use gasang_kvm::{Alarm, Exit as Left, MsrAccess, Vcpu};
use gasang_translate::disassemble;
use gasang_x86::{msr, segment};
use std::io;
use std::sync::Arc;

/// Nanoseconds after which a processor that is in the kernel is looked at.
const LOOK_AFTER: u64 = 100_000_000;
/// Bytes (SDM vol. 2, 2.3.11).
const LONGEST_INSTRUCTION: u64 = 15;

/// A processor's part of KVM.
#[derive(Debug)]
pub(crate) struct Hardware {
    pub(crate) vcpu: Vcpu,
    /// KVM's copy of the state is the valid one.
    holds_state: bool,
    /// The access that is being answered, and how many of its items are.
    access: Option<(Left, u32)>,
    /// CR8 as KVM was told it last; None if the chipset may have changed it since.
    task_priority: Option<u8>,
    alarm: Alarm,
    /// The interrupt controllers are the kernel's.
    pub(crate) controllers_in_kernel: bool,
}

pub(crate) fn failed(attempt: &str) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Host { attempt: format!("KVM: cannot {attempt}"), source }
}

impl Hardware {
    /// Processor `index` of a machine on KVM.
    ///
    /// # Errors
    /// What KVM says.
    pub(crate) fn new(
        machine: &gasang_kvm::Machine,
        index: usize,
        shared: &Shared,
    ) -> Result<Hardware, Error> {
        let mut vcpu = machine.vcpu(index).map_err(failed("make a processor"))?;
        let (cpus, tsc_hz) = (shared.attention.len() as u32, shared.clock.tsc_hz());
        let state = VcpuState::reset();
        let leaf = |leaf, subleaf| shared.model.cpuid(leaf, subleaf, &state, index as u32, cpus, tsc_hz);
        vcpu.set_cpuid(leaf).map_err(failed("set CPUID"))?;
        Ok(Hardware {
            vcpu,
            holds_state: false,
            access: None,
            task_priority: None,
            alarm: Alarm::default(),
            controllers_in_kernel: machine.controllers().is_some(),
        })
    }
}

impl Processor {
    /// KVM's processor, while it has the valid copy of the state.
    pub(crate) fn on_hardware(&mut self) -> Option<&mut Vcpu> {
        let hardware = self.hardware.as_mut().filter(|hardware| hardware.holds_state)?;
        Some(&mut hardware.vcpu)
    }

    /// Have in `state` what is the state now, to be looked at. While an access waits for its answer, RIP may be at its
    /// instruction or behind it.
    ///
    /// # Errors
    /// What KVM says.
    pub(crate) fn refresh_state(&mut self) -> Result<(), Error> {
        self.settle()?;
        let Some(hardware) = self.hardware.as_mut().filter(|hardware| hardware.holds_state) else {
            return Ok(());
        };
        let model = &self.surroundings.shared.model;
        hardware.vcpu.peek(&mut self.state, model).map_err(failed("read the state"))?;
        Ok(())
    }

    /// Have KVM finish the instruction whose access was answered last. `Pending` if that, or another of its accesses,
    /// takes an answer from outside.
    ///
    /// # Errors
    /// What KVM says.
    pub(crate) fn settle(&mut self) -> Result<Step, Error> {
        while let Some(hardware) = self.hardware.as_mut().filter(|hardware| hardware.holds_state) {
            if hardware.access.is_some() {
                return Ok(Step::Pending);
            }
            // What makes it leave takes the signal of the alarm, if that waits.
            hardware.alarm.may_have_rung();
            match hardware.vcpu.finish().map_err(failed("finish an access"))? {
                Some(left) if left.is_access() => {
                    if self.begin_access(left)? == Step::Pending {
                        return Ok(Step::Pending);
                    }
                }
                Some(Left::Failed(reason)) => return Err(Error::Kvm(reason)),
                // What it cannot emulate it will not be able to when it is entered again.
                Some(_) | None => break,
            }
        }
        Ok(Step::Retired)
    }

    /// Take the state back: what is in `state` is the valid copy from now on, unless it is `Pending`, because an access
    /// waits for its answer from outside.
    ///
    /// # Errors
    /// What KVM says.
    pub(crate) fn take_state(&mut self) -> Result<Step, Error> {
        if self.settle()? == Step::Pending {
            return Ok(Step::Pending);
        }
        let Some(hardware) = self.hardware.as_mut().filter(|hardware| hardware.holds_state) else {
            return Ok(Step::Retired);
        };
        if hardware.controllers_in_kernel {
            // First of all: KVM acts upon INIT and start-up IPIs when it is asked this.
            self.state.activity = hardware.vcpu.activity().map_err(failed("read the state"))?;
        }
        let model = &self.surroundings.shared.model;
        let undelivered = hardware.vcpu.store(&mut self.state, model).map_err(failed("read the state"))?;
        hardware.holds_state = false;
        self.translation_changed();
        if let Some(vector) = undelivered.interrupt {
            return self.deliver(Unfinished::Interrupt(vector));
        }
        if undelivered.nmi {
            return self.deliver(Unfinished::Nmi);
        }
        Ok(Step::Retired)
    }

    /// As `take_state`, for whoever cannot wait for an answer.
    ///
    /// # Errors
    /// While an access waits for its answer; what KVM says.
    pub(crate) fn take_state_now(&mut self) -> Result<(), Error> {
        match self.take_state()? {
            Step::Pending => Err(Error::Unanswered),
            _ => Ok(()),
        }
    }

    /// Have KVM deliver an interrupt or NMI, if it holds the state.
    ///
    /// # Errors
    /// What KVM says.
    pub(crate) fn deliver_on_hardware(&mut self, what: Unfinished) -> Result<bool, Error> {
        let Some(vcpu) = self.on_hardware() else { return Ok(false) };
        let delivered = match what {
            Unfinished::Interrupt(vector) | Unfinished::VirtualInterrupt(vector) => vcpu.interrupt(vector),
            Unfinished::Nmi | Unfinished::Instruction | Unfinished::Access => vcpu.nmi(),
        };
        delivered.map_err(failed("deliver an interrupt"))?;
        Ok(true)
    }

    /// Give KVM the state.
    fn give_state(&mut self) -> Result<(), Error> {
        let shared = Arc::clone(&self.surroundings.shared);
        let Some(hardware) = &mut self.hardware else { return Ok(()) };
        hardware.vcpu.load(&self.state, &shared.model).map_err(failed("set the state"))?;
        let offset = self.state.msr.tsc_offset.wrapping_sub(shared.clock.start());
        hardware.vcpu.set_tsc_offset(offset).map_err(failed("set the time-stamp counter"))?;
        if hardware.controllers_in_kernel {
            hardware.vcpu.set_activity(self.state.activity).map_err(failed("set the state"))?;
        }
        hardware.holds_state = true;
        hardware.task_priority = None;
        Ok(())
    }

    /// Let KVM execute until it leaves; the exit, if it is one for the caller.
    pub(crate) fn execute_on_hardware(&mut self) -> Result<Option<Exit>, Error> {
        if self.hardware.as_ref().is_some_and(|hardware| !hardware.holds_state) {
            if self.state.pending_debug != 0 {
                // A trap that KVM could not be told of.
                let_signals_wait()?;
                self.with_core(|core, accelerator| accelerator.step(core));
                return Ok(None);
            }
            self.give_state()?;
        }
        let Some(left) = self.enter()? else { return Ok(None) };
        match left {
            Left::PortRead { .. }
            | Left::PortWrite { .. }
            | Left::MmioRead { .. }
            | Left::MmioWrite { .. }
            | Left::Msr { .. } => {
                if self.begin_access(left)? == Step::Pending {
                    return Ok(Some(self.report_access()));
                }
            }
            Left::Halt => {
                if self.surroundings.tracepoints.are_watched() {
                    self.refresh_state()?;
                }
                self.state.activity = Activity::Halted;
                self.surroundings.trace(Tracepoint::Halt { rip: self.state.rip });
            }
            Left::Shutdown => self.state.activity = Activity::Shutdown,
            Left::Interrupted if self.has_kernel_controllers() => return self.look_whether_stopped(),
            Left::InterruptWindow | Left::TaskPriority | Left::Interrupted => {}
            Left::EmulationFailure => {
                let reason = self.what_kvm_cannot_emulate()?;
                return self.give_up_kvm(reason);
            }
            Left::Failed(reason) => return self.give_up_kvm(reason),
        }
        Ok(None)
    }

    /// KVM cannot go on: translation does, from the same state, if that is allowed.
    fn give_up_kvm(&mut self, reason: String) -> Result<Option<Exit>, Error> {
        let shared = Arc::clone(&self.surroundings.shared);
        let Some(first) = shared.on_kvm.leave() else { return Err(Error::Kvm(reason)) };
        let others = (0..shared.attention.len()).filter(|&index| index != self.surroundings.index);
        others.for_each(|index| shared.raise(index, LEAVE));
        if self.leave_kvm()? == Step::Pending {
            // What it was at is over, or KVM could not have come to what it cannot do.
            return Err(Error::Unanswered);
        }
        Ok(first.then_some(Exit::KvmLost { reason }))
    }

    /// Execute by translation from now on, if the machine has left KVM. `Pending` while an access waits for its answer.
    ///
    /// # Errors
    /// What KVM says.
    pub(crate) fn follow_out_of_kvm(&mut self) -> Result<Step, Error> {
        if self.hardware.is_some() && self.surroundings.shared.on_kvm.has_left() {
            self.leave_kvm()
        } else {
            Ok(Step::Retired)
        }
    }

    fn leave_kvm(&mut self) -> Result<Step, Error> {
        self.surroundings.shared.on_kvm.wait_for_the_last();
        if self.take_state()? == Step::Pending {
            return Ok(Step::Pending);
        }
        self.bring_controllers_back()?;
        self.hardware = None;
        let_signals_wait()?;
        let shared = &self.surroundings.shared;
        // Code that was translated before the machine went to KVM.
        shared.all_code_may_be_written();
        Ok(Step::Retired)
    }

    /// Enter the guest, unless attention is wanted first.
    fn enter(&mut self) -> Result<Option<Left>, Error> {
        let shared = Arc::clone(&self.surroundings.shared);
        let index = self.surroundings.index;
        let task_priority = self.prepare_controllers();
        let Some(hardware) = &mut self.hardware else { return Ok(None) };
        let now = shared.clock.now();
        let mut due = shared.next_deadline().min(shared.output_deadline());
        if hardware.controllers_in_kernel {
            // Nobody tells that a processor waits in the kernel for what cannot come.
            due = due.min(now.saturating_add(LOOK_AFTER));
        }
        let deadline = Some(due).filter(|&deadline| deadline != NEVER);
        hardware.alarm.set(deadline, now).map_err(failed("set an alarm"))?;
        if let Some(pages) = &shared.code_pages {
            pages.thread_begins(index);
        }
        let raised = shared.attention.get(index).is_none_or(|attention| attention.is_raised());
        let left = if raised { None } else { shared.on_kvm.inside(|| hardware.vcpu.run()) };
        if let Some(pages) = &shared.code_pages {
            pages.thread_ends(index);
        }
        let Some(left) = left else { return Ok(None) };
        let left = left.map_err(failed("enter the guest"))?;
        if left == Left::Interrupted {
            hardware.alarm.may_have_rung();
        }
        if let Some(before) = task_priority {
            let now = hardware.vcpu.task_priority();
            hardware.task_priority = Some(now);
            if now != before {
                self.surroundings.set_task_priority(now);
            }
        }
        Ok(Some(left))
    }

    /// Tell KVM what it is to know of interrupt controllers that it has not: the task priority that it is told.
    fn prepare_controllers(&mut self) -> Option<u8> {
        let told = match &self.hardware {
            Some(hardware) if !hardware.controllers_in_kernel => hardware.task_priority,
            _ => return None,
        };
        let task_priority = told.unwrap_or_else(|| self.surroundings.task_priority());
        let wants_window = self.surroundings.pending.interrupt;
        let hardware = self.hardware.as_mut()?;
        hardware.vcpu.set_task_priority(task_priority);
        hardware.vcpu.ask_for_window(wants_window);
        Some(task_priority)
    }

    /// Answer the access for which KVM left. `Pending` if that takes an answer from outside.
    fn begin_access(&mut self, left: Left) -> Result<Step, Error> {
        if let Some(hardware) = &mut self.hardware {
            hardware.access = Some((left, 0));
        }
        self.surroundings.answers.commit();
        self.answer_access()
    }

    /// Answer what is left of the access that made KVM leave. `Pending` if that takes an answer from outside.
    pub(crate) fn answer_access(&mut self) -> Result<Step, Error> {
        let Some((left, mut done)) = self.hardware.as_mut().and_then(|hardware| hardware.access.take())
        else {
            return Ok(Step::Retired);
        };
        let count = match left {
            Left::PortRead { count, .. } | Left::PortWrite { count, .. } => count,
            _ => 1,
        };
        while done < count {
            match self.answer_item(&left, done) {
                Ok(()) => {}
                Err(Trap::Pending) => {
                    self.unfinished = Unfinished::Access;
                    if let Some(hardware) = &mut self.hardware {
                        hardware.access = Some((left, done));
                    }
                    return Ok(Step::Pending);
                }
                // Nothing else comes of a device, and MSRs answer for themselves.
                Err(trap) => return Err(Error::Kvm(format!("an access ended with {trap:?}"))),
            }
            self.surroundings.answers.commit();
            done += 1;
        }
        Ok(Step::Retired)
    }

    fn answer_item(&mut self, left: &Left, item: u32) -> Result<(), Trap> {
        match *left {
            Left::PortRead { port, size, .. } => {
                let value = self.surroundings.port_read(port, size)?;
                if let Some(vcpu) = self.on_hardware() {
                    let place = vcpu.port_item(item);
                    let bytes = value.to_le_bytes();
                    place.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
                }
            }
            Left::PortWrite { port, size, .. } => {
                let mut bytes = [0; 4];
                if let Some(vcpu) = self.on_hardware() {
                    let place = vcpu.port_item(item);
                    bytes.iter_mut().zip(place).for_each(|(byte, place)| *byte = *place);
                }
                self.surroundings.port_write(port, size, u32::from_le_bytes(bytes))?;
            }
            Left::MmioRead { address, size } => {
                let value = self.surroundings.mmio_read(address, size)?;
                if let Some(vcpu) = self.on_hardware() {
                    vcpu.answer_mmio(value);
                }
                self.forget_task_priority();
            }
            Left::MmioWrite { address, size, value } => {
                self.surroundings.mmio_write(address, size, value)?;
                self.forget_task_priority();
            }
            Left::Msr { index, access } => self.access_msr(index, access)?,
            _ => {}
        }
        Ok(())
    }

    /// The chipset may have changed CR8.
    fn forget_task_priority(&mut self) {
        if let Some(hardware) = &mut self.hardware {
            hardware.task_priority = None;
        }
    }

    /// RDMSR or WRMSR of what is not KVM's, or what it refuses: then the engine's rules say what becomes of it.
    fn access_msr(&mut self, index: u32, access: MsrAccess) -> Result<(), Trap> {
        let outcome = self.with_core(|core, _| match access {
            MsrAccess::Read => core.read_msr(index),
            MsrAccess::Write(value) => core.write_msr(index, value).map(|()| 0),
        });
        let answer = match outcome {
            Ok(value) => Some(value),
            Err(Trap::Exception(_)) => None,
            Err(trap) => return Err(trap),
        };
        let start = self.surroundings.shared.clock.start();
        let offset = self.state.msr.tsc_offset.wrapping_sub(start);
        if let Some(hardware) = &mut self.hardware {
            hardware.vcpu.answer_msr(answer);
            hardware.task_priority = None;
            if matches!(index, msr::TSC | msr::TSC_ADJUST) && matches!(access, MsrAccess::Write(_)) {
                // What KVM refuses here it would have refused when the state was given.
                let _ = hardware.vcpu.set_tsc_offset(offset);
            }
        }
        Ok(())
    }

    /// The instruction that KVM should have emulated, in words.
    fn what_kvm_cannot_emulate(&mut self) -> Result<String, Error> {
        self.refresh_state()?;
        let rip = self.state.rip;
        let start = self.state.segment[segment::CS].base.wrapping_add(rip);
        let memory = Arc::clone(&self.surroundings.shared.memory);
        let code: Vec<u8> = (0..LONGEST_INSTRUCTION)
            .map_while(|at| {
                let linear = start.wrapping_add(at);
                let physical = self.with_core(|core, _| core.translate_for_debugger(linear))?;
                memory.host(physical).map(|host| memory.load(host, 1) as u8)
            })
            .collect();
        let (text, bytes) =
            disassemble(&code, self.state.code_bits(), rip).unwrap_or(("no instruction".to_owned(), &code));
        let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("KVM cannot emulate the instruction at {rip:#x}: {text} ({})", bytes.join(" ")))
    }
}
