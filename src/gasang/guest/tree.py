"""Trees of files between host and guest.

What the guest sends names something below the tree's root, or it fails.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from gasang.errors import GuestAgentError
from gasang.guest.protocol import CHUNK, DIRECTORY, FILE, LINK, Fields, Frames, Kind, text

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def send(frames: Frames, root: Path) -> None:
    """Send a tree: directories before what is in them; of devices, sockets and pipes nothing.

    Raises `OSError` for what cannot be read.
    """
    waiting = [""]
    while waiting:
        relative = waiting.pop()
        place = root / relative if relative else root
        found = place.lstat()
        if stat.S_ISDIR(found.st_mode):
            _send_entry(frames, DIRECTORY, found, relative)
            waiting += sorted((os.path.join(relative, name) for name in os.listdir(place)), reverse=True)
        elif stat.S_ISLNK(found.st_mode):
            _send_entry(frames, LINK, found, relative, os.readlink(place))
        elif stat.S_ISREG(found.st_mode):
            with place.open("rb") as file:
                _send_entry(frames, FILE, found, relative)
                while data := file.read(CHUNK):
                    frames.send(Kind.DATA, data)


def _send_entry(frames: Frames, what: int, found: os.stat_result, relative: str, target: str = "") -> None:
    head = struct.pack("<BI", what, stat.S_IMODE(found.st_mode))
    frames.send(Kind.ENTRY, head + text(relative) + text(target))


class Receiver:
    """Makes at `place` the tree that comes; in a `with` block, after which directories have their modes.

    Links on the way are not followed, whether they were there or came along, and set-user-id bits stay in the
    guest. Raises `OSError`, and `GuestAgentError` for what is no tree.
    """

    def __init__(self, place: Path) -> None:
        self._parent = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._name = place.name
        self._file: int | None = None
        self._modes: list[tuple[list[str], int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_file()
        for parts, mode in reversed(self._modes):
            with suppress(OSError), self._holding(parts) as (directory, name):
                os.chmod(name, mode, dir_fd=directory)
        os.close(self._parent)

    def take(self, kind: int, payload: bytes) -> None:
        """A frame of the tree: an entry, or data of the last one."""
        if kind == Kind.DATA:
            if self._file is None:
                raise GuestAgentError("the guest's agent sent data of no file")
            view = memoryview(payload)
            while view:
                view = view[os.write(self._file, view) :]
            return
        self._end_file()
        fields = Fields(payload)
        what, mode = fields.number(1), fields.number(4) & 0o777
        parts = self._parts(fields.text())
        target = fields.text()
        with self._holding(parts) as (directory, name):
            self._make(what, mode, target, directory=directory, name=name)
        if what == DIRECTORY:
            self._modes.append((parts, mode))

    def _make(self, what: int, mode: int, target: str, *, directory: int, name: str) -> None:
        if what == DIRECTORY:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=directory)
            os.close(os.open(name, _DIRECTORY_FLAGS, dir_fd=directory))
            return
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
        if what == LINK:
            os.symlink(target, name, dir_fd=directory)
        elif what == FILE:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.open(name, flags, 0o600, dir_fd=directory)
            os.fchmod(self._file, mode)
        else:
            raise GuestAgentError("the guest's agent sent an entry of no kind")

    def _parts(self, relative: str) -> list[str]:
        """A place's components, from the parent on. Raises `GuestAgentError` if it is not in the tree."""
        parts = relative.split("/") if relative else []
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise GuestAgentError(f"the guest's agent sent {relative!r}, which is no place in a tree")
        return [self._name, *parts]

    @contextmanager
    def _holding(self, parts: list[str]) -> Iterator[tuple[int, str]]:
        """The directory that a place is in, and its name there."""
        directory = os.dup(self._parent)
        try:
            for part in parts[:-1]:
                inner = os.open(part, _DIRECTORY_FLAGS, dir_fd=directory)
                os.close(directory)
                directory = inner
            yield directory, parts[-1]
        finally:
            os.close(directory)

    def _end_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
