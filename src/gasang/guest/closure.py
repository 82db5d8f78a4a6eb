"""Files of Debian packages with all that they need to run, for initial RAM disks; read without installing.

A program needs the libraries that it is linked against and the loader that it names, a symbolic link its
target, a kernel module those that it depends on.
"""

from __future__ import annotations

import hashlib
import io
import posixpath
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from gasang.errors import DownloadError
from gasang.guest.cache import obtain
from gasang.guest.deb import read_package, read_tar
from gasang.guest.default import fetch_kernel
from gasang.guest.initramfs import Directory, Entry, File, Symlink
from gasang.guest.kernels import CLOUD_KERNEL
from gasang.guest.packages import Progress, dependencies, download, download_all

_MODULES = "lib/modules"
_LISTS = "modules.dep modules.alias"
"""What modprobe reads."""

_AT_ONCE = 16
"""The package client takes longer to start than to fetch a package; most need not be fetched."""

_VERSION_POINTER, _VERSION_BASE = 0x20E, 0x200  # Documentation/arch/x86/boot.rst: kernel_version


def fetch_files(package: str, paths: Sequence[str], progress: Progress | None = None) -> list[Entry]:
    """The files `paths` (relative to the root) of a Debian package or of those that it depends on.

    Libraries and the targets of symbolic links come along, and the directories that hold them. What a program
    opens only when it runs must be named. From the cache or else from the archive; raises `DownloadError` if
    a file is in none of the packages, else as `fetch_package` does.
    """

    def make(directory: Path) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            closure = _Closure(paths)
            names = [package, *dependencies(package, recursive=True, progress=progress)]
            while names and not closure.is_whole():
                for file in download_all(names[:_AT_ONCE], Path(temporary), progress):
                    closure.add(read_package(file))
                    file.unlink()
                del names[:_AT_ONCE]
        _write(directory, closure.taken(package))

    return _read(obtain(f"files/{package}-{_digest(paths)}", make))


def fetch_modules(
    names: Sequence[str], kernel: str = CLOUD_KERNEL, progress: Progress | None = None
) -> list[Entry]:
    """Modules of the kernel that `fetch_kernel(kernel)` gives, those that they need, and what modprobe reads.

    From the cache or else from the archive. Raises `DownloadError` if the kernel has no such module, else as
    `fetch_package` does.
    """
    release = kernel_release(fetch_kernel(kernel, progress))

    def make(directory: Path) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            file = download(f"linux-image-{release}", Path(temporary), progress)
            modules = {
                _module_name(entry.path): entry
                for entry in read_package(file)
                if isinstance(entry, File) and entry.path.endswith(".ko")
            }
        _write(directory, _needed_modules(modules, names, f"{_MODULES}/{release}"))

    return _read(obtain(f"modules/{release}-{_digest([_LISTS, *names])}", make))


def kernel_release(kernel: Path) -> str:
    """What `uname -r` says in a guest with this bzImage. Raises `DownloadError` if the file does not say."""
    content = kernel.read_bytes()
    start = int.from_bytes(content[_VERSION_POINTER : _VERSION_POINTER + 2], "little") + _VERSION_BASE
    words = content[start : content.find(b"\0", start)].split()
    if not words:
        raise DownloadError(f"{kernel} does not say which release of Linux it is")
    return words[0].decode("ascii", "replace")


class _Closure:
    """What is wanted of packages that are read one after another."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._entries: dict[str, Entry] = {}
        self._libraries: dict[str, list[str]] = {}
        self._wanted = set(paths)
        self._wanted_libraries: set[str] = set()
        self._taken: dict[str, Entry] = {}

    def add(self, entries: Iterable[Entry]) -> None:
        """Another package: take from it and from those before it what is wanted now."""
        for entry in entries:
            if not isinstance(entry, Directory):
                self._entries.setdefault(entry.path, entry)
                self._libraries.setdefault(posixpath.basename(entry.path), []).append(entry.path)
        while found := self._found():
            for path in found:
                self._take(path)

    def is_whole(self) -> bool:
        return not self._wanted and not self._wanted_libraries

    def taken(self, package: str) -> list[Entry]:
        if not self.is_whole():
            missing = min(self._wanted | self._wanted_libraries)
            raise DownloadError(f"{missing} is neither in {package} nor in what it depends on")
        return with_directories(self._taken.values())

    def _found(self) -> set[str]:
        libraries = {
            path
            for name in self._wanted_libraries
            for path in self._libraries.get(name, ())
            if _is_searched(path)
        }
        return (self._wanted & self._entries.keys()) | libraries

    def _take(self, path: str) -> None:
        entry = self._taken[path] = self._entries[path]
        self._wanted.discard(path)
        self._wanted_libraries.discard(posixpath.basename(path))
        if isinstance(entry, Symlink):
            target = posixpath.normpath(posixpath.join("/", posixpath.dirname(path), entry.target))[1:]
            if target not in self._taken:
                self._wanted.add(target)
        elif isinstance(entry, File):
            known = {posixpath.basename(each) for each in self._taken}
            self._wanted_libraries |= _libraries(entry.content) - known


def with_directories(entries: Iterable[Entry]) -> list[Entry]:
    """The entries by path, each directory that holds them before its content."""
    by_path = {entry.path: entry for entry in entries}
    above = {path[:at] for path in by_path for at, letter in enumerate(path) if letter == "/"}
    return sorted(
        [*by_path.values(), *(Directory(path) for path in above - by_path.keys())],
        key=lambda entry: entry.path,
    )


def _is_searched(path: str) -> bool:
    """Whether the loader looks for libraries there by itself."""
    return posixpath.dirname(path.removeprefix("usr/")) in ("lib", "lib64", "lib/x86_64-linux-gnu")


def _libraries(content: bytes) -> set[str]:
    """The names of the libraries and the loader that an ELF file names; none for other files."""
    if content[:4] != b"\x7fELF":
        return set()
    from elftools.elf.dynamic import DynamicSegment  # noqa: PLC0415 - slow to load, and rarely needed
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415
    from elftools.elf.segments import InterpSegment  # noqa: PLC0415

    names: set[str] = set()
    for segment in ELFFile(io.BytesIO(content)).iter_segments():
        if isinstance(segment, InterpSegment):
            names.add(posixpath.basename(segment.get_interp_name()))
        elif isinstance(segment, DynamicSegment):
            names |= {getattr(tag, "needed", "") for tag in segment.iter_tags("DT_NEEDED")}
    return names


def _needed_modules(modules: dict[str, File], names: Sequence[str], root: str) -> list[Entry]:
    """The modules, those that they need, and modprobe's lists: of these, and of what they drive."""
    taken: dict[str, File] = {}
    needs: dict[str, list[str]] = {}
    aliases: list[str] = []

    def take(name: str) -> None:
        if name in taken:
            return
        if name not in modules:
            raise DownloadError(f"this kernel has no module {name}")
        taken[name] = modules[name]
        told = _module_information(modules[name].content)
        depends = ",".join(told["depends"]).replace("-", "_").split(",")
        needs[name] = [other for other in depends if other]
        aliases.extend(f"alias {pattern} {name}\n" for pattern in told["alias"])
        for other in needs[name]:
            take(other)

    for name in names:
        take(name.replace("-", "_"))

    def all_needs(name: str) -> list[str]:
        """Each before what it needs itself: modprobe begins with the last."""
        order: dict[str, None] = {}

        def visit(module: str) -> None:
            for near in needs[module]:
                if near not in order:
                    visit(near)
                    order[near] = None

        visit(name)
        return list(reversed(order))

    def place(name: str) -> str:
        return taken[name].path.removeprefix(f"{root}/")

    lines = [
        f"{place(name)}: {' '.join(map(place, all_needs(name)))}".rstrip() + "\n" for name in sorted(taken)
    ]
    lists = {"modules.dep": lines, "modules.alias": aliases}
    files = (File(f"{root}/{name}", "".join(content).encode()) for name, content in lists.items())
    return with_directories([*taken.values(), *files])


def _module_name(path: str) -> str:
    return posixpath.basename(path).removesuffix(".ko").replace("-", "_")


def _module_information(content: bytes) -> defaultdict[str, list[str]]:
    """What a module says of itself, by key."""
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415 - slow to load, and rarely needed

    section = ELFFile(io.BytesIO(content)).get_section_by_name(".modinfo")
    told = section.data().split(b"\0") if section is not None else []
    information: defaultdict[str, list[str]] = defaultdict(list)
    for item in told:
        key, _, value = item.decode(errors="replace").partition("=")
        information[key].append(value)
    return information


def _digest(words: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:12]


def _write(directory: Path, entries: Iterable[Entry]) -> None:
    with tarfile.open(directory / "files.tar", "w") as archive:
        for entry in entries:
            member = tarfile.TarInfo(entry.path)
            match entry:
                case Directory(_, permissions):
                    member.type, member.mode = tarfile.DIRTYPE, permissions
                    archive.addfile(member)
                case Symlink(_, target):
                    member.type, member.linkname = tarfile.SYMTYPE, target
                    archive.addfile(member)
                case File(_, content, permissions):
                    member.size, member.mode = len(content), permissions
                    archive.addfile(member, io.BytesIO(content))


def _read(directory: Path) -> list[Entry]:
    return list(read_tar(directory / "files.tar"))
