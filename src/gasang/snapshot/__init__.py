"""Snapshots as files."""

from gasang.snapshot.file import FORMAT, Snapshot, write

__all__ = ["FORMAT", "Snapshot", "write"]
