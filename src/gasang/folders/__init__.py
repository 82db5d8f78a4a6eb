"""Folders of the host as file systems of the guest."""

from gasang.folders.server import FolderServer

__all__ = ["FolderServer"]
