"""The device by which a guest has a folder of the host."""

from __future__ import annotations

from gasang.config import Folder
from gasang.folders import FuseServer, Plan9Server, SharedFolder
from gasang.virtio import FsDevice, Plan9Device


def folder_device(tag: str, folder: Folder) -> FsDevice | Plan9Device:
    """A device of the folder's kind, which the guest mounts by its tag. Raises `ConfigError`."""
    shared = SharedFolder(folder.host, readonly=folder.readonly)
    if folder.kind == "9p":
        return Plan9Device(tag, Plan9Server(shared))
    return FsDevice(tag, FuseServer(shared))
