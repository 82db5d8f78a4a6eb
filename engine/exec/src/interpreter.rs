//! One instruction after the other: fetch, execute, then the traps that an instruction leaves behind.

use crate::decode::{DecodeCache, Decoded};
use crate::flow::Flow;
use gasang_cpu::{Activity, Core, Exception, Shadow, Trap, VmExit};
use gasang_vmx::{entry, exit, virtual_apic};
use gasang_x86::control::debug;
use gasang_x86::rflags;
use iced_x86::Instruction;
use std::io;

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// An instruction was executed (or some iterations of a REP), or an exception was delivered.
    Retired,
    /// The platform needs an answer from outside; nothing was changed. Step again when the answer is there.
    Pending,
    /// The processor waits for an interrupt (or, after INIT, for a start-up IPI).
    Halted,
    /// A triple fault: the processor is shut down.
    Shutdown,
}

/// Executes the instructions of one processor, one at a time.
pub struct Interpreter {
    cache: DecodeCache,
}

impl Interpreter {
    /// An interpreter with nothing decoded yet.
    ///
    /// # Errors
    /// If the host lacks XSAVE or memory, or refuses executable memory.
    pub fn new() -> io::Result<Interpreter> {
        Ok(Interpreter { cache: DecodeCache::new()? })
    }

    /// Execute the instruction at `state.rip`: all of it, a bounded number of iterations if it is a REP string
    /// instruction, or nothing if it faults; the fault is delivered. The interrupt shadow, RF, single step and
    /// breakpoints are seen to, and `state.instructions` counts the instructions completed.
    pub fn step(&mut self, core: &mut Core<'_>) -> Step {
        if core.state.vmx.injection.is_some() {
            return inject(core);
        }
        match core.state.activity {
            Activity::Active => {}
            Activity::Halted | Activity::WaitForSipi => return Step::Halted,
            Activity::Shutdown => return Step::Shutdown,
        }
        let shadow = core.state.shadow;
        if core.state.pending_debug != 0 && shadow != Shadow::MovSs {
            core.platform.instruction_begins(core.state.instructions);
            return debug_trap(core, Step::Retired);
        }
        let before = Before {
            shadow,
            flags: core.state.rflags & (rflags::TF | rflags::RF),
            pending_debug: core.state.pending_debug,
        };
        core.state.shadow = Shadow::None;
        core.platform.instruction_begins(core.state.instructions);
        match self.execute(core, shadow) {
            Ok(Flow::Entered) => {
                core.state.instructions = core.state.instructions.wrapping_add(1);
                inject(core)
            }
            Ok(flow) => before.retire(core, flow),
            Err(trap) => before.abandon(core, trap),
        }
    }

    /// The instruction at `rip` as it was decoded last, if it still is in the cache.
    pub fn decoded(&self, rip: u64) -> Option<&Instruction> {
        self.cache.decoded(rip)
    }

    fn execute(&mut self, core: &mut Core<'_>, shadow: Shadow) -> Result<Flow, Trap> {
        if core.state.dr[7] & debug::DR7_ENABLED != 0 && shadow != Shadow::MovSs {
            let matched = core.instruction_breakpoints();
            if matched != 0 {
                return Err(Exception::debug_fault(matched).into());
            }
        }
        let (decoded, host) = self.cache.instruction(core)?;
        core.state.rflags &= !rflags::RF;
        core.state.vmx.blocked_by_mov_ss = shadow == Shadow::MovSs;
        core.state.vmx.iret_unblocked = false;
        let special = match decoded.interceptor {
            Some(look) if core.state.vmx.non_root() => {
                let looked = look(core, decoded);
                told_length(core, decoded, looked)?
            }
            _ => None,
        };
        let flow = match special {
            Some(flow) => flow,
            None => {
                let executed = decoded.plan.execute(core, decoded, host);
                told_length(core, decoded, executed)?
            }
        };
        if matches!(flow, Flow::Next | Flow::Halted) {
            core.state.rip = decoded.next;
        }
        Ok(flow)
    }
}

/// The length of an instruction that causes a VM exit by being executed is told with it.
#[inline]
fn told_length<T>(core: &mut Core<'_>, decoded: &Decoded, outcome: Result<T, Trap>) -> Result<T, Trap> {
    if matches!(outcome, Err(Trap::VmExit)) {
        core.state.vmx.tell_instruction_length(decoded.instruction.len() as u32);
    }
    outcome
}

/// What of the state before an instruction matters after it.
struct Before {
    shadow: Shadow,
    /// TF and RF.
    flags: u64,
    pending_debug: u64,
}

impl Before {
    /// After an instruction, or part of a REP: count it and raise the traps it left behind (SDM vol. 3, 17.3.1).
    #[inline]
    fn retire(&self, core: &mut Core<'_>, flow: Flow) -> Step {
        let mut single_step = self.flags & rflags::TF != 0;
        let mut step = Step::Retired;
        match flow {
            Flow::Next | Flow::Jumped => {}
            Flow::JumpedWithNewFlags => single_step = core.state.rflags & rflags::TF != 0,
            Flow::Interrupted | Flow::Entered => single_step = false,
            Flow::Halted => step = Step::Halted,
            Flow::Repeat => {
                // What is saved in the middle of a REP has RF set (SDM vol. 3, 17.3.1.1).
                core.state.rflags |= rflags::RF;
            }
        }
        if flow != Flow::Repeat {
            core.state.instructions = core.state.instructions.wrapping_add(1);
        }
        if let Some(exit) = exit_after_apic_write(core) {
            core.state.pending_debug |= if single_step { debug::DR6_BS } else { 0 };
            core.state.exit(exit);
            return leave(core);
        }
        if core.state.shadow == Shadow::MovSs {
            // Debug traps wait for the instruction after (SDM vol. 3, 6.8.3).
            return step;
        }
        if single_step {
            core.state.pending_debug |= debug::DR6_BS;
        }
        if core.state.pending_debug != 0 { debug_trap(core, step) } else { step }
    }

    /// After an instruction that did not complete.
    fn abandon(&self, core: &mut Core<'_>, trap: Trap) -> Step {
        core.state.rflags |= self.flags & rflags::RF;
        core.state.pending_debug = self.pending_debug;
        core.state.vmx.virtual_apic.access = None;
        match trap {
            Trap::Exception(exception) => match core.deliver_exception(exception) {
                Ok(()) => Step::Retired,
                Err(Trap::Shutdown) => shut_down(core),
                Err(Trap::VmExit) => {
                    core.state.shadow = self.shadow;
                    leave(core)
                }
                Err(Trap::Pending | Trap::Exception(_)) => {
                    core.state.shadow = self.shadow;
                    Step::Pending
                }
            },
            Trap::Pending => {
                core.state.shadow = self.shadow;
                Step::Pending
            }
            Trap::VmExit => {
                core.state.shadow = self.shadow;
                leave(core)
            }
            Trap::Shutdown => shut_down(core),
        }
    }
}

/// The VM exit that follows an instruction because of what it wrote to the virtual-APIC page.
#[inline]
fn exit_after_apic_write(core: &mut Core<'_>) -> Option<VmExit> {
    let access = core.state.vmx.virtual_apic.access.take()?;
    if access.written { virtual_apic::follow_write(core, access.offset) } else { None }
}

/// Deliver what a VM entry injects.
#[cold]
fn inject(core: &mut Core<'_>) -> Step {
    core.platform.instruction_begins(core.state.instructions);
    match entry::inject(core) {
        Ok(()) => Step::Retired,
        Err(Trap::VmExit) => leave(core),
        Err(Trap::Shutdown) => shut_down(core),
        Err(Trap::Pending | Trap::Exception(_)) => Step::Pending,
    }
}

/// Perform the VM exit that is pending.
fn leave(core: &mut Core<'_>) -> Step {
    match exit::leave(core) {
        Ok(_) => Step::Retired,
        Err(_) => shut_down(core),
    }
}

/// Deliver the debug traps collected in `pending_debug`; `step` is what the instruction before came to.
#[cold]
fn debug_trap(core: &mut Core<'_>, step: Step) -> Step {
    let dr6 = core.state.pending_debug;
    core.state.pending_debug = 0;
    match core.deliver_exception(Exception::debug_trap(dr6)) {
        Ok(()) => {
            core.state.activity = Activity::Active;
            Step::Retired
        }
        Err(Trap::Shutdown) => shut_down(core),
        Err(Trap::VmExit) => leave(core),
        Err(Trap::Pending | Trap::Exception(_)) => {
            core.state.pending_debug = dr6;
            if step == Step::Retired { Step::Pending } else { step }
        }
    }
}

fn shut_down(core: &mut Core<'_>) -> Step {
    core.state.activity = Activity::Shutdown;
    Step::Shutdown
}
