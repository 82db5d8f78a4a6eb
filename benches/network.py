"""A guest's TCP to its host and back, beside QEMU with the same device and its own network in user mode."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from boot import PROMPT
from console import Console
from device_guest import guest_with
from figures import Figure, ratios
from peers import GASANG, NATIVE, QEMU, Guest, command
from request import Findings, Request

_TIMEOUT = 300.0
_MIB = 512
_CHUNK = 1 << 20

SECONDS_FOR_A_GIGABIT = 1.0
OVER_QEMU = 0.5
"""Of QEMU's time."""


def measure(request: Request) -> Findings:
    """Boot each peer once a round. Raises `BenchmarkError`."""
    peers = [peer for peer in request.peers if peer != NATIVE]
    ways = ("to the host", "to the guest")
    times: dict[tuple[str, str], list[float]] = {(peer, way): [] for peer in peers for way in ways}
    with guest_with("net", ["virtio-net"]) as guest, _host() as port:
        for _ in range(request.rounds):
            for peer in peers:
                for way, megabytes in zip(ways, _run(peer, guest, port), strict=True):
                    times[peer, way].append(125 / megabytes)
    figures = []
    for (peer, way), seconds in times.items():
        bar = SECONDS_FOR_A_GIGABIT if peer == GASANG else None
        figures.append(Figure.of(f"network: {peer}: a gigabit {way}", "s", seconds, bar))
        if peer == GASANG and (QEMU, way) in times:
            compared = ratios(seconds, times[QEMU, way])
            figures.append(Figure.of(f"network: {way}, over QEMU's", "times", compared, OVER_QEMU))
    return Findings(figures=figures)


@contextmanager
def _host() -> Iterator[int]:
    """A server on loopback that takes all that comes, and then sends as much; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    room = bytearray(_CHUNK)
                    while connection.recv_into(room):
                        pass
                    connection.sendall(b"!")
                    for _ in range(_MIB):
                        connection.sendall(room)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def _run(peer: str, guest: Guest, port: int) -> tuple[float, float]:
    """Megabytes a second to the host, and from it."""
    with Console([*command(peer, guest), *_network(peer)]) as console:
        console.expect(PROMPT, _TIMEOUT)
        console.send(f"net {port} {_MIB}")
        found = console.expect(r"speed ([0-9]+) ([0-9]+)\r?\n", _TIMEOUT)
        return float(found[1]), float(found[2])


def _network(peer: str) -> list[str]:
    if peer == GASANG:
        return ["--net", "user,allow=host"]
    return ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,disable-legacy=on,romfile="]
