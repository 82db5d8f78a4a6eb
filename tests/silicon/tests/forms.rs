//! Every instruction form from random states: the host, T0 and T1 agree.

use gasang_silicon::campaign::Campaign;
use gasang_silicon::host::BATCH;
use gasang_silicon::random::Random;
use gasang_silicon::{forms, single};
use std::collections::BTreeSet;

/// Seed of everything.
const SEED: u64 = 0x6761_7361_6e67;
/// States of each form, unless GASANG_SILICON_STATES says otherwise. GASANG_SILICON_ONLY names a mnemonic.
const STATES: u64 = 3;

#[test]
fn every_form_is_as_on_the_host() {
    let states = std::env::var("GASANG_SILICON_STATES").ok().and_then(|text| text.parse().ok());
    let states = states.unwrap_or(STATES);
    let only = std::env::var("GASANG_SILICON_ONLY").ok();
    let mut forms = forms::every(SEED);
    if let Some(name) = &only {
        forms.retain(|form| format!("{:?}", form.instruction.mnemonic()).eq_ignore_ascii_case(name));
    }
    let mut campaign = Campaign::new(SEED).expect("a campaign");
    let mut executed = BTreeSet::new();
    let mut opcodes = BTreeSet::new();
    let mut tests = Vec::new();
    for (number, form) in forms.iter().enumerate() {
        let before = tests.len();
        let cases =
            (0..states).filter_map(|state| single::case(form, &mut Random::of(SEED + state, number as u64)));
        tests.extend(cases);
        if tests.len() > before {
            opcodes.insert(form.instruction.code() as usize);
            executed.insert((form.instruction.code() as usize, form.shape, form.prefix));
        }
        if tests.len() > BATCH || number == forms.len() - 1 {
            campaign.run(&tests).expect("a child process");
            tests.clear();
        }
    }
    println!(
        "{} forms of {} opcodes, {} cases, (T0, T1) instructions in T1: {:?}; by vector: {:?}",
        executed.len(),
        opcodes.len(),
        campaign.cases,
        campaign.shares(),
        campaign.vectors
    );
    let failures: usize = campaign.failures.values().map(Vec::len).sum();
    assert!(failures == 0, "{failures} differences:\n{}", campaign.report());
    let (others, translated) = campaign.shares();
    assert!(only.is_some() || translated > 10 * others, "T1 left {others} instructions to T0");
    assert!(only.is_some() || executed.len() >= 1000, "only {} forms were executed", executed.len());
}
