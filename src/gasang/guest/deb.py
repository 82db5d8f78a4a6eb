"""Debian's package files, read without dpkg: an ar archive that holds a compressed tar (deb(5))."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import zstandard

from gasang.errors import DownloadError
from gasang.guest.initramfs import Directory, Entry, File, Symlink

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60


def _open_zstd(source: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], zstandard.ZstdDecompressor().stream_reader(source))


def _open_xz(source: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], lzma.open(source))


def _open_gzip(source: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(source))


def _open_bzip2(source: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], bz2.open(source))


def _open_plain(source: IO[bytes]) -> IO[bytes]:
    return source


_OPENERS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    "data.tar": _open_plain,
    "data.tar.bz2": _open_bzip2,
    "data.tar.gz": _open_gzip,
    "data.tar.xz": _open_xz,
    "data.tar.zst": _open_zstd,
}


def read_package(path: Path) -> Iterator[Entry]:
    """The directories, files and symbolic links of a package, in its order; hard links become symbolic ones.

    The package is read as far as the caller iterates. Raises `DownloadError` if it is no package, or broken.
    """
    with open_data(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        yield from _entries(archive)


@contextmanager
def open_data(path: Path) -> Iterator[IO[bytes]]:
    """The tar of a package's files, to be read once. Raises `DownloadError` as `read_package` does."""
    try:
        with path.open("rb") as package:
            opener = _find_data(package, path)
            with opener(package) as stream:
                yield stream
    except (OSError, EOFError, ValueError, tarfile.TarError, lzma.LZMAError, zstandard.ZstdError) as error:
        raise DownloadError(f"{path.name} is not a whole Debian package: {error}") from error


def read_tar(path: Path) -> Iterator[Entry]:
    """The directories, files and symbolic links of a tar that is in no package, as `read_package`."""
    try:
        with tarfile.open(path, "r:") as archive:
            yield from _entries(archive)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DownloadError(f"{path.name} is not a whole archive: {error}") from error


def read_member(path: Path, wanted: Callable[[str], bool]) -> tuple[str, bytes]:
    """The first file whose path `wanted` accepts: (path, content).

    Raises `DownloadError` if there is none.
    """
    for entry in read_package(path):
        if isinstance(entry, File) and wanted(entry.path):
            return entry.path, entry.content
    raise DownloadError(f"{path.name} does not hold the file that gasang takes from it")


def _find_data(package: IO[bytes], path: Path) -> Callable[[IO[bytes]], IO[bytes]]:
    """Leave `package` at the start of its data member; return what opens it.

    The data member is the last one, so what follows needs no bound.
    """
    if package.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise DownloadError(f"{path.name} is not a Debian package")
    while header := package.read(_AR_HEADER):
        if len(header) < _AR_HEADER:
            break
        name = header[:16].decode("ascii", "replace").strip().rstrip("/")
        if name in _OPENERS:
            return _OPENERS[name]
        size = int(header[48:58])
        package.seek(size + size % 2, 1)
    raise DownloadError(f"{path.name} is not a whole Debian package: it has no data")


def _entries(archive: tarfile.TarFile) -> Iterator[Entry]:
    for member in archive:
        entry = _entry(archive, member)
        if entry is not None:
            yield entry


def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Entry | None:
    name = member.name.removeprefix("./").strip("/")
    permissions = member.mode & 0o7777
    if name in ("", "."):
        return None
    if member.isdir():
        return Directory(name, permissions)
    if member.issym():
        return Symlink(name, member.linkname)
    if member.islnk():
        return Symlink(name, "/" + member.linkname.removeprefix("./"))
    if member.isreg():
        stream = archive.extractfile(member)
        return File(name, stream.read() if stream else b"", permissions)
    return None
