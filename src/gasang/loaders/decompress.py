"""Kernels as they come compressed: gzip, XZ, LZMA, bzip2, Zstandard, and LZ4 in its legacy frame."""

from __future__ import annotations

import bz2
import lzma
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import lz4.block
import zstandard

from gasang.errors import KernelError

_LZ4_LEGACY_BLOCK = 8 << 20
"""Every block of an LZ4 legacy frame decompresses to this, the last one to what is left."""

_ZSTD_WINDOW = 1 << 31
"""The largest window accepted; `zstd --ultra` goes beyond the library's default."""


def compression(data: memoryview) -> str | None:
    """The name of the format that `data` is compressed in, by its magic number, or None."""
    for magic, (name, _) in _FORMATS.items():
        if data[: len(magic)] == magic:
            return name
    return None


def decompress(data: memoryview, source: str) -> bytes:
    """The content of `data`; what follows the compressed stream is ignored. `source` names it in errors.

    Raises `KernelError` if the format is unknown, or the data is truncated or damaged.
    """
    for magic, (name, read) in _FORMATS.items():
        if data[: len(magic)] == magic:
            try:
                return read(data)
            except EOFError:
                raise KernelError(f"{source} is truncated: its {name} data ends too early") from None
            except _DAMAGE as error:
                raise KernelError(f"{source} is damaged: {name}: {error}") from error
    raise KernelError(
        f"{source} is compressed in an unknown way (it begins with {bytes(data[:6]).hex(' ')}): "
        f"gasang reads {', '.join(name for name, _ in _FORMATS.values())}"
    )


def _gzip(data: memoryview) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    return _finished(stream.decompress(data), eof=stream.eof)


def _xz(data: memoryview) -> bytes:
    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    return _finished(stream.decompress(data), eof=stream.eof)


def _lzma(data: memoryview) -> bytes:
    stream = lzma.LZMADecompressor(lzma.FORMAT_ALONE)
    return _finished(stream.decompress(data), eof=stream.eof)


def _bzip2(data: memoryview) -> bytes:
    stream = bz2.BZ2Decompressor()
    return _finished(stream.decompress(data), eof=stream.eof)


def _zstd(data: memoryview) -> bytes:
    stream = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
    return _finished(stream.decompress(data), eof=stream.eof)


def _lz4(data: memoryview) -> bytes:
    """The legacy frame: a magic number, then blocks behind their compressed sizes.

    Linux's build appends the size of the whole as a last word. It cannot be told from a block's size, save
    that no block can follow it: so a frame ends where fewer than five bytes are left.
    """
    blocks = []
    position = 4
    while len(data) - position > 4:
        size = int.from_bytes(data[position : position + 4], "little")
        position += 4
        if position + size > len(data):
            raise EOFError
        blocks.append(data[position : position + size])
        position += size
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        return b"".join(executor.map(_lz4_block, blocks))


def _lz4_block(block: memoryview) -> bytes:
    content: bytes = lz4.block.decompress(block, uncompressed_size=_LZ4_LEGACY_BLOCK)
    return content


def _finished(content: bytes, *, eof: bool) -> bytes:
    if not eof:
        raise EOFError
    return content


_DAMAGE = (zlib.error, lzma.LZMAError, OSError, ValueError, zstandard.ZstdError, lz4.block.LZ4BlockError)

_FORMATS: dict[bytes, tuple[str, Callable[[memoryview], bytes]]] = {
    b"\x1f\x8b": ("gzip", _gzip),
    b"\xfd7zXZ\0": ("XZ", _xz),
    b"BZh": ("bzip2", _bzip2),
    b"\x28\xb5\x2f\xfd": ("Zstandard", _zstd),
    b"\x02\x21\x4c\x18": ("LZ4", _lz4),
    b"\x5d\0\0": ("LZMA", _lzma),
}
