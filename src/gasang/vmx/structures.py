"""The host: the state of a hypervisor in 64-bit mode, its page tables, GDT and TSS in pages of its own.

No instruction of it is ever executed: its instructions are those of the Python program. But VM entries check
it and VM exits load it, as they do for any hypervisor.
"""

from __future__ import annotations

from gasang._engine import DescriptorTable, Segment, Vcpu
from gasang.vmx.memory import PAGE, Pages

CODE_SELECTOR = 0x08
DATA_SELECTOR = 0x10
TASK_SELECTOR = 0x18
CODE_64 = Segment(CODE_SELECTOR, 0, 0xFFFF_FFFF, 0xA09B)
CODE_32 = Segment(CODE_SELECTOR, 0, 0xFFFF_FFFF, 0xC09B)
DATA = Segment(DATA_SELECTOR, 0, 0xFFFF_FFFF, 0xC093)
TASK_LIMIT = 0x67

_CR0 = 0x8000_0031
"""PG, NE, ET, PE."""
_CR4 = 0x2620
"""VMXE, OSXMMEXCPT, OSFXSR, PAE."""
_EFER = 0x500
"""LMA, LME."""
_HLT = b"\xf4"
_LARGE_PAGE = 2 << 20
_PRESENT, _LARGE = 3, 0x80
"""Present and writable; a page of 2 MiB."""


def descriptor(segment: Segment) -> int:
    """The descriptor of a code or data segment in a GDT (SDM vol. 3, 3.4.5); its base is 0."""
    limit = segment.limit >> 12 if segment.attributes & 0x8000 else segment.limit
    return limit & 0xFFFF | (segment.attributes & 0xF0FF) << 40 | (limit >> 16 & 0xF) << 48


def task_descriptor(base: int, kind: int) -> bytes:
    """The 16 bytes of a TSS descriptor in 64-bit mode (SDM vol. 3, 8.2.3); `kind` 9 available, 11 busy."""
    low = TASK_LIMIT | (base & 0xFF_FFFF) << 16 | (0x80 | kind) << 40 | (base >> 24 & 0xFF) << 56
    return words(low, base >> 32)


def words(*values: int) -> bytes:
    """Numbers of 64 bits, one after the other."""
    return b"".join(value.to_bytes(8, "little") for value in values)


def identity_map(table: int, size: int) -> bytes:
    """Page tables that map `size` bytes, at most 1 GiB, to themselves by writable pages of 2 MiB for
    supervisors (SDM vol. 3, 4.5): three pages, to lie at `table`."""
    pad = bytes(PAGE - 8)
    mapped = min(-(-size // _LARGE_PAGE), 512)
    directory = words(*((index << 21) | _LARGE | _PRESENT for index in range(mapped)))
    return words(table + PAGE | _PRESENT) + pad + words(table + 2 * PAGE | _PRESENT) + pad + directory


def build_host(pages: Pages, vcpu: Vcpu) -> dict[str, int]:
    """Put `vcpu` into 64-bit mode, ready for VMXON; what VM exits are to load, by field of the host area."""
    tables, stack, system = pages.take(3), pages.take(), pages.take()
    pages.write(tables, identity_map(tables, 1 << 30))
    # A page for the rest: GDT, then TSS, then the instruction that VM exits return to.
    gdt, tss, code = system, system + 0x100, system + 0x200
    pages.write(gdt, words(0, descriptor(CODE_64), descriptor(DATA)) + task_descriptor(tss, 11))
    pages.write(code, _HLT)
    task = Segment(TASK_SELECTOR, tss, TASK_LIMIT, 0x8B)
    vcpu.set_registers(
        **dict.fromkeys(("ds", "es", "ss", "fs", "gs"), DATA),
        cs=CODE_64,
        tr=task,
        gdtr=DescriptorTable(gdt, 0x27),
        cr0=_CR0,
        cr3=tables,
        cr4=_CR4,
        efer=_EFER,
        rip=code,
        rsp=stack + PAGE,
        rflags=2,
    )
    pat = vcpu.registers()["pat"]
    assert isinstance(pat, int)
    return {
        "cr0": _CR0,
        "cr3": tables,
        "cr4": _CR4,
        "efer": _EFER,
        "pat": pat,
        "rip": code,
        "rsp": stack + PAGE,
        "cs_selector": CODE_SELECTOR,
        **{f"{name}_selector": DATA_SELECTOR for name in ("ds", "es", "ss", "fs", "gs")},
        "tr_selector": TASK_SELECTOR,
        "tr_base": tss,
        "gdtr_base": gdt,
    }
