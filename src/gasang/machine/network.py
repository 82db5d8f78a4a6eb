"""The network in user mode as a network device's cable, and connections of the host's to the guest."""

from __future__ import annotations

import secrets
from pathlib import Path

from gasang._engine import Network as Engine
from gasang.config import Network
from gasang.device import Saved
from gasang.errors import ConfigError

_RESOLVER_FILE = Path("/etc/resolv.conf")
_DNS_PORT = 53


class UserNetwork:
    """A network of the guest's own: router, DHCP server and name server, and behind them what is allowed."""

    checks = False

    def __init__(self, network: Network, mac: bytes) -> None:
        """Raises `ConfigError`."""
        try:
            resolver = network.resolver or _resolver()
            self._engine = Engine(list(network.allow), mac, resolver, secrets.randbits(64))
        except (ValueError, OSError) as error:
            raise ConfigError(f"no network: {error}") from error

    @property
    def descriptor(self) -> int:
        """The engine's."""
        return self._engine.descriptor

    def take(self, frame: bytes) -> bool:
        """A frame of the guest's."""
        return self._engine.take(frame)

    def exchange(self) -> bool:
        """Do what there is to do with the host's sockets."""
        return self._engine.run()

    def give(self) -> bytes | None:
        """A frame for the guest."""
        return self._engine.give()

    def set_mac(self, mac: bytes) -> None:
        """The guest has another address."""
        self._engine.set_mac(mac)

    def expose(self, guest_port: int, address: str) -> str:
        """Take connections at `address` to a port of the guest's; return where. Raises `ConfigError`."""
        try:
            return self._engine.forward(address, guest_port)
        except ConnectionError:
            raise ConfigError("the machine has ended") from None
        except (OSError, ValueError, OverflowError) as error:
            what = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise ConfigError(f"{address} cannot be listened at for port {guest_port}: {what}") from error

    def unexpose(self, address: str) -> None:
        """Take no more connections there. Raises `ConfigError` if none were taken."""
        try:
            known = self._engine.stop_forward(address)
        except (OSError, ValueError):
            known = False
        if not known:
            raise ConfigError(f"nothing of the guest is exposed at {address}")

    def state(self) -> Saved:
        """Open connections, which the next network breaks."""
        return {"connections": self._engine.connections()}

    def set_state(self, state: Saved) -> None:
        """Break the connections that there were."""
        self._engine.break_off([(port, bytes(peer), *rest) for port, peer, *rest in state["connections"]])

    def close(self) -> None:
        """Close every socket."""
        self._engine.close()


def _resolver() -> str | None:
    """The host's first name server with an IPv4 address (resolv.conf(5)), as ADDRESS:PORT."""
    try:
        lines = _RESOLVER_FILE.read_text(errors="replace").splitlines()
    except OSError:
        return None
    servers = [words[1] for words in map(str.split, lines) if words[:1] == ["nameserver"] and len(words) > 1]
    return next((f"{server}:{_DNS_PORT}" for server in servers if ":" not in server), None)
