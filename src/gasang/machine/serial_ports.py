"""The machine's four serial ports: the console, and three that the guest's agent speaks through."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from gasang.device import Saved
from gasang.errors import MachineDied
from gasang.machine.channel import Channel
from gasang.machine.outcome import Outcome, judge

if TYPE_CHECKING:
    from gasang.guest.agent import Agent

_NAMES = ("ttyS0", "ttyS1", "ttyS2", "ttyS3")
_JUDGED = 1 << 16
"""How far back the console is searched for a panic, in bytes."""


class SerialPorts:
    """`offer(index, data)` hands bytes to a port of the engine and returns how many it took.

    A deterministic machine has a `seed`; its agent is there from the start.
    """

    def __init__(self, offer: Callable[[int, bytes], int], seed: int | None) -> None:
        self.channels = tuple(Channel(name, partial(offer, index)) for index, name in enumerate(_NAMES))
        self._seed = seed
        self._agent: Agent | None = None
        self._death: MachineDied | None = None
        if seed is not None:
            _ = self.agent

    @property
    def console(self) -> Channel:
        return self.channels[0]

    @property
    def agent(self) -> Agent:
        """The guest agent's client, made when first asked for: from then on the other ports are its own."""
        if self._agent is None:
            from gasang.guest.agent import Agent  # noqa: PLC0415 - guest is above machine

            agent = self._agent = Agent(lambda port, data: self.channels[port].write(data), self._seed)
            for index in range(1, len(self.channels)):
                self.channels[index].listen(partial(agent.receive, index))
            if self._death is not None:
                agent.close(self._death)
        return self._agent

    def state(self) -> Saved:
        """What is volatile of the channels and the agent's client. Raises `SnapshotError` if it is busy."""
        agent = None if self._agent is None else self._agent.state()
        return {"channels": [channel.state() for channel in self.channels], "agent": agent}

    def set_state(self, state: Saved) -> None:
        """Have that. Raises `ValueError`, `KeyError`, `TypeError`."""
        for channel, saved in zip(self.channels, state["channels"], strict=True):
            channel.set_state(saved)
        if state["agent"] is not None:
            self.agent.set_state(state["agent"])

    @property
    def agent_is_up(self) -> bool:
        """The guest's half has reported, whether anybody has looked or not."""
        if self._agent is not None:
            return self._agent.ready
        return self.channels[1].has_unread(b"ready")

    def until_answered(self) -> None:
        """Wait while the guest's agent waits for us."""
        if self._agent is not None:
            self._agent.until_answered()

    def deliver(self, index: int, data: bytes) -> None:
        """What the guest sent through port `index`."""
        self.channels[index].deliver(data)

    def judge(self, outcome: Outcome) -> Outcome:
        """`outcome` in the light of what the console says."""
        return judge(outcome, self.console.log[-_JUDGED:].decode(errors="replace"))

    def close(self, outcome: Outcome) -> None:
        """The machine has ended: every call that waits for a port raises `MachineDied`."""
        self._death = MachineDied(outcome.reason, self.console.tail())
        for channel in self.channels:
            channel.close(self._death.reason, self._death.console_tail)
        if self._agent is not None:
            self._agent.close(self._death)
