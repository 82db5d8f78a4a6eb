"""The file: a header, the state as JSON, and RAM with holes, so that it can be mapped.

    offset 0    header, 4096 bytes: `_HEADER`, then the CRC-32 of it, then zeroes
    4096        the state, JSON in UTF-8
    `ram`       RAM, byte for byte, at a multiple of 64 KiB; pages of zeroes are holes

All numbers are little-endian. The header has the SHA-256 of the state; of RAM the number of its pages that
are not all zeroes, and the CRC-32 of each such page's number (8 bytes) and content, in order.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from gasang.errors import SnapshotError
from gasang.whole_file import replacing

FORMAT = 1
"""Number of the format that is written; another one is refused."""

_MAGIC = b"GASANGSN"
_HEADER = struct.Struct("<8sII QQ32s QQQI")
_CRC = struct.Struct("<I")
_PAGE = 4096
_ALIGNMENT = 1 << 16
_MOST_STATE = 256 << 20
"""Bytes of state that are believed to be one."""


class Snapshot(NamedTuple):
    """A snapshot that was opened: its state was checked, RAM is there in full length."""

    path: Path
    descriptor: int
    state: dict[str, Any]
    ram: int
    """Where in the file RAM begins."""
    ram_length: int
    ram_digest: tuple[int, int]
    """Pages that are not all zeroes, and their checksum."""

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a file. Raises `SnapshotError` for one that is missing, damaged or no snapshot."""
        path = Path(path)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise SnapshotError(f"snapshot {path}: {error.strerror}") from error
        try:
            return cls(path, descriptor, *_read(descriptor))
        except _RefusedError as error:
            os.close(descriptor)
            raise SnapshotError(f"snapshot {path}: {error}") from error
        except BaseException:
            os.close(descriptor)
            raise

    def close(self) -> None:
        """Give the file back; RAM that is mapped stays so."""
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _RefusedError(Exception):
    pass


def _read(descriptor: int) -> tuple[dict[str, Any], int, int, tuple[int, int]]:
    try:
        size = os.fstat(descriptor).st_size
        head = os.pread(descriptor, _PAGE, 0)
        if not head.startswith(_MAGIC):
            raise _RefusedError("this is no snapshot of gasang")
        if len(head) < _PAGE:
            raise _RefusedError(f"truncated: it has {size} bytes, not even a header's {_PAGE}")
        _, version, _, at, length, digest, ram, ram_length, pages, crc = _HEADER.unpack_from(head)
        if version != FORMAT:
            raise _RefusedError(f"it has format {version}; this gasang reads format {FORMAT}")
        if _CRC.unpack_from(head, _HEADER.size)[0] != zlib.crc32(head[: _HEADER.size]):
            raise _RefusedError("damaged: the checksum of its header is another")
        if size < max(at + length, ram + ram_length):
            raise _RefusedError(f"truncated: it has {size} bytes, and should have {ram + ram_length}")
        if length > _MOST_STATE:
            raise _RefusedError(f"damaged: a state of {length} bytes")
        text = os.pread(descriptor, length, at)
    except OSError as error:
        raise _RefusedError(error.strerror) from error
    if hashlib.sha256(text).digest() != digest:
        raise _RefusedError("damaged: the checksum of its state is another")
    try:
        state = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _RefusedError(f"damaged: {error}") from error
    if not isinstance(state, dict):
        raise _RefusedError("damaged: its state is none")
    return state, ram, ram_length, (pages, crc)


def write(
    path: str | Path,
    state: dict[str, Any],
    ram_length: int,
    write_ram: Callable[[int, int], tuple[int, int]],
) -> None:
    """Write a snapshot that is whole, or leave what was there.

    `write_ram(descriptor, offset)` writes RAM and returns its digest. Raises `SnapshotError` for what the
    host cannot do.
    """
    path = Path(path)
    try:
        with replacing(path, mode=0o600) as file:
            content = json.dumps(state, separators=(",", ":")).encode()
            _fill(file.fileno(), content, ram_length, write_ram)
    except OSError as error:
        raise SnapshotError(f"snapshot {path}: {error.strerror or error}") from error


def _fill(
    descriptor: int, text: bytes, ram_length: int, write_ram: Callable[[int, int], tuple[int, int]]
) -> None:
    ram = -(-(_PAGE + len(text)) // _ALIGNMENT) * _ALIGNMENT
    os.truncate(descriptor, ram + ram_length)
    _write_all(descriptor, text, _PAGE)
    digest = write_ram(descriptor, ram)
    head = _HEADER.pack(
        _MAGIC, FORMAT, 0, _PAGE, len(text), hashlib.sha256(text).digest(), ram, ram_length, *digest
    )
    _write_all(descriptor, head + _CRC.pack(zlib.crc32(head)), 0)


def _write_all(descriptor: int, data: bytes, at: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, at)
        rest, at = rest[written:], at + written
