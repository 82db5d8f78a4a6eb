"""What a machine leaves behind for another that goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from gasang._engine import cpu_features
from gasang.config import Drive, Folder, MachineConfig, Network, RootFilesystem
from gasang.errors import SnapshotError

_NOT_SAVED = frozenset(
    {"initrd", "modules", "profile", "trace_blocks", "trace_exits", "trace_vmx", "perf_map"}
)
"""What of a configuration concerns the boot, or whoever watches."""


class SavedMachine(NamedTuple):
    """`state` is what `StandingStill.state` returned; RAM is in a file, at an offset."""

    state: Mapping[str, Any]
    memory_image: tuple[int, int]
    hostname: str | None = None
    """What the guest is to be called; None makes a name."""

    @property
    def seconds(self) -> float:
        """How much time has passed since, of which the guest knows nothing."""
        try:
            saved = datetime.fromisoformat(self.state["date"])
            return max((datetime.now(UTC) - saved).total_seconds(), 0.0)
        except (KeyError, TypeError, ValueError) as error:
            raise SnapshotError(f"its date is none: {error!r}") from error

    def processor(self, model: str) -> str:
        """A CPU model without what the processors did not have. Raises `SnapshotError`.

        Another accelerator or host may offer more, but the guest knows what they had.
        """
        try:
            had = frozenset(self.state["machine"]["engine"]["features"])
        except (KeyError, TypeError) as error:
            raise SnapshotError(f"its processors are none: {error!r}") from error
        return ",".join([model, *(f"-{name}" for name in cpu_features() if name not in had)])


def state_of_config(config: MachineConfig) -> dict[str, Any]:
    """A configuration in values that JSON has."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    values = {name: value for name, value in values.items() if name not in _NOT_SAVED}
    drives = [{**asdict(drive), "path": os.path.abspath(drive.path)} for drive in config.drives]
    date = None if config.date is None else config.date.isoformat()
    folders = [{**asdict(each), "host": os.path.abspath(each.host)} for each in config.folders]
    net = None if config.net is None else asdict(config.net)
    rootfs = config.rootfs
    root = None if rootfs is None else {**asdict(rootfs), "path": os.path.abspath(rootfs.path)}
    return {
        **values,
        "kernel": None if config.kernel is None else str(config.kernel),
        "bios": None if config.bios is None else str(config.bios),
        "drives": drives,
        "date": date,
        "net": net,
        "folders": folders,
        "rootfs": root,
    }


def config_of(state: Mapping[str, Any]) -> MachineConfig:
    """The configuration again. Raises `SnapshotError` for what is none, `ConfigError`."""
    try:
        drives = tuple(Drive(**{**drive, "path": Path(drive["path"])}) for drive in state["drives"])
        date = None if state["date"] is None else datetime.fromisoformat(state["date"])
        net = state["net"]
        if net is not None:
            net = Network(**{**net, "allow": tuple(net["allow"])})
        paths = {name: None if state[name] is None else Path(state[name]) for name in ("kernel", "bios")}
        changed = {**paths, "drives": drives, "date": date, "net": net}
        changed["folders"] = tuple(
            Folder(**{**each, "host": Path(each["host"])}) for each in state["folders"]
        )
        changed["rootfs"] = _rootfs_of(state["rootfs"])
        return MachineConfig(
            **{**state, **changed, "symbols": tuple(state["symbols"]), "ports": tuple(state["ports"])}
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise SnapshotError(f"its configuration is none: {error!r}") from error
    except ValueError as error:
        raise SnapshotError(f"its configuration is none: {error}") from error


def _rootfs_of(state: dict[str, Any] | None) -> RootFilesystem | None:
    if state is None:
        return None
    words = {name: tuple(state[name]) for name in ("env", "command")}
    return RootFilesystem(**{**state, **words, "path": Path(state["path"])})


def identities(config: MachineConfig) -> list[dict[str, Any]]:
    """What tells the content of each drive from another: the file's size and time of change."""
    found = []
    for drive in config.all_drives:
        status = os.stat(drive.path)
        found.append({"size": status.st_size, "changed": status.st_mtime_ns})
    return found


def check_clonable(config: MachineConfig) -> None:
    """Raises `SnapshotError` for a machine whose clones would write one disk."""
    if any(not drive.readonly for drive in config.drives):
        raise SnapshotError("a machine that may write its drives cannot be forked: let them be readonly")


def check_drives(config: MachineConfig, known: object) -> None:
    """Raises `SnapshotError` if a drive has changed since, or is gone."""
    if not isinstance(known, list) or len(known) != len(config.all_drives):
        raise SnapshotError("it does not say what its drives were")
    try:
        now = identities(config)
    except OSError as error:
        raise SnapshotError(f"drive {error.filename}: {error.strerror}") from error
    for drive, before, after in zip(config.all_drives, known, now, strict=True):
        if before != after:
            raise SnapshotError(f"drive {drive.path} has changed since: a snapshot has no copy of disks")
