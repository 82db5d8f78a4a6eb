"""Builds guest programs: `python guests/guest_programs.py DIRECTORY [NAME...]`, or `Builder` from a test."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

GUESTS = Path(__file__).parent
_RUNTIME = GUESTS / "runtime"
_RUNTIME_SOURCES = (
    "check.c",
    "trap.c",
    "descriptors.c",
    "pages.c",
    "scattered.c",
    "processors.c",
    "vmx.c",
    "vmx_guest.c",
    "ept.c",
    "vectors.S",
    "processors.S",
    "vmx_enter.S",
)
_COMPILE = (
    "gcc", "-std=gnu17", "-O1", "-ffreestanding", "-fno-stack-protector", "-fno-pic", "-fno-pie",
    "-mno-red-zone", "-mgeneral-regs-only", "-fcf-protection=none", "-fno-asynchronous-unwind-tables",
    "-fno-strict-aliasing", "-fno-tree-loop-distribute-patterns", "-masm=intel", "-Wall", "-Wextra",
    "-Werror", f"-I{_RUNTIME}",
)  # fmt: skip

Mode = Literal["long", "protected"]
_START = {"long": "long_mode.S", "protected": "protected_mode.S"}
_BITS = {"long": "-m64", "protected": "-m32"}
_EMULATION = {"long": "elf_x86_64", "protected": "elf_i386"}
_LINK = ("ld", "-z", "noexecstack", "--no-warn-rwx-segments", "-T", str(_RUNTIME / "program.ld"))


@dataclass(frozen=True)
class Program:
    """One entry of guests.toml, where the fields are described."""

    name: str
    mode: Mode
    groups: tuple[str, ...]
    timeout: float = 30
    memory: str = "32M"
    cpus: int = 1
    exit: int = 1
    cpu: str = "max"
    may_skip: tuple[str, ...] = ()
    folder: Path = GUESTS / "programs"

    @property
    def source(self) -> Path:
        """Its source: C, or assembly if it is that throughout."""
        c_source = self.folder / f"{self.name}.c"
        return c_source if c_source.exists() else c_source.with_suffix(".S")


def manifest() -> list[Program]:
    """The programs of guests.toml, in its order."""
    content = tomllib.loads((GUESTS / "guests.toml").read_text())
    return [Program(name=name, **_with_tuples(entry)) for name, entry in content.items()]


def _with_tuples(entry: dict[str, object]) -> dict[str, object]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}


@dataclass
class Builder:
    """Builds into `directory`, the runtime once a mode. Raises `CalledProcessError` if a tool fails."""

    directory: Path
    _runtimes: dict[Mode, list[Path]] = field(default_factory=dict)

    def build(self, program: Program) -> Path:
        """The program as a 32-bit ELF file, which is what multiboot loaders take, also for 64-bit code."""
        objects = [*self._runtime(program.mode), self._compile(program.source, program.mode)]
        linked = self.directory / f"{program.name}.linked"
        _call(*_LINK, "-m", _EMULATION[program.mode], "-o", linked, *objects)
        target = self.directory / program.name
        _call("objcopy", "-O", "elf32-i386", linked, target)
        return target

    def _runtime(self, mode: Mode) -> list[Path]:
        if mode not in self._runtimes:
            sources = (_START[mode], *_RUNTIME_SOURCES)
            self._runtimes[mode] = [self._compile(_RUNTIME / source, mode) for source in sources]
        return self._runtimes[mode]

    def _compile(self, source: Path, mode: Mode) -> Path:
        target = self.directory / f"{source.name}.{mode}.o"
        _call(*_COMPILE, _BITS[mode], f"-Wa,-I{_RUNTIME}", "-c", source, "-o", target)
        return target


def _call(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def main(arguments: list[str]) -> None:
    """Build the programs named, or all."""
    directory, names = Path(arguments[0]), arguments[1:]
    directory.mkdir(parents=True, exist_ok=True)
    builder = Builder(directory)
    for program in manifest():
        if not names or program.name in names:
            print(builder.build(program))


if __name__ == "__main__":
    main(sys.argv[1:])
