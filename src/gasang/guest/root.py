"""The default guest's root filesystem: a directory as it is, or an archive as an image, which is kept."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gasang.config import RootFilesystem
from gasang.errors import CacheError, RootFilesystemError
from gasang.guest.cache import cache_directory
from gasang.whole_file import replacing

if TYPE_CHECKING:
    from gasang.guest.packages import Progress

_KEPT = 8
"""Images that are kept: those used last."""

_FORM = 1
"""Of what is kept: another makes all anew."""


def root_filesystem(path: str | Path, progress: Progress | None = None) -> RootFilesystem:
    """What the default guest has as its root: a directory of files, a container image (an OCI layout in a
    directory or a tar, or what `docker save` writes), or a tar of files.

    Raises `RootFilesystemError` for what is none of these, `CacheError`.
    """
    source = Path(path).absolute()
    from gasang.rootfs.archive import is_layout  # noqa: PLC0415 - slow to load, and rarely needed

    try:
        status = source.stat()
    except OSError as error:
        raise RootFilesystemError(f"root filesystem {path}: {error.strerror}") from error
    if source.is_dir() and not is_layout(source):
        return RootFilesystem(kind="virtiofs", path=source)
    if source.is_dir():
        status = (source / "index.json").stat()
    known = (_FORM, os.path.realpath(source), status.st_ino, status.st_size, status.st_mtime_ns)
    name = hashlib.sha256(repr(known).encode()).hexdigest()[:32]
    return _kept(source, cache_directory() / "rootfs" / f"{name}.erofs", progress)


def _kept(source: Path, image: Path, progress: Progress | None) -> RootFilesystem:
    """The image of an archive, and beside it how its program runs, both made if they are not there."""
    told = image.with_suffix(".json")
    try:
        found = _read(image, told)
        if found is None:
            if progress:
                progress(f"making a root filesystem of {source}")
            image.parent.mkdir(parents=True, exist_ok=True)
            _make(source, image, told)
            _forget_others(image)
            found = _read(image, told)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CacheError(f"the image of {source} cannot be kept in {image.parent}: {reason}") from error
    assert found is not None, "it was just made"
    return found


def _read(image: Path, told: Path) -> RootFilesystem | None:
    """What was kept, which is whole: it got its name when it was."""
    try:
        status = image.stat()
        config = json.loads(told.read_text())
    except FileNotFoundError:
        return None
    # When it was used last; a drive is known by the time of its last change.
    os.utime(image, ns=(time.time_ns(), status.st_mtime_ns))
    words = {name: tuple(config[name]) for name in ("env", "command")}
    return RootFilesystem(**{**config, **words}, kind="erofs", path=image)


def _make(source: Path, image: Path, told: Path) -> None:
    """Write both files, the image last: where it is, the other is."""
    from gasang.rootfs.archive import read_archive  # noqa: PLC0415 - as above
    from gasang.rootfs.erofs import ErofsWriter  # noqa: PLC0415 - as above
    from gasang.rootfs.tree import Tree  # noqa: PLC0415 - as above

    with replacing(image) as file:
        tree, writer = Tree(), ErofsWriter(file)
        config = read_archive(source, tree, writer.store)
        writer.finish(tree)
        known = {"env": config.env, "cwd": config.cwd, "user": config.user}
        with replacing(told) as words:
            words.write(json.dumps({**known, "command": [*config.entrypoint, *config.command]}).encode())


def _forget_others(image: Path) -> None:
    others = [each for each in image.parent.glob("*.erofs") if each != image]
    others.sort(key=lambda each: each.stat().st_atime_ns, reverse=True)
    for each in others[_KEPT - 1 :]:
        with suppress(OSError):
            each.unlink()
            each.with_suffix(".json").unlink(missing_ok=True)
