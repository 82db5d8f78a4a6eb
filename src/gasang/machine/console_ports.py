"""The ports of a machine's virtio console, by name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from gasang.device import Saved
from gasang.errors import ConfigError
from gasang.machine.channel import Channel
from gasang.machine.outcome import Outcome
from gasang.virtio.console import ConsoleDevice

CONSOLE = "hvc0"
"""The first port, as Linux calls it."""


class ConsolePorts:
    """A channel for each port, and the device behind them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.device = ConsoleDevice(names, self._deliver)
        self._channels = [
            Channel(name, partial(self.device.offer, port)) for port, name in enumerate((CONSOLE, *names))
        ]
        self._by_name = dict(zip((CONSOLE, *names), self._channels, strict=True))

    def find(self, name: str) -> Channel:
        """The port with that name. Raises `ConfigError`."""
        if name not in self._by_name:
            raise ConfigError(f"this machine has no port {name!r}: it has {', '.join(self._by_name)}")
        return self._by_name[name]

    def state(self) -> list[Saved]:
        """What is volatile of the channels."""
        return [channel.state() for channel in self._channels]

    def set_state(self, states: list[Saved]) -> None:
        """Have that. Raises `ValueError`."""
        for channel, state in zip(self._channels, states, strict=True):
            channel.set_state(state)

    def close(self, outcome: Outcome) -> None:
        """The machine has ended."""
        for channel in self._channels:
            channel.close(outcome.reason, "")

    def _deliver(self, port: int, data: bytes) -> None:
        self._channels[port].deliver(data)
