"""The default guest, booted once and kept as a snapshot: commands begin in it, and not at its boot."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import gasang
from gasang.cli.report import complain
from gasang.config import MachineConfig
from gasang.errors import GasangError, SnapshotError
from gasang.guest.cache import cache_directory
from gasang.guest.kernels import kernel_package
from gasang.guest.mending import mend
from gasang.machine import Machine
from gasang.machine.accelerator import choose

if TYPE_CHECKING:
    from gasang.guest.packages import Progress

_KEPT = 4
"""Snapshots of other machines that are kept: those used last."""

_UP_SECONDS = 300.0
_HOSTNAME = "gasang"
_REHEARSALS = 2
_LIKE_A_COMMAND = "true | cat"
_COMMANDS_ONLY = "GASANG_SHELL=no"


def warm_machine(config: MachineConfig, progress: Progress | None) -> Machine:
    """The default guest as `config` asks for it, up and with its agent behind vsock.

    From a snapshot, if there is one of such a machine; otherwise it boots, and leaves one behind. Raises as
    `Machine` does, and `GuestTimeout`.
    """
    config = replace(config, vsock=True)
    path = cache_directory() / "warm" / f"{_key(config)}.snap"
    if path.exists():
        with suppress(SnapshotError):  # of another host's processor, or damaged: another takes its place
            machine = _restored(path, config)
            os.utime(path)
            return machine
    return _booted(config, path, progress)


def _restored(path: Path, config: MachineConfig) -> Machine:
    return Machine.restore(path, hostname=_HOSTNAME, net=config.net, folders=config.folders)


def _booted(config: MachineConfig, path: Path, progress: Progress | None) -> Machine:
    from gasang.guest import guest_for  # noqa: PLC0415 - slow to load, and not always needed

    guest = guest_for(config, progress)
    append = f"{guest.append} {_COMMANDS_ONLY}"
    config = replace(config, kernel=guest.kernel, initrd=guest.initrd, append=append)
    # What is mounted cannot be saved: folders are mounted in the machine that goes on from the snapshot.
    unmounted = tuple(replace(each, guest="") for each in config.folders)
    machine = Machine(replace(config, folders=unmounted))
    try:
        saved = _save(machine, path)
    except BaseException:
        machine.stop()
        raise
    if not config.folders:
        return machine
    machine.stop()
    return _restored(path, config) if saved else Machine(config)


def _save(machine: Machine, path: Path) -> bool:
    """Leave a snapshot of a guest behind, once it is up; whether there is one."""
    machine.vsock_agent.wait_ready(_UP_SECONDS)
    _rehearse(machine)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        machine.snapshot(path)
        _forget_others(path)
    except (SnapshotError, OSError) as error:
        complain(f"there is no snapshot to begin with next time: {error}")
        return False
    return True


def _rehearse(machine: Machine) -> None:
    """Do what each command begins with, and something like one: what these need is in the guest's memory
    then, and not fetched there by every machine that goes on from here."""
    with suppress(GasangError):  # A guest that can do no such thing goes on without.
        for _ in range(_REHEARSALS):
            mend(machine.vsock_agent, None, _HOSTNAME)
            machine.run(_LIKE_A_COMMAND)


def _forget_others(path: Path) -> None:
    """Remove all snapshots but the one and those that were used last."""
    others = [each for each in path.parent.glob("*.snap") if each != path]
    others.sort(key=lambda each: each.stat().st_mtime_ns, reverse=True)
    for each in others[_KEPT - 1 :]:
        each.unlink(missing_ok=True)


def _key(config: MachineConfig) -> str:
    """Tells machines apart whose snapshots are not each other's, and the parts that they were made of."""
    package = Path(gasang.__file__).parent
    parts = sorted([*package.glob("_engine.*.so"), *(package / "guest").glob("[!_]*")])
    parts += [
        cache_directory() / "guest" / kernel_package(config),
        cache_directory() / "guest" / "busybox-static",
    ]
    machine = {
        "memory": config.memory,
        "cpus": config.cpus,
        "cpu": config.cpu,
        "rng": config.rng,
        "balloon": config.balloon,
        "net": config.net is not None,
        "transport": config.transport,
        "folders": [each.kind for each in config.folders],
        "rootfs": None if config.rootfs is None else _identity(config.rootfs.path),
        "accel": choose(config).name,
        "irqchip": config.irqchip,
        "switchable": config.switchable,
        "parts": [_identity(part) for part in parts],
    }
    return hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:32]


def _identity(part: Path) -> tuple[str, int, int]:
    try:
        status = part.stat()
    except OSError:
        return str(part), 0, 0
    return str(part), 0 if part.is_dir() else status.st_size, status.st_mtime_ns
