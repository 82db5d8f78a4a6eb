"""What the bitmaps of a VMCS say, as sets: the ports and the MSRs whose accesses cause VM exits."""

from __future__ import annotations

from collections.abc import Iterator, MutableSet

from gasang.errors import VmxError
from gasang.vmx.memory import PAGE, Pages

_LOW_MSRS = range(0x2000)
_HIGH_MSRS = range(0xC000_0000, 0xC000_2000)


class PortSet(MutableSet[int]):
    """The I/O ports whose accesses cause VM exits while `execution.use_io_bitmaps` is set (SDM vol. 3,
    25.6.4).

    Raises `VmxError` for what is no port.
    """

    def __init__(self, pages: Pages, address: int) -> None:
        self._bits = _Bits(pages, address, 2 * PAGE)

    def __contains__(self, port: object) -> bool:
        return isinstance(port, int) and 0 <= port <= 0xFFFF and self._bits.get(port)

    def __iter__(self) -> Iterator[int]:
        return self._bits.ones()

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"PortSet({{{', '.join(map(hex, self))}}})"

    def add(self, value: int) -> None:
        """Accesses to this port cause VM exits from the next VM entry on."""
        self._bits.set(_port(value), on=True)

    def discard(self, value: int) -> None:
        """Accesses to this port reach the machine's own devices, if it has such."""
        self._bits.set(_port(value), on=False)


class MsrSet(MutableSet[int]):
    """The MSRs that RDMSR, or WRMSR, cannot access without a VM exit while `execution.use_msr_bitmaps` is set
    (SDM vol. 3, 25.6.9). Only MSRs below 0x2000 and from 0xC0000000 to 0xC0001FFF can be let through:
    accesses to others always exit.

    Raises `VmxError` for such others.
    """

    def __init__(self, pages: Pages, address: int) -> None:
        self._low = _Bits(pages, address, 0x400)
        self._high = _Bits(pages, address + 0x400, 0x400)

    def __contains__(self, msr: object) -> bool:
        if msr in _LOW_MSRS:
            assert isinstance(msr, int)
            return self._low.get(msr)
        return not (isinstance(msr, int) and msr in _HIGH_MSRS) or self._high.get(msr - _HIGH_MSRS.start)

    def __iter__(self) -> Iterator[int]:
        yield from self._low.ones()
        yield from (_HIGH_MSRS.start + bit for bit in self._high.ones())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"MsrSet({{{', '.join(map(hex, self))}}})"

    def add(self, value: int) -> None:
        """Accesses to this MSR cause VM exits from the next VM entry on."""
        self._set(value, on=True)

    def discard(self, value: int) -> None:
        """Accesses to this MSR reach the processor's own."""
        self._set(value, on=False)

    def _set(self, msr: int, *, on: bool) -> None:
        if msr in _LOW_MSRS:
            self._low.set(msr, on=on)
        elif msr in _HIGH_MSRS:
            self._high.set(msr - _HIGH_MSRS.start, on=on)
        else:
            raise VmxError(f"MSR {msr:#x} has no bit in the bitmaps: accesses to it always cause VM exits")


class MsrBitmaps:
    """The MSR bitmaps of a VMCS: the `read` and the `write` of which MSRs cause VM exits."""

    def __init__(self, pages: Pages, address: int) -> None:
        self.read = MsrSet(pages, address)
        self.write = MsrSet(pages, address + 0x800)

    def __repr__(self) -> str:
        return f"<MsrBitmaps read={self.read!r}, write={self.write!r}>"


class _Bits:
    """Bits in physical memory."""

    def __init__(self, pages: Pages, address: int, size: int) -> None:
        self._pages = pages
        self._address = address
        self._size = size

    def get(self, bit: int) -> bool:
        return bool(self._pages.read(self._address + bit // 8, 1)[0] >> bit % 8 & 1)

    def set(self, bit: int, *, on: bool) -> None:
        byte = self._pages.read(self._address + bit // 8, 1)[0]
        byte = byte | 1 << bit % 8 if on else byte & ~(1 << bit % 8)
        self._pages.write(self._address + bit // 8, bytes([byte]))

    def ones(self) -> Iterator[int]:
        for place, byte in enumerate(self._pages.read(self._address, self._size)):
            yield from (place * 8 + bit for bit in range(8) if byte >> bit & 1)


def _port(value: int) -> int:
    if not 0 <= value <= 0xFFFF:
        raise VmxError(f"{value:#x} is no I/O port: there are 0 to 0xffff")
    return value
