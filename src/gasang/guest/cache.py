"""What gasang keeps between runs: whole directories of files, each with the SHA-256 of its content beside it.

An entry appears by one rename, so an interrupted run leaves no half of it; the sums are checked on every use,
so a damaged entry is made again. The sums have the form of `sha256sum`, for people to check too.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gasang.errors import CacheError

_SUMS = "SHA256SUMS"
_PARTIAL = "partial-"


def cache_directory() -> Path:
    """Where the cache is: gasang's own part of the user's cache directory (XDG base directories)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.cache")
    return Path(base) / "gasang"


def obtain(name: str, make: Callable[[Path], None]) -> Path:
    """The directory that is the entry `name`, such as "guest/busybox-static"; `make` fills a new one.

    One process at a time makes entries; the others wait for it. Raises `CacheError` if the cache cannot be
    used, and whatever `make` raises, which leaves no trace.
    """
    entry = cache_directory() / name
    if _is_whole(entry):
        return entry
    with _locked(cache_directory()):
        if not _is_whole(entry):
            _make(entry, make)
    return entry


def _is_whole(entry: Path) -> bool:
    try:
        sums = (entry / _SUMS).read_text()
        recorded = [line.split("  ", 1) for line in sums.splitlines()]
        return bool(recorded) and all(_sha256(entry / name) == known for known, name in recorded)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        raise _unusable(error) from error


def _make(entry: Path, make: Callable[[Path], None]) -> None:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with _partial_directory() as partial:
            make(partial)
            files = sorted(file.name for file in partial.iterdir())
            sums = "".join(f"{_sha256(partial / file)}  {file}\n" for file in files)
            (partial / _SUMS).write_text(sums)
            if entry.exists():
                _remove(entry)
            partial.rename(entry)
    except OSError as error:
        raise _unusable(error) from error


@contextmanager
def _partial_directory() -> Iterator[Path]:
    """An empty directory, gone at the end unless renamed; those that a killed process left go too."""
    root = cache_directory()
    for left_over in root.glob(_PARTIAL + "*"):
        _remove(left_over)
    partial = _new_directory(root)
    try:
        yield partial
    finally:
        _remove(partial)


def _new_directory(root: Path) -> Path:
    import tempfile  # noqa: PLC0415 - slow to load, and rarely needed

    return Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=root))


def _remove(tree: Path) -> None:
    """As far as it can be removed."""
    import shutil  # noqa: PLC0415 - as above

    shutil.rmtree(tree, ignore_errors=True)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise _unusable(error) from error
    with lock:
        yield


def _unusable(error: OSError) -> CacheError:
    reason = error.strerror or str(error)
    return CacheError(
        f"the cache directory {cache_directory()} cannot be used: {reason}; "
        "set XDG_CACHE_HOME to a directory that you can write"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
