//! Random bytes and random machine state: the engine survives.

use std::process::Command;

fn fuzz(seconds: &str, seed: &str) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_fuzz")).args([seconds, seed]).output().expect("fuzz starts");
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn random_states_neither_panic_nor_hang() {
    fuzz("5", "0");
}

/// For GASANG_FUZZ_SECONDS (60), other seeds than above.
#[test]
#[ignore = "takes as long as it is asked to"]
fn fuzz_random_states_for_longer() {
    let seconds = std::env::var("GASANG_FUZZ_SECONDS").unwrap_or_else(|_| "60".to_string());
    fuzz(&seconds, "1000000");
}
