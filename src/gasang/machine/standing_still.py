"""A machine that stands still: what it leaves behind for others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from gasang._engine import EngineError
from gasang.config import MachineConfig
from gasang.errors import SnapshotError
from gasang.machine.pc import Pc
from gasang.machine.saved import identities
from gasang.machine.serial_ports import SerialPorts


class StandingStill:
    """A machine whose processors are outside of the guest, with idle devices, and without time."""

    def __init__(self, pc: Pc, ports: SerialPorts, config: MachineConfig, protocol: str) -> None:
        self._pc = pc
        self._ports = ports
        self._config = config
        self._protocol = protocol

    def state(self) -> dict[str, Any]:
        """All but RAM, in values that JSON has. Raises `SnapshotError`."""
        try:
            return {
                "date": datetime.now(UTC).isoformat(),
                "protocol": self._protocol,
                "machine": self._pc.state(),
                "ports": self._ports.state(),
                "drives": identities(self._config),
            }
        except (EngineError, OSError) as error:
            raise SnapshotError(f"this machine cannot be saved: {error}") from error

    def write_memory(self, descriptor: int, offset: int) -> tuple[int, int]:
        """Write RAM to holes of a file; what tells it from others. Raises `SnapshotError`."""
        try:
            return self._pc.vm.write_memory_image(descriptor, offset)
        except EngineError as error:
            raise SnapshotError(str(error)) from error

    @contextmanager
    def frozen_memory(self) -> Iterator[int]:
        """The descriptor of a file that has RAM as it is now. Raises `SnapshotError`."""
        try:
            descriptor = self._pc.vm.freeze_memory()
        except EngineError as error:
            raise SnapshotError(str(error)) from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)
