//! The processor as its users hold it: one thread runs it, any thread may kick it.

use crate::attention::KICK;
use crate::counts::Counts;
use crate::digest;
use crate::error::Error;
use crate::events::Event;
use crate::exit::Exit;
use crate::host::InsideGuest;
use crate::processor::Processor;
use crate::registers::{self, CR8, RegisterValue};
use crate::shared::Shared;
use crate::tracepoints::TraceEvent;
use crate::vmx::{VmxInstruction, VmxOutcome};
use gasang_cpu::Transition;
use gasang_translate::{BlockListing, Executions, Measurements};
use std::any::Any;
use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

/// A virtual processor.
pub struct Vcpu {
    index: usize,
    shared: Arc<Shared>,
    processor: Mutex<Processor>,
    counts: Arc<Mutex<Counts>>,
}

impl Vcpu {
    pub(crate) fn new(index: usize, shared: Arc<Shared>, processor: Processor) -> Vcpu {
        let counts = processor.public_counts();
        Vcpu { index, shared, processor: Mutex::new(processor), counts }
    }

    /// Its number, which is its APIC id.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Enter the guest; the exit is the value. `reply` answers the read that the last exit reported; `instructions`
    /// bounds how many are executed before `Interrupted`.
    ///
    /// # Errors
    /// A reply that is missing, not asked for, or too large; another thread inside; a breakdown of the engine.
    pub fn run(&self, reply: Option<u64>, instructions: Option<u64>) -> Result<Exit, Error> {
        self.use_processor(|processor| {
            let _inside = InsideGuest::enter(processor.hardware.is_some())?;
            processor.run(reply, instructions)
        })
    }

    /// Make the current or the next run return `Interrupted` soon.
    pub fn kick(&self) {
        self.shared.raise(self.index, KICK);
    }

    /// Every register by name.
    ///
    /// # Errors
    /// If another thread is inside.
    pub fn registers(&self) -> Result<Vec<(&'static str, RegisterValue)>, Error> {
        self.use_processor(|processor| {
            processor.refresh_state()?;
            let mut registers = registers::all(&mut processor.state);
            let cr8 = match processor.kernel_task_priority()? {
                Some(cr8) => cr8,
                None => self.shared.with_chipset(None, |chipset, _| chipset.task_priority(self.index)).0,
            };
            registers.push((CR8, RegisterValue::Word(u64::from(cr8))));
            Ok(registers)
        })
    }

    /// Set registers as a VM entry would: all of them or, on an error, none.
    ///
    /// # Errors
    /// An unknown name, a value of the wrong kind, another thread inside.
    pub fn set_registers(&self, values: &[(String, RegisterValue)]) -> Result<(), Error> {
        self.use_processor(|processor| {
            let (cr8, others): (Vec<_>, Vec<_>) = values.iter().cloned().partition(|(name, _)| name == CR8);
            let cr8 = cr8.first().map(|(name, value)| match value {
                RegisterValue::Word(value @ 0..=15) => Ok(*value as u8),
                _ => Err(Error::RegisterValue { name: name.clone(), takes: "a number from 0 to 15" }),
            });
            let cr8 = cr8.transpose()?;
            processor.take_state_now()?;
            if registers::set(&mut processor.state, &others)? {
                processor.translation_changed();
            }
            if let Some(cr8) = cr8
                && !processor.set_kernel_task_priority(cr8)?
            {
                processor.surroundings.chipset(|chipset, _| chipset.set_task_priority(self.index, cr8));
            }
            Ok(())
        })
    }

    /// The x87, SSE and AVX registers as XSAVE's standard format has them (SDM vol. 1, 13.4).
    ///
    /// # Errors
    /// If another thread is inside.
    pub fn extended_state(&self) -> Result<Vec<u8>, Error> {
        self.use_processor(|processor| {
            processor.refresh_state()?;
            Ok(self.shared.model.settled(&processor.state.extended).bytes.to_vec())
        })
    }

    /// A number that tells the processor's state from other states.
    ///
    /// # Errors
    /// If another thread is inside.
    pub(crate) fn state_digest(&self) -> Result<u64, Error> {
        self.use_processor(|processor| {
            processor.refresh_state()?;
            let settled = self.shared.model.settled(&processor.state.extended);
            Ok(digest::of(&(&*processor.state, settled, &processor.surroundings.paravirtual)))
        })
    }

    /// Counters by name; while the processor runs, those of a moment ago.
    pub fn statistics(&self) -> Vec<(Cow<'static, str>, u64)> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).list()
    }

    /// The blocks translated since the last call, if the machine traces them.
    ///
    /// # Errors
    /// If another thread is inside.
    pub fn translated_blocks(&self) -> Result<Vec<BlockListing>, Error> {
        self.use_processor(|processor| Ok(processor.accelerator.take_blocks()))
    }

    /// Measure from now on, from nothing, with `hertz` samples a second; or, with None, no longer.
    ///
    /// # Errors
    /// If another thread is inside, or the host refuses what sampling needs.
    pub fn set_profile(&self, hertz: Option<u32>) -> Result<(), Error> {
        self.use_processor(|processor| processor.set_profile(hertz))
    }

    /// How often the blocks at each guest address were executed, on a machine whose blocks count.
    ///
    /// # Errors
    /// If another thread is inside.
    pub fn executions(&self) -> Result<Vec<(u64, Executions)>, Error> {
        self.use_processor(|processor| Ok(processor.accelerator.executions()))
    }

    /// What was measured since `set_profile`, if anything is.
    ///
    /// # Errors
    /// If another thread is inside.
    pub fn profile(&self) -> Result<Option<Measurements>, Error> {
        self.use_processor(|processor| {
            Ok(processor.accelerator.profile().map(|profile| profile.measurements()))
        })
    }

    /// The interrupts delivered since the last call, on a machine whose clock counts instructions.
    ///
    /// # Errors
    /// If another thread is inside.
    pub fn events(&self) -> Result<Vec<Event>, Error> {
        self.use_processor(|processor| Ok(processor.events.drain()))
    }

    /// Deliver these interrupts at these instructions, and from now on no others.
    ///
    /// # Errors
    /// If another thread is inside.
    pub fn replay(&self, events: Vec<Event>) -> Result<(), Error> {
        self.use_processor(|processor| {
            processor.events.replay(events);
            Ok(())
        })
    }

    /// Execute a VMX instruction, as a hypervisor outside. After a VM entry `run` executes the guest.
    ///
    /// # Errors
    /// An exception, a VMX abort; another thread inside, or the guest has not left.
    pub fn vmx(&self, instruction: VmxInstruction) -> Result<VmxOutcome, Error> {
        self.use_processor(|processor| processor.execute_vmx(instruction))
    }

    /// Note what leaves the guest from now on, or no longer.
    ///
    /// # Errors
    /// If another thread is inside.
    pub fn watch_exits(&self, on: bool) -> Result<(), Error> {
        self.use_processor(|processor| {
            processor.surroundings.tracepoints.watch(on);
            Ok(())
        })
    }

    /// What left the guest since the last call, if that is watched, and how much more there was no room for.
    ///
    /// # Errors
    /// If another thread is inside.
    pub fn traced_exits(&self) -> Result<(Vec<TraceEvent>, u64), Error> {
        self.use_processor(|processor| Ok(processor.surroundings.tracepoints.take()))
    }

    /// Note VM entries and VM exits from now on, or no longer.
    ///
    /// # Errors
    /// If another thread is inside.
    pub fn watch_vmx(&self, on: bool) -> Result<(), Error> {
        self.use_processor(|processor| {
            processor.watch_vmx(on);
            Ok(())
        })
    }

    /// The VM entries and VM exits since the last call, if they are watched, and how many others were lost.
    ///
    /// # Errors
    /// If another thread is inside.
    pub fn vmx_transitions(&self) -> Result<(Vec<Transition>, u64), Error> {
        self.use_processor(|processor| Ok(processor.vmx_transitions()))
    }

    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, Processor>, Error> {
        self.shared.check()?;
        match self.processor.try_lock() {
            Ok(processor) => Ok(processor),
            Err(TryLockError::WouldBlock) => Err(Error::Busy(self.index)),
            // Panics are caught while the lock is held; `check` tells of them.
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
        }
    }

    /// Use the processor; a panic breaks the machine, not the process.
    fn use_processor<T>(&self, act: impl FnOnce(&mut Processor) -> Result<T, Error>) -> Result<T, Error> {
        let mut processor = self.lock()?;
        catch_unwind(AssertUnwindSafe(|| act(&mut processor)))
            .unwrap_or_else(|panic| Err(self.shared.mark_broken(panic_message(&*panic))))
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AcceleratorKind, Vm, VmOptions};

    #[test]
    fn a_panic_of_ours_is_an_error_and_the_machine_refuses_to_go_on() {
        let options = VmOptions { vcpus: 2, ..VmOptions::new(1 << 20, AcceleratorKind::Interpreter) };
        let vm = Vm::new(&options).unwrap();
        let vcpu = vm.vcpu(0).unwrap();
        let broken = vcpu.use_processor::<()>(|_| panic!("a bug"));
        assert!(matches!(broken, Err(Error::Broken(message)) if message == "a bug"));
        for index in 0..2 {
            let refused = vm.vcpu(index).unwrap().run(None, Some(1));
            assert!(matches!(refused, Err(Error::Broken(message)) if message == "a bug"));
        }
        assert!(matches!(vm.set_interrupt_line(1, true), Err(Error::Broken(_))));
    }
}
