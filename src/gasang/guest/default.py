"""The guest that boots when none is named: Debian's cloud kernel and static busybox."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from gasang.guest.cache import obtain
from gasang.guest.initramfs import Entry
from gasang.guest.packages import Progress, dependencies, download
from gasang.guest.rootfs import build

CLOUD_KERNEL = "linux-image-cloud-amd64"
GENERIC_KERNEL = "linux-image-amd64"
DISK_MODULES = ("virtio-pci", "virtio-blk")
APPEND = "console=ttyS0 quiet panic=-1 cryptomgr.notests no_timer_check nowatchdog tsc=reliable"
"""The kernel command line of the default guest.

The console is the first serial port, and a panic ends the machine at once. The kernel's self-tests of its
ciphers are half of its boot, and testing its timer is 16 ms of spinning. Its watchdogs would take a pause
of the host for a fault of theirs.
"""


@dataclass(frozen=True)
class Guest:
    """What a machine boots: a kernel's file, an initial RAM disk's bytes, a kernel command line."""

    kernel: Path
    initrd: bytes
    append: str


def default_guest(progress: Progress | None = None, *, drives: bool = False) -> Guest:
    """The default guest, from the cache or else from Debian's archive; needs no root.

    With `drives` it has the drivers of disks: modules of its kernel.

    Raises `DownloadError` if a part of it cannot be had, `CacheError` if the cache cannot be used.
    """
    more = _drivers(progress) if drives else ()
    return Guest(fetch_kernel(CLOUD_KERNEL, progress), default_initrd(more, progress), APPEND)


def _drivers(progress: Progress | None) -> list[Entry]:
    from gasang.guest.closure import fetch_modules  # noqa: PLC0415 - slow to load, and rarely needed

    return fetch_modules(DISK_MODULES, progress=progress)


def default_initrd(more: Iterable[Entry] = (), progress: Progress | None = None) -> bytes:
    """The default guest's initial RAM disk, and in it `more`. Raises as `default_guest` does."""

    def make(directory: Path) -> None:
        package = download("busybox-static", directory, progress)
        binary = _take(package, lambda path: path.endswith("bin/busybox"))
        (directory / "busybox").write_bytes(binary)

    return build((obtain("guest/busybox-static", make) / "busybox").read_bytes(), more)


def fetch_kernel(package: str = CLOUD_KERNEL, progress: Progress | None = None) -> Path:
    """The kernel of a package, or of the package that it only points at, as Debian's kernel packages do.

    Raises as `default_guest` does.
    """

    def make(directory: Path) -> None:
        names = dependencies(package, progress=progress)
        name = next((name for name in names if name.startswith("linux-image-")), package)
        file = download(name, directory, progress)
        kernel = _take(file, lambda path: path.startswith("boot/vmlinuz-"))
        (directory / "vmlinuz").write_bytes(kernel)

    return obtain(f"guest/{package}", make) / "vmlinuz"


def _take(package: Path, wanted: Callable[[str], bool]) -> bytes:
    """A file of a package, which then goes: it would be most of the cache."""
    from gasang.guest.deb import read_member  # noqa: PLC0415 - slow to load, and the cache rarely needs it

    _, content = read_member(package, wanted)
    package.unlink()
    return content
