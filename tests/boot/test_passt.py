"""passt as the guest's network: it is Debian's, and needs no root."""

import os
import shutil
import socket
import threading
from pathlib import Path

import pytest

from gasang import ConfigError, Machine

needs_passt = pytest.mark.skipif(
    shutil.which("passt") is None, reason="passt is not installed (Debian: passt)"
)


def children():
    """The names of our processes' children."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition("(")[2].rpartition(") ")
        except OSError:
            continue
        if int(rest.split()[1]) == os.getpid():
            found.append(name)
    return found


def server(serve):
    """A port of the host's loopback whose one connection `serve` has."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        with listener, listener.accept()[0] as connection:
            serve(connection)

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


@needs_passt
def test_a_guest_reaches_the_hosts_loopback():
    """The end of a connection is passt's to tell, and not what is tested here."""
    data, received, over = os.urandom(1 << 20), bytearray(), threading.Event()

    def take(connection):
        while len(received) < len(data):
            received.extend(connection.recv(1 << 16))
        over.set()

    def give(connection):
        connection.sendall(data)
        over.wait()

    gateway = "$(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p')"
    with Machine.boot(net="passt", vsock=True, accel="bt") as vm:
        vm.write("/tmp/data", data)
        with vm.popen(f"(cat /tmp/data; sleep 1000) | nc {gateway} {server(take)}"):
            assert over.wait(60)
        assert received == data
        over.clear()
        with vm.popen(f"sleep 1000 | nc {gateway} {server(give)}") as process:
            assert process.stdout.read(len(data)) == data
            over.set()


@needs_passt
def test_it_ends_with_its_machine():
    before = children()
    with Machine.boot(net="passt", vsock=True, accel="bt") as vm:
        vm.run("true")
        assert len(children()) == len(before) + 1
        with vm.fork()[0] as clone:
            assert clone.run("ip link show eth0 | grep -c UP").stdout == b"1\n"
    assert children() == before


@needs_passt
def test_ports_are_the_agents_business():
    with Machine.boot(net="passt", accel="bt") as vm, pytest.raises(ConfigError, match="no agent"):
        vm.expose(80)
    with Machine.boot(net="passt", accel="bt", vsock=True) as vm:
        host, port = vm.expose(7777).split(":")
        server = vm.popen("nc -l -p 7777 -e cat")
        vm.run("until netstat -ltn | grep -q :7777; do sleep 0.1; done", timeout=60, check=True)
        with socket.create_connection((host, int(port)), 60) as connection:
            connection.sendall(b"around")
            assert connection.recv(100) == b"around"
        server.close()


def test_without_passt_there_is_a_clear_error(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="passt is not installed: install the package passt"):
        Machine.boot(net="passt", kernel="/dev/null")


def test_it_takes_no_rules():
    with pytest.raises(ConfigError, match="passt knows no rules"):
        Machine.boot(net="passt,allow=any", kernel="/dev/null")
