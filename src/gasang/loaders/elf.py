"""ELF executables as kernels are: what to load where in physical memory, and where to enter."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment

from gasang.errors import KernelError
from gasang.loaders.image import Segment
from gasang.loaders.placement import Placement

MAGIC = b"\x7fELF"

_PROCESSORS = {"EM_386": "i386", "EM_X86_64": "x86-64"}
_OTHER_ARCHITECTURES = {
    "EM_AARCH64": "AArch64",
    "EM_ARM": "32-bit Arm",
    "EM_RISCV": "RISC-V",
    "EM_PPC64": "PowerPC64",
}
_XEN_NOTE_PHYS32_ENTRY = 18
_UNCHECKED = (AttributeError, LookupError, OverflowError, TypeError, ValueError)
"""What pyelftools lets through when headers contradict each other."""


@dataclass(frozen=True, slots=True)
class LoadableSegment:
    """A PT_LOAD header: its part of the file, and its place in memory, whose tail is zeros."""

    offset: int
    file_size: int
    virtual_address: int
    physical_address: int
    memory_size: int


@dataclass(frozen=True, slots=True)
class ElfKernel:
    """The parts of an ELF executable that booting it needs. `pvh_entry` is None if it has no PVH note."""

    content: bytes
    is_64_bit: bool
    entry: int
    pvh_entry: int | None
    loadable: tuple[LoadableSegment, ...]

    def load(self, placement: Placement, purpose: str) -> list[Segment]:
        """Claim memory for every loadable segment; return what to write there."""
        file = memoryview(self.content)
        segments = []
        for number, each in enumerate(self.loadable):
            label = f"{purpose} segment {number}"
            placement.claim(each.physical_address, each.memory_size, label)
            data = file[each.offset : each.offset + each.file_size]
            segments.append(Segment(each.physical_address, data, label))
        return segments

    @property
    def physical_entry(self) -> int:
        """The entry point as a physical address: some linkers give it as a virtual one."""
        for each in self.loadable:
            if each.virtual_address <= self.entry < each.virtual_address + each.memory_size:
                return self.entry - each.virtual_address + each.physical_address
        return self.entry


def parse(content: bytes, source: str) -> ElfKernel:
    """Read the headers of an x86 ELF executable; `source` names it in errors.

    Raises `KernelError` if it is truncated, damaged, or for another processor.
    """
    try:
        elf = ELFFile(io.BytesIO(content))
        _check_processor(elf["e_machine"], source)
        kernel = ElfKernel(
            content=content,
            is_64_bit=elf.elfclass == 64,
            entry=elf["e_entry"],
            pvh_entry=_pvh_entry(elf),
            loadable=tuple(_loadable(elf)),
        )
    except (ELFError, ConstructError, *_UNCHECKED) as error:
        raise KernelError(f"{source} is a truncated or damaged ELF file: {error}") from error
    _check_segments(kernel, source)
    return kernel


def _check_processor(machine: str | int, source: str) -> None:
    if machine not in _PROCESSORS:
        architecture = _OTHER_ARCHITECTURES.get(str(machine), f"another processor ({machine})")
        raise KernelError(f"{source} is a kernel for {architecture}: gasang runs x86-64 kernels")


def _loadable(elf: ELFFile) -> Iterator[LoadableSegment]:
    for segment in elf.iter_segments("PT_LOAD"):
        if segment["p_memsz"]:
            yield LoadableSegment(
                offset=segment["p_offset"],
                file_size=segment["p_filesz"],
                virtual_address=segment["p_vaddr"],
                physical_address=segment["p_paddr"],
                memory_size=segment["p_memsz"],
            )


def _pvh_entry(elf: ELFFile) -> int | None:
    """What the note XEN_ELFNOTE_PHYS32_ENTRY says (Xen, docs/misc/pvh.pandoc)."""
    for segment in elf.iter_segments("PT_NOTE"):
        assert isinstance(segment, NoteSegment), "pyelftools' class for PT_NOTE"
        for note in segment.iter_notes():
            # n_type is a number for types that pyelftools has no name for, which its annotations leave out
            kind: object = note["n_type"]
            if note["n_name"] == "Xen" and kind == _XEN_NOTE_PHYS32_ENTRY:
                return int.from_bytes(note["n_descdata"][:4], "little")
    return None


def _check_segments(kernel: ElfKernel, source: str) -> None:
    if not kernel.loadable:
        raise KernelError(f"{source} is an ELF file with nothing to load: not an executable kernel")
    for each in kernel.loadable:
        end = each.offset + each.file_size
        if end > len(kernel.content):
            raise KernelError(
                f"{source} is truncated: a segment ends at byte {end}, the file at {len(kernel.content)}"
            )
        if each.file_size > each.memory_size:
            raise KernelError(f"{source} is damaged: a segment is larger in the file than in memory")
