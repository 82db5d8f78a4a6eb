//! What executes instructions.

use crate::error::Error;
use crate::shared::Shared;
use gasang_cpu::{Core, Shadow, VcpuState};
use gasang_exec::{Interpreter, Step};
use gasang_x86::rflags;

/// The ways to execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceleratorKind {
    /// Binary translation.
    Translator,
    /// T0 only: one instruction after the other.
    Interpreter,
}

impl AcceleratorKind {
    /// By the name that users give: "bt" or "interp".
    ///
    /// # Errors
    /// For any other name.
    pub fn parse(name: &str) -> Result<AcceleratorKind, Error> {
        match name {
            "bt" => Ok(AcceleratorKind::Translator),
            "interp" => Ok(AcceleratorKind::Interpreter),
            _ => Err(Error::Argument(format!("unknown accelerator '{name}'; there are bt and interp"))),
        }
    }
}

/// The engine of one processor.
pub(crate) enum Accelerator {
    Interpreter(Interpreter),
}

/// Steps of the interpreter between two looks at the clock.
const INTERPRETER_STEPS: u32 = 256;

impl Accelerator {
    pub(crate) fn new(kind: AcceleratorKind) -> Result<Accelerator, Error> {
        let interpreter = Interpreter::new()
            .map_err(|source| Error::Host { attempt: "cannot set up the interpreter".to_owned(), source })?;
        match kind {
            AcceleratorKind::Interpreter => Ok(Accelerator::Interpreter(interpreter)),
            AcceleratorKind::Translator => Ok(Accelerator::Interpreter(interpreter)),
        }
    }

    /// Execute about `budget` instructions, fewer if attention is wanted, or if an interrupt that waits (`waiting`)
    /// can be delivered; at least one unless it is pending.
    pub(crate) fn run(
        &mut self,
        core: &mut Core<'_>,
        shared: &Shared,
        index: usize,
        budget: u64,
        waiting: bool,
    ) -> Step {
        match self {
            Accelerator::Interpreter(interpreter) => {
                let limit = core.state.instructions.saturating_add(budget);
                for _ in 0..INTERPRETER_STEPS {
                    let step = interpreter.step(core);
                    let raised = shared.attention.get(index).is_none_or(|attention| attention.is_raised());
                    let stop = raised || waiting && interruptible(core.state);
                    if step != Step::Retired || stop || core.state.instructions >= limit {
                        return step;
                    }
                }
                Step::Retired
            }
        }
    }

    /// Execute the one instruction that waited for an answer.
    pub(crate) fn step(&mut self, core: &mut Core<'_>) -> Step {
        match self {
            Accelerator::Interpreter(interpreter) => interpreter.step(core),
        }
    }
}

/// Whether a maskable interrupt can be delivered before the next instruction (SDM vol. 3, 6.8.1, 6.8.3).
#[inline]
pub(crate) fn interruptible(state: &VcpuState) -> bool {
    state.rflags & rflags::IF != 0 && state.shadow == Shadow::None
}
