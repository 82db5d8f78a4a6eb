"""Guests that can be launched at once: consistent states in real, protected and 64-bit mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from gasang._engine import DescriptorTable, Segment
from gasang.vmx.memory import PAGE
from gasang.vmx.structures import (
    CODE_32,
    CODE_64,
    DATA,
    TASK_LIMIT,
    TASK_SELECTOR,
    descriptor,
    identity_map,
    task_descriptor,
    words,
)

if TYPE_CHECKING:
    from gasang.vmx.memory import Memory
    from gasang.vmx.vmcs import Vmcs

Mode = Literal["real", "protected", "long"]

TABLES = 5 * PAGE
"""Bytes at the end of the guest's RAM that `enter_long_mode` and `enter_protected_mode` use."""

_UNUSABLE = Segment(0, 0, 0, 0x1_0000)
_CR0 = 0x30
"""NE, ET: what VMX operation leaves of CR0's reset value to an unrestricted guest."""
_PROTECTED = 1
_PAGING = 1 << 31
_VMXE = 1 << 13
_CR4_LONG = 0x620
"""OSXMMEXCPT, OSFXSR, PAE."""
_EFER_LONG = 0x500
"""LMA, LME."""
_SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs")


def enter_real_mode(vmcs: Vmcs) -> None:
    """As after RESET, but for CS, whose base is 0, and the stack, which ends at 0xFFF0."""
    guest = vmcs.guest
    for name in _SEGMENTS:
        setattr(guest, name, Segment(0, 0, 0xFFFF, 0x9B if name == "cs" else 0x93))
    guest.ldtr = _UNUSABLE
    guest.tr = Segment(0, 0, 0xFFFF, 0x8B)
    guest.gdtr = DescriptorTable(0, 0xFFFF)
    guest.idtr = DescriptorTable(0, 0x3FF)
    guest.cr0, guest.cr3, guest.cr4, guest.efer = _CR0, 0, _VMXE, 0
    guest.rsp = 0xFFF0
    vmcs.entry.ia32e_mode_guest = False


def enter_protected_mode(vmcs: Vmcs, memory: Memory) -> None:
    """Flat 32-bit segments without paging; the GDT lies at the end of the guest's RAM, the stack below it."""
    _flat(vmcs, memory, CODE_32)
    guest = vmcs.guest
    guest.cr0, guest.cr3, guest.cr4, guest.efer = _CR0 | _PROTECTED, 0, _VMXE, 0
    vmcs.entry.ia32e_mode_guest = False


def enter_long_mode(vmcs: Vmcs, memory: Memory) -> None:
    """64-bit mode. RAM, at most its first GiB, is mapped to itself for supervisors, by page tables at the end
    of it; GDT and TSS lie there too, the stack below."""
    tables = _flat(vmcs, memory, CODE_64)
    memory.write(tables, bytes(3 * PAGE))
    memory.write(tables, identity_map(tables, len(memory)))
    guest = vmcs.guest
    guest.cr0, guest.cr3 = _CR0 | _PROTECTED | _PAGING, tables
    guest.cr4, guest.efer = _VMXE | _CR4_LONG, _EFER_LONG
    vmcs.entry.ia32e_mode_guest = True


def _flat(vmcs: Vmcs, memory: Memory, code: Segment) -> int:
    """Flat segments, a GDT and a TSS; where page tables may lie."""
    tables = len(memory) - TABLES
    gdt, tss = tables + 3 * PAGE, tables + 4 * PAGE
    memory.write(gdt, words(0, descriptor(code), descriptor(DATA)) + task_descriptor(tss, 11))
    guest = vmcs.guest
    for name in _SEGMENTS:
        setattr(guest, name, code if name == "cs" else DATA)
    guest.ldtr = _UNUSABLE
    guest.tr = Segment(TASK_SELECTOR, tss, TASK_LIMIT, 0x8B)
    guest.gdtr = DescriptorTable(gdt, 0x27)
    guest.idtr = DescriptorTable(0, 0)
    guest.rsp = tables
    return tables
