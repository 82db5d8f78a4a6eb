"""The ACPI tables of the PC, laid out in memory: RSDP, XSDT, FADT, FACS, MADT, HPET and DSDT.

Section numbers are those of the ACPI specification 6.5.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from gasang.firmware.dsdt import definition_block
from gasang.firmware.memory_map import FIRMWARE_START, TABLES_LENGTH
from gasang.firmware.places import (
    CENTURY_REGISTER,
    HPET,
    IO_APIC,
    LOCAL_APIC,
    PM1_CONTROL_PORT,
    PM1_EVENT_PORT,
    PM_TIMER_PORT,
    RESET_PORT,
    RESET_VALUE,
    SCI_IRQ,
)

_OEM_ID = b"GASANG"
_OEM_TABLE_ID = b"GASANGPC"
_CREATOR = b"GASG"
_HEADER_LENGTH = 36
RSDP_LENGTH = 36


@dataclass(frozen=True, slots=True)
class AcpiTables:
    """`content` is to be written at `address`; the RSDP comes first."""

    address: int
    content: bytes

    @property
    def rsdp_address(self) -> int:
        return self.address


def acpi_tables(cpus: int, address: int = FIRMWARE_START, *, virtio_devices: int = 0) -> AcpiTables:
    """The tables of a PC with `cpus` processors, whose APIC IDs count from 0, to be at `address`.

    So many virtio devices are outside of PCI.
    """
    area = _Area(address)
    area.reserve(RSDP_LENGTH)
    dsdt = area.place(_table(b"DSDT", 2, definition_block(virtio_devices)))
    facs = area.place(_facs(), align=64)
    fadt = area.place(_table(b"FACP", 6, _fadt(dsdt, facs)))
    madt = area.place(_table(b"APIC", 5, _madt(cpus)))
    hpet = area.place(_table(b"HPET", 1, _hpet()))
    xsdt = area.place(_table(b"XSDT", 1, struct.pack("<3Q", fadt, madt, hpet)))
    area.fill(address, _rsdp(xsdt))
    return AcpiTables(address, area.content())


class _Area:
    """Tables one behind the other, from a physical address on."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._bytes = bytearray()

    def reserve(self, length: int) -> None:
        self._bytes += bytes(length)

    def place(self, table: bytes, align: int = 16) -> int:
        """Append a table; return its address."""
        self._bytes += bytes(-len(self._bytes) % align)
        address = self._start + len(self._bytes)
        self._bytes += table
        return address

    def fill(self, address: int, content: bytes) -> None:
        offset = address - self._start
        self._bytes[offset : offset + len(content)] = content

    def content(self) -> bytes:
        if len(self._bytes) > TABLES_LENGTH:
            raise ValueError(f"ACPI tables of {len(self._bytes)} bytes do not fit in {TABLES_LENGTH}")
        return bytes(self._bytes)


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    """`body` behind a system description table header with its checksum (5.2.6)."""
    length = _HEADER_LENGTH + len(body)
    header = struct.pack(
        "<4sIBB6s8sI4sI", signature, length, revision, 0, _OEM_ID, _OEM_TABLE_ID, 1, _CREATOR, 1
    )
    return _with_checksum(header + body, at=9)


def _with_checksum(table: bytes, at: int, length: int | None = None) -> bytes:
    """`table` with the byte at `at` set so that its first `length` bytes sum to 0 modulo 256."""
    checksum = -sum(table[:length]) & 0xFF
    return table[:at] + bytes([checksum]) + table[at + 1 :]


def _rsdp(xsdt: int) -> bytes:
    """Root system description pointer, revision 2, without an RSDT (5.2.5.3)."""
    rsdp = struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, _OEM_ID, 2, 0, RSDP_LENGTH, xsdt, 0)
    return _with_checksum(_with_checksum(rsdp, at=8, length=20), at=32)


def _facs() -> bytes:
    """Firmware ACPI control structure: version 2, no waking vector, the global lock free (5.2.10)."""
    return struct.pack("<4sIIIIIQB31x", b"FACS", 64, 0, 0, 0, 0, 0, 2)


_FIXED_FLAGS = (
    1 << 0  # WBINVD works
    | 1 << 2  # C1 on all processors
    | 1 << 5  # no sleep button in fixed registers
    | 1 << 6  # no RTC wake status in fixed registers
    | 1 << 10  # reset register supported
)
_BOOT_ARCHITECTURE = (
    1 << 0  # user-visible ISA devices: the serial ports
    | 1 << 2  # VGA must not be probed for
)
"""Bit 1, an 8042 keyboard controller, stays clear: ours can reset the machine, but it has no keyboard."""

_SYSTEM_IO = 1
_NO_DEEP_SLEEP_STATE = 0xFFFF


def _fadt(dsdt: int, facs: int) -> bytes:
    """Fixed ACPI description table, version 6.5, behind its header (5.2.9)."""
    body = bytearray(276 - _HEADER_LENGTH)

    def put(offset: int, layout: str, *values: int) -> None:
        struct.pack_into("<" + layout, body, offset - _HEADER_LENGTH, *values)

    put(36, "II", facs, dsdt)
    put(46, "H", SCI_IRQ)
    put(48, "I", 0)  # SMI_CMD 0: the machine is in ACPI mode from the start
    put(56, "IIIIII", PM1_EVENT_PORT, 0, PM1_CONTROL_PORT, 0, 0, PM_TIMER_PORT)
    put(88, "BBBB", 4, 2, 0, 4)  # lengths of PM1 event, PM1 control, PM2 control, PM timer
    put(96, "HH", _NO_DEEP_SLEEP_STATE, _NO_DEEP_SLEEP_STATE)
    put(108, "B", CENTURY_REGISTER)
    put(109, "H", _BOOT_ARCHITECTURE)
    put(112, "I", _FIXED_FLAGS)
    put(116, "BBBBQB", *_io_register(RESET_PORT, bits=8), RESET_VALUE)
    put(131, "B", 5)  # minor version: 6.5
    put(132, "QQ", facs, dsdt)
    put(148, "BBBBQ", *_io_register(PM1_EVENT_PORT, bits=32))
    put(172, "BBBBQ", *_io_register(PM1_CONTROL_PORT, bits=16))
    put(208, "BBBBQ", *_io_register(PM_TIMER_PORT, bits=32))
    return bytes(body)


def _io_register(port: int, bits: int) -> tuple[int, int, int, int, int]:
    """Generic address structure: space, width, offset, access size (1 byte … 3 dword), address (5.2.3.2)."""
    return (_SYSTEM_IO, bits, 0, bits.bit_length() - 3, port)


def _madt(cpus: int) -> bytes:
    """Multiple APIC description table: processors, the I/O APIC and what differs from identity (5.2.12)."""
    legacy_pics_present = 1
    records = [struct.pack("<II", LOCAL_APIC, legacy_pics_present)]
    records += [struct.pack("<BBBBI", 0, 8, cpu, cpu, 1) for cpu in range(cpus)]
    records += [
        struct.pack("<BBBBII", 1, 12, 0, 0, IO_APIC, 0),
        _source_override(irq=0, gsi=2, flags=0),
        _source_override(irq=SCI_IRQ, gsi=SCI_IRQ, flags=_ACTIVE_HIGH | _LEVEL),
        struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1),  # NMI on LINT1 of every processor
    ]
    return b"".join(records)


_ACTIVE_HIGH = 0b01
_LEVEL = 0b11 << 2


def _source_override(irq: int, gsi: int, flags: int) -> bytes:
    isa_bus = 0
    return struct.pack("<BBBBIH", 2, 10, isa_bus, irq, gsi, flags)


def _hpet() -> bytes:
    """IA-PC HPET description table: one timer block (IA-PC HPET specification 1.0a, 3.2.4)."""
    timer_block_id = 0x8086A201  # Intel; three 64-bit comparators; legacy replacement; revision 1
    memory_space, block, minimum_tick = 0, 0, 100
    return struct.pack("<IBBBBQBHB", timer_block_id, memory_space, 64, 0, 0, HPET, block, minimum_tick, 0)
