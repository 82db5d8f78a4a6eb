"""Small flat guests: machine code assembled by GNU as, run in 32-bit or 64-bit mode."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gasang import _engine

ENTRY = 0x10000
STACK = 0x20000
IDT = 0x1000
PAGE_TABLES = 0x2000
CODE_64 = _engine.Segment(0x08, 0, 0xFFFFFFFF, 0xA09B)
CODE_32 = _engine.Segment(0x08, 0, 0xFFFFFFFF, 0xC09B)
DATA = _engine.Segment(0x10, 0, 0xFFFFFFFF, 0xC093)


@pytest.fixture(scope="session")
def assemble(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """Assemble Intel syntax to a flat binary that runs at `ENTRY`."""
    known: dict[tuple[str, int], bytes] = {}

    def assemble(source: str, bits: int = 64) -> bytes:
        if (source, bits) not in known:
            known[source, bits] = _assemble(tmp_path_factory.mktemp("guest"), source, bits)
        return known[source, bits]

    return assemble


def _assemble(directory: Path, source: str, bits: int) -> bytes:
    text, obj, flat = directory / "guest.s", directory / "guest.o", directory / "guest.bin"
    text.write_text(f".intel_syntax noprefix\n.code{bits}\n.globl _start\n_start:\n{source}\n")
    wide = bits == 64
    subprocess.run(["as", "--64" if wide else "--32", "-o", obj, text], check=True)
    emulation = "elf_x86_64" if wide else "elf_i386"
    subprocess.run(
        ["ld", "-m", emulation, "-Ttext", hex(ENTRY), "-o", directory / "guest.elf", obj], check=True
    )
    subprocess.run(["objcopy", "-O", "binary", directory / "guest.elf", flat], check=True)
    return flat.read_bytes()


class Guest:
    """A machine whose first processor is about to execute `code`."""

    def __init__(self, code: bytes, bits: int, **options: object) -> None:
        self.vm = _engine.Vm(**{"memory": 2 << 20, **options})
        self.kernel_irqchip = options.get("irqchip") == "kernel"
        self.vcpu = self.vm.vcpu(0)
        self.vm.write_memory(ENTRY, code)
        data = dict.fromkeys(("ds", "es", "ss", "fs", "gs"), DATA)
        self.vcpu.set_registers(rip=ENTRY, rsp=STACK, cs=CODE_64 if bits == 64 else CODE_32, cr0=0x11, **data)
        if bits == 64:
            self._enter_long_mode()

    def _enter_long_mode(self) -> None:
        """Identity-map 4 GiB with 2 MiB pages."""
        pml4, pdpt, directories = PAGE_TABLES, PAGE_TABLES + 0x1000, PAGE_TABLES + 0x2000
        self.vm.write_memory(pml4, (pdpt | 3).to_bytes(8, "little"))
        for gib in range(4):
            directory = directories + gib * 0x1000
            self.vm.write_memory(pdpt + 8 * gib, (directory | 3).to_bytes(8, "little"))
            pages = ((gib << 30) + (index << 21) | 0x83 for index in range(512))
            self.vm.write_memory(directory, b"".join(page.to_bytes(8, "little") for page in pages))
        self.vcpu.set_registers(cr0=0x80000011, cr3=pml4, cr4=0x620, efer=0x500)

    def set_gate(self, vector: int, address: int) -> None:
        """An interrupt gate of a 64-bit IDT."""
        low = address & 0xFFFF | 0x08 << 16 | 0x8E00 << 32 | (address >> 16 & 0xFFFF) << 48
        entry = low.to_bytes(8, "little") + (address >> 32).to_bytes(8, "little")
        self.vm.write_memory(IDT + 16 * vector, entry)
        self.vcpu.set_registers(idtr=_engine.DescriptorTable(IDT, 0xFFF))
        gdt = 0x800
        self.vm.write_memory(gdt + 8, (0x00AF9B000000FFFF).to_bytes(8, "little"))
        self.vm.write_memory(gdt + 16, (0x00CF93000000FFFF).to_bytes(8, "little"))
        self.vcpu.set_registers(gdtr=_engine.DescriptorTable(gdt, 0x17))


def why_no_kvm() -> str | None:
    """Why /dev/kvm runs no small guests here; None if it does."""
    failures = [f"{name}: {failure}" for name, failure in _engine.probe_kvm()[:3] if failure is not None]
    return failures[0] if failures else None


@pytest.fixture(params=["interp", "bt"])
def boot(request: pytest.FixtureRequest, assemble: Callable[..., bytes]) -> Callable[..., Guest]:
    """A guest from assembly source, once for each accelerator that counts instructions."""
    return _booter(request.param, assemble)


@pytest.fixture(params=["interp", "bt", "kvm", "kvm-kernel-irqchip"])
def boot_anywhere(request: pytest.FixtureRequest, assemble: Callable[..., bytes]) -> Callable[..., Guest]:
    """A guest from assembly source, once for each accelerator."""
    if not request.param.startswith("kvm"):
        return _booter(request.param, assemble)
    if reason := why_no_kvm():
        pytest.skip(reason)
    return _booter("kvm", assemble, irqchip="kernel" if request.param != "kvm" else "own")


@pytest.fixture(params=["interp", "bt", "kvm"])
def boot_with_own_controllers(
    request: pytest.FixtureRequest, assemble: Callable[..., bytes]
) -> Callable[..., Guest]:
    """The same, where the engine has the interrupt controllers."""
    if request.param == "kvm" and (reason := why_no_kvm()):
        pytest.skip(reason)
    return _booter(request.param, assemble)


def _booter(accel: str, assemble: Callable[..., bytes], **more: object) -> Callable[..., Guest]:
    def boot(source: str, bits: int = 64, **options: object) -> Guest:
        return Guest(assemble(source, bits), bits, **{"accel": accel, **more, **options})

    return boot
