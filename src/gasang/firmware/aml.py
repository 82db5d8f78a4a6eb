"""ACPI Machine Language, as far as our DSDT needs it: each function returns the bytes of one term.

Section numbers are those of the ACPI specification 6.5: terms in chapter 20, resource descriptors in 6.4.
"""

from __future__ import annotations

import struct

ZERO_OP, ONE_OP, ONES_OP = 0x00, 0x01, 0xFF
NAME_OP, SCOPE_OP, BUFFER_OP, PACKAGE_OP = 0x08, 0x10, 0x11, 0x12
BYTE_PREFIX, WORD_PREFIX, DWORD_PREFIX, STRING_PREFIX, QWORD_PREFIX = 0x0A, 0x0B, 0x0C, 0x0D, 0x0E
DUAL_NAME_PREFIX, MULTI_NAME_PREFIX = 0x2E, 0x2F
DEVICE_OP = b"\x5b\x82"

Term = bytes


def name(path: str, value: Term) -> Term:
    """`Name (path, value)`: a named object (20.2.5.1)."""
    return bytes([NAME_OP]) + name_string(path) + value


def scope(path: str, *terms: Term) -> Term:
    """`Scope (path) { terms }` (20.2.5.1)."""
    return bytes([SCOPE_OP]) + _sized(name_string(path) + b"".join(terms))


def device(path: str, *terms: Term) -> Term:
    """`Device (path) { terms }` (20.2.5.2)."""
    return DEVICE_OP + _sized(name_string(path) + b"".join(terms))


def package(*elements: Term) -> Term:
    """`Package () { elements }` (20.2.5.4), at most 255 of them."""
    return bytes([PACKAGE_OP]) + _sized(bytes([len(elements)]) + b"".join(elements))


def buffer(content: bytes) -> Term:
    """`Buffer () { content }` (20.2.5.4)."""
    return bytes([BUFFER_OP]) + _sized(integer(len(content)) + content)


def integer(value: int) -> Term:
    """The shortest encoding of an integer (20.2.3). Raises `ValueError` beyond 64 bits."""
    if value in (0, 1):
        return bytes([ZERO_OP if value == 0 else ONE_OP])
    for prefix, width in ((BYTE_PREFIX, 1), (WORD_PREFIX, 2), (DWORD_PREFIX, 4), (QWORD_PREFIX, 8)):
        if 0 <= value < 1 << (8 * width):
            return bytes([prefix]) + value.to_bytes(width, "little")
    raise ValueError(f"{value} is not an unsigned 64-bit integer")


def string(text: str) -> Term:
    """An ASCII string (20.2.3)."""
    return bytes([STRING_PREFIX]) + text.encode("ascii") + b"\0"


def eisa_id(identifier: str) -> Term:
    """`EisaId ("PNP0501")`: three letters and four hexadecimal digits in 32 bits (19.6.37)."""
    letters, product = identifier[:3], int(identifier[3:], 16)
    vendor = 0
    for letter in letters:
        vendor = vendor << 5 | (ord(letter) - ord("@"))
    return bytes([DWORD_PREFIX]) + struct.pack(">HH", vendor, product)


def name_string(path: str) -> bytes:
    """A name such as `COM1`, `\\_SB.PCI0` or `_CRS`; short segments are padded with `_` (20.2.2)."""
    root = b"\\" if path.startswith("\\") else b""
    segments = [segment.ljust(4, "_").encode("ascii") for segment in path.lstrip("\\").split(".")]
    if any(len(segment) != 4 for segment in segments):
        raise ValueError(f"{path!r} has a segment of more than four characters")
    if len(segments) == 1:
        return root + segments[0]
    if len(segments) == 2:
        return root + bytes([DUAL_NAME_PREFIX]) + b"".join(segments)
    return root + bytes([MULTI_NAME_PREFIX, len(segments)]) + b"".join(segments)


def resource_template(*descriptors: bytes) -> Term:
    """`ResourceTemplate () { descriptors }`: a buffer that ends in an end tag without checksum (6.4.2.9)."""
    return buffer(b"".join(descriptors) + b"\x79\0")


def io_ports(start: int, length: int) -> bytes:
    """`IO (Decode16, start, start, 1, length)`: ports that a device occupies (6.4.2.5)."""
    return struct.pack("<BBHHBB", 0x47, 1, start, start, 1, length)


def interrupt(irq: int) -> bytes:
    """`IRQNoFlags () { irq }`: an edge-triggered, active-high ISA interrupt (6.4.2.1)."""
    return struct.pack("<BH", 0x22, 1 << irq)


def level_interrupt(gsi: int) -> bytes:
    """`Interrupt (ResourceConsumer, Level, ActiveHigh, Exclusive) { gsi }` (6.4.3.6)."""
    return struct.pack("<BHBBI", 0x89, 6, 1, 1, gsi)


def fixed_memory(start: int, length: int) -> bytes:
    """`Memory32Fixed (ReadWrite, start, length)`: addresses that a device occupies (6.4.3.4)."""
    return struct.pack("<BHBII", 0x86, 9, 1, start, length)


def bus_window(first: int, last: int) -> bytes:
    """`WordBusNumber`: the bus numbers behind a PCI host bridge (6.4.3.5.3)."""
    return _word_window(resource_type=2, specific_flags=0, first=first, last=last)


def port_window(first: int, last: int) -> bytes:
    """`WordIO`: I/O ports that a PCI host bridge passes on, ISA and non-ISA ranges (6.4.3.5.3)."""
    return _word_window(resource_type=1, specific_flags=3, first=first, last=last)


def memory_window(first: int, last: int) -> bytes:
    """`DWordMemory`: uncached, writable addresses that a PCI host bridge passes on (6.4.3.5.2)."""
    return struct.pack("<BHBBB", 0x87, 23, 0, _PRODUCER_FIXED, 1) + struct.pack(
        "<5I", 0, first, last, 0, last - first + 1
    )


_PRODUCER_FIXED = 0b1100
"""General flags of a window: minimum and maximum are fixed, positive decode, and the device produces it."""


def _word_window(*, resource_type: int, specific_flags: int, first: int, last: int) -> bytes:
    return struct.pack("<BHBBB", 0x88, 13, resource_type, _PRODUCER_FIXED, specific_flags) + struct.pack(
        "<5H", 0, first, last, 0, last - first + 1
    )


def _sized(content: bytes) -> bytes:
    """`content` behind a PkgLength, which counts its own bytes too (20.2.4)."""
    if len(content) + 1 < 1 << 6:
        return bytes([len(content) + 1]) + content
    for following in (1, 2, 3):
        length = len(content) + 1 + following
        if length < 1 << (4 + 8 * following):
            lead = following << 6 | length & 0xF
            return bytes([lead]) + (length >> 4).to_bytes(following, "little") + content
    raise ValueError(f"an AML object of {len(content)} bytes is too long")
