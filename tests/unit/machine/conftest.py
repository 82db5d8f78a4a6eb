"""Machines whose engine is a script."""

import importlib.util
import sys

import fake_engine
import pytest

if importlib.util.find_spec("gasang._engine") is None:
    sys.modules["gasang._engine"] = fake_engine

from gasang.machine import Machine, pc, run_loop


@pytest.fixture
def engine(monkeypatch):
    """The fake engine, in place of the real one."""
    monkeypatch.setattr(pc, "_engine", fake_engine)
    for each in fake_engine.EXITS:
        monkeypatch.setattr(run_loop, each.__name__, each)
    monkeypatch.setattr(fake_engine.Vm, "script", ((),))
    return fake_engine


@pytest.fixture
def kernel(tmp_path):
    """The smallest multiboot kernel: a header that says where it goes, and HLT."""
    flags, start = 1 << 16, 0x100000
    words = (0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF, start, start, 0, 0, start + 32)
    path = tmp_path / "kernel"
    path.write_bytes(b"".join(word.to_bytes(4, "little") for word in words) + b"\xf4" * 16)
    return path


@pytest.fixture
def boot(engine, kernel, monkeypatch):
    """Boots machines that run the scripts given, one for each processor; all are stopped in the end."""
    machines = []

    def boot(*scripts, **options):
        monkeypatch.setattr(engine.Vm, "script", scripts)
        options = {"kernel": kernel, "memory": "32M", "cpus": len(scripts), **options}
        machines.append(Machine.boot(**options))
        return machines[-1]

    yield boot
    for machine in machines:
        machine.stop()
