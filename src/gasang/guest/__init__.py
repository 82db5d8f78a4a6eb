"""The default guest, and the packages that guests are made of."""

from gasang.guest.closure import fetch_files, fetch_modules
from gasang.guest.default import (
    APPEND,
    CLOUD_KERNEL,
    GENERIC_KERNEL,
    Guest,
    default_guest,
    default_initrd,
    drivers,
    fetch_kernel,
)
from gasang.guest.packages import dependencies, fetch_package, fetch_with_dependencies

__all__ = [
    "APPEND",
    "CLOUD_KERNEL",
    "GENERIC_KERNEL",
    "Guest",
    "default_guest",
    "default_initrd",
    "dependencies",
    "drivers",
    "fetch_files",
    "fetch_kernel",
    "fetch_modules",
    "fetch_package",
    "fetch_with_dependencies",
]
