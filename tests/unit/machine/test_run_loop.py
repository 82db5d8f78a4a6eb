"""Exits become accesses to devices, and the answers travel with the next entry."""

import contextlib
import threading

from fake_engine import MmioRead, MmioWrite, PioRead, PioWrite, SerialOutput

from gasang.errors import MachineDied

POWER_OFF = PioWrite(0x604, 2, 5 << 10 | 1 << 13)


def replies(vm, count):
    return vm._pc.vcpus[0].replies[:count]


def test_reads_are_answered_in_the_next_entry(boot):
    vm = boot([PioRead(0xE9, 1), PioRead(0x1234, 4), MmioRead(0xD000_0000, 8), POWER_OFF])
    vm.wait(timeout=10)
    assert replies(vm, 4) == [None, 0xE9, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF]


def test_writes_are_answered_with_nothing(boot):
    vm = boot([PioWrite(0x80, 1, 0), MmioWrite(0xD000_0000, 8, 1), SerialOutput(0, b"x"), POWER_OFF])
    vm.wait(timeout=10)
    assert replies(vm, 4) == [None] * 4


def test_the_debug_console_is_heard(boot):
    vm = boot([PioWrite(0xE9, 1, byte) for byte in b"hello"])
    vm.debug_console.expect("hello", timeout=10)


def test_devices_find_their_registers(boot):
    probes = [
        PioWrite(0x70, 1, 0x0D),
        PioRead(0x71, 1),
        PioWrite(0xCF8, 4, 0x8000_0000),
        PioRead(0xCFC, 4),
        PioWrite(0x64, 1, 0xAA),
        PioRead(0x60, 1),
        PioWrite(0x510, 2, 0),
        PioRead(0x511, 1),
        PioRead(0x604, 2),
        POWER_OFF,
    ]
    vm = boot(probes)
    vm.wait(timeout=10)
    answers = [reply for reply in replies(vm, len(probes)) if reply is not None]
    assert answers == [0x80, 0x12378086, 0x55, ord("Q"), 1]


def test_a_paused_machine_is_outside_the_guest(boot):
    vm = boot([], [])
    with vm._loop.paused():
        assert not any(vcpu.inside for vcpu in vm._pc.vcpus)


def test_pauses_nest_across_threads(boot):
    vm = boot([])
    found = []
    threads = [threading.Thread(target=lambda: found.append(vm.registers()["rax"])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert found == [0x2BADB002] * 8


def test_an_answer_survives_a_pause(boot):
    reached, go = threading.Event(), threading.Event()

    def hold(_):
        reached.set()
        go.wait(10)

    vm = boot([PioRead(0xE9, 1), hold, PioRead(0x1234, 1), POWER_OFF])
    reached.wait(10)
    pausing = threading.Thread(target=vm.registers)
    pausing.start()
    go.set()
    pausing.join(timeout=10)
    vm.wait(timeout=10)
    assert [reply for reply in vm._pc.vcpus[0].replies if reply is not None] == [0xE9, 0xFF]


def test_registers_are_read_while_it_runs(boot):
    assert boot([]).registers()["rax"] == 0x2BADB002


def test_statistics_are_summed_over_processors(boot):
    assert boot([], []).statistics()["instructions"] == 200


def test_the_power_button_raises_the_system_control_interrupt(boot):
    enabled = threading.Event()
    vm = boot([PioWrite(0x602, 2, 1 << 8), lambda _: enabled.set()])
    enabled.wait(10)
    vm.press_power_button()
    assert vm._pc.vm.lines == {9: True}


def test_a_deterministic_machine_stands_still_until_its_agent_is_answered(boot):
    first = threading.Event()
    after = []

    def note(vm):
        after.append(bytes(vm.input[1]))

    script = [SerialOutput(1, b"ready\n"), note, POWER_OFF]
    vm = boot(script, deterministic=True)
    vm._ports.agent.wait_ready(timeout=10)
    assert vm.state_hash() == "0000000000000abc"
    assert vm.registers()["rax"] == 0x2BADB002
    assert not after
    threading.Thread(target=lambda: (first.set(), _run_until_the_end(vm))).start()
    vm.wait(timeout=10)
    assert after[0].startswith(b"run ")


def _run_until_the_end(vm):
    with contextlib.suppress(MachineDied):
        vm.run("true")
