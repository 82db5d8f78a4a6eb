"""What a machine lets one do with its network."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from gasang.config import Forward, MachineConfig
from gasang.errors import ConfigError

if TYPE_CHECKING:
    from gasang.guest.vsock_agent import VsockAgent
    from gasang.machine.agent_ports import AgentPorts
    from gasang.machine.ending import Ending
    from gasang.machine.network import UserNetwork
    from gasang.machine.pc import Pc

_LOCAL, _UNICAST = 0x02, 0xFE
_MAC_BYTES = 6
_making = threading.Lock()


class NetworkAccess:
    """A machine, as far as its network is concerned. Every method may be called from any thread."""

    config: MachineConfig
    _ending: Ending
    _vsock_agent: VsockAgent | None
    _exposing: UserNetwork | AgentPorts | None = None

    def expose(self, guest_port: int, host_port: int = 0, address: str = "127.0.0.1") -> str:
        """Take connections at a port of the host's, or one that is free, to a port of the guest's.

        By the network in user mode, or else by the guest's agent, which connects to 127.0.0.1 there: a guest
        may have ports and no network. Return where, such as "127.0.0.1:49152". Not part of a snapshot. Raises
        `ConfigError`.
        """
        forward = Forward(guest_port, host_port, address)
        return self._what_exposes().expose(guest_port, f"{forward.address}:{forward.host_port}")

    def unexpose(self, where: str) -> None:
        """Take no more connections at what `expose` returned. Raises `ConfigError`."""
        self._what_exposes().unexpose(where)

    def _what_exposes(self) -> UserNetwork | AgentPorts:
        """Raises `ConfigError`."""
        if self._exposing is not None:
            return self._exposing
        if self._vsock_agent is None:
            raise ConfigError(
                'this machine has no network with ports, and no agent behind vsock: boot it with net="user" '
                "(--net user)"
            )
        from gasang.machine.agent_ports import AgentPorts  # noqa: PLC0415 - rarely needed

        with _making:  # two threads at once
            if self._exposing is None:
                ports = self._exposing = AgentPorts(self._vsock_agent)
                self._ending.watch(lambda _: ports.close())
            return self._exposing

    def _plug_network(self, pc: Pc) -> None:
        """Plug a network device in, if there is to be one. Raises `ConfigError`."""
        if self.config.net is None:
            return
        mac = new_mac(self.config)
        if self.config.net.kind == "passt":
            from gasang.machine.passt import PasstNetwork  # noqa: PLC0415 - rarely needed

            pc.plug_network(PasstNetwork(self.config.net), mac)
        else:
            from gasang.machine.network import UserNetwork  # noqa: PLC0415 - rarely needed

            self._exposing = UserNetwork(self.config.net, mac)
            pc.plug_network(self._exposing, mac)


def new_mac(config: MachineConfig) -> bytes:
    """An address of no maker (IEEE 802: locally administered, of one); b"" for a machine without network."""
    if config.net is None:
        return b""
    first, *rest = os.urandom(_MAC_BYTES)
    return bytes([first & _UNICAST | _LOCAL, *rest])
