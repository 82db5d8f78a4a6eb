"""Which of Debian's kernels the default guest has."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gasang.config import MachineConfig

CLOUD_KERNEL = "linux-image-cloud-amd64"
GENERIC_KERNEL = "linux-image-amd64"


def kernel_package(config: MachineConfig) -> str:
    """The package of the default guest's kernel: the cloud's, which boots sooner, if that has the drivers."""
    return GENERIC_KERNEL if any(each.kind == "9p" for each in config.folders) else CLOUD_KERNEL
