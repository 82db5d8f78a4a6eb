//! Code that was met too seldom for a translation is executed without one.

use crate::decode::BLOCK_LIMIT;
use crate::modes::translatable;
use crate::profile::Phase;
use crate::translation::LONGEST_INSTRUCTION;
use crate::translator::{Next, Translator};
use gasang_cpu::Core;
use gasang_exec::direct::{self, Stop};
use gasang_exec::{Interpreter, Step};
use std::ops::ControlFlow;

impl Translator {
    /// Execute from RIP on, where there is no block, to where a jump leads to one, or the dispatcher must look.
    pub(crate) fn execute_cold(
        &mut self,
        core: &mut Core<'_>,
        interpreter: &mut Interpreter,
        end: u64,
    ) -> ControlFlow<Step, Next> {
        loop {
            let jumped = match self.execute_directly(core, end) {
                Stop::Jumped => true,
                Stop::Spent => false,
                Stop::Declined => {
                    let rip = core.state.rip;
                    if let Some(step) = self.interpret(core, interpreter) {
                        return ControlFlow::Break(step);
                    }
                    core.state.rip.wrapping_sub(rip) > LONGEST_INSTRUCTION as u64
                }
            };
            if core.state.instructions >= end || !translatable(core.state) || self.safepoint(core) {
                return ControlFlow::Continue(Next::Dispatch);
            }
            if jumped && let Some(address) = self.lookup(core) {
                return ControlFlow::Continue(Next::Enter(address));
            }
        }
    }

    /// One instruction, as `interpret` does.
    pub(crate) fn execute_one(&mut self, core: &mut Core<'_>, interpreter: &mut Interpreter) -> Option<Step> {
        let next = core.state.instructions + 1;
        match self.execute_directly(core, next) {
            Stop::Jumped | Stop::Spent => None,
            Stop::Declined => self.interpret(core, interpreter),
        }
    }

    /// Whether code is executed directly before it is translated.
    pub(crate) fn executes_directly(&self) -> bool {
        self.options.patience != 0 && !self.options.eager
    }

    /// As far as that is possible, and not so far that others wait long for a safepoint.
    fn execute_directly(&mut self, core: &mut Core<'_>, end: u64) -> Stop {
        if !self.executes_directly() {
            return Stop::Declined;
        }
        let before = core.state.instructions;
        self.begin(Phase::Direct, core.state.rip);
        let stop = direct::run(core, end.min(before + BLOCK_LIMIT as u64));
        self.statistics.direct += core.state.instructions - before;
        self.begin(Phase::Dispatch, core.state.rip);
        stop
    }
}
