"""What a machine lets one do with its network."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gasang.config import Forward, MachineConfig
from gasang.errors import ConfigError

if TYPE_CHECKING:
    from gasang.machine.network import UserNetwork
    from gasang.machine.passt import PasstNetwork
    from gasang.machine.pc import Pc

_LOCAL, _UNICAST = 0x02, 0xFE
_MAC_BYTES = 6


class NetworkAccess:
    """A machine, as far as its network is concerned. Every method may be called from any thread."""

    config: MachineConfig
    _network: UserNetwork | PasstNetwork | None = None

    def expose(self, guest_port: int, host_port: int = 0, address: str = "127.0.0.1") -> str:
        """Take connections at a port of the host's, or one that is free, to a port of the guest's.

        Return where, such as "127.0.0.1:49152". Not part of a snapshot. Raises `ConfigError`.
        """
        forward = Forward(guest_port, host_port, address)
        return self._cable.expose(guest_port, f"{forward.address}:{forward.host_port}")

    def unexpose(self, where: str) -> None:
        """Take no more connections at what `expose` returned. Raises `ConfigError`."""
        self._cable.unexpose(where)

    @property
    def _cable(self) -> UserNetwork | PasstNetwork:
        if self._network is None:
            raise ConfigError('this machine has no network: boot it with net="user" (--net user)')
        return self._network

    def _plug_network(self, pc: Pc) -> None:
        """Plug a network device in, if there is to be one. Raises `ConfigError`."""
        if self.config.net is None:
            return
        mac = new_mac(self.config)
        if self.config.net.kind == "passt":
            from gasang.machine.passt import PasstNetwork  # noqa: PLC0415 - rarely needed

            self._network = PasstNetwork(self.config.net)
        else:
            from gasang.machine.network import UserNetwork  # noqa: PLC0415 - rarely needed

            self._network = UserNetwork(self.config.net, mac)
        pc.plug_network(self._network, mac)


def new_mac(config: MachineConfig) -> bytes:
    """An address of no maker (IEEE 802: locally administered, of one); b"" for a machine without network."""
    if config.net is None:
        return b""
    first, *rest = os.urandom(_MAC_BYTES)
    return bytes([first & _UNICAST | _LOCAL, *rest])
