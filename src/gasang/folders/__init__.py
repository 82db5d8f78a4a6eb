"""Folders of the host as file systems of the guest."""

from gasang.folders.fuse import FuseServer
from gasang.folders.plan9 import Plan9Server
from gasang.folders.shared import SharedFolder

__all__ = ["FuseServer", "Plan9Server", "SharedFolder"]
