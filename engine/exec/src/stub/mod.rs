//! Executing an instruction on the host processor: stubs, each of which loads the guest registers that one instruction
//! uses, executes that instruction, and stores what it wrote.

mod code;
mod emit;
mod rewrite;
mod run;
pub(crate) mod strings;

use code::CodeMemory;
use gasang_cpu::{ExtendedState, VcpuState};
use iced_x86::{Instruction, InstructionInfoFactory};
use std::collections::HashMap;
use std::io;

pub(crate) use rewrite::gpr_number;
pub(crate) use run::HostFault;

const CODE_BYTES: usize = 2 << 20;

/// A stub: valid until the cache that made it is cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stub(u64);

/// Every stub made so far, by its code.
pub(crate) struct Stubs {
    memory: CodeMemory,
    known: HashMap<Box<[u8]>, Stub>,
    host: Host,
}

/// What running a stub needs to know of the host.
pub(crate) struct Host {
    components: run::Components,
    /// The extended state of host code.
    initial: Box<ExtendedState>,
    /// Where stubs execute: what x87's instruction pointer must not tell the guest.
    stubs: std::ops::Range<u64>,
}

/// Why there is no stub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoStub {
    /// The instruction has no form that the host executes.
    Inexpressible,
    /// The memory for stubs is full: clear the cache.
    Full,
}

impl Stubs {
    pub(crate) fn new() -> io::Result<Stubs> {
        let components =
            run::Components::of_host().ok_or_else(|| io::Error::other("this processor lacks XSAVE"))?;
        let memory = CodeMemory::new(CODE_BYTES, run::on_fault)?;
        let stubs = memory.range();
        let host = Host { components, initial: Box::new(ExtendedState::initial()), stubs };
        Ok(Stubs { memory, known: HashMap::new(), host })
    }

    /// The stub of an instruction that uses registers, flags and at most one memory operand.
    pub(crate) fn stub(
        &mut self,
        instruction: &Instruction,
        factory: &mut InstructionInfoFactory,
    ) -> Result<Stub, NoStub> {
        let form = rewrite::rewrite(instruction, factory).ok_or(NoStub::Inexpressible)?;
        let code = emit::emit(&form);
        if let Some(&stub) = self.known.get(code.as_slice()) {
            return Ok(stub);
        }
        let stub = Stub(self.memory.add(&code).ok_or(NoStub::Full)?);
        self.known.insert(code.into(), stub);
        Ok(stub)
    }

    /// Forget every stub.
    pub(crate) fn clear(&mut self) {
        self.known.clear();
        self.memory.clear();
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }
}

impl Host {
    /// Run a stub whose instruction uses general-purpose registers only.
    ///
    /// # Errors
    /// The exception that the host raised at the instruction, which then changed nothing.
    #[inline]
    pub(crate) fn run(&self, stub: Stub, state: &mut VcpuState, memory: u64) -> Result<(), HostFault> {
        // SAFETY: a `Stub` comes from `Stubs::stub` only and is dropped with the cache of decoded instructions when the
        // stubs are cleared; `memory` is the operand as the caller translated it, or a buffer of the operand's size.
        unsafe { run::run(stub.0, state, memory) }
    }

    /// Run a stub whose instruction uses vector registers, and x87 or MMX registers if `x87`.
    ///
    /// # Errors
    /// As `run`; but exception flags in MXCSR and the x87 status word may be set.
    pub(crate) fn run_extended(
        &self,
        stub: Stub,
        state: &mut VcpuState,
        memory: u64,
        x87: bool,
    ) -> Result<(), HostFault> {
        let components = if x87 { self.components } else { self.components.vectors() };
        // SAFETY: as in `run`.
        unsafe { run::run_extended(stub.0, state, memory, &self.initial, self.components, components) }
    }

    /// Put guest addresses where the host's x87 left those of a stub and its operand. `data` is the offset of the
    /// memory operand, if there was one.
    pub(crate) fn hide_x87_pointers(&self, state: &mut VcpuState, data: Option<u64>) {
        let image = &mut state.extended.bytes;
        let instruction = u64::from_le_bytes(image[8..16].try_into().unwrap_or_default());
        if !self.stubs.contains(&instruction) {
            return;
        }
        image[8..16].copy_from_slice(&state.rip.to_le_bytes());
        if let Some(data) = data {
            image[16..24].copy_from_slice(&data.to_le_bytes());
        }
    }
}
