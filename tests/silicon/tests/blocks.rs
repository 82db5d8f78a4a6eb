//! Random blocks of instructions: the host, T0 and T1 agree.

use gasang_silicon::block;
use gasang_silicon::campaign::Campaign;
use gasang_silicon::forms;
use gasang_silicon::host::BATCH;
use gasang_silicon::random::Random;

/// Seed of everything.
const SEED: u64 = 0x626c_6f63_6b73;
/// Thousands of blocks, unless GASANG_SILICON_STATES says otherwise.
const THOUSANDS: u64 = 12;

#[test]
fn random_blocks_are_as_on_the_host() {
    let thousands = std::env::var("GASANG_SILICON_STATES").ok().and_then(|text| text.parse().ok());
    let blocks = 1000 * thousands.unwrap_or(THOUSANDS);
    let ingredients = block::ingredients(&forms::every(SEED));
    let mut campaign = Campaign::new(SEED).expect("a campaign");
    let mut number = 0;
    while number < blocks {
        let tests: Vec<_> = (number..blocks.min(number + BATCH as u64))
            .map(|number| block::case(&ingredients, &mut Random::of(SEED, number)))
            .collect();
        campaign.run(&tests).expect("a child process");
        number += tests.len() as u64;
    }
    println!(
        "{} blocks of {} ingredients, (T0, T1) instructions in T1: {:?}; by vector: {:?}",
        campaign.cases,
        ingredients.len(),
        campaign.shares(),
        campaign.vectors
    );
    let failures: usize = campaign.failures.values().map(Vec::len).sum();
    assert!(failures == 0, "{failures} differences:\n{}", campaign.report());
    let (others, translated) = campaign.shares();
    assert!(translated > 10 * others, "T1 left {others} instructions to T0");
    let whole = campaign.vectors.get(&3).copied().unwrap_or(0);
    assert!(whole * 2 > blocks, "only {whole} blocks of {blocks} were executed to their end");
}
