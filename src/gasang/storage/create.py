"""Makes disk images: raw ones with nothing but a size, and qcow2 ones (QEMU, docs/interop/qcow2.txt)."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from gasang.config import Drive
from gasang.errors import ConfigError
from gasang.storage.image import SECTOR
from gasang.storage.open import open_image
from gasang.storage.qcow2_header import MAGIC

_CLUSTER_BITS = 16
_CLUSTER = 1 << _CLUSTER_BITS
_IN_L1 = _CLUSTER * _CLUSTER // 8
"""Bytes of the disk that an L1 entry stands for."""

_MOST_SIZE = 1 << 50
_HEADER_LENGTH = 104
_BACKING_FORMAT = 0xE2792ACA


def create_raw(path: Path, size: int) -> None:
    """A file of so many bytes that takes no room. Raises `ConfigError`."""
    _write(path, b"", _checked(path, size))


def create_qcow2(path: Path, size: int | None, backing: Path | None = None) -> None:
    """An image in which nothing is written: zeroes, or what is in `backing`, whose size is the default.

    The name of the backing file is kept as it is given: relative to the image's directory, if it is relative.
    Raises `ConfigError`.
    """
    kind = ""
    if backing is not None:
        found = open_image(Drive(path.parent / backing, readonly=True))
        kind = "raw" if type(found).__name__ == "RawImage" else "qcow2"
        size = found.size if size is None else size
        found.close()
    if size is None:
        raise ConfigError(f"image {path}: say how large its disk is to be")
    size = _checked(path, size)
    _write(path, _empty(size, os.fsencode(backing) if backing else b"", kind.encode()), None)


def _checked(path: Path, size: int) -> int:
    if size <= 0 or size % SECTOR or size > _MOST_SIZE:
        raise ConfigError(
            f"image {path}: {size} bytes are no disk: it is a number of {SECTOR}-byte sectors, at most 1 PiB"
        )
    return size


def _empty(size: int, backing: bytes, kind: bytes) -> bytes:
    """Header, a table and a block of counts, and an L1 table of no entries that are used."""
    l1_entries = -(-size // _IN_L1)
    l1_clusters = -(-l1_entries * 8 // _CLUSTER)
    extensions = struct.pack(">II", _BACKING_FORMAT, len(kind)) + kind.ljust(8, b"\0") if kind else b""
    extensions += bytes(8)
    name_at = _HEADER_LENGTH + len(extensions) if backing else 0
    head = struct.pack(
        ">IIQIIQIIQQIIQ",
        *(MAGIC, 3, name_at, len(backing), _CLUSTER_BITS, size, 0, l1_entries, 3 * _CLUSTER),
        *(_CLUSTER, 1, 0, 0),
    )
    head += struct.pack(">QQQII", 0, 0, 0, 4, _HEADER_LENGTH)
    counts = struct.pack(">H", 1) * (3 + l1_clusters)
    parts = (head + extensions + backing, struct.pack(">Q", 2 * _CLUSTER), counts)
    return b"".join(part.ljust(_CLUSTER, b"\0") for part in parts) + bytes(l1_clusters * _CLUSTER)


def _write(path: Path, content: bytes, size: int | None) -> None:
    """A new file, whole or not at all."""
    made = False
    try:
        with open(path, "xb") as file:
            made = True
            file.write(content)
            if size is not None:
                file.truncate(size)
    except OSError as error:
        if made:
            path.unlink(missing_ok=True)
        raise ConfigError(f"image {path}: {error.strerror}") from error
