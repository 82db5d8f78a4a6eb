"""Opens the image of a drive, and keeps two machines from writing the same one."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from typing import cast

from gasang.config import Drive, DriveFormat
from gasang.errors import ConfigError
from gasang.storage.image import SECTOR, Image
from gasang.storage.qcow2 import Qcow2Image
from gasang.storage.qcow2_header import CORRUPT, DIRTY, Header, parse
from gasang.storage.raw import RawImage

_QCOW2_MAGIC = b"QFI\xfb"
_HEADER_BYTES = 1 << 16
_DEEPEST = 16
"""Backing files of backing files."""


def open_image(drive: Drive) -> Image:
    """The image of a drive. Raises `ConfigError` for a file that cannot be had, is none, or is in use."""
    return _open_chain(drive, ())


def _open_chain(drive: Drive, above: tuple[tuple[int, int], ...]) -> Image:
    """An image and those that it is based on; `above` are the files that are based on it."""
    descriptor = _open(drive)
    try:
        status = _check_kind(drive, descriptor)
        identity = (status.st_dev, status.st_ino)
        _check_depth(drive, identity, above)
        _lock(drive, descriptor)
        if _is_qcow2(drive, descriptor):
            return _open_qcow2(drive, descriptor, (*above, identity))
        return RawImage(descriptor, _size(drive, descriptor), readonly=drive.readonly)
    except BaseException:
        os.close(descriptor)
        raise


def _check_depth(drive: Drive, identity: tuple[int, int], above: tuple[tuple[int, int], ...]) -> None:
    if identity in above or len(above) > _DEEPEST:
        raise ConfigError(f"drive {drive.path}: backing files without an end")


def _is_qcow2(drive: Drive, descriptor: int) -> bool:
    return drive.format == "qcow2" or (
        drive.format == "auto" and os.pread(descriptor, len(_QCOW2_MAGIC), 0) == _QCOW2_MAGIC
    )


def _open_qcow2(drive: Drive, descriptor: int, chain: tuple[tuple[int, int], ...]) -> Image:
    content = os.pread(descriptor, _HEADER_BYTES, 0)
    header = parse(str(drive.path), content, os.fstat(descriptor).st_size)
    if header.size == 0 or header.size % SECTOR:
        raise ConfigError(f"drive {drive.path}: {header.size} bytes are no disk")
    if not drive.readonly:
        _check_writable(drive, header)
    backing = _open_backing(drive, header, chain)
    try:
        return Qcow2Image(descriptor, header, backing, readonly=drive.readonly)
    except BaseException:
        if backing is not None:
            backing.close()
        raise


def _open_backing(drive: Drive, header: Header, chain: tuple[tuple[int, int], ...]) -> Image | None:
    if not header.backing:
        return None
    format_ = header.backing_format or "auto"
    if format_ not in ("auto", "raw", "qcow2"):
        raise ConfigError(f"drive {drive.path}: its backing file is {format_!r}: gasang knows raw and qcow2")
    path = drive.path.parent / header.backing.removeprefix("file:")
    return _open_chain(Drive(path, cast(DriveFormat, format_), readonly=True), chain)


def _check_writable(drive: Drive, header: Header) -> None:
    """What may be read and not written. Raises `ConfigError`."""
    if header.incompatible & CORRUPT:
        raise ConfigError(f"drive {drive.path}: marked as corrupt: qemu-img check -r all may repair it")
    if header.incompatible & DIRTY:
        raise ConfigError(f"drive {drive.path}: was not closed: qemu-img check -r all mends it")
    if header.refcount_bits != 16:
        raise ConfigError(
            f"drive {drive.path}: a qcow2 image with reference counts of {header.refcount_bits} bits can "
            "only be read: readonly=on"
        )


def _open(drive: Drive) -> int:
    try:
        return os.open(
            drive.path, (os.O_RDONLY if drive.readonly else os.O_RDWR) | os.O_CLOEXEC | os.O_NONBLOCK
        )
    except OSError as error:
        denied = isinstance(error, PermissionError) or error.errno == errno.EROFS
        hint = "; readonly=on asks for less" if denied and not drive.readonly else ""
        raise ConfigError(f"drive {drive.path}: {error.strerror}{hint}") from error


def _check_kind(drive: Drive, descriptor: int) -> os.stat_result:
    status = os.fstat(descriptor)
    mode = status.st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise ConfigError(f"drive {drive.path}: neither a file nor a block device")
    return status


def _size(drive: Drive, descriptor: int) -> int:
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if size == 0 or size % SECTOR:
        raise ConfigError(
            f"drive {drive.path}: {size} bytes are no disk: a raw image is a number of {SECTOR}-byte sectors"
        )
    return size


def _lock(drive: Drive, descriptor: int) -> None:
    """Many may read an image, or one may write it. The lock goes with the descriptor."""
    kind = fcntl.F_RDLCK if drive.readonly else fcntl.F_WRLCK
    whole_file = struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.fcntl(descriptor, _F_OFD_SETLK, whole_file)
    except OSError as error:
        raise ConfigError(
            f"drive {drive.path}: in use by another machine; readonly=on on both shares it"
        ) from error


_F_OFD_SETLK = 37
"""Linux's number; Python 3.11 has no name for it."""
