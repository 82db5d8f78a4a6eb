"""A guest goes from translation to KVM and back: the same registers, memory and devices at the switch."""

import threading
import time
from itertools import cycle

import pytest
from conftest import ENTRY, Guest, why_no_kvm
from test_interrupts import PREPARE
from test_kvm_accelerator import INTERRUPT, PROGRAMS, boot, differences, run_to_the_end

from gasang._engine import EngineError, Halted, Interrupted, MmioRead, PioRead, PioWrite, Shutdown

pytestmark = pytest.mark.skipif(why_no_kvm() is not None, reason=why_no_kvm() or "")


@pytest.fixture(params=["own", "kernel"])
def switchable(request, assemble):
    """Boots guests that can be switched, with interrupt controllers of either kind."""

    def switchable(first, bits, source):
        return boot(assemble, first, bits, source, switchable=True, irqchip=request.param)

    return switchable


def between_instructions(guest, answer):
    """Take the answer to the last exit, and execute nothing else; the exit if there is another."""
    guest.vcpu.kick()
    return guest.vcpu.run(answer)


def switch(guest, accel):
    """Switch, and see that nothing of the state is lost on the way."""
    before = guest.vcpu.registers(), guest.vcpu.extended_state(), guest.vm.memory_digest()
    guest.vm.set_accelerator(accel)
    registers, extended, memory = (
        guest.vcpu.registers(),
        guest.vcpu.extended_state(),
        guest.vm.memory_digest(),
    )
    assert differences(before[0], registers) == set()
    assert before[1:] == (extended, memory)


def run_switching(guest, accels):
    """As `run_to_the_end`, with a switch to the next of `accels` between any two exits."""
    exits, answer = [], None
    while True:
        exit = guest.vcpu.run(answer)
        while not isinstance(exit, Interrupted):
            exits.append(exit)
            if isinstance(exit, Halted | Shutdown):
                return exits, guest.vcpu.registers()
            answer = 0x11 * len(exits) if isinstance(exit, PioRead | MmioRead) else None
            exit = between_instructions(guest, answer)
        answer = None
        switch(guest, next(accels))


WITH_ACCESSES = [name for name, (_, source) in PROGRAMS.items() if "x80" in source or "[rbx" in source]


@pytest.mark.parametrize("first", ["bt", "kvm"])
@pytest.mark.parametrize("name", WITH_ACCESSES)
def test_a_guest_that_is_switched_after_every_exit_does_the_same(name, first, switchable):
    bits, source = PROGRAMS[name]
    source = source.replace("; ", "\n")
    undisturbed = run_to_the_end(switchable(first, bits, source))
    accels = cycle(["kvm", "bt"] if first == "bt" else ["bt", "kvm"])
    switched = run_switching(switchable(first, bits, source), accels)
    assert switched[0] == undisturbed[0]
    assert differences(switched[1], undisturbed[1]) == set()


REGISTERS = """
    mov rax, 0x123456789abcdef0
    mov r15, 0x0fedcba987654321
    movq xmm5, rax
    pshufd xmm6, xmm5, 0x1b
    fldpi
    fld1
    mov ecx, 0xc0000102
    mov edx, 0x1122
    wrmsr
    mov ecx, 0xc0000081
    wrmsr
    mov rbx, 0x30000
    mov dr0, rbx
    mov dr7, rbx
    mov rbx, 0x7777000
    mov cr2, rbx
    std
    mov al, 0x77
    stc
    out 0x80, al
    hlt
"""


def test_every_register_is_there_after_a_switch_and_back(switchable):
    guest = switchable("bt", 64, REGISTERS)
    assert guest.vcpu.run() == PioWrite(0x80, 1, 0x77)
    assert between_instructions(guest, None) == Interrupted()
    for accel in ("kvm", "bt", "kvm", "bt"):
        switch(guest, accel)
    assert guest.vcpu.registers()["dr0"] == 0x30000


REWRITTEN = """
    mov ecx, 3
again:
    call changing
    out 0x80, al
    mov byte ptr [changing + 1], 0x22
    out 0x81, al
    loop again
    hlt
    .balign 16
changing:
    mov al, 0x11
    ret
"""


def run_to(guest, exit):
    assert guest.vcpu.run() == exit
    assert between_instructions(guest, None) == Interrupted()


def test_code_that_is_rewritten_on_kvm_is_translated_anew(switchable):
    guest = switchable("bt", 64, REWRITTEN)
    run_to(guest, PioWrite(0x80, 1, 0x11))
    guest.vm.set_accelerator("kvm")
    run_to(guest, PioWrite(0x81, 1, 0x11))
    guest.vm.set_accelerator("bt")
    run_to(guest, PioWrite(0x80, 1, 0x22))


def test_timers_and_interrupts_go_on_after_a_switch(switchable):
    guest = switchable("bt", 64, INTERRUPT)
    guest.set_gate(0x41, ENTRY + 0x40)
    for accel in ("kvm", "bt"):
        guest.vcpu.kick()
        exit = guest.vcpu.run()
        if isinstance(exit, Halted):
            break
        guest.vm.set_accelerator(accel)
    while not isinstance(exit, Halted):
        exit = guest.vcpu.run()
    assert guest.vcpu.statistics()["irq_injections"] == 1


COUNTER = """
1:  rdtsc
    shl rdx, 32
    or rax, rdx
    mov [0x30000], rax
    out 0x80, al
    jmp 1b
"""


def counts_from_the_start(guest):
    """Whether KVM gives the counter its offset: then it is smaller than the host's."""
    guest.vcpu.run()
    between_instructions(guest, None)
    return int.from_bytes(guest.vm.read_memory(0x30000, 8), "little") < 60e9


def test_the_time_stamp_counter_goes_on_without_a_step(switchable):
    guest = switchable("kvm", 64, COUNTER)
    accels = cycle(["bt", "kvm"])
    if not counts_from_the_start(guest):
        pytest.skip("this KVM ignores the offset of the time-stamp counter")
    values, times = [], []
    for _ in range(20):
        times.append(guest.vm.virtual_time())
        assert isinstance(guest.vcpu.run(), PioWrite)
        values.append(int.from_bytes(guest.vm.read_memory(0x30000, 8), "little"))
        between_instructions(guest, None)
        guest.vm.set_accelerator(next(accels))
    assert values == sorted(values)
    # Ticks of both are those of one clock.
    hertz = (values[-1] - values[0]) / (times[-1] - times[0])
    assert all(
        abs((value - values[0]) / hertz - (time - times[0])) < 1e9
        for value, time in zip(values, times, strict=True)
    )


PERIODIC = f"""
    jmp start
    .org 0x40
handler:
    inc ebx
    mov al, 0x20
    out 0x20, al
    iretq
start:
    {PREPARE}
    mov al, 0xfe
    out 0x21, al
    mov al, 0x34
    out 0x43, al
    mov al, 0x9c
    out 0x40, al
    mov al, 0x2e
    out 0x40, al
    sti
1:  hlt
    mov al, bl
    out 0x80, al
    jmp 1b
"""
"""The PIT, and the 8259A as it is."""


def test_the_pit_ticks_on_wherever_it_is(switchable):
    guest = switchable("bt", 64, PERIODIC)
    guest.set_gate(0x20, ENTRY + 0x40)
    accels = cycle(["kvm", "bt"])
    counts = []
    while len(counts) < 8:
        exit = guest.vcpu.run()
        assert isinstance(exit, PioWrite)
        counts.append(exit.value)
        assert between_instructions(guest, None) == Interrupted()
        guest.vm.set_accelerator(next(accels))
    assert counts == sorted(set(counts)), "each HLT ended by a tick"
    assert counts[-1] <= guest.vm.virtual_time() // 10_000_000 + 1, "no tick came twice"


COUNT_MESSAGES = """
    jmp start
    .org 0x40
handler:
    inc dword ptr [0x30000]
    mov dword ptr [rdx + 0xb0], 0
    iretq
start:
    mov edx, 0xfee00000
    mov dword ptr [rdx + 0xf0], 0x1ff
    mov al, 0xff
    out 0x21, al
    out 0x80, al
    sti
1:  hlt
    jmp 1b
"""


def test_no_interrupt_is_lost_on_the_way(switchable):
    guest = switchable("kvm", 64, COUNT_MESSAGES)
    guest.set_gate(0x51, ENTRY + 0x40)
    assert guest.vcpu.run() == PioWrite(0x80, 1, 0xFF)

    def count():
        return int.from_bytes(guest.vm.read_memory(0x30000, 4), "little")

    def send():
        for number in range(1, 201):
            # The message comes before the switch, in the midst of it, or after.
            guest.vcpu.kick()
            time.sleep(number % 25 * 1e-4)
            assert guest.vm.signal_msi(0xFEE00000, 0x51)
            patience = (time.sleep(1e-4) for _ in range(50_000))
            if not any(count() == number for _ in patience):
                break
        sent.append(number)
        guest.vcpu.kick()

    sent = []
    device = threading.Thread(target=send)
    device.start()
    accels = cycle(["bt", "kvm"])
    while not sent:
        assert guest.vcpu.run() == Interrupted()
        guest.vm.set_accelerator(next(accels))
    device.join()
    assert (sent, count()) == ([200], 200)


def test_a_machine_that_was_not_made_for_it_is_not_switched(assemble):
    guest = boot(assemble, "bt", 64, "out 0x80, al\nhlt")
    with pytest.raises(EngineError, match="switchable"):
        guest.vm.set_accelerator("kvm")
    assert guest.vcpu.run() == PioWrite(0x80, 1, 0)


def test_an_access_that_waits_for_its_answer_forbids_a_switch(switchable):
    for first, other in (("bt", "kvm"), ("kvm", "bt")):
        guest = switchable(first, 64, "in al, 0x70\nout 0x80, al\nhlt")
        assert guest.vcpu.run() == PioRead(0x70, 1)
        with pytest.raises(EngineError, match="waits for its answer"):
            guest.vm.set_accelerator(other)
        assert guest.vcpu.run(0x5A) == PioWrite(0x80, 1, 0x5A)


def test_a_switchable_machine_has_the_same_processor_on_either(assemble):
    identify = "mov eax, 1\nxor ecx, ecx\ncpuid\nout 0x80, eax\nmov eax, ecx\nout 0x80, eax\nhlt"
    models = []
    for accel in ("bt", "kvm"):
        guest = Guest(assemble(identify), 64, accel=accel, switchable=True)
        models.append([guest.vcpu.run() for _ in range(2)])
    # This host's KVM may tell its own CPUID; VT-x is for nobody.
    assert not models[0][1].value & 1 << 5
