"""`Machine`: booting, calls that wait, and what is left when it ends."""

import gc
import threading
from subprocess import CompletedProcess
from types import SimpleNamespace

import pytest
from fake_engine import PioWrite, SerialOutput

from gasang.config import MachineConfig
from gasang.errors import ConfigError, GuestCommandFailed, GuestTimeout, KernelError, MachineDied
from gasang.machine import Machine, Stopped

POWER_OFF = PioWrite(0x604, 2, 5 << 10 | 1 << 13)


def processor_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("gasang-cpu")]


def test_a_with_block_stops_it(boot):
    with boot([], []) as vm:
        assert len(processor_threads()) == 2
    assert vm.outcome == Stopped()
    assert processor_threads() == []


def test_processors_never_run_in_the_main_thread(boot):
    names = []
    boot([lambda _: names.append(threading.current_thread().name), POWER_OFF]).wait(timeout=10)
    assert names == ["gasang-cpu0"]


def test_the_kernel_and_the_tables_are_in_memory(boot):
    vm = boot([])
    memory = vm._pc.vm.memory
    assert memory[0x100000][-16:] == b"\xf4" * 16
    assert memory[0xE0000][:8] == b"RSD PTR "
    assert memory[0x400][:2] == b"\xf8\x03"
    assert vm.registers()["rip"] == 0x100020


def test_options_reach_the_engine(boot):
    vm = boot([], memory="64M", cpu="max,-avx512f", accel="interp")
    assert vm._pc.vm.options == {
        "memory": 64 << 20,
        "cpus": 1,
        "accel": "interp",
        "cpu": "max,-avx512f",
        "clock": "host",
        "seed": 0,
    }


def test_deterministic_machines_count_instructions(boot):
    options = boot([], deterministic=True, seed=7)._pc.vm.options
    assert (options["clock"], options["seed"]) == ("instructions", 7)


def test_memory_may_be_a_number_of_bytes(boot):
    assert boot([], memory=64 << 20).config.memory == 64 << 20


def test_an_unknown_processor_is_a_config_error(boot):
    with pytest.raises(ConfigError, match="no processor model 'nonesuch'"):
        boot([], cpu="nonesuch")


def test_a_kernel_that_cannot_be_loaded_leaves_no_threads(boot, tmp_path):
    with pytest.raises(KernelError, match="does not exist"):
        boot([], kernel=tmp_path / "missing")
    assert processor_threads() == []


def test_wait_times_out_and_the_machine_runs_on(boot):
    vm = boot([])
    with pytest.raises(GuestTimeout, match=r"did not end within 0\.01 seconds"):
        vm.wait(timeout=0.01)
    assert vm.outcome is None


def test_the_console_is_the_first_serial_port(boot):
    vm = boot([SerialOutput(1, b"not this"), SerialOutput(0, b"login: ")])
    vm.console.expect("login: ", timeout=10)
    vm.console.write("root\n")
    assert vm._pc.vm.input[0] == b"root\n"
    assert vm.serial(1).read(timeout=10) == b"not this"


def test_every_pending_call_raises_when_the_machine_dies(boot):
    dying = threading.Event()

    def die(_):
        dying.wait(10)

    vm = boot([SerialOutput(0, b"last words"), die, POWER_OFF])
    errors = []

    def call(function, *arguments):
        try:
            function(*arguments)
        except MachineDied as error:
            errors.append((error.reason, error.console_tail))

    calls = [(vm.console.expect, "never"), (vm.serial(0).expect, "never"), (vm.run, "true")]
    threads = [threading.Thread(target=call, args=each) for each in calls]
    for thread in threads:
        thread.start()
    dying.set()
    for thread in threads:
        thread.join(timeout=10)
    assert errors == [("power-off", "last words")] * 3


def test_calls_after_the_end_raise_too(boot):
    vm = boot([POWER_OFF])
    vm.wait(timeout=10)
    with pytest.raises(MachineDied, match="power-off"):
        vm.run("true", timeout=10)
    with pytest.raises(MachineDied, match="power-off"):
        vm.console.write("x")
    assert vm.registers()["rax"] == 0x2BADB002


def test_a_machine_that_nobody_holds_is_stopped(boot, kernel, engine):
    vm = Machine(MachineConfig(kernel=kernel))
    assert len(processor_threads()) == 1
    del vm
    gc.collect()
    assert processor_threads() == []


def test_repr_tells_what_runs(boot, kernel):
    vm = boot([], [])
    assert repr(vm) == f"<Machine multiboot {kernel}, 32M, 2 CPUs, running>"
    vm.stop()
    assert repr(vm).endswith("stopped>")


class FakeAgent:
    """What `Machine.run` needs of the agent."""

    def __init__(self, send, seed):
        self.send = send

    def receive(self, port, data): ...

    def close(self, error): ...

    def run(self, command, **options):
        return CompletedProcess(command, 7, b"out", b"err")


def test_run_returns_like_subprocess_and_checks_on_demand(boot, monkeypatch):
    monkeypatch.setattr("gasang.guest.agent.Agent", FakeAgent)
    vm = boot([])
    result = vm.run("exit 7")
    assert (result.returncode, result.stdout, result.stderr) == (7, b"out", b"err")
    with pytest.raises(GuestCommandFailed, match="command 'exit 7' returned 7") as caught:
        vm.run("exit 7", check=True)
    assert caught.value.stdout == b"out"


def test_the_default_guest_boots_when_none_is_named(engine, kernel, monkeypatch):
    guest = SimpleNamespace(kernel=kernel, initrd=b"ramdisk", append="console=ttyS0")
    monkeypatch.setattr("gasang.guest.default.default_guest", lambda *_, **__: guest)
    with Machine.boot(append="quiet") as vm:
        assert (vm.config.kernel, vm.config.initrd) == (kernel, b"ramdisk")
        assert vm.config.append == "console=ttyS0 quiet"
