"""A guest on a network in user mode; everybody else is on the host's loopback."""

import socket
import threading
from contextlib import closing

import pytest

from gasang import ConfigError, Machine
from gasang.config import Network

PATIENCE = 60


def server(serve):
    """A server on loopback, each connection by `serve`; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        with listener:
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def everything(connection):
    with closing(connection.makefile("rb")) as file:
        return file.read()


def echo(connection):
    with connection:
        connection.sendall(everything(connection)[::-1])


@pytest.fixture(scope="module")
def resolver():
    """A name server that knows where all names are: on the host, as the guest sees it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiving:
        receiving.bind(("127.0.0.1", 0))
        asked = []

        def serve():
            while True:
                try:
                    question, sender = receiving.recvfrom(512)
                except OSError:
                    return
                asked.append(question)
                reply = bytearray(question[: question.index(b"\0", 12) + 5])
                wants_address = reply[-3] == 1
                reply[2:12] = bytes([0x81, 0x80, 0, 1, 0, int(wants_address), 0, 0, 0, 0])
                if wants_address:
                    reply += b"\xc0\x0c\0\1\0\1\0\0\0\x09\0\4" + bytes([10, 0, 2, 2])
                receiving.sendto(reply, sender)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{receiving.getsockname()[1]}", asked


@pytest.fixture(scope="module")
def guest(resolver):
    network = Network(allow=("host", "*.example.org"), resolver=resolver[0])
    with Machine.boot(accel="bt", vsock=True, net=network) as machine:
        yield machine


def sh(guest, script, **options):
    return guest.run(script, timeout=PATIENCE, check=True, **options).stdout.decode()


def test_the_guest_knows_its_network_by_dhcp(guest):
    assert "inet 10.0.2.15/24" in sh(guest, "ip addr show eth0")
    assert "mtu 65520" in sh(guest, "ip link show eth0")
    assert "default via 10.0.2.2" in sh(guest, "ip route")
    assert sh(guest, "cat /etc/resolv.conf") == "nameserver 10.0.2.3\n"
    assert " 0% packet loss" in sh(guest, "ping -c 2 -W 20 10.0.2.2")


def test_the_guest_connects_to_the_host(guest):
    port = server(echo)
    said = bytes(range(256)) * 4096
    heard = guest.run(f"nc 10.0.2.2 {port}", input=said, timeout=PATIENCE, check=True).stdout
    assert heard == said[::-1]


def test_many_connections_at_a_time(guest):
    port = server(echo)
    script = f"for n in $(seq 40); do (echo $n | nc 10.0.2.2 {port}; echo) & done; wait"
    assert sorted(sh(guest, script).split()) == sorted(str(number)[::-1] for number in range(1, 41))


def test_who_is_not_allowed_is_refused(guest):
    refused = guest.run("nc -w 30 198.51.100.1 80", timeout=PATIENCE)
    assert (refused.returncode, b"refused" in refused.stderr) == (1, True)


def test_names_are_asked_for_as_rules_allow(guest, resolver):
    assert "Address: 10.0.2.2" in sh(guest, "nslookup -type=a www.example.org")
    before = len(resolver[1])
    assert b"REFUSED" in guest.run("nslookup -type=a example.com", timeout=PATIENCE).stdout
    assert len(resolver[1]) == before


def test_datagrams_pass(guest):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(PATIENCE)
        place = f"10.0.2.2 {peer.getsockname()[1]}"
        with guest.popen(f"tftp -g -r asked -l /tmp/answered {place} && cat /tmp/answered") as process:
            request, sender = peer.recvfrom(1000)
            assert request.startswith(b"\0\1asked\0octet\0")
            peer.sendto(b"\0\3\0\1" + b"an answer", sender)
            assert peer.recvfrom(1000)[0] == b"\0\4\0\1"
            assert process.stdout.read() == b"an answer"


def test_the_host_connects_to_the_guest(guest):
    where = guest.expose(80)
    with guest.popen("nc -l -p 80 -e cat"):
        sh(guest, "until netstat -ltn | grep -q :80; do sleep 0.1; done")
        host, port = where.split(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
            connection.sendall(b"x" * 100_000)
            connection.shutdown(socket.SHUT_WR)
            assert everything(connection) == b"x" * 100_000
    guest.unexpose(where)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))
    with pytest.raises(ConfigError, match="nothing of the guest"):
        guest.unexpose(where)


def test_a_port_that_is_taken_is_said(guest):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port} cannot be listened at for port 80"):
            guest.expose(80, port)


def test_a_clone_has_another_address_and_none_of_the_connections(guest):
    go_on = threading.Event()

    def hold(connection):
        with connection:
            connection.sendall(b"met\n")
            go_on.wait(PATIENCE)

    port = server(hold)
    # In a session of its own: a fork ends the connections of the agent, and with them its commands.
    held = f"nc 10.0.2.2 {port} </dev/null >/tmp/met; echo over >/tmp/over"
    sh(guest, f"setsid sh -c '{held}' >/dev/null 2>&1 & until grep -q met /tmp/met; do sleep 0.1; done")
    (clone,) = guest.fork()
    with clone:
        mac = "cat /sys/class/net/eth0/address"
        assert sh(clone, mac) != sh(guest, mac)
        sh(clone, "until [ -e /tmp/over ]; do sleep 0.1; done")
        assert sh(clone, f"echo dlrow | nc 10.0.2.2 {server(echo)}").strip() == "world"
    assert guest.run("[ -e /tmp/over ]", timeout=PATIENCE).returncode == 1, "the original goes on"
    go_on.set()
    sh(guest, "until [ -e /tmp/over ]; do sleep 0.1; done")


def test_without_a_network_nothing_is_exposed():
    with Machine.boot(accel="bt") as machine, pytest.raises(ConfigError, match="no network"):
        machine.expose(80)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--net", "tap"], "network 'tap' is not one of user"),
        (["--net", "user,allow=1.2.3"], "is not a rule"),
        (["--net", "user,x=1"], "no option 'x'"),
        (["--net", "user", "-p", "70000:1"], "a port is a number"),
        (["--net", "user", "-p", "80:80:80:80"], "is not HOST:GUEST"),
        (["-p", "8099:80", "--deterministic"], "a deterministic machine has no vsock"),
        (["--net", "user", "--deterministic"], "a deterministic machine has no network"),
    ],
)
def test_bad_networks_are_errors_of_one_line(gasang, words, said):
    done = gasang("run", "-q", *words, "--", "true")
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (125, b"", 1)
    assert said in done.stderr.decode()


def test_the_command_line_publishes_a_port(gasang):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = gasang("run", "-q", "--net", "user", "-p", f"{port}:80", "--", "true")
        assert (done.returncode, f"127.0.0.1:{port} cannot be listened at" in done.stderr.decode()) == (
            125,
            True,
        )
    answers = []

    def ask():
        while not answers:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
                    answers.extend(filter(None, [everything(connection)]))
            except OSError:
                pass

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    script = "echo served | nc -l -p 80"
    done = gasang("run", "-q", "--net", "user,allow=none", "-p", f"{port}:80", "--", "sh", "-c", script)
    assert done.returncode == 0
    asking.join(PATIENCE)
    assert answers == [b"served\n"]
