"""The peers that run guests, as command lines: the same kernel, initial RAM disk and memory for each."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from figures import BenchmarkError

GASANG = "gasang"
QEMU = "qemu"
NATIVE = "native"


@dataclass(frozen=True)
class Guest:
    """What is booted. Memory is in MiB."""

    kernel: Path
    initrd: Path
    append: str
    memory: int = 512
    cpus: int = 1


@dataclass(frozen=True)
class Model:
    """What QEMU is to be: its machine and its processor."""

    machine: str = "pc"
    cpu: str = "max"


def command(peer: str, guest: Guest, model: Model | None = None) -> list[str]:
    """The command that boots `guest` in a peer, console on standard input and output.

    Raises `BenchmarkError` if the peer is not installed.
    """
    return _gasang(guest) if peer == GASANG else _qemu(guest, model or Model())


@contextmanager
def guest_of(kernel: Path, initrd: bytes, append: str, memory: int = Guest.memory) -> Iterator[Guest]:
    """A guest whose initial RAM disk is a file while the block lasts."""
    with tempfile.NamedTemporaryFile(prefix="gasang-bench-", suffix=".cpio") as file:
        file.write(initrd)
        file.flush()
        yield Guest(kernel, Path(file.name), append, memory)


def _gasang(guest: Guest) -> list[str]:
    program = Path(sys.executable).with_name("gasang")
    if not program.exists():
        raise BenchmarkError(f"gasang is not installed beside {sys.executable}: `make bench` does that")
    return [
        str(program), "run", "-m", f"{guest.memory}M", "-c", str(guest.cpus),
        "--kernel", str(guest.kernel), "--initrd", str(guest.initrd), "--append", guest.append,
    ]  # fmt: skip


def _qemu(guest: Guest, model: Model) -> list[str]:
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        raise BenchmarkError("qemu-system-x86_64 was not found: install QEMU, or leave it out with --peers")
    return [
        program, "-M", model.machine, "-cpu", model.cpu, "-accel", "tcg",
        "-m", str(guest.memory), "-smp", str(guest.cpus),
        "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio",
        "-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", guest.append,
    ]  # fmt: skip
