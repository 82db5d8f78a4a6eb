"""The agent behind vsock, in the default guest."""

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from gasang import Machine
from gasang.errors import (
    ConfigError,
    GuestAgentError,
    GuestCommandFailed,
    GuestFileError,
    GuestTimeout,
    MachineDied,
)
from gasang.guest.guest_command import Request
from gasang.guest.protocol import Frames, Kind


@pytest.fixture(scope="module")
def vm():
    with Machine.boot(accel="bt", vsock=True) as machine:
        machine.vsock_agent.wait_ready(60)
        yield machine


def test_a_command_gives_code_and_both_streams(vm):
    done = vm.run("echo out; echo err >&2; exit 3", timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    with pytest.raises(GuestCommandFailed):
        vm.run("false", check=True)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        ("exit 255", 255),
        ("kill -TERM $$", 128 + signal.SIGTERM),
        (["no-such-program"], 127),
        (["/etc/passwd"], 126),
        (["/tmp"], 126),
    ],
)
def test_exit_codes(vm, command, code):
    assert vm.run(command, timeout=30).returncode == code


def test_environment_directory_and_user(vm):
    vm.run("grep -q ^guest: /etc/passwd || echo guest:x:1000:1000::/tmp:/bin/sh >>/etc/passwd", check=True)
    done = vm.run("id -u; id -g; pwd; echo $HOME $A", env={"A": "b c"}, cwd="/usr", user="guest", timeout=30)
    assert done.stdout == b"1000\n1000\n/usr\n/tmp b c\n"
    nobody = vm.run("true", user="nobody-here", timeout=30)
    assert (nobody.returncode, b"no user nobody-here" in nobody.stderr) == (126, True)
    nowhere = vm.run("true", cwd="/no/where", timeout=30)
    assert (nowhere.returncode, b"cannot enter /no/where" in nowhere.stderr) == (126, True)


def test_commands_do_not_inherit_ignored_signals(vm):
    done = vm.run(["grep", "-E", "SigIgn|SigBlk", "/proc/self/status"], timeout=30)
    assert [int(line.split()[1], 16) for line in done.stdout.splitlines()] == [0, 0]


def test_a_hundred_commands_at_a_time(vm):
    with ThreadPoolExecutor(100) as pool:
        results = list(pool.map(lambda n: vm.run(f"sleep 0.2; echo {n}; exit {n}", timeout=120), range(100)))
    assert [each.returncode for each in results] == list(range(100))
    assert [each.stdout for each in results] == [b"%d\n" % n for n in range(100)]


def test_ten_megabytes_pass_intact(vm):
    data = os.urandom(10 << 20)
    assert vm.run(["cat"], input=data, timeout=120).stdout == data


def test_input_that_nobody_reads_holds_nothing_up(vm):
    assert vm.run("exec sleep 0.1", input=b"x" * (4 << 20), timeout=30).returncode == 0
    assert vm.run("exec <&-; sleep 0.1; echo ok", input=b"x" * (4 << 20), timeout=30).stdout == b"ok\n"


def test_a_timeout_kills_the_session_and_keeps_the_output(vm):
    script = "echo begun; sh -c 'sleep 7654' & sleep 7654"
    with pytest.raises(GuestTimeout, match="within 1 seconds") as caught:
        vm.run(script, timeout=1)
    assert caught.value.stdout == b"begun\n"
    assert b"sleep 7654" not in vm.run(["ps"], timeout=30).stdout
    assert vm.vsock_agent.processes() == []


def test_a_caller_that_is_gone_before_the_first_word_leaves_no_command(vm):
    for _ in range(20):
        frames = Frames(vm.vsock_agent.connect())
        frames.send(Kind.RUN, Request(command="sleep 8765").pack())
        frames.close()
    deadline = time.monotonic() + 60
    while b"sleep 8765" in vm.run(["ps"], timeout=60).stdout:
        assert time.monotonic() < deadline
    assert vm.vsock_agent.processes() == []


def test_a_process_that_leaves_the_session_does_not_hold_a_timeout(vm):
    start = time.monotonic()
    with pytest.raises(GuestTimeout):
        vm.run("setsid sleep 30 & sleep 30", timeout=1)
    assert time.monotonic() - start < 15
    vm.run(["killall", "sleep"], timeout=30)


def test_a_command_as_an_object(vm):
    with vm.popen("read a; echo $a; echo e >&2; read b; exit 5") as process:
        process.stdin.write(b"one\n")
        assert process.stdout.readline() == b"one\n"
        assert process.stderr.readline() == b"e\n"
        assert process.poll() is None
        assert [each.process for each in vm.vsock_agent.processes()] == [process.pid]
        process.stdin.close()
        assert process.wait(30) == 5
        assert process.stdout.read() == b""


def test_a_signal_ends_a_command(vm):
    with vm.popen(["sleep", "1000"]) as process:
        with pytest.raises(GuestTimeout):
            process.wait(0.1)
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM


def test_a_terminal_has_a_size_and_job_control(vm):
    with vm.popen("tty; stty size; read a; stty size", terminal=(33, 99)) as process:
        assert process.stdout.readline().startswith(b"/dev/pts/")
        assert process.stdout.readline() == b"33 99\r\n"
        process.resize(40, 80)
        process.stdin.write(b"x\n")
        assert process.stdout.read() == b"x\r\n40 80\r\n"
        assert process.wait(30) == 0
    with vm.popen(["cat"], terminal=(24, 80)) as process:
        process.stdin.write(b"\x03")
        assert process.wait(30) == 128 + signal.SIGINT


def test_output_waits_for_its_reader(vm):
    with vm.popen("dd if=/dev/zero bs=1M count=8 2>/dev/null; echo done >&2") as process:
        time.sleep(1)
        assert process.poll() is None, "nobody has read"
        assert len(process.stdout.read()) == 8 << 20
        assert process.stderr.read() == b"done\n"
        assert process.wait(30) == 0


def test_files_are_read_and_written_at_once(vm):
    vm.write("/tmp/file", b"content", mode=0o640)
    assert vm.read("/tmp/file") == b"content"
    vm.write("/tmp/file", b"x" * 3_000_000)
    assert vm.run("stat -c '%a %s' /tmp/file; ls -A /tmp | grep -c gasang").stdout == b"640 3000000\n0\n"
    vm.run("rm /tmp/file")


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda vm: vm.read("/no/such"), "No such file or directory"),
        (lambda vm: vm.read("/tmp"), "Is a directory"),
        (lambda vm: vm.write("/tmp", b""), "Is a directory"),
        (lambda vm: vm.write("/no/such", b"x" * 1_000_000), "No such file or directory"),
        (lambda vm: vm.write("/proc/version", b""), "Permission denied|No such file|Operation not permitted"),
        (lambda vm: vm.copy_out("/no/such", "/tmp"), "No such file or directory"),
    ],
)
def test_a_mistake_has_the_guests_words(vm, act, text):
    with pytest.raises(GuestFileError, match=text) as caught:
        act(vm)
    assert caught.value.errno > 0


def test_trees_go_in_and_out(vm, tmp_path):
    source = tmp_path / "source"
    (source / "a/b").mkdir(parents=True)
    (source / "a/b/file").write_bytes(os.urandom(200_000))
    (source / "a/tool").write_text("#!/bin/sh\n")
    (source / "a/tool").chmod(0o755)
    (source / "link").symlink_to("a/b")
    (source / "closed").mkdir(mode=0o555)
    vm.copy_in(source, "/tmp/copy")
    assert vm.run("cd /tmp/copy; readlink link; stat -c %a a/tool closed").stdout == b"a/b\n755\n555\n"
    vm.copy_out("/tmp/copy", tmp_path / "back")
    assert (tmp_path / "back/a/b/file").read_bytes() == (source / "a/b/file").read_bytes()
    assert os.readlink(tmp_path / "back/link") == "a/b"
    assert (tmp_path / "back/closed").stat().st_mode & 0o777 == 0o555
    vm.copy_in(source / "a/tool", "/tmp")
    assert vm.read("/tmp/tool") == b"#!/bin/sh\n"
    with pytest.raises(FileNotFoundError):
        vm.copy_in(tmp_path / "nothing", "/tmp")


@contextmanager
def echoing(vm, port):
    """A server in the guest that says everything again, once."""
    server = vm.popen(f"nc -l -p {port} -e cat")
    vm.run(f"until netstat -ltn | grep -q :{port}; do sleep 0.1; done", timeout=60, check=True)
    yield
    server.close()


def test_a_machine_without_a_network_has_ports(vm):
    content = os.urandom(3 << 20)
    with echoing(vm, 4444):
        where = vm.expose(4444)
        host, port = where.split(":")
        with socket.create_connection((host, int(port)), 60) as connection:
            sender = threading.Thread(target=lambda: (connection.sendall(content), connection.shutdown(1)))
            sender.start()
            with connection.makefile("rb") as stream:
                assert stream.read() == content
            sender.join()
    with socket.create_connection((host, int(port)), 60) as connection:
        assert connection.recv(1) == b"", "nobody listens there any more"
    with pytest.raises(ConfigError, match="cannot be listened at for port 80"):
        vm.expose(80, int(port))
    vm.unexpose(where)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), 60)
    with pytest.raises(ConfigError, match="nothing of the guest is exposed"):
        vm.unexpose(where)


def test_ports_end_with_the_machine():
    with Machine.boot(accel="bt", vsock=True) as machine:
        host, port = machine.expose(80).split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), 60)
    with pytest.raises(ConfigError, match="has ended"):
        machine.expose(80)


def test_a_port_of_the_guest_is_reached(vm):
    server = vm.popen("nc -l -p 4321 -e cat")
    for _ in range(50):
        try:
            connection = vm.vsock_agent.proxy(4321)
            break
        except GuestFileError:
            time.sleep(0.1)
    with connection:
        connection.sendall(b"around")
        assert connection.recv(100) == b"around"
    server.close()
    with pytest.raises(GuestFileError, match="Connection refused"):
        vm.vsock_agent.proxy(9)


def test_a_guest_is_repaired(vm):
    vm.vsock_agent.repair(time_ns=2_000_000_000_000_000_000, hostname="other", machine_id="0" * 32)
    done = vm.run("hostname; date -u +%Y; cat /etc/machine-id", timeout=30)
    assert done.stdout == b"other\n2033\n" + b"0" * 32 + b"\n"
    vm.vsock_agent.repair(hostname="gasang")
    with pytest.raises(GuestAgentError, match="cannot be repaired"):
        vm.vsock_agent.repair(mac=bytes(6))


def test_a_machine_without_vsock_says_so():
    with pytest.raises(ConfigError, match="deterministic"):
        Machine.boot(vsock=True, deterministic=True)


def test_the_end_of_the_agent_is_told():
    with Machine.boot(accel="bt", vsock=True) as machine:
        waiting = machine.popen("sleep 1000", timeout=60)
        with pytest.raises(GuestAgentError, match="does not answer"):
            machine.run("kill -KILL $(pidof gasang-agent); sleep 1000", timeout=30)
        with pytest.raises(GuestAgentError, match="does not answer"):
            waiting.wait(30)
        with pytest.raises(GuestAgentError, match="nobody listens"):
            machine.run("true", timeout=30)


def test_the_end_of_the_machine_is_told_to_all():
    with Machine.boot(accel="bt", vsock=True) as machine:
        process = machine.popen(["cat"], timeout=60)
        errors = []

        def work():
            try:
                machine.run("sleep 1000")
            except MachineDied as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(5)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        machine.stop()
        for thread in threads:
            thread.join(10)
        assert [error.reason for error in errors] == ["stopped"] * 5
        with pytest.raises(MachineDied):
            process.wait(10)
        with pytest.raises(MachineDied):
            machine.read("/etc/passwd")
