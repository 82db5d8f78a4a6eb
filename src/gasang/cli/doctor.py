"""`gasang doctor`: what this host offers, what gasang uses of it, and how to get more."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from gasang import _engine
from gasang.guest.cache import cache_directory
from gasang.machine.accelerator import DEVICE, Step, probe
from gasang.units import GIB

_PROC = Path("/proc")


@dataclass(frozen=True)
class Finding:
    """One thing looked at: whether it is there, in words, and what to do about it if it matters."""

    name: str
    ok: bool
    says: str
    advice: str = ""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gasang doctor`."""
    parser.description = "Show what this host offers, what gasang uses of it, and how to get more."
    parser.add_argument("--json", action="store_true", help="for programs: a list of objects")


def main(options: argparse.Namespace) -> int:
    """Print the findings; 0 whatever they are."""
    findings = list(examine())
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
        return 0
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{'✓' if finding.ok else '·'} {finding.name:{width}}  {finding.says}")
        if finding.advice:
            print(f"  {'':{width}}  → {finding.advice}")
    return 0


def examine() -> Iterator[Finding]:
    """Look at the host."""
    yield from _accelerators(probe())
    yield _processor()
    yield _features(_engine.host_capabilities())
    yield _cpuid_faulting()
    yield _cores()
    yield _memory()
    yield _userfaultfd()
    yield _cache(cache_directory())
    yield _package_client(shutil.which)


def _accelerators(steps: list[Step]) -> Iterator[Finding]:
    """What will execute guests, and each step of the guest that tries /dev/kvm out."""
    works = all(step.failure is None for step in steps)
    if works:
        yield Finding("accelerator", True, "kvm: the processor itself executes guest code")
    else:
        yield Finding(
            "accelerator", True, "bt: guest code is translated; this needs no support of the processor"
        )
    advice = "" if works else _advice(steps, DEVICE)
    for step in steps:
        name = step.name if step.name == str(DEVICE) else f"KVM: {step.name}"
        says = "works" if step.failure is None else step.failure
        yield Finding(name, step.failure is None, says, advice if step.failure is not None else "")


def _advice(steps: list[Step], device: Path) -> str:
    """How to get a KVM that executes guests, after the step that failed."""
    if len(steps) > 1:
        return "this is no KVM for whole systems, perhaps a software back end: gasang does without"
    if not device.exists():
        return (
            "on a machine of your own: enable VT-x or AMD-V in the firmware, then modprobe kvm_intel or "
            "kvm_amd; "
            "in a virtual machine: have its host switch on nested virtualization"
        )
    if not os.access(device, os.R_OK | os.W_OK):
        return "join the group that owns it: usermod -aG kvm $USER, then log in again"
    return ""


def _processor() -> Finding:
    lines = _read(_PROC / "cpuinfo").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return Finding("processor", True, models[0] if models else "unknown")


def _features(capabilities: dict[str, bool]) -> Finding:
    there = " ".join(sorted(name for name, has in capabilities.items() if has))
    missing = " ".join(sorted(name for name, has in capabilities.items() if not has))
    says = there + (f" (not: {missing})" if missing else "")
    if capabilities.get("fsgsbase", True):
        return Finding("features", True, says)
    return Finding(
        "features", False, says, "FSGSBASE makes translation faster: Linux 5.9 or newer enables it"
    )


def _cpuid_faulting() -> Finding:
    has = "cpuid_fault" in _read(_PROC / "cpuinfo").split()
    return Finding("CPUID faulting", has, "there" if has else "not there; gasang does not need it")


def _cores() -> Finding:
    usable, all_ = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    return Finding("cores", True, f"{usable} of {all_} usable: one thread for each processor of a guest")


def _memory() -> Finding:
    for line in _read(_PROC / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
            says = f"{available / GIB:.1f} GiB available"
            advice = "" if available >= GIB else "the default guest has 512M: give less with -m 128M"
            return Finding("memory", available >= GIB, says, advice)
    return Finding("memory", False, "unknown")


def _userfaultfd() -> Finding:
    allowed = os.geteuid() == 0 or _read(_PROC / "sys/vm/unprivileged_userfaultfd").strip() == "1"
    return Finding("userfaultfd", allowed, "allowed" if allowed else "not allowed; gasang does not need it")


def _cache(directory: Path) -> Finding:
    existing = next(parent for parent in (directory, *directory.parents) if parent.exists())
    if not os.access(existing, os.W_OK | os.X_OK) or not existing.is_dir():
        advice = "set XDG_CACHE_HOME to a directory that you can write"
        return Finding("cache", False, f"{directory}: cannot be written", advice)
    filled = (directory / "guest").is_dir()
    return Finding("cache", True, f"{directory}: {'has the default guest' if filled else 'empty so far'}")


def _package_client(find: Callable[[str], str | None]) -> Finding:
    path = find("apt-get")
    if path is not None:
        return Finding("package client", True, f"{path}: brings the default guest")
    advice = "boot a kernel of yours: gasang run --kernel FILE --initrd FILE"
    return Finding("package client", False, "no apt-get: the default guest cannot be fetched here", advice)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
