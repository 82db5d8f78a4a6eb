//! The translator's side of a profile. Without one, each of these is a branch.

use crate::block_counts::Executions;
use crate::entry::Exit;
use crate::profile::{Phase, Profile};
use crate::translator::Translator;
use gasang_cpu::{Core, VcpuState};
use gasang_exec::{Interpreter, Step};

impl Translator {
    /// Measure from now on, or no longer.
    pub fn set_profile(&mut self, profile: Option<Box<Profile>>) {
        self.profile = profile;
    }

    /// What measures, if anything does.
    #[inline]
    pub fn profile(&mut self) -> Option<&mut Profile> {
        self.profile.as_deref_mut()
    }

    /// How often the blocks at each guest address were executed; nothing unless they count.
    pub fn executions(&self) -> Vec<(u64, Executions)> {
        self.counts.as_ref().map(|counts| counts.executions(&self.blocks)).unwrap_or_default()
    }

    /// The blocks are about to go.
    pub(crate) fn keep_counts(&mut self) {
        if let Some(counts) = &mut self.counts {
            counts.keep(&self.blocks);
        }
    }

    /// One instruction by T0.
    pub(crate) fn step(&mut self, core: &mut Core<'_>, interpreter: &mut Interpreter) -> Step {
        let Some(profile) = &mut self.profile else { return interpreter.step(core) };
        let rip = core.state.rip;
        profile.begin(Phase::Interpret, rip);
        let step = interpreter.step(core);
        profile.interpreted(rip, interpreter.decoded(rip));
        profile.begin(Phase::Dispatch, core.state.rip);
        step
    }

    /// The thread does something else from now on.
    #[inline]
    pub(crate) fn begin(&mut self, phase: Phase, rip: u64) {
        if let Some(profile) = &mut self.profile {
            profile.begin(phase, rip);
        }
    }

    /// Generated code has left.
    #[inline]
    pub(crate) fn begin_after(&mut self, exit: Exit, state: &VcpuState) {
        if let Some(profile) = &mut self.profile {
            profile.begin(phase_after(exit, state), state.rip);
        }
    }

    /// Find the blocks in which samples were taken, while they are there.
    pub(crate) fn attribute_samples(&mut self) {
        if let Some(profile) = &mut self.profile {
            let (cache, blocks) = (&self.cache, &self.blocks);
            profile.attribute(|host| blocks.at(cache.offset(host)?));
        }
    }
}

/// What begins when generated code has left.
fn phase_after(exit: Exit, state: &VcpuState) -> Phase {
    match exit {
        Exit::Poll => Phase::Poll,
        Exit::Lookup => Phase::Lookup,
        Exit::Link => Phase::Link,
        Exit::Interpret => Phase::Leave,
        Exit::Miss | Exit::Region if state.cpl() == 3 => Phase::UserMiss,
        Exit::Miss | Exit::Region => Phase::SupervisorMiss,
        Exit::Extended => Phase::Extended,
        Exit::Fault => Phase::Fault,
    }
}
