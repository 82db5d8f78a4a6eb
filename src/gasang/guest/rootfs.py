"""What the default guest's initial RAM disk holds, beside busybox."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.resources import files

from gasang.errors import DownloadError
from gasang.guest.initramfs import CharacterDevice, Directory, Entry, Fifo, File, Symlink, write_archive

_DIRECTORIES = (
    "dev", "etc", "etc/gasang", "proc", "root", "run", "sys", "tmp", "var", "var/tmp",
    "usr", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin",
)  # fmt: skip

# Debian's merged /usr: these are links. An archive's directory in place of a link would replace it, so what
# packages put there goes to where the link points.
_MERGED = ("bin", "lib", "lib64", "sbin")

# The kernel opens the console before anything mounts devtmpfs; mount wants a null device.
_DEVICES = (
    CharacterDevice("dev/console", 5, 1),
    CharacterDevice("dev/null", 1, 3, 0o666),
)

_FSTAB = """\
proc /proc proc nosuid,nodev,noexec 0 0
sysfs /sys sysfs nosuid,nodev,noexec 0 0
devtmpfs /dev devtmpfs nosuid 0 0
tmpfs /tmp tmpfs nosuid,nodev 0 0
tmpfs /run tmpfs nosuid,nodev 0 0
"""

# busybox keeps the names of its applets as one run of strings, ended by NULs, in ASCII order.
_APPLETS = re.compile(rb"\0(\[\0\[\[\0(?:[!-~]+\0)+)")


def build(busybox: bytes, more: Iterable[Entry] = ()) -> bytes:
    """The initial RAM disk of the default guest: `busybox` (static), init, the agent, and then `more`.

    `more` may be the content of Debian packages. A later entry replaces an earlier one of the same path, as
    the kernel unpacks in order. Raises `DownloadError` if `busybox` holds no list of applets.
    """
    return write_archive([*_skeleton(), *_busybox(busybox), *_merge(more)])


def applets(busybox: bytes) -> list[str]:
    """The names under which a busybox binary acts. Raises `DownloadError` if they are not found."""
    found = _APPLETS.search(busybox)
    names = found[1].decode("ascii").split("\0")[:-1] if found else []
    if "sh" not in names:
        raise DownloadError("the busybox binary has no list of applets: is the package busybox-static?")
    return names


def _skeleton() -> list[Entry]:
    here = files("gasang.guest")
    return [
        *(Directory(path, 0o1777 if path.endswith("tmp") else 0o755) for path in _DIRECTORIES),
        *(Symlink(path, f"usr/{path}") for path in _MERGED),
        *_DEVICES,
        Symlink("etc/mtab", "/proc/mounts"),
        File("etc/fstab", _FSTAB.encode()),
        File("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
        File("etc/group", b"root:x:0:\n"),
        File("etc/hostname", b"gasang\n"),
        File("init", here.joinpath("init.sh").read_bytes(), 0o755),
        *(
            File(f"etc/gasang/{name}.sh", here.joinpath(f"{name}.sh").read_bytes())
            for name in ("agent", "root", "start")
        ),
        File("etc/gasang/udhcpc.sh", here.joinpath("udhcpc.sh").read_bytes(), 0o755),
        *(Fifo(f"etc/gasang/{stream}") for stream in ("stdin", "stdout", "stderr")),
    ]


def _busybox(binary: bytes) -> Sequence[Entry]:
    links = [Symlink(f"usr/bin/{name}", "busybox") for name in applets(binary) if name != "busybox"]
    return [File("usr/bin/busybox", binary, 0o755), *links]


def _merge(entries: Iterable[Entry]) -> Iterable[Entry]:
    for entry in entries:
        first, slash, _ = entry.path.partition("/")
        if first not in _MERGED:
            yield entry
        elif slash:
            yield replace(entry, path=f"usr/{entry.path}")
