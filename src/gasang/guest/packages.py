"""Debian's packages, brought by this system's own package client without root.

The system's sources, keys and settings stay in use: `apt-get` checks the signature of the index and the hash
of the package. If the system's own index is missing or out of date, an index is fetched into our cache.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

from gasang.errors import DownloadError
from gasang.guest.cache import cache_directory, obtain

_Result = TypeVar("_Result")

Progress = Callable[[str], object]
"""Is told, in one line, what takes long."""

_TIMEOUT = 900
_SETTINGS = (
    "APT::Get::AllowUnauthenticated=false",
    "Acquire::Retries=2",
    "Acquire::http::Timeout=30",
    "Acquire::https::Timeout=30",
)
_HARD_DEPENDENCIES = (
    "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances",
)  # fmt: skip


def fetch_package(name: str, progress: Progress | None = None) -> Path:
    """The file of Debian's package `name`, from the cache or else from the archive.

    Raises `DownloadError` if it cannot be had, `CacheError` if the cache cannot be used.
    """

    def make(directory: Path) -> None:
        download(name, directory, progress)

    directory = obtain(f"packages/{name}", make)
    return next(directory.glob("*.deb"))


def fetch_with_dependencies(
    name: str, leave_out: Collection[str] = (), progress: Progress | None = None
) -> list[Path]:
    """The files of the package `name` and of all that it depends on, but for the names in `leave_out`.

    Raises as `fetch_package` does.
    """
    names = [name, *dependencies(name, recursive=True, progress=progress)]
    return [fetch_package(each, progress) for each in names if each not in leave_out]


def download(name: str, directory: Path, progress: Progress | None = None) -> Path:
    """Fetch the package `name` into `directory`, past the cache. Raises `DownloadError`."""
    return download_all([name], directory, progress)[0]


def download_all(names: Sequence[str], directory: Path, progress: Progress | None = None) -> list[Path]:
    """Fetch packages into `directory`, an empty one, past the cache: their files, in the order of `names`.

    The package client starts once for all of them. Raises `DownloadError`.
    """
    if progress:
        progress(f"fetching the package {', '.join(names)}")

    def fetch(settings: tuple[str, ...]) -> list[Path]:
        _apt("apt-get", settings, "--quiet", "download", *names, directory=directory)
        files = {re.split(r"_|\.deb$", file.name)[0]: file for file in directory.glob("*.deb")}
        for name in names:
            if name not in files:
                raise DownloadError(f"the package {name} was not fetched: apt-get wrote no file")
        return [files[name] for name in names]

    return _with_index(fetch, progress)


def download_installation(
    names: Sequence[str], directory: Path, progress: Progress | None = None
) -> list[Path]:
    """Fetch packages and all that they need on a system that has none, into `directory`: their files.

    A name may be a pattern of apt's. Raises `DownloadError`.
    """
    if progress:
        progress("fetching packages")
    directory = directory.absolute()
    (directory / "partial").mkdir()
    status = directory / "status"
    status.touch()
    nothing_installed = (
        f"Dir::State::status={status}",
        f"Dir::Cache::archives={directory}",
        "Dir::Cache::pkgcache=",
        "Dir::Cache::srcpkgcache=",
        "Debug::NoLocking=true",
        "APT::Get::Download-Only=true",
        "APT::Install-Recommends=false",
    )

    def fetch(settings: tuple[str, ...]) -> list[Path]:
        _apt("apt-get", (*settings, *nothing_installed), "--quiet", "--yes", "install", *names)
        files = sorted(directory.glob("*.deb"))
        if not files:
            raise DownloadError("the packages were not fetched: apt-get wrote no file")
        return files

    return _with_index(fetch, progress)


def dependencies(name: str, *, recursive: bool = False, progress: Progress | None = None) -> list[str]:
    """The packages that `name` depends on, by name, in the index's order. Raises `DownloadError`."""

    def look_up(settings: tuple[str, ...]) -> list[str]:
        options = (*_HARD_DEPENDENCIES, *(("--recurse",) if recursive else ()))
        listing = _apt("apt-cache", settings, "depends", *options, name)
        found = re.findall(r"^ +(?:Pre)?Depends: ([a-z0-9][^<>:\s]+)", listing, re.MULTILINE)
        if not listing.startswith(name):
            raise DownloadError(f"the package {name} is in none of this system's package sources")
        return list(dict.fromkeys(found))

    return _with_index(look_up, progress)


def _with_index(action: Callable[[tuple[str, ...]], _Result], progress: Progress | None) -> _Result:
    """Do `action` with the system's index of packages, else with our own, else with our own made fresh."""
    own = _own_index()
    for settings in ((), own) if any(_lists().glob("*Release")) else ((),):
        try:
            return action(settings)
        except DownloadError:
            continue
    update_error = _update(own, progress)
    try:
        return action(own)
    except DownloadError as error:
        raise update_error or error from None


def _own_index() -> tuple[str, ...]:
    """The settings that use an index in our cache; the system's sources and keys stay in use."""
    root = cache_directory() / "apt"
    return (
        f"Dir::State={root / 'state'}",
        "Dir::State::status=/var/lib/dpkg/status",
        f"Dir::Cache={root / 'cache'}",
    )


def _lists() -> Path:
    return cache_directory() / "apt/state/lists"


def _update(settings: tuple[str, ...], progress: Progress | None) -> DownloadError | None:
    """Fetch our own index. An error is returned: one broken source among several need not matter."""
    if progress:
        progress("fetching the index of packages")
    for directory in (_lists() / "partial", cache_directory() / "apt/cache/archives/partial"):
        directory.mkdir(parents=True, exist_ok=True)
    try:
        _apt("apt-get", settings, "--quiet", "update", "--error-on=any")
    except DownloadError as error:
        return error
    return None


def _apt(program: str, settings: tuple[str, ...], *arguments: str, directory: Path | None = None) -> str:
    path = shutil.which(program)
    if path is None:
        raise DownloadError(
            f"{program} was not found: the default guest comes from Debian's archive by it; "
            "on this system, give a kernel and an initial RAM disk with --kernel and --initrd"
        )
    options = [word for setting in (*_SETTINGS, *settings) for word in ("-o", setting)]
    try:
        done = subprocess.run(
            [path, *options, *arguments],
            cwd=directory,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DownloadError(f"{program} {arguments[-1]} did not end within {_TIMEOUT} seconds") from None
    if done.returncode != 0:
        raise DownloadError(f"{program} {' '.join(arguments[-2:])} failed: {_reason(done)}")
    return done.stdout


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The first error that apt named, in one line."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("E:").strip() for line in lines if line.startswith("E:")]
    return next(iter(errors or lines), f"exit code {done.returncode}")
