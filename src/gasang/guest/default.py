"""The guest that boots when none is named: Debian's cloud kernel and static busybox."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING

from gasang.config import MachineConfig, RootFilesystem
from gasang.guest.cache import obtain
from gasang.guest.kernels import CLOUD_KERNEL, kernel_package

if TYPE_CHECKING:
    from gasang.guest.initramfs import Entry
    from gasang.guest.packages import Progress

APPEND = "console=ttyS0 quiet panic=-1 cryptomgr.notests no_timer_check nowatchdog tsc=reliable"
"""The kernel command line of the default guest.

The console is the first serial port, and a panic ends the machine at once. The kernel's self-tests of its
ciphers are half of its boot, and testing its timer is 16 ms of spinning. Its watchdogs would take a pause
of the host for a fault of theirs.
"""


VSOCK_DRIVER = "vmw_vsock_virtio_transport"
"""With it, the agent that speaks by vsock is in the guest."""

_DEFAULTS = "etc/gasang/defaults"


@dataclass(frozen=True)
class Guest:
    """What a machine boots: a kernel's file, an initial RAM disk's bytes, a kernel command line."""

    kernel: Path
    initrd: bytes
    append: str


_FOLDER_DRIVERS = {"virtiofs": ("virtiofs",), "9p": ("9p", "9pnet_virtio")}


def default_guest(
    progress: Progress | None = None,
    *,
    kernel: str = CLOUD_KERNEL,
    drivers: Sequence[str] = (),
    more: Sequence[Entry] = (),
) -> Guest:
    """The default guest, from the cache or else from Debian's archive; needs no root.

    `kernel` is the package of its kernel, `drivers` are modules of that which it is to have, `more` is in
    its initial RAM disk too. Raises `DownloadError` if a part of it cannot be had, `CacheError` if the cache
    cannot be used.
    """
    if drivers:
        from gasang.guest.closure import fetch_modules  # noqa: PLC0415 - slow to load, and rarely needed

        more = [*more, *fetch_modules(drivers, kernel, progress)]
        if VSOCK_DRIVER in drivers:
            more = [*more, *_agent()]
    return Guest(fetch_kernel(kernel, progress), default_initrd(more, progress), APPEND)


def guest_for(config: MachineConfig, progress: Progress | None = None) -> Guest:
    """The default guest for a machine: with drivers for its devices, told of its root filesystem and ports.

    Raises as `default_guest` does.
    """
    root, words = config.rootfs, []
    if root is not None:
        is_drive = root.kind == "erofs"
        source = (
            f"/dev/vd{ascii_lowercase[len(config.drives)]}" if is_drive else f"gasang{len(config.folders)}"
        )
        words.append(f"GASANG_ROOT={root.kind}:{source}")
    if config.ports:  # They come some time after the guest's driver has asked.
        words.append(f"GASANG_PORTS={len(config.ports)}")
    more = [] if root is None else _defaults(root)
    guest = default_guest(progress, kernel=kernel_package(config), drivers=drivers(config), more=more)
    return replace(guest, append=" ".join([guest.append, *words])) if words else guest


def fetch_bios(progress: Progress | None = None) -> Path:
    """SeaBIOS, from the cache or else from Debian's archive. Raises as `default_guest` does."""

    def make(directory: Path) -> None:
        from gasang.guest.packages import download  # noqa: PLC0415 - as above

        file = download("seabios", directory, progress)
        content = _take(file, lambda path: path.endswith("/bios-256k.bin"))
        (directory / "bios.bin").write_bytes(content)

    return obtain("guest/seabios", make) / "bios.bin"


def _defaults(root: RootFilesystem) -> list[Entry]:
    """How the guest's agent is to run commands that say nothing else: guests/agent/src/defaults.rs."""
    from gasang.guest.initramfs import Directory, File  # noqa: PLC0415 - as above

    environment = "".join(f"{each}\0" for each in root.env)
    words = {"environ": environment, "cwd": root.cwd, "user": root.user}
    files = (File(f"{_DEFAULTS}/{name}", text.encode()) for name, text in words.items())
    return [Directory(_DEFAULTS), *files]


def drivers(config: MachineConfig) -> tuple[str, ...]:
    """The modules that the default guest needs for the devices of a machine."""
    kinds = {each.kind for each in config.all_folders}
    needed = (
        ("virtio-blk", bool(config.all_drives)),
        ("virtio-rng", config.rng),
        ("virtio-balloon", config.balloon),
        *((name, kind in kinds) for kind, names in _FOLDER_DRIVERS.items() for name in names),
        ("overlay", config.rootfs is not None),
        ("erofs", config.rootfs is not None and config.rootfs.kind == "erofs"),
        ("virtio_console", bool(config.ports)),
        ("virtio-net", config.net is not None),
        (VSOCK_DRIVER, config.vsock),
    )
    found = tuple(name for name, wanted in needed if wanted)
    return (f"virtio-{config.transport}", *found) if found else ()


def default_initrd(more: Iterable[Entry] = (), progress: Progress | None = None) -> bytes:
    """The default guest's initial RAM disk, and in it `more`. Raises as `default_guest` does."""

    def make(directory: Path) -> None:
        from gasang.guest.packages import download  # noqa: PLC0415 - slow to load, and rarely needed

        package = download("busybox-static", directory, progress)
        binary = _take(package, lambda path: path.endswith("bin/busybox"))
        (directory / "busybox").write_bytes(binary)

    from gasang.guest.rootfs import build  # noqa: PLC0415 - slow to load, and not needed for a snapshot

    return build((obtain("guest/busybox-static", make) / "busybox").read_bytes(), more)


def fetch_kernel(package: str = CLOUD_KERNEL, progress: Progress | None = None) -> Path:
    """The kernel of a package, or of the package that it only points at, as Debian's kernel packages do.

    Raises as `default_guest` does.
    """

    def make(directory: Path) -> None:
        from gasang.guest.packages import dependencies, download  # noqa: PLC0415 - as above

        names = dependencies(package, progress=progress)
        name = next((name for name in names if name.startswith("linux-image-")), package)
        file = download(name, directory, progress)
        kernel = _take(file, lambda path: path.startswith("boot/vmlinuz-"))
        (directory / "vmlinuz").write_bytes(kernel)

    return obtain(f"guest/{package}", make) / "vmlinuz"


def _agent() -> list[Entry]:
    """The agent's program. Raises `GuestImageError` if gasang was built without it."""
    from gasang.guest.agent_package import AGENT, agent_program  # noqa: PLC0415 - as above
    from gasang.guest.initramfs import File  # noqa: PLC0415 - as above

    return [File(f"usr/bin/{AGENT}", agent_program(), 0o755)]


def _take(package: Path, wanted: Callable[[str], bool]) -> bytes:
    """A file of a package, which then goes: it would be most of the cache."""
    from gasang.guest.deb import read_member  # noqa: PLC0415 - slow to load, and the cache rarely needs it

    _, content = read_member(package, wanted)
    package.unlink()
    return content
