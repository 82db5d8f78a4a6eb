//! Where a processor's thread spends its time: by what it does, exactly, with the host's time-stamp counter read at each
//! change; by guest code, from samples; by instruction of T0's, exactly.

use gasang_exec::host_sampling::{Sample, Sampler};
use gasang_exec::host_time::read_time_stamp_counter;
use iced_x86::{Code, Instruction};
use std::collections::HashMap;
use std::io;
use std::time::Instant;

/// Places in guest code that are told apart; what comes after them is counted at address 0.
const PLACES: usize = 1 << 17;

/// What a processor's thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Phase {
    /// Outside `Vcpu::run`: its caller answers an exit.
    Outside,
    /// HLT, or waiting to be started.
    Idle,
    /// The clock, the chipset, delivery of interrupts; entering and leaving.
    Machine,
    /// Generated code.
    Code,
    /// Finding the block at RIP after T0 or at the start of a slice.
    Dispatch,
    /// Making a block, or finding that its first instruction is T0's.
    Translate,
    /// T0 executes an instruction.
    Interpret,
    /// New code is executed directly.
    Direct,
    /// After generated code left because its budget is spent.
    Poll,
    /// After an indirect jump to an unknown block.
    Lookup,
    /// After a direct jump that was not linked.
    Link,
    /// After an instruction for T0.
    Leave,
    /// After a TLB miss at CPL 3.
    UserMiss,
    /// After a TLB miss at CPL 0.
    SupervisorMiss,
    /// After extended state was wanted.
    Extended,
    /// After a host fault.
    Fault,
}

impl Phase {
    /// All of them.
    pub const ALL: [Phase; 16] = [
        Phase::Outside,
        Phase::Idle,
        Phase::Machine,
        Phase::Code,
        Phase::Dispatch,
        Phase::Translate,
        Phase::Interpret,
        Phase::Direct,
        Phase::Poll,
        Phase::Lookup,
        Phase::Link,
        Phase::Leave,
        Phase::UserMiss,
        Phase::SupervisorMiss,
        Phase::Extended,
        Phase::Fault,
    ];

    /// As profiles show it.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Outside => "outside",
            Phase::Idle => "idle",
            Phase::Machine => "machine",
            Phase::Code => "code",
            Phase::Dispatch => "dispatch",
            Phase::Translate => "translate",
            Phase::Interpret => "interpret",
            Phase::Direct => "direct",
            Phase::Poll => "poll",
            Phase::Lookup => "lookup",
            Phase::Link => "link",
            Phase::Leave => "leave",
            Phase::UserMiss => "user_miss",
            Phase::SupervisorMiss => "supervisor_miss",
            Phase::Extended => "extended",
            Phase::Fault => "fault",
        }
    }
}

/// How often, and how long in ticks of the host's time-stamp counter, all times together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    count: u64,
    ticks: u64,
}

impl Tally {
    fn add(&mut self, ticks: u64) {
        self.count += 1;
        self.ticks += ticks;
    }
}

/// An instruction that T0 executed.
#[derive(Debug, Clone, Copy)]
struct Interpreted {
    code: Code,
    tally: Tally,
}

/// How often, and how long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measured {
    /// Times.
    pub count: u64,
    /// Nanoseconds of the host's, all times together.
    pub nanoseconds: u64,
}

/// What was measured since the profile was begun.
#[derive(Debug, Clone, Default)]
pub struct Measurements {
    /// By phase: how often it was begun, and how long it took.
    pub phases: Vec<(&'static str, Measured)>,
    /// Instructions that T0 executed: guest address, form as in the manual, how often and how long.
    pub interpreted: Vec<(u64, String, Measured)>,
    /// Samples: guest address, phase, how many. In generated code the address is a block's; 0 where none is known.
    pub samples: Vec<(u64, &'static str, u64)>,
    /// What callers of `Vcpu::run` answered: exit, port or address, how often and how long.
    pub exits: Vec<(&'static str, u64, Measured)>,
    /// Samples for which there was no room.
    pub lost: u64,
}

/// Measures one processor.
#[derive(Debug)]
pub struct Profile {
    sampler: Sampler,
    /// The same instant on two clocks.
    began: (Instant, u64),
    current: Phase,
    since: u64,
    phases: [Tally; Phase::ALL.len()],
    interpreted: HashMap<u64, Interpreted>,
    samples: HashMap<(u64, Phase), u64>,
    exits: HashMap<(&'static str, u64), Tally>,
    /// The exit that is being answered.
    asked: Option<(&'static str, u64)>,
    lost: u64,
}

impl Profile {
    /// Begin to measure, with `hertz` samples a second.
    ///
    /// # Errors
    /// What `Sampler::new` says.
    pub fn new(hertz: u32) -> io::Result<Profile> {
        let sampler = Sampler::new(hertz)?;
        let since = read_time_stamp_counter();
        Ok(Profile {
            sampler,
            began: (Instant::now(), since),
            current: Phase::Outside,
            since,
            phases: Default::default(),
            interpreted: HashMap::new(),
            samples: HashMap::new(),
            exits: HashMap::new(),
            asked: None,
            lost: 0,
        })
    }

    /// The calling thread runs the processor from now on.
    ///
    /// # Errors
    /// What `Sampler::attach` says.
    pub fn attach(&mut self) -> io::Result<()> {
        self.sampler.attach()
    }

    /// From now on the thread does this, on behalf of the guest's code at `guest`; what it did before, which is
    /// returned, has ended.
    #[inline]
    pub fn begin(&mut self, phase: Phase, guest: u64) -> Phase {
        self.phases[phase as usize].count += 1;
        self.resume(phase, guest)
    }

    /// As `begin`, but what was interrupted goes on.
    #[inline]
    pub fn resume(&mut self, phase: Phase, guest: u64) -> Phase {
        let now = read_time_stamp_counter();
        self.phases[self.current as usize].ticks += now.wrapping_sub(self.since);
        self.since = now;
        if matches!(phase, Phase::Outside | Phase::Idle) {
            self.sampler.rest();
        } else {
            self.sampler.doing(phase as u32, guest);
        }
        std::mem::replace(&mut self.current, phase)
    }

    /// T0 has executed `instruction` (if it came so far) at `rip`, since `begin(Interpret)`.
    pub fn interpreted(&mut self, rip: u64, instruction: Option<&Instruction>) {
        let ticks = read_time_stamp_counter().wrapping_sub(self.since);
        let full = self.interpreted.len() >= PLACES;
        let at = if full && !self.interpreted.contains_key(&rip) { 0 } else { rip };
        let code = instruction.map_or(Code::INVALID, |instruction| instruction.code());
        let place = self.interpreted.entry(at).or_insert(Interpreted { code, tally: Tally::default() });
        place.tally.add(ticks);
    }

    /// `Vcpu::run` returns to its caller with this exit.
    pub fn leave(&mut self, exit: &'static str, place: u64) {
        self.asked = Some((exit, place));
        self.begin(Phase::Outside, 0);
    }

    /// `Vcpu::run` is called.
    pub fn enter(&mut self) {
        let now = read_time_stamp_counter();
        if let Some(exit) = self.asked.take()
            && (self.exits.len() < PLACES || self.exits.contains_key(&exit))
        {
            self.exits.entry(exit).or_default().add(now.wrapping_sub(self.since));
        }
        self.begin(Phase::Machine, 0);
    }

    /// Attribute the samples since the last call: `block` finds the guest address of generated code by its host address.
    #[inline]
    pub fn attribute(&mut self, block: impl Fn(u64) -> Option<u64>) {
        if self.sampler.has_samples() {
            let (samples, lost) = self.sampler.take();
            self.lost += lost;
            samples.iter().for_each(|sample| self.attribute_one(sample, &block));
        }
    }

    fn attribute_one(&mut self, sample: &Sample, block: impl Fn(u64) -> Option<u64>) {
        let Some(&phase) = Phase::ALL.get(sample.phase as usize) else { return };
        let inside = if phase == Phase::Code { block(sample.host) } else { None };
        let address = inside.unwrap_or(sample.guest);
        let full = self.samples.len() >= PLACES;
        let key = (address, phase);
        let key = if full && !self.samples.contains_key(&key) { (0, phase) } else { key };
        *self.samples.entry(key).or_default() += 1;
    }

    /// What was measured until now.
    pub fn measurements(&mut self) -> Measurements {
        self.resume(self.current, 0);
        let (instant, counter) = self.began;
        let ticks = u128::from(self.since.wrapping_sub(counter)).max(1);
        let elapsed = instant.elapsed().as_nanos();
        let measured = |tally: Tally| Measured {
            count: tally.count,
            nanoseconds: (u128::from(tally.ticks) * elapsed / ticks) as u64,
        };
        let phases = Phase::ALL.iter().map(|&each| (each.name(), measured(self.phases[each as usize])));
        let form = |code: Code| match code {
            Code::INVALID => "(could not be fetched)".to_owned(),
            code => code.op_code().instruction_string().to_owned(),
        };
        let interpreted =
            self.interpreted.iter().map(|(&rip, each)| (rip, form(each.code), measured(each.tally)));
        let samples = self.samples.iter().map(|(&(address, each), &count)| (address, each.name(), count));
        let exits = self.exits.iter().map(|(&(exit, place), &tally)| (exit, place, measured(tally)));
        Measurements {
            phases: phases.collect(),
            interpreted: interpreted.collect(),
            samples: samples.collect(),
            exits: exits.collect(),
            lost: self.lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(profile: &Profile, phase: Phase) -> Tally {
        profile.phases[phase as usize]
    }

    #[test]
    fn every_phase_is_where_its_number_says() {
        for (number, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, number);
        }
    }

    #[test]
    fn all_time_belongs_to_a_phase() {
        let mut profile = Profile::new(100).unwrap();
        let start = profile.since;
        profile.begin(Phase::Code, 0x1000);
        let interrupted = profile.begin(Phase::Translate, 0x1000);
        assert_eq!(interrupted, Phase::Code);
        profile.resume(interrupted, 0x1000);
        profile.begin(Phase::Poll, 0x1000);
        let sum: u64 = profile.phases.iter().map(|tally| tally.ticks).sum();
        assert_eq!(sum, profile.since - start);
        assert_eq!(tally(&profile, Phase::Code).count, 1);
        assert_eq!(tally(&profile, Phase::Translate).count, 1);
    }

    #[test]
    fn instructions_are_told_apart_by_place() {
        let mut profile = Profile::new(100).unwrap();
        let wrmsr = Instruction::with(Code::Wrmsr);
        profile.begin(Phase::Interpret, 0x1000);
        profile.interpreted(0x1000, Some(&wrmsr));
        profile.interpreted(0x1000, Some(&wrmsr));
        profile.interpreted(0x2000, Some(&Instruction::with(Code::Cpuid)));
        let mut found = profile.measurements().interpreted;
        found.sort_by_key(|each| each.0);
        let found: Vec<_> =
            found.iter().map(|(rip, form, tally)| (*rip, form.as_str(), tally.count)).collect();
        assert_eq!(found, [(0x1000, "WRMSR", 2), (0x2000, "CPUID", 1)]);
    }

    #[test]
    fn samples_in_generated_code_have_the_address_of_their_block() {
        let mut profile = Profile::new(100).unwrap();
        let sample = |host, phase, guest| Sample { host, phase: phase as u32, guest };
        let block = |host| (0x10..0x20).contains(&host).then_some(0x1000);
        profile.attribute_one(&sample(0x18, Phase::Code, 0x5000), block);
        profile.attribute_one(&sample(0x18, Phase::Code, 0x6000), block);
        profile.attribute_one(&sample(0x30, Phase::Code, 0x5000), block);
        profile.attribute_one(&sample(0x18, Phase::Interpret, 0x5000), block);
        let mut samples = profile.measurements().samples;
        samples.sort_unstable();
        assert_eq!(samples, [(0x1000, "code", 2), (0x5000, "code", 1), (0x5000, "interpret", 1)]);
    }

    #[test]
    fn exits_take_until_they_are_answered() {
        let mut profile = Profile::new(100).unwrap();
        profile.enter();
        profile.leave("pio_read", 0x71);
        profile.enter();
        let exits = profile.measurements().exits;
        assert_eq!((exits.len(), exits[0].0, exits[0].1, exits[0].2.count), (1, "pio_read", 0x71, 1));
        assert!(profile.exits[&("pio_read", 0x71)].ticks <= tally(&profile, Phase::Outside).ticks);
    }
}
