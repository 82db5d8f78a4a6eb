"""The default guest, and the packages that guests are made of."""

from typing import TYPE_CHECKING

from gasang.lazy import attributes

if TYPE_CHECKING:
    from gasang.guest.closure import fetch_files, fetch_modules
    from gasang.guest.default import (
        APPEND,
        Guest,
        default_guest,
        default_initrd,
        drivers,
        fetch_bios,
        fetch_kernel,
        guest_for,
    )
    from gasang.guest.kernels import CLOUD_KERNEL, GENERIC_KERNEL
    from gasang.guest.packages import dependencies, fetch_package, fetch_with_dependencies
    from gasang.guest.root import root_filesystem

__all__ = [
    "APPEND",
    "CLOUD_KERNEL",
    "GENERIC_KERNEL",
    "Guest",
    "default_guest",
    "default_initrd",
    "dependencies",
    "drivers",
    "fetch_bios",
    "fetch_files",
    "fetch_kernel",
    "fetch_modules",
    "fetch_package",
    "fetch_with_dependencies",
    "guest_for",
    "root_filesystem",
]

__getattr__ = attributes(
    __name__,
    {
        "fetch_files": "closure",
        "fetch_modules": "closure",
        "APPEND": "default",
        "CLOUD_KERNEL": "kernels",
        "GENERIC_KERNEL": "kernels",
        "Guest": "default",
        "default_guest": "default",
        "default_initrd": "default",
        "drivers": "default",
        "fetch_bios": "default",
        "fetch_kernel": "default",
        "guest_for": "default",
        "dependencies": "packages",
        "fetch_package": "packages",
        "fetch_with_dependencies": "packages",
        "root_filesystem": "root",
    },
)
