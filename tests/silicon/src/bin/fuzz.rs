//! `fuzz SECONDS [SEED]`: random states, one seed after the other, in a process of their own that is watched.
//! `fuzz --seed SEED`: one of them, in this process.

use gasang_cpu::CpuModel;
use gasang_exec::host_fault::AlternateStack;
use gasang_silicon::fuzz;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long one seed may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Execute seeds from `first` on until `deadline`, each announced on the standard output.
fn work(first: u64, deadline: Instant) -> io::Result<()> {
    let _stack = AlternateStack::install()?;
    let model = CpuModel::parse("max").map_err(io::Error::other)?;
    let mut output = io::stdout().lock();
    for seed in first.. {
        if Instant::now() >= deadline {
            break;
        }
        writeln!(output, "{seed}")?;
        output.flush()?;
        fuzz::run(seed, &model)?;
    }
    Ok(())
}

/// Watch a worker from `first` on: the seed at which it failed and how, or the number of seeds it executed.
fn watch(first: u64, left: Duration) -> io::Result<Result<u64, (u64, String)>> {
    let mut worker = Command::new(std::env::current_exe()?)
        .args(["--worker", &first.to_string(), &left.as_millis().to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let (sender, receiver) = mpsc::channel();
    let lines = worker.stdout.take().map(BufReader::new);
    let reader = std::thread::spawn(move || {
        for line in lines.into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut seed = first;
    let hung = loop {
        match receiver.recv_timeout(PATIENCE) {
            Ok(line) => seed = line.parse().unwrap_or(seed),
            Err(mpsc::RecvTimeoutError::Timeout) => break true,
            Err(mpsc::RecvTimeoutError::Disconnected) => break false,
        }
    };
    if hung {
        worker.kill()?;
    }
    let status = worker.wait()?;
    reader.join().map_err(|_| io::Error::other("the reader panicked"))?;
    Ok(if hung {
        Err((seed, "the engine hung".to_string()))
    } else if status.success() {
        Ok(seed + 1 - first)
    } else {
        Err((seed, format!("the engine ended: {status}")))
    })
}

fn supervise(seconds: u64, first: u64) -> io::Result<bool> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut seed, mut executed, mut failures) = (first, 0, 0);
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        match watch(seed, left)? {
            Ok(count) => {
                executed += count;
                break;
            }
            Err((failed, how)) => {
                println!("seed {failed}: {how}; again with: fuzz --seed {failed}");
                failures += 1;
                executed += failed + 1 - seed;
                seed = failed + 1;
            }
        }
    }
    println!("{executed} random states, {failures} failures");
    Ok(failures == 0 && executed > 0)
}

fn number(argument: Option<&String>) -> Option<u64> {
    argument.and_then(|text| text.parse().ok())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.first().map(String::as_str) {
        Some("--worker") => {
            let (first, left) = (number(arguments.get(1)), number(arguments.get(2)));
            let deadline = Instant::now() + Duration::from_millis(left.unwrap_or(0));
            work(first.unwrap_or(0), deadline).map(|()| true)
        }
        Some("--seed") => one(number(arguments.get(1)).unwrap_or(0)).map(|()| true),
        _ => match number(arguments.first()) {
            Some(seconds) => supervise(seconds, number(arguments.get(1)).unwrap_or(0)),
            None => Err(io::Error::other("usage: fuzz SECONDS [SEED] | fuzz --seed SEED")),
        },
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fuzz: {error}");
            ExitCode::from(2)
        }
    }
}

fn one(seed: u64) -> io::Result<()> {
    let _stack = AlternateStack::install()?;
    let model = CpuModel::parse("max").map_err(io::Error::other)?;
    println!("seed {seed}: {:?}", fuzz::run(seed, &model)?);
    Ok(())
}
