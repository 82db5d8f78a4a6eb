"""A virtio console and its ports in the default guest."""

import pytest

from gasang import ConfigError, Machine


@pytest.fixture(scope="module")
def vm():
    with Machine.boot(ports=["org.example.one", "two"], vsock=True, accel="bt") as vm:
        vm.run("true")
        yield vm


def test_ports_have_their_names(vm):
    listing = vm.run("ls /dev/virtio-ports; ls -l /dev/hvc0 | cut -c1", check=True).stdout.decode().split()
    assert listing == ["org.example.one", "two", "c"]


def test_bytes_pass_whole_both_ways(vm):
    data = bytes(range(256)) * 4000
    port = vm.port("two")
    with vm.popen(f"head -c {len(data)} /dev/virtio-ports/two | md5sum") as process:
        port.write(data)
        assert process.stdout.read() == vm.run("md5sum", input=data).stdout
    vm.run("cat >/dev/virtio-ports/two", input=data, check=True)
    received = b""
    while len(received) < len(data):
        received += port.read(timeout=60)
    assert received == data


def test_the_console_is_one(vm):
    vm.run("echo hello >/dev/hvc0", check=True)
    vm.port("hvc0").expect("hello")


def test_clones_have_ports_of_their_own(vm):
    with vm.fork()[0] as clone:
        clone.run("echo from the clone >/dev/virtio-ports/org.example.one", check=True)
        clone.port("org.example.one").expect("from the clone")
        with clone.popen("head -n 1 /dev/virtio-ports/org.example.one") as process:
            clone.port("org.example.one").write("to the clone\n")
            assert process.stdout.read() == b"to the clone\n"
    assert not vm.port("org.example.one").has_unread(b"clone")


def test_a_port_that_is_not_there_is_told(vm):
    with pytest.raises(ConfigError, match=r"no port 'three': it has hvc0, org.example.one, two"):
        vm.port("three")
    for names, message in (
        (["a b"], "a name has letters"),
        (["a", "a"], "a name of its own"),
        (["hvc0"], "its own"),
    ):
        with pytest.raises(ConfigError, match=message):
            Machine.boot(ports=names)
