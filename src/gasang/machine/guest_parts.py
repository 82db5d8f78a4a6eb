"""What a machine has that callers name in several ways, or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gasang.config import Drive, MachineConfig, RootFilesystem
from gasang.errors import ConfigError

if TYPE_CHECKING:
    from gasang.guest.packages import Progress


def bios_of(bios: str | Path, progress: Progress | None = None) -> Path:
    """A BIOS as callers name it: a file, or "seabios" for Debian's. Raises `GuestImageError`."""
    if bios != "seabios":
        return Path(bios)
    from gasang.guest.default import fetch_bios  # noqa: PLC0415 - guest is above machine

    return fetch_bios(progress)


def drive_of(drive: Drive | str | Path) -> Drive:
    """A drive as callers name it: a string as on the command line, a path as it is. Raises `ConfigError`."""
    if isinstance(drive, Drive):
        return drive
    return Drive.parse(drive) if isinstance(drive, str) else Drive(drive)


def root_of(root: RootFilesystem | str | Path, *, is_default: bool) -> RootFilesystem:
    """A root filesystem as callers name it, of the default guest. Raises `ConfigError`, `GuestImageError`."""
    if not is_default:
        raise ConfigError("a root filesystem is for the default guest: leave out kernel and initrd")
    if isinstance(root, RootFilesystem):
        return root
    from gasang.guest.root import root_filesystem  # noqa: PLC0415 - guest is above machine

    return root_filesystem(root)


def with_default_guest(config: MachineConfig) -> MachineConfig:
    """The default guest's kernel, its initrd unless another is named, and its command line before ours."""
    from gasang.guest.default import guest_for  # noqa: PLC0415 - guest is above machine

    guest = guest_for(config)
    return replace(
        config,
        kernel=guest.kernel,
        initrd=guest.initrd if config.initrd is None else config.initrd,
        append=f"{guest.append} {config.append}".strip(),
    )
