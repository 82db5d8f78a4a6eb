"""What Linux's build puts into a kernel image for its own symbols (scripts/kallsyms.c)."""

import struct

BASE = 0xFFFFFFFF81000000


def padded(content):
    return content + bytes(-len(content) % 8)


def kallsyms(symbols, *, since_6_4=False, numbering=False, per_cpu=False):
    """The tables for `symbols`, (address, type letter, name) by ascending address, with bytes around them."""
    tokens = [bytes([code]) for code in range(256)]
    tokens[0] = b"Tvery_long_prefix_"  # any token but a digit may stand for several characters
    names, markers = b"", []
    for number, (_, kind, name) in enumerate(symbols):
        if number % 256 == 0:
            markers.append(len(names))
        codes = (kind + name).encode().replace(tokens[0], b"\0")
        length = bytes([len(codes)]) if len(codes) < 128 else bytes([len(codes) & 127 | 128, len(codes) >> 7])
        names += length + codes
    table = b"".join(token + b"\0" for token in tokens)
    starts = [len(b"".join(token + b"\0" for token in tokens[:code])) for code in range(256)]
    count = struct.pack("<Q", len(symbols))
    head = count + padded(names) + padded(struct.pack(f"<{len(markers)}I", *markers))
    order = (
        padded(b"".join(number.to_bytes(3, "big") for number in range(len(symbols)))) if numbering else b""
    )
    texts = padded(table) + struct.pack("<256H", *starts)
    offsets = [address - BASE for address, _, _ in symbols]
    if per_cpu:
        offsets = [
            -1 - offset if offset >= 0 else address
            for (address, _, _), offset in zip(symbols, offsets, strict=True)
        ]
    addresses = padded(struct.pack(f"<{len(offsets)}i", *offsets)) + struct.pack("<Q", BASE)
    tables = head + order + texts + addresses if since_6_4 else addresses + head + order + texts
    return b"\x90" * 4096 + tables + b"\xcc" * 4096
