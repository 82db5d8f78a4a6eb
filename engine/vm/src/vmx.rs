//! VMX instructions executed from outside: the hypervisor is the caller, the processor idle. A guest that VMLAUNCH or
//! VMRESUME enters is executed by the next run.

use crate::error::Error;
use crate::exit::Exit;
use crate::processor::Processor;
use gasang_cpu::{Activity, Core, Exception, Transition, Trap};
use gasang_vmx::Capabilities;
use gasang_vmx::Check;
use gasang_vmx::entry::{self, Entered, Refusal};
use gasang_vmx::instructions::{self, Outcome};
use gasang_vmx::vmcs_access;
use gasang_x86::exception as vector;
use gasang_x86::vmx::{Field, InstructionError};

/// A VMX instruction and its operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmxInstruction {
    /// VMXON of the region at a physical address.
    Vmxon(u64),
    /// VMXOFF.
    Vmxoff,
    /// VMCLEAR of the VMCS at a physical address.
    Vmclear(u64),
    /// VMPTRLD of the VMCS at a physical address.
    Vmptrld(u64),
    /// VMPTRST: the outcome has the address of the current VMCS, all ones if there is none.
    Vmptrst,
    /// VMREAD of the field with an encoding: the outcome has its value.
    Vmread(u64),
    /// VMWRITE of the field with an encoding.
    Vmwrite(u64, u64),
    /// INVEPT of a type, with a descriptor.
    Invept(u64, [u64; 2]),
    /// INVVPID of a type, with a descriptor.
    Invvpid(u64, [u64; 2]),
    /// VMLAUNCH.
    Vmlaunch,
    /// VMRESUME.
    Vmresume,
}

impl VmxInstruction {
    /// The names that `parse` takes.
    const NAMES: &'static str =
        "vmxon, vmxoff, vmclear, vmptrld, vmptrst, vmread, vmwrite, invept, invvpid, vmlaunch, vmresume";

    /// An instruction by its mnemonic; a descriptor is two operands, the low one first.
    ///
    /// # Errors
    /// An unknown mnemonic, or another number of operands than the instruction has.
    pub fn parse(name: &str, operands: &[u64]) -> Result<VmxInstruction, Error> {
        use VmxInstruction::*;
        Ok(match (name, operands) {
            ("vmxon", &[pointer]) => Vmxon(pointer),
            ("vmxoff", []) => Vmxoff,
            ("vmclear", &[pointer]) => Vmclear(pointer),
            ("vmptrld", &[pointer]) => Vmptrld(pointer),
            ("vmptrst", []) => Vmptrst,
            ("vmread", &[encoding]) => Vmread(encoding),
            ("vmwrite", &[encoding, value]) => Vmwrite(encoding, value),
            ("invept", &[kind, low, high]) => Invept(kind, [low, high]),
            ("invvpid", &[kind, low, high]) => Invvpid(kind, [low, high]),
            ("vmlaunch", []) => Vmlaunch,
            ("vmresume", []) => Vmresume,
            _ => {
                let count = operands.len();
                let known = VmxInstruction::NAMES;
                return Err(Error::Argument(format!(
                    "no VMX instruction {name} with {count} operands; there are {known}"
                )));
            }
        })
    }
}

/// How a VMX instruction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmxOutcome {
    /// VMsucceed, with what VMREAD and VMPTRST give.
    Succeeded(Option<u64>),
    /// VMfailInvalid: there is no current VMCS.
    FailInvalid,
    /// VMfailValid, and the check that a VM entry failed.
    FailValid(InstructionError, Option<Check>),
    /// The processor is in VMX non-root operation.
    Entered,
    /// A VM entry failed late, because of the guest's state: the exit-information fields tell it.
    GuestStateRefused(Check),
    /// A VM entry failed late, because of an entry of the VM-entry MSR-load area, counted from 1.
    MsrRefused(u64),
}

impl From<Outcome> for VmxOutcome {
    fn from(outcome: Outcome) -> VmxOutcome {
        match outcome {
            Outcome::Succeed => VmxOutcome::Succeeded(None),
            Outcome::FailInvalid => VmxOutcome::FailInvalid,
            Outcome::FailValid(error) => VmxOutcome::FailValid(error, None),
        }
    }
}

impl From<Entered> for VmxOutcome {
    fn from(entered: Entered) -> VmxOutcome {
        match entered {
            Entered::Failed(Outcome::FailValid(error), check) => VmxOutcome::FailValid(error, check),
            Entered::Failed(outcome, _) => outcome.into(),
            Entered::Returned(Refusal::Guest(check)) => VmxOutcome::GuestStateRefused(check),
            Entered::Returned(Refusal::Msr(number)) => VmxOutcome::MsrRefused(number),
            Entered::Guest => VmxOutcome::Entered,
        }
    }
}

impl Processor {
    /// Execute a VMX instruction.
    ///
    /// # Errors
    /// In VMX non-root operation, or while an access of an instruction waits for its answer; an exception.
    pub(crate) fn execute_vmx(&mut self, instruction: VmxInstruction) -> Result<VmxOutcome, Error> {
        if self.state.vmx.non_root() {
            return Err(Error::NonRoot);
        }
        if self.surroundings.answers.is_waiting() {
            return Err(Error::Argument("an instruction waits for its answer: run it first".to_owned()));
        }
        self.surroundings.answers.commit();
        let executed = self.with_core(|core, _| execute(core, instruction));
        // The outcome tells of an entry that failed late; it is no exit that a run has to report.
        self.exits_reported = self.state.vmx.transitions.all_exits();
        self.publish_counts();
        executed.map_err(|trap| match trap {
            Trap::Exception(exception) => Error::Exception(name(&exception)),
            Trap::Pending | Trap::VmExit | Trap::Shutdown => {
                self.state.activity = Activity::Shutdown;
                Error::Argument("the VM entry ended in a VMX abort: the processor is shut down".to_owned())
            }
        })
    }

    /// The VM exit that a run has to report, if there is one and it is asked for.
    pub(crate) fn vm_exit(&mut self) -> Option<Exit> {
        let exits = self.state.vmx.transitions.all_exits();
        let asked = self.state.vmx.stops_at_exits && self.state.activity != Activity::Shutdown;
        if !asked || exits <= self.exits_reported {
            return None;
        }
        // What the guest said before it comes first.
        if let Some(output) = self.output() {
            return Some(output);
        }
        self.exits_reported = exits;
        let vmcs = &self.state.vmx.vmcs;
        let (reason, qualification) = (vmcs.get32(Field::ExitReason), vmcs.get(Field::ExitQualification));
        Some(Exit::VmExit { reason, qualification })
    }

    /// Note transitions from now on, or no longer.
    pub(crate) fn watch_vmx(&mut self, on: bool) {
        let journal = self.state.vmx.journal.take();
        self.state.vmx.journal = on.then(|| journal.unwrap_or_default());
    }

    /// The transitions since the last call, and how many others there was no room for.
    pub(crate) fn vmx_transitions(&mut self) -> (Vec<Transition>, u64) {
        self.state.vmx.journal.as_mut().map(|journal| journal.take()).unwrap_or_default()
    }
}

fn execute(core: &mut Core<'_>, instruction: VmxInstruction) -> Result<VmxOutcome, Trap> {
    let capabilities = Capabilities::new(core.model);
    let outcome = match instruction {
        VmxInstruction::Vmxon(pointer) => instructions::vmxon(core, &capabilities, pointer)?,
        VmxInstruction::Vmxoff => instructions::vmxoff(core)?,
        VmxInstruction::Vmclear(pointer) => instructions::vmclear(core, pointer)?,
        VmxInstruction::Vmptrld(pointer) => instructions::vmptrld(core, &capabilities, pointer)?,
        VmxInstruction::Vmptrst => return Ok(VmxOutcome::Succeeded(Some(instructions::vmptrst(core)?))),
        VmxInstruction::Vmread(encoding) => match vmcs_access::vmread(core, &capabilities, encoding)? {
            Ok(value) => return Ok(VmxOutcome::Succeeded(Some(value))),
            Err(outcome) => outcome,
        },
        VmxInstruction::Vmwrite(encoding, value) => {
            vmcs_access::vmwrite(core, &capabilities, encoding, value)?
        }
        VmxInstruction::Invept(kind, descriptor) => {
            instructions::invept(core, &capabilities, kind, descriptor)?
        }
        VmxInstruction::Invvpid(kind, descriptor) => {
            instructions::invvpid(core, &capabilities, kind, descriptor)?
        }
        VmxInstruction::Vmlaunch => return Ok(entry::enter(core, &capabilities, true, false)?.into()),
        VmxInstruction::Vmresume => return Ok(entry::enter(core, &capabilities, false, false)?.into()),
    };
    outcome.record(core.state);
    Ok(outcome.into())
}

/// What the manual calls an exception that a VMX instruction raises.
fn name(exception: &Exception) -> &'static str {
    match exception.vector {
        vector::UD => "#UD: outside VMX operation, CR4.VMXE is clear, or the processor has no VMX",
        vector::GP => "#GP: the privilege level, CR0, CR4 or IA32_FEATURE_CONTROL forbid it",
        _ => "an exception",
    }
}
