"""Layers of a container image, applied one after another: tar archives in which files may stand for removals.

The rules are the OCI image specification's, layer.md: ".wh.NAME" removes NAME of the layers before,
".wh..wh..opq" all that was in its directory.
"""

from __future__ import annotations

import lzma
import stat
import tarfile
import zlib
from collections.abc import Callable
from typing import IO

import zstandard

from gasang.errors import RootFilesystemError
from gasang.rootfs.tree import Content, Inode, Tree, parts_of

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_ATTRIBUTE = "SCHILY.xattr."
_MOST_ID = 0xFFFFFFFF
_LAST_SECOND = 1 << 40

Store = Callable[[IO[bytes], int], Content]
"""Keeps a file's content, so many bytes of a stream."""

_KINDS = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}

BROKEN = (OSError, EOFError, ValueError, tarfile.TarError, lzma.LZMAError, zlib.error, zstandard.ZstdError)
"""What reading a damaged archive may raise."""


def apply_layer(tree: Tree, source: IO[bytes], store: Store, *, keep_links: bool = False) -> None:
    """Change the tree as a layer says. With `keep_links` a directory in the place of a symbolic link is what
    that leads to, as in Debian's packages. Raises `RootFilesystemError` for what is no layer."""
    fresh: set[bytes] = set()
    try:
        with tarfile.open(fileobj=source, mode="r|", errorlevel=2) as archive:
            for member in archive:
                if keep_links and member.isdir() and _is_link(tree, member):
                    continue
                _apply(tree, archive, member, store, fresh)
    except RootFilesystemError:
        raise
    except BROKEN as error:
        raise RootFilesystemError(f"it is damaged: {error}") from error


def _is_link(tree: Tree, member: tarfile.TarInfo) -> bool:
    found = tree.find(_bytes(member.name))
    return found is not None and found.is_link


def _apply(
    tree: Tree, archive: tarfile.TarFile, member: tarfile.TarInfo, store: Store, fresh: set[bytes]
) -> None:
    """`fresh` are the paths that this layer brought: what it removes was there before it."""
    parts = parts_of(_bytes(member.name))
    path = b"/".join(parts)
    name = parts[-1] if parts else b""
    if name == _OPAQUE:
        _empty(tree, b"/".join(parts[:-1]), fresh)
    elif name.startswith(_WHITEOUT):
        if name.removeprefix(_WHITEOUT) in (b"", b"."):
            raise RootFilesystemError(f"{member.name} removes what has no name")
        removed = b"/".join([*parts[:-1], name.removeprefix(_WHITEOUT)])
        if removed not in fresh:
            tree.remove(removed)
    elif member.islnk():
        target = tree.find(_bytes(member.linkname))
        if target is None or target.is_directory:
            raise RootFilesystemError(f"{member.name} is a link to {member.linkname}, which is no file")
        tree.add(path, target)
        fresh.add(path)
    else:
        tree.add(path, _inode(archive, member, store))
        fresh.add(path)


def _empty(tree: Tree, path: bytes, fresh: set[bytes]) -> None:
    directory = tree.find(path)
    if directory is None:
        return
    for name in list(directory.entries):
        inner = path + b"/" + name if path else name
        if inner not in fresh:
            del directory.entries[name]


def _inode(archive: tarfile.TarFile, member: tarfile.TarInfo, store: Store) -> Inode:
    kind = stat.S_IFREG if member.isreg() else _KINDS.get(member.type)
    if kind is None:
        raise RootFilesystemError(f"{member.name} is of an unknown kind")
    if not (0 <= member.uid <= _MOST_ID and 0 <= member.gid <= _MOST_ID):
        raise RootFilesystemError(f"{member.name} has an owner that is no number of 32 bits")
    # The kernel's numbers: 12 bits and 20.
    is_device = 0 <= member.devmajor < 1 << 12 and 0 <= member.devminor < 1 << 20
    if not (is_device and abs(member.mtime) <= _LAST_SECOND):
        raise RootFilesystemError(f"{member.name} has a date or a device number that is none")
    inode = Inode(
        kind | stat.S_IMODE(member.mode),
        member.uid,
        member.gid,
        int(member.mtime),
        attributes={
            name.removeprefix(_ATTRIBUTE): _bytes(value)
            for name, value in member.pax_headers.items()
            if name.startswith(_ATTRIBUTE)
        },
    )
    if kind == stat.S_IFREG:
        content = archive.extractfile(member)
        assert content is not None, "a regular file"
        inode.content = store(content, member.size)
    elif kind == stat.S_IFLNK:
        target = _bytes(member.linkname)
        inode.content = Content(len(target), held=target)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        inode.device = (member.devmajor, member.devminor)
    return inode


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
