"""The header of a qcow2 image (QEMU, docs/interop/qcow2.txt), and what of it gasang can use."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from gasang.errors import ConfigError

MAGIC = 0x514649FB
_FIELDS = struct.Struct(">IIQIIQIIQQIIQ")
_FIELDS_OF_3 = struct.Struct(">QQQII")
_MOST_L1_BYTES = 32 << 20
_MOST_REFCOUNT_BYTES = 8 << 20
_MOST_SIZE = 1 << 56

DIRTY, CORRUPT, EXTERNAL_DATA, COMPRESSION, EXTENDED_L2 = (1 << bit for bit in range(5))
_USABLE = DIRTY | CORRUPT | COMPRESSION
_REFUSED = {EXTERNAL_DATA: "an external data file", EXTENDED_L2: "extended L2 entries (subclusters)"}

ZLIB, ZSTD = 0, 1


@dataclass(frozen=True)
class Header:
    """What is in the header, checked."""

    version: int
    size: int
    cluster_bits: int
    l1_offset: int
    l1_entries: int
    refcount_table: int
    refcount_table_clusters: int
    refcount_bits: int
    incompatible: int
    autoclear: int
    compression: int
    backing: str
    backing_format: str
    snapshots: int


def parse(name: str, content: bytes, length: int) -> Header:
    """The header that `content`, the beginning of a file of `length` bytes, has. Raises `ConfigError`."""

    def refuse(why: str) -> ConfigError:
        return ConfigError(f"drive {name}: {why}")

    if len(content) < _FIELDS.size + _FIELDS_OF_3.size:
        raise refuse("a truncated qcow2 image")
    fields = _FIELDS.unpack_from(content)
    magic, version, backing_at, backing_length, cluster_bits, size, crypt, l1_entries, l1_at, *rest = fields
    table, table_clusters, snapshots, _ = rest
    if magic != MAGIC or version not in (2, 3):
        raise refuse(f"qcow2 version {version}, which gasang does not know: there are 2 and 3")
    incompatible, autoclear, order, header_length, compression = 0, 0, 4, 72, ZLIB
    if version == 3:
        incompatible, _, autoclear, order, header_length = _FIELDS_OF_3.unpack_from(content, _FIELDS.size)
        if header_length > 104:
            compression = content[104]
    if crypt:
        raise refuse("an encrypted qcow2 image: convert it with qemu-img convert -O qcow2")
    if incompatible & ~_USABLE:
        named = [what for bit, what in _REFUSED.items() if incompatible & bit]
        what = " and ".join(named) or f"features that gasang does not know ({incompatible:#x})"
        raise refuse(f"a qcow2 image with {what}: convert it with qemu-img convert -O qcow2")
    if not 9 <= cluster_bits <= 21 or order > 6 or compression not in (ZLIB, ZSTD) or size > _MOST_SIZE:
        raise refuse("a corrupt qcow2 header")
    for what, at, bytes_, most in (
        ("L1 table", l1_at, 8 * l1_entries, _MOST_L1_BYTES),
        ("refcount table", table, table_clusters << cluster_bits, _MOST_REFCOUNT_BYTES),
    ):
        wrong = _what_is_wrong(at, bytes_, most, length, 1 << cluster_bits)
        if wrong:
            raise refuse(wrong.format(what))
    if l1_entries < -(-size >> 2 * cluster_bits - 3) or not table_clusters:
        raise refuse("a corrupt qcow2 header: its tables are too small")
    if backing_at and (backing_length > 1023 or backing_at + backing_length > len(content)):
        raise refuse("a corrupt qcow2 header: the name of its backing file cannot be")
    backing = content[backing_at : backing_at + backing_length] if backing_at else b""
    return Header(
        version=version,
        size=size,
        cluster_bits=cluster_bits,
        l1_offset=l1_at,
        l1_entries=l1_entries,
        refcount_table=table,
        refcount_table_clusters=table_clusters,
        refcount_bits=1 << order,
        incompatible=incompatible,
        autoclear=autoclear,
        compression=compression,
        backing=backing.decode(errors="surrogateescape"),
        backing_format=_extension(content, header_length, 0xE2792ACA).decode(errors="replace"),
        snapshots=snapshots,
    )


def _what_is_wrong(at: int, bytes_: int, most: int, length: int, cluster: int) -> str | None:
    """What is wrong with a table of so many bytes, if anything is."""
    if at % cluster or at == 0 or bytes_ > most:
        return "a corrupt qcow2 header: its {} cannot be"
    return "a truncated qcow2 image: its {} is beyond its end" if at + bytes_ > length else None


def _extension(content: bytes, at: int, wanted: int) -> bytes:
    """The content of a header extension, if there is one."""
    while at + 8 <= len(content):
        kind, length = struct.unpack_from(">II", content, at)
        if kind == wanted:
            return content[at + 8 : at + 8 + length]
        if kind == 0:
            break
        at += 8 + (length + 7 & ~7)
    return b""
