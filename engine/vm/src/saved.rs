//! A machine's state but for RAM, as text (JSON, by the names of registers and fields), and a machine that stands still
//! meanwhile.

use crate::answers::Answers;
use crate::attention::{CHIPSET, WAKE};
use crate::clock::{ClockKind, ClockState};
use crate::error::Error;
use crate::paravirtual::Registers;
use crate::processor::{Processor, Unfinished};
use crate::vm::Vm;
use gasang_chipset::Chipset;
use gasang_cpu::VcpuState;
use gasang_exec::Step;
use gasang_memory::ImageDigest;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

/// MXCSR's bits that a processor may have (SDM vol. 1, 10.2.3); setting others faults.
const MXCSR_MASK: u32 = 0xffff;

/// A machine's state. Whatever a field is named, an older or newer engine refuses what it does not know.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    /// The features of the processors, which CPUID told the guest.
    features: Vec<String>,
    clock: ClockState,
    processors: Vec<SavedProcessor>,
    chipset: Chipset,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedProcessor {
    state: VcpuState,
    answers: Answers,
    unfinished: Unfinished,
    woken: bool,
    paravirtual: Registers,
    /// What chooses a deterministic machine's random numbers.
    entropy: Option<u64>,
}

impl Vm {
    /// Stand still, between two runs: time does not pass, and nothing is on KVM. Saving needs that, and nothing may be
    /// run until `release`.
    ///
    /// # Errors
    /// A thread inside a processor; an access that waits for its answer; what KVM says.
    pub fn hold(&self) -> Result<(), Error> {
        let mut processors = self.hold_all()?;
        let on_kvm = processors.iter().any(|processor| processor.hardware.is_some());
        if on_kvm {
            for processor in &mut processors {
                if processor.settle()? == Step::Pending {
                    return Err(Error::Unanswered);
                }
            }
            self.leave_kvm(&mut processors)?;
        }
        if processors.iter().any(|processor| processor.surroundings.answers.is_reported()) {
            return Err(Error::Unanswered);
        }
        self.goes_on_on_kvm.fetch_or(on_kvm, Ordering::SeqCst);
        if self.shared.clock.kind() == ClockKind::Host {
            self.shared.clock.hold();
        }
        Ok(())
    }

    /// Go on.
    ///
    /// # Errors
    /// A thread inside a processor; what KVM says.
    pub fn release(&self) -> Result<(), Error> {
        let mut processors = self.hold_all()?;
        self.shared.clock.release();
        if self.goes_on_on_kvm.swap(false, Ordering::SeqCst) {
            self.go_to_kvm(&mut processors)?;
        }
        // Timers may be nearer than they were told.
        (0..processors.len()).for_each(|index| self.shared.raise(index, CHIPSET));
        Ok(())
    }

    /// The state but for RAM, of a machine that stands still.
    ///
    /// # Errors
    /// A machine that does not stand still.
    pub fn save(&self) -> Result<String, Error> {
        let mut processors = self.held()?;
        // Translations are not saved: from here on the machine has none either, so that it goes on as its copies do.
        processors.iter_mut().for_each(|processor| processor.tlb.flush_all());
        let chipset = self.shared.with_chipset(None, |chipset, now| {
            chipset.advance(now);
            chipset.clone()
        });
        let saved = Saved {
            features: self.feature_names(),
            clock: self.shared.clock.state(),
            processors: processors.iter().map(|processor| self.saved_processor(processor)).collect(),
            chipset: chipset.0,
        };
        serde_json::to_string(&saved).map_err(|error| Error::State(error.to_string()))
    }

    /// Have the state that another machine saved, and stand still; RAM is as it was there. A machine that has not run yet.
    ///
    /// # Errors
    /// What is not such a state, or not one of a machine like this one. The machine is not to be used then.
    pub fn load(&self, text: &str) -> Result<(), Error> {
        let wrong = |error: serde_json::Error| Error::State(format!("the engine's state: {error}"));
        let saved: Saved = serde_json::from_str(text).map_err(wrong)?;
        let mut processors = self.hold_all()?;
        self.check_features(&saved.features)?;
        let own = self.shared.with_chipset(None, |chipset, _| chipset.clone()).0;
        if saved.processors.len() != processors.len() || !saved.chipset.is_like(&own) {
            return Err(Error::State(format!(
                "the state is of a machine with {} processors, not {}",
                saved.processors.len(),
                processors.len()
            )));
        }
        self.shared.clock.set_state(&saved.clock)?;
        self.shared.with_chipset(None, |chipset, _| *chipset = saved.chipset);
        for (processor, saved) in processors.iter_mut().zip(saved.processors) {
            processor.load(saved)?;
        }
        Ok(())
    }

    /// RAM as it is now, of a machine that stands still, as a file that never changes.
    ///
    /// # Errors
    /// A machine that does not stand still; what the host says.
    pub fn freeze_memory(&self) -> Result<File, Error> {
        let mut processors = self.held()?;
        for processor in &mut processors {
            processor.accelerator.close_mirrors();
            processor.tlb.flush_all();
        }
        self.shared
            .memory
            .freeze()
            .map_err(|source| Error::Host { attempt: "cannot freeze guest memory".to_owned(), source })
    }

    /// Write RAM to a file from `offset` on, of a machine that stands still; pages of zeroes are left out.
    ///
    /// # Errors
    /// A machine that does not stand still; what the host says.
    pub fn write_memory_image(&self, file: &File, offset: u64) -> Result<ImageDigest, Error> {
        let _processors = self.held()?;
        self.shared
            .memory
            .write_image(file, offset)
            .map_err(|source| Error::Host { attempt: "cannot write guest memory".to_owned(), source })
    }

    /// Every processor of a machine that stands still.
    fn held(&self) -> Result<Vec<MutexGuard<'_, Processor>>, Error> {
        let processors = self.hold_all()?;
        let stands = self.shared.clock.kind() == ClockKind::Instructions || self.shared.clock.is_held();
        if !stands || processors.iter().any(|processor| processor.hardware.is_some()) {
            return Err(Error::Argument("hold the machine first".to_owned()));
        }
        Ok(processors)
    }

    fn saved_processor(&self, processor: &Processor) -> SavedProcessor {
        let index = processor.surroundings.index;
        let waked = self.shared.attention.get(index).is_some_and(|attention| attention.has(WAKE));
        let mut state = (*processor.state).clone();
        state.extended = self.shared.model.settled(&state.extended);
        SavedProcessor {
            state,
            answers: processor.surroundings.answers.clone(),
            unfinished: processor.unfinished,
            woken: processor.woken || waked,
            paravirtual: processor.surroundings.paravirtual.registers().clone(),
            entropy: processor.surroundings.entropy.state(),
        }
    }

    fn feature_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.shared.model.features().into_iter().map(str::to_owned).collect();
        names.sort_unstable();
        names
    }

    fn check_features(&self, saved: &[String]) -> Result<(), Error> {
        let own = self.feature_names();
        let without = |these: &[String], those: &[String]| {
            let missing: Vec<_> = these.iter().filter(|name| !those.contains(name)).cloned().collect();
            missing.join(", ")
        };
        let (lacking, more) = (without(saved, &own), without(&own, saved));
        let difference = match (lacking.is_empty(), more.is_empty()) {
            (true, true) => return Ok(()),
            (false, _) => format!("its processor had {lacking}, which is not to be had here"),
            (true, false) => format!("its processor did not have {more}: leave that out of the CPU model"),
        };
        Err(Error::State(difference))
    }
}

impl Processor {
    fn load(&mut self, saved: SavedProcessor) -> Result<(), Error> {
        let SavedProcessor { state, answers, unfinished, woken, paravirtual, entropy } = saved;
        let model = &self.surroundings.shared.model;
        let extended = &state.extended;
        let header = extended.bytes.get(520..576).unwrap_or_default();
        if extended.in_use() & !model.xcr0_allowed() != 0
            || extended.mxcsr() & !MXCSR_MASK != 0
            || header.iter().any(|&byte| byte != 0)
        {
            return Err(Error::State("an extended state that no processor has".to_owned()));
        }
        let (stops, journal) = (self.state.vmx.stops_at_exits, self.state.vmx.journal.take());
        *self.state = state;
        self.state.vmx.stops_at_exits = stops;
        self.state.vmx.journal = journal;
        self.unfinished = unfinished;
        self.woken = woken;
        self.surroundings.answers = answers;
        self.surroundings.paravirtual.load(paravirtual);
        if let Some(state) = entropy {
            self.surroundings.entropy.set_state(state);
        }
        self.surroundings.chipset(|_, _| ());
        self.tlb.flush_all();
        self.with_core(|core, _| gasang_vmx::change_owner(core));
        Ok(())
    }
}
