"""What executes a machine: /dev/kvm where a guest really runs on it, else binary translation."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from gasang._engine import probe_kvm
from gasang.config import MachineConfig
from gasang.guest.cache import cache_directory

DEVICE = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Choice(NamedTuple):
    """An accelerator by the engine's name, and why it is that one."""

    name: Literal["kvm", "bt", "interp"]
    why: str


class Step(NamedTuple):
    """A step of the probe of KVM: `failure` says why it does not work."""

    name: str
    failure: str | None


def choose(config: MachineConfig) -> Choice:
    """What executes a machine of this configuration; "auto" is KVM if it works and nothing speaks against."""
    if config.accel != "auto":
        return Choice(config.accel, "as asked")
    against = _against_kvm(config)
    if against is not None:
        return Choice("bt", against)
    works = all(step.failure is None for step in probe())
    return Choice("kvm" if works else "bt", "the fastest that works here")


def _against_kvm(config: MachineConfig) -> str | None:
    """What is asked for that only the software processor has."""
    for asked, what in (
        (config.deterministic, "a deterministic machine"),
        (config.trace_blocks or config.count_blocks or config.perf_map, "translated blocks"),
        (config.profile, "a profile"),
        (config.trace_vmx or "+vmx" in config.cpu.split(","), "VT-x in the guest"),
    ):
        if asked:
            return f"{what} is the software processor's"
    return None


def probe() -> list[Step]:
    """Whether KVM executes guests, found out once in each boot of the host: the steps up to one that fails.

    Nothing is kept of a device that cannot be opened: that is soon found out again, and may have changed.
    """
    kept = cache_directory() / "kvm-probe.json"
    identity = _identity()
    steps = _recall(kept, identity)
    if steps is None:
        steps = [Step(name, failure) for name, failure in probe_kvm()]
        if len(steps) > 1 and identity is not None:
            _keep(kept, identity, steps)
    return steps


def _identity() -> list[str | int] | None:
    """What tells this boot of the host, and this device, from others."""
    try:
        status = DEVICE.stat()
        return [
            _BOOT_ID.read_text().strip(),
            status.st_rdev,
            status.st_ino,
            os.access(DEVICE, os.R_OK | os.W_OK),
        ]
    except OSError:
        return None


def _recall(kept: Path, identity: list[str | int] | None) -> list[Step] | None:
    try:
        found = json.loads(kept.read_text())
        if identity is None or found["of"] != identity:
            return None
        return [Step(name, failure) for name, failure in found["steps"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(kept: Path, identity: list[str | int], steps: list[Step]) -> None:
    """A cache that cannot be written costs the next machine some milliseconds, no more."""
    content = json.dumps({"of": identity, "steps": [(step.name, step.failure) for step in steps]})
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        import tempfile  # noqa: PLC0415 - slow to load, and rarely needed

        descriptor, name = tempfile.mkstemp(dir=kept.parent)
        with open(descriptor, "w") as file:
            file.write(content)
        Path(name).replace(kept)
