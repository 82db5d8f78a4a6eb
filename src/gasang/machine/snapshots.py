"""A machine as a file, and a file as a machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gasang
from gasang._engine import digest_of_image
from gasang.config import Accelerator, Folder, Network
from gasang.errors import ConfigError, SnapshotError
from gasang.machine.machine import Machine
from gasang.machine.saved import SavedMachine, config_of, state_of_config
from gasang.snapshot import Snapshot, write


def save(machine: Machine, path: str | Path) -> None:
    """Write a machine to a file; it stands still meanwhile. Raises `SnapshotError`."""
    with machine.standing_still() as still:
        state = {
            "gasang": gasang.__version__,
            "config": state_of_config(machine.config),
            **still.state(),
        }
        write(path, state, machine.config.memory, still.write_memory)


def restore(
    path: str | Path,
    *,
    accel: Accelerator | None,
    hostname: str | None,
    net: Network | None,
    folders: Sequence[Folder] | None,
) -> Machine:
    """A machine that goes on where the one in the file was. Raises `SnapshotError`, `ConfigError`."""
    with Snapshot.open(path) as snapshot:
        try:
            return _machine(snapshot, accel, hostname, net, folders)
        except SnapshotError as error:
            raise SnapshotError(f"snapshot {path}: {error}") from error
        except ConfigError as error:
            raise SnapshotError(f"snapshot {path}: of a machine that cannot be had here: {error}") from error


def check(snapshot: Snapshot) -> bool:
    """Read all of RAM: whether it is what was written."""
    return digest_of_image(snapshot.descriptor, snapshot.ram, snapshot.ram_length) == snapshot.ram_digest


def _machine(
    snapshot: Snapshot,
    accel: Accelerator | None,
    hostname: str | None,
    net: Network | None,
    folders: Sequence[Folder] | None,
) -> Machine:
    config = config_of(_part(snapshot, "config"))
    if accel is not None:
        config = replace(config, accel=accel)
    if net is not None:
        if config.net is None:
            raise SnapshotError("the machine had no network, and cannot have one now")
        config = replace(config, net=net)
    if folders is not None:
        if len(folders) != len(config.folders):
            raise SnapshotError(f"the machine had {len(config.folders)} folders, not {len(folders)}")
        for had, has in zip(config.folders, folders, strict=True):
            if had.kind != has.kind:
                raise SnapshotError(
                    f"folder {has.host}: the machine had one by {had.kind} there, not by {has.kind}"
                )
        config = replace(config, folders=tuple(folders))
    if config.memory != snapshot.ram_length:
        raise SnapshotError(f"{snapshot.ram_length} bytes of RAM for a machine of {config.memory}")
    return Machine(config, SavedMachine(snapshot.state, (snapshot.descriptor, snapshot.ram), hostname))


def _part(snapshot: Snapshot, name: str) -> dict[str, Any]:
    part = snapshot.state.get(name)
    if not isinstance(part, dict):
        raise SnapshotError(f"damaged: it has no {name}")
    return part
