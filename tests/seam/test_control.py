"""Who may do what from where: kicks, registers, memory, threads, signals."""

import signal
import subprocess
import sys
import threading

import pytest
from conftest import ENTRY

from gasang import _engine
from gasang._engine import DescriptorTable, EngineError, Halted, Interrupted, PioWrite, Segment, Vm

FOREVER = "1: jmp 1b"


def test_kick_from_another_thread_interrupts_a_running_guest(boot_anywhere):
    guest = boot_anywhere(FOREVER)
    exits = []
    thread = threading.Thread(target=lambda: exits.append(guest.vcpu.run()))
    thread.start()
    guest.vcpu.kick()
    thread.join(10)
    assert exits == [Interrupted()]


def test_kick_before_run_interrupts_it_at_once(boot):
    guest = boot("inc rax\n" + FOREVER)
    guest.vcpu.kick()
    assert guest.vcpu.run() == Interrupted()
    assert guest.vcpu.registers()["rax"] == 0
    assert guest.vcpu.run(instructions=10) == Interrupted()
    assert guest.vcpu.registers()["rax"] == 1


def test_second_thread_inside_is_refused(boot_anywhere):
    guest = boot_anywhere("sti\n1: hlt\n jmp 1b")
    thread = threading.Thread(target=guest.vcpu.run)
    thread.start()
    while not guest.vcpu.statistics()["halt_exits"]:
        thread.join(0.001)
    for call in (guest.vcpu.registers, guest.vcpu.run, guest.vcpu.events):
        with pytest.raises(EngineError, match="vCPU 0 is running in another thread"):
            call()
    guest.vcpu.kick()
    thread.join(10)
    assert not thread.is_alive()


def test_registers_can_be_set_to_what_they_read_as(boot_anywhere):
    guest = boot_anywhere("hlt")
    registers = dict(guest.vcpu.registers())
    guest.vcpu.set_registers(**registers)
    assert guest.vcpu.registers() == registers
    changed = {
        name: Segment(8, 0x1000, 0xFFFF, 0x93)
        if isinstance(value, Segment)
        else DescriptorTable(0x3000, 0xFF)
        if isinstance(value, DescriptorTable)
        else 3
        for name, value in registers.items()
    }
    guest.vcpu.set_registers(**changed)
    changed["rflags"] = 3
    assert guest.vcpu.registers() == changed


def test_unknown_registers_and_wrong_values_are_refused_whole(boot_anywhere):
    guest = boot_anywhere("hlt")
    before = guest.vcpu.registers()
    for values, message in (
        ({"rax": 1, "eax": 2}, "no register is named 'eax'"),
        ({"rax": 1, "cs": 2}, "register cs takes a Segment"),
        ({"rax": 1, "rbx": Segment(0, 0, 0, 0)}, "register rbx takes a number"),
        ({"rax": 1, "gdtr": 5}, "register gdtr takes a DescriptorTable"),
        ({"rax": 1, "rbx": 1 << 64}, "register rbx must be from 0 to 0xffffffffffffffff"),
        ({"rax": 1, "rbx": -1}, "register rbx must be from 0 to"),
        ({"rax": 1, "cr8": 16}, "register cr8 takes a number from 0 to 15"),
    ):
        with pytest.raises(EngineError, match=message):
            guest.vcpu.set_registers(**values)
        assert guest.vcpu.registers() == before
    with pytest.raises(EngineError, match="limit must be from 0 to 0xffff, not 65536"):
        DescriptorTable(0, 0x10000)


def test_memory_is_checked_to_be_ram(boot_anywhere):
    guest = boot_anywhere("hlt")
    vm = guest.vm
    assert vm.memory_regions() == [(0, 0xA0000), (0xC0000, (2 << 20) - 0xC0000)]
    vm.write_memory(0x5000, b"gasang")
    assert vm.read_memory(0x4FFF, 8) == b"\0gasang\0"
    with pytest.raises(EngineError, match=r"0x9ffff\+0x2 is not all RAM"):
        vm.write_memory(0x9FFFF, b"ab")
    assert vm.read_memory(0x9FFFF, 1) == b"\0"
    for address, length in (((2 << 20) - 1, 2), (1 << 63, 1), ((1 << 64) - 1, 4), (0, 1 << 63)):
        with pytest.raises(EngineError, match="is not all RAM"):
            vm.read_memory(address, length)
    with pytest.raises(EngineError, match="address must be from 0"):
        vm.read_memory(-1, 1)


def test_code_written_from_outside_is_executed_anew(boot):
    guest = boot("1: mov eax, 1\n jmp 1b")
    guest.vcpu.run(instructions=1000)
    assert guest.vcpu.registers()["rax"] == 1
    guest.vm.write_memory(ENTRY + 1, b"\2")
    guest.vcpu.run(instructions=1000)
    assert guest.vcpu.registers()["rax"] == 2


def test_options_out_of_range_are_refused():
    for options, message in (
        ({"memory": 0}, "memory of 0 bytes"),
        ({"memory": 4097}, "memory of 4097 bytes is not a whole number"),
        ({"memory": -1}, "memory must be from 0"),
        ({"memory": 1 << 62}, "cannot map"),
        ({"cpus": 0}, "0 vCPUs: a machine has 1 to 255"),
        ({"accel": "xen"}, "unknown accelerator 'xen'"),
        ({"accel": "kvm", "clock": "instructions"}, "KVM does not count instructions"),
        ({"accel": "kvm", "vm_exits": True}, "VT-x from outside is of the software processor"),
        ({"clock": "sundial"}, "unknown clock 'sundial'"),
        ({"clock": "instructions", "cpus": 2}, "needs a machine of one vCPU"),
        ({"cpu": "486"}, "unknown CPU model '486'"),
        ({"cpu": "max,+warp"}, "warp"),
    ):
        with pytest.raises(EngineError, match=message):
            _engine.Vm(**{"memory": 1 << 20, **options})
    vm = _engine.Vm(memory=1 << 20, cpus=2)
    assert vm.vcpu(1).index == 1
    with pytest.raises(EngineError, match="no vCPU 2: there are 2"):
        vm.vcpu(2)
    with pytest.raises(EngineError, match="no interrupt line 24"):
        vm.set_interrupt_line(24, True)
    with pytest.raises(EngineError, match="no serial port 4"):
        vm.serial_input(4, b"")


def test_application_processor_waits_for_its_start(boot):
    guest = boot(
        f"""
        mov ebx, 0xfee00000
        mov dword ptr [rbx + 0xf0], 0x1ff
        mov dword ptr [rbx + 0x310], 0x01000000
        mov dword ptr [rbx + 0x300], 0x4500
        mov dword ptr [rbx + 0x300], 0x4600 + {ENTRY >> 12}
    1:  pause
        jmp 1b
    """,
        cpus=2,
    )
    second = guest.vm.vcpu(1)
    exits = []
    thread = threading.Thread(target=lambda: exits.append(second.run(instructions=1)))
    thread.start()
    assert guest.vcpu.run(instructions=100) == Interrupted()
    thread.join(10)
    assert exits == [Interrupted()]
    assert second.registers()["cs"] == Segment(ENTRY >> 4, ENTRY, 0xFFFF, 0x9B)


def test_processors_that_nobody_is_left_to_wake_are_halted(boot_anywhere):
    guest = boot_anywhere("cli\n hlt", cpus=2)
    assert guest.vcpu.run() == Halted()
    second = guest.vm.vcpu(1)
    second.kick()
    assert second.run() == Interrupted()


def test_traced_blocks_show_both_sides(boot):
    guest = boot("inc rax\n cli\n hlt", trace_blocks=True)
    assert guest.vcpu.run() == Halted()
    blocks = guest.vcpu.translated_blocks()
    if guest.vcpu.statistics().get("blocks_translated"):
        assert blocks[0].guest_address == blocks[0].physical_address == ENTRY
        assert blocks[0].guest[0] == (ENTRY, b"\x48\xff\xc0", "inc rax")
        assert blocks[0].host
    else:
        assert blocks == []


def test_the_log_says_where_translated_code_is(boot):
    guest = boot("inc rax\n cli\n hlt", log_code=True)
    assert guest.vcpu.run() == Halted()
    log = guest.vm.take_code_log()
    if guest.vcpu.statistics().get("blocks_translated"):
        host, size, address, instructions, cpl = log[0]
        assert (address, instructions, cpl) == (ENTRY, 3, 0)
        assert host % 16 == 0
        assert size >= 16
    else:
        assert log == []
    assert guest.vm.take_code_log() == []


INTERRUPTED_BY_SIGINT = """
import threading, signal, sys
from gasang import _engine
vm = _engine.Vm(memory=1 << 20, accel=sys.argv[1])
vcpu = vm.vcpu(0)
vm.write_memory(0x1000, b"\\xeb\\xfe")
vcpu.set_registers(rip=0x1000, cs=_engine.Segment(0, 0, 0xffff, 0x9b))
exits = []
thread = threading.Thread(target=lambda: exits.append(vcpu.run()))
thread.start()
try:
    signal.raise_signal(signal.SIGINT)
    thread.join()
except KeyboardInterrupt:
    vcpu.kick()
    thread.join()
    print(exits)
"""


@pytest.mark.parametrize("accel", ["interp", "bt"])
def test_interrupt_from_the_keyboard_reaches_the_main_thread(accel):
    command = [sys.executable, "-c", INTERRUPTED_BY_SIGINT, accel]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("[Interrupted()]\n", "", 0)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


REWRITTEN_IN_PLACE = """
1:  call changing
    out 0x80, al
    jmp 1b
    .balign 16
changing:
    mov al, 0x11
    ret
"""


def test_memory_can_be_read_and_written_in_place(boot_anywhere):
    guest = boot_anywhere(REWRITTEN_IN_PLACE)
    vm = guest.vm
    assert guest.vcpu.run() == PioWrite(0x80, 1, 0x11)
    view = vm.memory_view(ENTRY, 32)
    assert len(view) == 32
    at = bytes(view).index(b"\xb0\x11")
    view[at + 1] = 0x22
    vm.memory_written([(ENTRY + at + 1, 1)])
    assert guest.vcpu.run() == PioWrite(0x80, 1, 0x22)
    vm.write_memory(ENTRY, b"abcd")
    assert view[:4] == b"abcd"
    with pytest.raises(EngineError, match="is not all RAM"):
        vm.memory_view(0x9FFFF, 2)
    with pytest.raises(EngineError, match="is not all RAM"):
        vm.memory_written([(0x1000, 1), (0x9FFFF, 2)])


def test_memory_in_place_outlives_the_machine():
    vm = Vm(memory=1 << 20)
    view = vm.memory_view(0x1000, 4)
    del vm
    view[:] = b"abcd"
    assert bytes(view) == b"abcd"
