"""Every compression that Linux's build offers and Python can read, whole, truncated and damaged."""

import bz2
import contextlib
import lzma
import struct

import lz4.block
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from kernels import gzip

from gasang.errors import KernelError
from gasang.loaders.decompress import compression, decompress

CONTENT = bytes(range(256)) * 300


def lz4_legacy(content, block=8 << 20):
    pieces = [content[start : start + block] for start in range(0, len(content), block)]
    blocks = [lz4.block.compress(piece, store_size=False) for piece in pieces]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(each)) + each for each in blocks)


COMPRESSORS = {
    "gzip": gzip,
    "XZ": lambda content: lzma.compress(content, lzma.FORMAT_XZ, check=lzma.CHECK_CRC32),
    "LZMA": lambda content: lzma.compress(content, lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "Zstandard": zstandard.compress,
    "LZ4": lz4_legacy,
}


@pytest.fixture(params=COMPRESSORS)
def name(request):
    return request.param


def test_content_comes_back(name):
    data = memoryview(COMPRESSORS[name](CONTENT))
    assert compression(data) == name
    assert decompress(data, "kernel k") == CONTENT


def test_the_size_that_linux_appends_is_ignored(name):
    data = COMPRESSORS[name](CONTENT) + struct.pack("<I", len(CONTENT))
    assert decompress(memoryview(data), "kernel k") == CONTENT


def test_truncated_data_is_an_error(name):
    data = COMPRESSORS[name](CONTENT)
    with pytest.raises(KernelError, match=r"kernel k is (truncated|damaged): .*" + name):
        decompress(memoryview(data[: len(data) // 2]), "kernel k")


COMPRESSED = {name: compress(CONTENT) for name, compress in COMPRESSORS.items()}


@given(st.data())
def test_damaged_data_raises_nothing_but_kernel_error(data):
    name = data.draw(st.sampled_from(sorted(COMPRESSED)))
    compressed = bytearray(COMPRESSED[name])
    position = data.draw(st.integers(6, len(compressed) - 1))
    compressed[position] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(KernelError):
        decompress(memoryview(bytes(compressed)), "kernel k")


def test_lz4_of_several_blocks():
    content = bytes(9 << 20) + CONTENT
    assert decompress(memoryview(lz4_legacy(content)), "kernel k") == content


def test_an_unknown_format_is_named_by_its_bytes():
    assert compression(memoryview(b"\x89LZO\0\r\n")) is None
    with pytest.raises(KernelError, match=r"begins with 89 4c 5a 4f 00 0d.*gasang reads gzip, XZ"):
        decompress(memoryview(b"\x89LZO\0\r\n"), "kernel k")
