"""The guide to /dev/kvm names what there is."""

import re
from pathlib import Path

from gasang import _engine, vmx

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/guide/kvm.md").read_text()
PROBE = (ROOT / "engine/kvm/src/probe.rs").read_text()

TITLES = {
    "I/O instruction": "IO_INSTRUCTION",
    "HLT": "HLT",
    "RDMSR": "RDMSR",
    "WRMSR": "WRMSR",
    "interrupt window": "INTERRUPT_WINDOW",
    "external interrupt": "EXTERNAL_INTERRUPT",
    "triple fault": "TRIPLE_FAULT",
    "EPT violation": "EPT_VIOLATION",
    "CPUID": "CPUID",
    "INVLPG": "INVLPG",
    "XSETBV": "XSETBV",
}


def test_every_step_of_the_probe_has_its_row():
    names = re.search(r"PROBE_STEPS: \[&str; \d+\] = \[(.*?)\]", PROBE, re.DOTALL)
    assert names
    steps = re.findall(r'"([^"]+)"', names[1])
    assert len(steps) == 8
    assert re.findall(r"^\| `KVM: (.*?)` \|", GUIDE, re.MULTILINE) == steps


def test_the_numbers_of_exit_reasons_are_the_manuals():
    column = [row.split("|")[2] for row in GUIDE.splitlines() if row.startswith(("| `KVM_EXIT", "| (in the"))]
    named = dict(re.findall(r"([A-Z][A-Za-z/]+(?: [a-z]+)?|[a-z]+ [a-z]+) \((\d+)", " ".join(column)))
    for title, name in TITLES.items():
        assert int(named[title]) == vmx.ExitReason[name], title


def test_the_exits_that_it_names_are_the_engines():
    for name in (
        "PioRead",
        "PioWrite",
        "SerialOutput",
        "MmioRead",
        "MmioWrite",
        "Halted",
        "Shutdown",
        "KvmLost",
    ):
        assert f"`{name}" in GUIDE
        assert hasattr(_engine, name)


def test_the_counters_that_it_names_are_counted():
    names = set(re.findall(r"`(\w+_exits|\w+_injections|msr_\w+|hypercalls)`", GUIDE))
    assert len(names) == 11
    counted = _engine.Vm(memory=1 << 20).vcpu(0).statistics()
    assert names <= counted.keys()


def test_the_example_of_vt_x_is_true():
    example = next(block for block in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL) if "vmx" in block)
    exec(compile(example, "kvm.md", "exec"), {})
