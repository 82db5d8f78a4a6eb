//! What executes instructions.

use crate::clock::ClockKind;
use crate::error::Error;
use crate::shared::Shared;
use crate::vm::VmOptions;
use gasang_cpu::Core;
use gasang_exec::{Interpreter, Step};
use gasang_translate::{BlockListing, CodeLog, Executions, Options, Phase, Profile, Statistics, Translator};
use std::sync::Arc;

/// The ways to execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceleratorKind {
    /// Binary translation.
    Translator,
    /// T0 only: one instruction after the other.
    Interpreter,
    /// The host's own virtualization, by /dev/kvm.
    Kvm,
}

impl AcceleratorKind {
    /// By the name that users give: "bt", "interp" or "kvm".
    ///
    /// # Errors
    /// For any other name.
    pub fn parse(name: &str) -> Result<AcceleratorKind, Error> {
        match name {
            "bt" => Ok(AcceleratorKind::Translator),
            "interp" => Ok(AcceleratorKind::Interpreter),
            "kvm" => Ok(AcceleratorKind::Kvm),
            _ => Err(Error::Argument(format!("unknown accelerator '{name}'; there are bt, interp and kvm"))),
        }
    }
}

/// The engine of one processor.
pub(crate) struct Accelerator {
    /// Executes what the translator does not, or everything.
    interpreter: Interpreter,
    translator: Option<Box<Translator>>,
    /// Measures T0 where nothing is translated.
    profile: Option<Box<Profile>>,
}

/// Steps of the interpreter between two looks at the clock.
const INTERPRETER_STEPS: u32 = 256;

impl Accelerator {
    /// The engine of processor `index`; it translates if the machine has what translators share.
    pub(crate) fn new(shared: &Shared, index: usize, asked: &VmOptions) -> Result<Accelerator, Error> {
        let host = |attempt: &str, source| Error::Host { attempt: attempt.to_owned(), source };
        let interpreter = Interpreter::new().map_err(|error| host("cannot set up the interpreter", error))?;
        let translator = match &shared.code_pages {
            Some(pages) => {
                let mut options = Options {
                    trace: asked.trace_blocks,
                    count_blocks: asked.count_blocks,
                    ..Options::from_environment()
                };
                // So that a machine that counts instructions is the same machine with either accelerator.
                options.eager |= asked.trace_blocks || asked.count_blocks;
                options.strict_flags |= shared.clock.kind() == ClockKind::Instructions;
                let pages = Arc::clone(pages);
                let translator = Translator::new(options, pages, index, &shared.memory, &shared.model);
                Some(Box::new(translator.map_err(|error| host("cannot set up the translator", error))?))
            }
            None => None,
        };
        Ok(Accelerator { interpreter, translator, profile: None })
    }

    /// Execute about `budget` instructions, never more than `most`, fewer if attention is wanted, or if an interrupt that waits (`waiting`)
    /// can be delivered; at least one unless it is pending.
    pub(crate) fn run(
        &mut self,
        core: &mut Core<'_>,
        shared: &Shared,
        index: usize,
        budget: u64,
        most: u64,
        waiting: bool,
    ) -> Step {
        if let Some(translator) = &mut self.translator {
            return translator.run(core, &mut self.interpreter, budget, most, waiting);
        }
        let limit = core.state.instructions.saturating_add(budget.min(most));
        let non_root = core.state.vmx.non_root();
        for _ in 0..INTERPRETER_STEPS {
            let nmis_before = core.state.nmis_possible();
            let step = self.step(core);
            let raised = shared.attention.get(index).is_none_or(|attention| attention.is_raised());
            let transition = core.state.vmx.non_root() != non_root;
            let waiting = waiting || core.state.vmx.virtual_apic.interrupt;
            let opened =
                waiting && (core.state.interruptible() || core.state.nmis_possible() && !nmis_before);
            let stop = raised || transition || opened;
            if step != Step::Retired || stop || core.state.instructions >= limit {
                return step;
            }
        }
        Step::Retired
    }

    /// Execute one instruction by T0.
    pub(crate) fn step(&mut self, core: &mut Core<'_>) -> Step {
        // Not by `profile`, which borrows the interpreter too.
        let profile = match &mut self.translator {
            Some(translator) => translator.profile(),
            None => self.profile.as_deref_mut(),
        };
        let Some(profile) = profile else { return self.interpreter.step(core) };
        let rip = core.state.rip;
        profile.begin(Phase::Interpret, rip);
        let step = self.interpreter.step(core);
        profile.interpreted(rip, self.interpreter.decoded(rip));
        profile.begin(Phase::Machine, core.state.rip);
        profile.attribute(|_| None);
        step
    }

    /// Measure from now on, or no longer.
    pub(crate) fn set_profile(&mut self, profile: Option<Profile>) {
        let profile = profile.map(Box::new);
        match &mut self.translator {
            Some(translator) => translator.set_profile(profile),
            None => self.profile = profile,
        }
    }

    /// Forget where RAM is mapped but for its own place; the caller forgets translations of addresses.
    pub(crate) fn close_mirrors(&mut self) {
        if let Some(translator) = &mut self.translator {
            translator.close_mirrors();
        }
    }

    /// What measures, if anything does.
    #[inline]
    pub(crate) fn profile(&mut self) -> Option<&mut Profile> {
        match &mut self.translator {
            Some(translator) => translator.profile(),
            None => self.profile.as_deref_mut(),
        }
    }

    /// Note in `log` where each block's code is, if anything is translated.
    pub(crate) fn log_code(&mut self, log: &Arc<CodeLog>) {
        if let Some(translator) = &mut self.translator {
            translator.log_code(Arc::clone(log));
        }
    }

    /// The blocks translated since the last call, if they are traced.
    pub(crate) fn take_blocks(&mut self) -> Vec<BlockListing> {
        self.translator.as_mut().map(|translator| translator.take_blocks()).unwrap_or_default()
    }

    /// How often blocks were executed, if they count.
    pub(crate) fn executions(&self) -> Vec<(u64, Executions)> {
        self.translator.as_ref().map(|translator| translator.executions()).unwrap_or_default()
    }

    /// The translator's counters.
    pub(crate) fn statistics(&self) -> Option<Statistics> {
        self.translator.as_ref().map(|translator| translator.statistics())
    }
}
