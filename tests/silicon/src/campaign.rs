//! Many cases: on the host, in T0, in T1 with lazy and with strict flags, and as code is executed that waits for T1.

use crate::case::Outcome;
use crate::compare::{self, Tolerance};
use crate::guest::Guest;
use crate::host::{BACKGROUNDS, BATCH, Host};
use crate::single::Test;
use crate::values;
use gasang_exec::host_fault::AlternateStack;
use gasang_translate::Options;
use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Code cache of the translators under test: small, so that throwing it away is part of the test.
const CACHE_BYTES: u32 = 8 << 20;

/// An engine under test.
struct Tier {
    name: &'static str,
    options: Option<Options>,
    guest: Guest,
    tolerance: Tolerance,
}

impl Tier {
    /// The difference of a case, if there is one. After a panic the guest is made anew.
    fn difference(&mut self, test: &Test, on_host: &Outcome, outcome: &mut Outcome) -> Option<String> {
        let run = catch_unwind(AssertUnwindSafe(|| self.guest.run(&test.case, outcome)));
        if run.is_err() {
            let backgrounds = self.guest.backgrounds().to_vec();
            self.guest = Guest::new(self.options, &backgrounds).expect("as the one before");
            return Some("the engine panicked".to_string());
        }
        compare::difference(test, on_host, outcome, self.tolerance)
    }
}

/// Whether a tier translates all code.
fn translates(options: Option<Options>) -> bool {
    options.is_some_and(|options| options.eager)
}

/// Runs cases everywhere and collects the differences.
pub struct Campaign {
    host: Host,
    tiers: Vec<Tier>,
    outcome: Box<Outcome>,
    _stack: AlternateStack,
    /// Differences as lines, by tier and mnemonic.
    pub failures: BTreeMap<String, Vec<String>>,
    /// How many cases were compared.
    pub cases: u64,
    /// How many cases ended with each vector.
    pub vectors: BTreeMap<u32, u64>,
}

impl Campaign {
    /// A campaign with data pages as `seed` says.
    ///
    /// # Errors
    /// If memory runs out or the host lacks what the engine needs.
    pub fn new(seed: u64) -> io::Result<Campaign> {
        let backgrounds = values::backgrounds::<BACKGROUNDS>(seed);
        let translator =
            |strict_flags| Some(Options { cache_bytes: CACHE_BYTES, strict_flags, ..Options::default() });
        let tier = |name, options: Option<Options>| -> io::Result<Tier> {
            let tolerance = Tolerance {
                dead_flags: translates(options) && options.is_some_and(|options| !options.strict_flags),
                undefined_flags: translates(options),
                dead_stack: translates(options),
            };
            Ok(Tier { name, options, guest: Guest::new(options, &backgrounds[..])?, tolerance })
        };
        let tiers = vec![
            tier("T0", None)?,
            tier("cold", Some(Options { eager: false, patience: u8::MAX, ..Options::default() }))?,
            tier("T1", translator(false))?,
            tier("T1 strict", translator(true))?,
        ];
        Ok(Campaign {
            host: Host::new(&backgrounds)?,
            tiers,
            outcome: Outcome::new(),
            _stack: AlternateStack::install()?,
            failures: BTreeMap::new(),
            cases: 0,
            vectors: BTreeMap::new(),
        })
    }

    /// Run cases, whatever their number.
    ///
    /// # Errors
    /// If no process can be forked.
    pub fn run(&mut self, tests: &[Test]) -> io::Result<()> {
        for batch in tests.chunks(BATCH) {
            let cases: Vec<_> = batch.iter().map(|test| test.case.clone()).collect();
            let outcomes = self.host.run(&cases)?;
            for (test, on_host) in batch.iter().zip(outcomes) {
                self.cases += 1;
                *self.vectors.entry(on_host.vector).or_default() += 1;
                for tier in &mut self.tiers {
                    if let Some(difference) = tier.difference(test, on_host, &mut self.outcome) {
                        let mnemonic = compare::instruction(test).mnemonic();
                        let line = format!("{}: {difference}", compare::reproducer(test));
                        let key = format!("{} {mnemonic:?}", tier.name);
                        self.failures.entry(key).or_default().push(line);
                    }
                }
            }
        }
        Ok(())
    }

    /// Of the instructions under test in T1: how many times T0 executed one in its place, and how many times it did not.
    pub fn shares(&self) -> (u64, u64) {
        let translating = self.tiers.iter().filter(|tier| translates(tier.options));
        let statistics = translating.filter_map(|tier| tier.guest.statistics());
        // The exception and HLT at the end of a case are T0's.
        statistics.fold((0, 0), |(others, translated), statistics| {
            (
                others + statistics.interpreted.saturating_sub(2 * self.cases),
                translated + statistics.translated,
            )
        })
    }

    /// All differences, a few lines for each tier and mnemonic.
    pub fn report(&self) -> String {
        let mut report = String::new();
        for (key, lines) in &self.failures {
            for line in lines.iter().take(3) {
                report.push_str(&format!("{key} ({}): {line}\n", lines.len()));
            }
        }
        report
    }
}
