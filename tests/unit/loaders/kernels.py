"""Kernels made to measure: ELF files, bzImages and multiboot images of a few bytes."""

import struct
import zlib
from itertools import pairwise

from gasang.firmware.memory_map import memory_map
from gasang.loaders import BootRequest
from gasang.units import MIB

X86_64, I386, AARCH64 = 62, 3, 183


def request(kernel, tmp_path, *, memory=64 * MIB, **rest):
    return BootRequest(tmp_path / "kernel", kernel, memory_map(memory), 0xE0000, **rest)


def elf(segments, *, entry, bits=64, machine=X86_64, notes=b""):
    """An ELF executable; `segments` are (physical address, virtual address, content, size in memory)."""
    headers = [(1, physical, virtual, content, size) for physical, virtual, content, size in segments]
    if notes:
        headers.append((4, 0, 0, notes, len(notes)))
    head, row = (64, 56) if bits == 64 else (52, 32)
    offset = head + row * len(headers)
    table, body = b"", b""
    for kind, physical, virtual, content, size in headers:
        at = offset + len(body)
        if bits == 64:
            table += struct.pack("<IIQQQQQQ", kind, 7, at, virtual, physical, len(content), size, 4)
        else:
            table += struct.pack("<8I", kind, at, virtual, physical, len(content), size, 7, 4)
        body += content
    identification = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1, 1]) + bytes(9)
    layout = "<HHIQQQIHHHHHH" if bits == 64 else "<HHIIIIIHHHHHH"
    counts = (head, row, len(headers), 0, 0, 0)
    return identification + struct.pack(layout, 2, machine, 1, entry, head, 0, 0, *counts) + table + body


def pvh_note(entry):
    """The note XEN_ELFNOTE_PHYS32_ENTRY, behind another one."""
    version = struct.pack("<III", 4, 4, 5) + b"Xen\0" + b"abc\0"
    return version + struct.pack("<III", 4, 4, 18) + b"Xen\0" + struct.pack("<I", entry)


def vmlinux(content=b"\xf4kernel", entry=0x100_0000):
    """A 64-bit kernel of one segment, linked high and loaded at 16 MiB."""
    return elf([(0x100_0000, 0xFFFF_FFFF_8100_0000, content, 0x1000)], entry=entry)


def gzip(content):
    stream = zlib.compressobj(wbits=31)
    return stream.compress(content) + stream.flush()


def bzimage(payload, *, version=0x020F, xloadflags=0b11, initrd_addr_max=0x7FFF_FFFF, cmdline_size=2047):
    """A bzImage with one setup sector around a compressed kernel."""
    image = bytearray(1024)
    jump = 0x6A
    struct.pack_into("<B", image, 0x1F1, 1)
    struct.pack_into("<I", image, 0x1F4, -(-(len(payload) + 0x100) // 16))
    image[0x1FE:0x206] = b"\x55\xaa\xeb" + bytes([jump]) + b"HdrS"
    struct.pack_into("<H", image, 0x206, version)
    struct.pack_into("<I", image, 0x22C, initrd_addr_max)
    struct.pack_into("<H", image, 0x236, xloadflags)
    struct.pack_into("<I", image, 0x238, cmdline_size)
    struct.pack_into("<II", image, 0x248, 0x100, len(payload))
    return bytes(image) + bytes(0x100) + payload + bytes(-len(payload) % 16)


def multiboot_header(flags, *addresses):
    checksum = -(0x1BADB002 + flags) & 0xFFFFFFFF
    return struct.pack(f"<{3 + len(addresses)}I", 0x1BADB002, flags, checksum, *addresses)


def multiboot_elf(flags=0b11, bits=32, notes=b""):
    content = multiboot_header(flags) + b"\xf4" * 20
    machine = I386 if bits == 32 else X86_64
    return elf([(MIB, MIB, content, 0x2000)], entry=MIB + 12, bits=bits, machine=machine, notes=notes)


class Memory:
    """Guest memory after a boot image was written to it: sparse, zeros elsewhere."""

    def __init__(self, image):
        self.segments = image.segments

    def read(self, address, length):
        data = bytearray(length)
        for segment in self.segments:
            start = max(address, segment.address)
            end = min(address + length, segment.address + len(segment.data))
            if start < end:
                part = segment.data[start - segment.address : end - segment.address]
                data[start - address : end - address] = part
        return bytes(data)

    def unpack(self, layout, address):
        return struct.unpack(layout, self.read(address, struct.calcsize(layout)))

    def string(self, address):
        return self.read(address, 4096).partition(b"\0")[0]


def overlaps(image):
    """Pairs of segments that lie on each other."""
    spans = sorted((each.address, each.address + len(each.data), each.purpose) for each in image.segments)
    return [(one[2], other[2]) for one, other in pairwise(spans) if one[1] > other[0]]
