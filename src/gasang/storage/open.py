"""Opens the image of a drive, and keeps two machines from writing the same one."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from gasang.config import Drive
from gasang.errors import ConfigError
from gasang.storage.image import SECTOR, Image
from gasang.storage.raw import RawImage

_QCOW2_MAGIC = b"QFI\xfb"


def open_image(drive: Drive) -> Image:
    """The image of a drive. Raises `ConfigError` for a file that cannot be had, is none, or is in use."""
    descriptor = _open(drive)
    try:
        _check_kind(drive, descriptor)
        _lock(drive, descriptor)
        return RawImage(descriptor, _size(drive, descriptor), readonly=drive.readonly)
    except BaseException:
        os.close(descriptor)
        raise


def _open(drive: Drive) -> int:
    try:
        return os.open(
            drive.path, (os.O_RDONLY if drive.readonly else os.O_RDWR) | os.O_CLOEXEC | os.O_NONBLOCK
        )
    except OSError as error:
        denied = isinstance(error, PermissionError) or error.errno == errno.EROFS
        hint = "; readonly=on asks for less" if denied and not drive.readonly else ""
        raise ConfigError(f"drive {drive.path}: {error.strerror}{hint}") from error


def _check_kind(drive: Drive, descriptor: int) -> None:
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise ConfigError(f"drive {drive.path}: neither a file nor a block device")
    if drive.format == "auto" and os.pread(descriptor, len(_QCOW2_MAGIC), 0) == _QCOW2_MAGIC:
        raise ConfigError(
            f"drive {drive.path}: a qcow2 image, which gasang cannot use yet: convert it with "
            "qemu-img convert -O raw, or say format=raw if these bytes are the disk's own"
        )


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
