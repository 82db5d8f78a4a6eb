//! The machine as KVM has it, and how a guest goes from one accelerator to the other.

use crate::accelerator::AcceleratorKind;
use crate::error::Error;
use crate::hardware::{Hardware, failed};
use crate::processor::Processor;
use crate::vm::Vm;
use gasang_cpu::CpuModel;
use gasang_exec::Step;
use gasang_kvm::InterruptControllers;
use gasang_memory::GuestMemory;
use std::io;
use std::sync::{Arc, MutexGuard};

/// A machine of KVM's.
pub(crate) struct KvmMachine {
    pub(crate) machine: gasang_kvm::Machine,
    /// What a guest can have there.
    pub(crate) model: CpuModel,
}

impl KvmMachine {
    /// One with this memory, for a guest that asked for the model by the name `asked`.
    ///
    /// # Errors
    /// What KVM says; a feature that was asked for by name and that it does not give.
    pub(crate) fn new(
        memory: &Arc<GuestMemory>,
        model: &CpuModel,
        asked: &str,
        controllers: InterruptControllers,
    ) -> Result<KvmMachine, Error> {
        let failed = |source| Error::Host { attempt: "cannot use /dev/kvm".to_owned(), source };
        let system = gasang_kvm::System::open().map_err(failed)?;
        let machine = gasang_kvm::Machine::new(&system, Arc::clone(memory), controllers).map_err(failed)?;
        let kvm = KvmMachine { machine, model: system.restrict(model, controllers).map_err(failed)? };
        kvm.check(model, asked)?;
        Ok(kvm)
    }

    /// What is asked for by name must be there: all but of `max`, which is whatever there is.
    fn check(&self, model: &CpuModel, asked: &str) -> Result<(), Error> {
        let mut parts = asked.split(',');
        let by_model = parts.next().is_some_and(|name| name != "max");
        let added: Vec<&str> = parts.filter_map(|part| part.strip_prefix('+')).collect();
        let there = self.model.features();
        let of_processor = model.features_of_processor();
        let wanted = |name: &&str| by_model && of_processor.contains(name) || added.contains(name);
        let lacking = model.features().into_iter().filter(|name| !there.contains(name));
        let missing: Vec<&str> = lacking.filter(wanted).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::Model(format!(
            "CPU model '{asked}' needs {}, which KVM does not give here",
            missing.join(", ")
        )))
    }
}

/// What KVM says of a log of writes, as ours.
pub(crate) fn cannot_log(source: io::Error) -> Error {
    Error::Host { attempt: "KVM: cannot log writes".to_owned(), source }
}

impl Vm {
    /// Go on by another accelerator, with the same registers, memory and devices, between two runs.
    ///
    /// # Errors
    /// A machine that was not made to be switched; a thread inside a processor; an access that waits for its answer;
    /// what KVM says. The machine goes on as before then.
    pub fn set_accelerator(&self, kind: AcceleratorKind) -> Result<(), Error> {
        if !self.switchable || kind == AcceleratorKind::Interpreter {
            return Err(Error::Argument(
                "only a machine made with switchable goes from bt to kvm or back".to_owned(),
            ));
        }
        let mut processors = self.hold_all()?;
        for processor in &mut processors {
            if processor.settle()? == Step::Pending || processor.surroundings.answers.is_waiting() {
                return Err(Error::Unanswered);
            }
        }
        match kind {
            AcceleratorKind::Kvm => self.go_to_kvm(&mut processors),
            AcceleratorKind::Translator | AcceleratorKind::Interpreter => self.leave_kvm(&mut processors),
        }
    }

    pub(crate) fn go_to_kvm(&self, processors: &mut [MutexGuard<'_, Processor>]) -> Result<(), Error> {
        let all = processors.iter().all(|processor| processor.hardware.is_some());
        if all && !self.shared.on_kvm.has_left() {
            return Ok(());
        }
        // What is left of a machine that KVM gave up.
        self.leave_kvm(processors)?;
        let kvm = KvmMachine::new(&self.shared.memory, &self.shared.model, "max", self.controllers)?;
        kvm.machine.log_dirty_pages(self.shared.logs_writes()).map_err(cannot_log)?;
        let hardware = (0..processors.len()).map(|index| Hardware::new(&kvm.machine, index, &self.shared));
        let hardware = hardware.collect::<Result<Vec<_>, _>>()?;
        for (processor, hardware) in processors.iter_mut().zip(hardware) {
            // The kernel is not told of messages that wait: NMI, INIT, start-up. An answer from outside is asked for later.
            processor.take_signals()?;
            processor.hardware = Some(Box::new(hardware));
        }
        self.shared.on_kvm.arrive();
        let given = self.give_controllers(&kvm, processors);
        *self.kvm() = Some(kvm);
        given
    }

    /// Give the interrupt controllers to the kernel, if that is where they are to be.
    ///
    /// # Errors
    /// What KVM says.
    pub(crate) fn give_controllers(
        &self,
        kvm: &KvmMachine,
        processors: &mut [MutexGuard<'_, Processor>],
    ) -> Result<(), Error> {
        self.hang_doorbells(&kvm.machine)?;
        let Some(kernel) = kvm.machine.controllers() else { return Ok(()) };
        processors.iter_mut().for_each(|processor| processor.surroundings.settle_end_of_interrupt());
        let watches = processors.iter().map(|processor| processor.on_hardware_watch(&kvm.machine));
        let watches: Vec<_> = watches.filter_map(Result::transpose).collect::<Result<_, _>>()?;
        let given = self.shared.give_controllers(kernel, watches);
        given.map_err(failed("set the interrupt controllers"))?;
        processors.iter_mut().try_for_each(|processor| processor.follow_controllers())
    }

    pub(crate) fn leave_kvm(&self, processors: &mut [MutexGuard<'_, Processor>]) -> Result<(), Error> {
        // All of them have the state, or none gives its part of KVM up.
        for processor in processors.iter_mut() {
            processor.take_state_now()?;
        }
        for processor in processors {
            processor.bring_controllers_back()?;
            processor.hardware = None;
        }
        self.shared.all_code_may_be_written();
        if let Some(kvm) = self.kvm().take()
            && self.shared.logs_writes()
        {
            kvm.machine.collect_dirty_pages().map_err(cannot_log)?;
        }
        Ok(())
    }
}
