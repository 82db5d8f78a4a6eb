"""Machines as files: `save` and `restore`, which `Machine.snapshot` and `Machine.restore` call."""

from gasang.snapshot.file import FORMAT, Snapshot
from gasang.snapshot.machine_file import restore, save

__all__ = ["FORMAT", "Snapshot", "restore", "save"]
