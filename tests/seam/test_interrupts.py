"""Timers, lines and halting."""

import resource
import threading
import time

from conftest import ENTRY

from gasang._engine import Halted, Interrupted, PioWrite, SerialOutput

PREPARE = """
    mov al, 0x11
    out 0x20, al
    mov al, 0x20
    out 0x21, al
    mov al, 4
    out 0x21, al
    mov al, 1
    out 0x21, al
"""
"""The master 8259A delivers interrupts 0-7 as vectors 0x20-0x27."""

TIMER = f"""
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
    cmp ebx, 5
    jb 1b
    mov al, bl
    out 0x80, al
    cli
    hlt
"""
"""Count five periods of 10 ms."""


def test_timer_interrupts_wake_a_halted_processor(boot_anywhere):
    guest = boot_anywhere(TIMER)
    guest.set_gate(0x20, ENTRY + 0x40)
    before = time.monotonic()
    assert guest.vcpu.run() == PioWrite(0x80, 1, 5)
    assert time.monotonic() - before >= 0.04
    statistics = guest.vcpu.statistics()
    if guest.kernel_irqchip:
        # KVM counts an injection again when the delivery met an exit.
        assert statistics["irq_injections"] >= 5
        assert statistics["halt_exits"] >= 5
    else:
        assert statistics["irq_injections"] == 5
        assert statistics["halt_exits"] == 5
    assert guest.vcpu.run() == Halted()


def test_instruction_clock_skips_what_the_guest_would_wait_for(boot):
    guest = boot(TIMER, clock="instructions")
    guest.set_gate(0x20, ENTRY + 0x40)
    assert guest.vcpu.run() == PioWrite(0x80, 1, 5)
    assert 50_000_000 <= guest.vm.virtual_time() <= 51_000_000
    assert [vector for _, vector in guest.vcpu.events()] == [0x20] * 5
    assert guest.vcpu.events() == []


def test_replayed_interrupts_come_at_the_same_instructions(boot, monkeypatch):
    monkeypatch.setenv("GASANG_STRICT_FLAGS", "1")
    program = TIMER.replace("hlt\n    cmp ebx, 5", "inc rcx\n    cmp ebx, 50").replace(
        "mov al, 0x2e", "mov al, 1"
    )
    leader = boot(program, clock="instructions")
    leader.set_gate(0x20, ENTRY + 0x40)
    follower = boot(program, clock="instructions", accel="interp")
    follower.set_gate(0x20, ENTRY + 0x40)
    for _ in range(6):
        leader.vcpu.run(instructions=500_003)
        follower.vcpu.replay(leader.vcpu.events())
        ahead = leader.vcpu.statistics()["instructions"] - follower.vcpu.statistics()["instructions"]
        assert follower.vcpu.run(instructions=ahead) == Interrupted()
        assert follower.vcpu.registers() == leader.vcpu.registers()
        assert follower.vm.memory_digest() == leader.vm.memory_digest()
        assert follower.vm.virtual_time() == leader.vm.virtual_time()
    assert leader.vcpu.statistics()["irq_injections"] == follower.vcpu.statistics()["irq_injections"] > 0


def test_interrupt_line_from_another_thread_wakes_a_halted_processor(boot_anywhere):
    guest = boot_anywhere(f"""
        jmp start
        .org 0x40
    handler:
        mov al, 0x20
        out 0x20, al
        mov al, 1
        out 0x80, al
        iretq
    start:
        {PREPARE}
        mov al, 0xdf
        out 0x21, al
        sti
        hlt
        cli
        hlt
    """)
    guest.set_gate(0x25, ENTRY + 0x40)
    exits = []
    thread = threading.Thread(target=lambda: exits.extend((guest.vcpu.run(), guest.vcpu.run())))
    thread.start()
    while not guest.vcpu.statistics()["halt_exits"]:
        thread.join(0.001)
    guest.vm.set_interrupt_line(5, True)
    thread.join(10)
    assert exits == [PioWrite(0x80, 1, 1), Halted()]


def test_serial_loop_echoes_what_it_is_sent(boot_anywhere):
    guest = boot_anywhere("""
        mov dx, 0x3f8
        mov bx, 0x3fd
    1:  xchg dx, bx
        in al, dx
        xchg dx, bx
        test al, 1
        jz 1b
        in al, dx
        out dx, al
        cmp al, '.'
        jne 1b
        cli
        hlt
    """)
    assert guest.vm.serial_input(0, b"hello.") == 6
    received = b""
    while isinstance(exit := guest.vcpu.run(), SerialOutput):
        received += exit.data
    assert received == b"hello."
    assert exit == Halted()
    assert guest.vm.serial_pending(0) == 0


def test_halted_processor_uses_no_host_time(boot_anywhere):
    guest = boot_anywhere("sti\n1: hlt\n jmp 1b")
    thread = threading.Thread(target=guest.vcpu.run)
    before = resource.getrusage(resource.RUSAGE_SELF)
    thread.start()
    thread.join(0.5)
    after = resource.getrusage(resource.RUSAGE_SELF)
    guest.vcpu.kick()
    thread.join(10)
    assert not thread.is_alive()
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 0.1
