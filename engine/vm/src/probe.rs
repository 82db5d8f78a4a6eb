//! Whether KVM works here: a small guest, run on it.

use crate::accelerator::AcceleratorKind;
use crate::error::Error;
use crate::exit::Exit;
use crate::registers::RegisterValue;
use crate::vm::{Vm, VmOptions};
use gasang_cpu::{Feature, SegmentRegister, VcpuState};
use gasang_kvm::{PROBE_BASE, PROBE_EXPECTED, PROBE_PORT, PROBE_STEPS, PROBE_TABLES, probe_code};
use gasang_x86::{paging, segment};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// How long the guest may take, which needs some milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
const MEMORY: u64 = 2 << 20;
const OPEN: u64 = paging::PRESENT | paging::WRITABLE | paging::USER;
const LOCAL_APIC: u64 = 0xfee0_0000;

/// What a probe of KVM did: each step, and whether it was done, or why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbedStep {
    /// What was tried.
    pub name: &'static str,
    /// None if it works.
    pub failure: Option<String>,
}

/// Run the probe. Its first step is to open /dev/kvm; nothing is tried after a step that fails.
pub fn probe_kvm() -> Vec<ProbedStep> {
    let machine = match machine() {
        Ok(machine) => machine,
        Err(error) => return vec![ProbedStep { name: "/dev/kvm", failure: Some(error.to_string()) }],
    };
    let (done, end) = run(&machine);
    let steps = PROBE_STEPS
        .into_iter()
        .take(done + 1)
        .enumerate()
        .map(|(index, name)| ProbedStep { name, failure: (index == done).then(|| end.clone()) });
    std::iter::once(ProbedStep { name: "/dev/kvm", failure: None }).chain(steps).collect()
}

fn machine() -> Result<Vm, Error> {
    let vm = Vm::new(&VmOptions::new(MEMORY, AcceleratorKind::Kvm))?;
    let model = vm.model();
    let [_, _, ecx, _] = model.cpuid(1, 0, &VcpuState::reset(), 0, 1, 1);
    let words = [ecx, model.has(Feature::Avx).into()].map(u32::to_le_bytes).concat();
    vm.write_memory(PROBE_EXPECTED, &words)?;
    vm.write_memory(PROBE_BASE, probe_code())?;
    let (pointers, directory, of_apic) =
        (PROBE_TABLES + 0x1000, PROBE_TABLES + 0x2000, PROBE_TABLES + 0x3000);
    for (place, entry) in [
        (PROBE_TABLES, pointers),
        (pointers, directory),
        (pointers + 8 * (LOCAL_APIC >> 30), of_apic),
        (directory, paging::PAGE_SIZE),
        (of_apic + 8 * (LOCAL_APIC >> 21 & 0x1ff), paging::PAGE_SIZE | LOCAL_APIC & !0x1f_ffff),
    ] {
        vm.write_memory(place, &(entry | OPEN).to_le_bytes())?;
    }
    // Code of real mode is as RESET has it, but for its place.
    let code = SegmentRegister {
        selector: (PROBE_BASE >> 4) as u16,
        base: PROBE_BASE,
        ..VcpuState::reset().segment[segment::CS]
    };
    vm.vcpu(0)?.set_registers(&[
        ("cs".to_owned(), RegisterValue::Segment(code)),
        ("rip".to_owned(), RegisterValue::Word(0)),
    ])?;
    Ok(vm)
}

/// How many steps the guest did, and how it ended.
fn run(machine: &Vm) -> (usize, String) {
    let vcpu = match machine.vcpu(0) {
        Ok(vcpu) => vcpu,
        Err(error) => return (0, error.to_string()),
    };
    let (ended, end) = channel::<()>();
    let watched = Arc::clone(&vcpu);
    let watch = std::thread::spawn(move || {
        if end.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            watched.kick();
        }
    });
    let mut done = 0;
    let end = loop {
        match vcpu.run(None, None) {
            Ok(Exit::PioWrite { port: PROBE_PORT, value, .. }) if value as usize == done + 1 => done += 1,
            Ok(Exit::Halted) => break "the guest found a wrong result".to_owned(),
            Ok(Exit::Shutdown) => break "a triple fault".to_owned(),
            Ok(Exit::Interrupted) => break "no end within 5 seconds".to_owned(),
            Ok(other) => break format!("the guest did what it does not do: {other:?}"),
            Err(error) => break error.to_string(),
        }
    };
    drop(ended);
    // It ends by itself, and panics nowhere.
    let _ = watch.join();
    (done, end)
}
