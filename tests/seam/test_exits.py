"""Exits are values, and replies travel with the next entry."""

import pytest

from gasang._engine import (
    EngineError,
    Halted,
    Interrupted,
    MmioRead,
    MmioWrite,
    PioRead,
    PioWrite,
    SerialOutput,
    Shutdown,
)


def test_port_reads_and_writes_of_every_size(boot_anywhere):
    guest = boot_anywhere("""
        mov dx, 0x100
        in al, dx
        mov dx, 0x200
        out dx, al
        mov dx, 0x102
        in ax, dx
        mov dx, 0x202
        out dx, ax
        in eax, 0x80
        out 0x84, eax
        cli
        hlt
    """)
    run = guest.vcpu.run
    assert run() == PioRead(0x100, 1)
    assert run(0x41) == PioWrite(0x200, 1, 0x41)
    assert run() == PioRead(0x102, 2)
    assert run(0x4243) == PioWrite(0x202, 2, 0x4243)
    assert run() == PioRead(0x80, 4)
    assert run(0xDEADBEEF) == PioWrite(0x84, 4, 0xDEADBEEF)
    assert run() == Halted()
    assert run() == Halted()


def test_device_memory_reads_and_writes_of_every_size(boot_anywhere):
    guest = boot_anywhere("""
        mov ebx, 0xd0000000
        mov al, [rbx]
        mov [rbx + 1], al
        mov ax, [rbx + 2]
        mov [rbx + 4], ax
        mov eax, [rbx + 8]
        mov [rbx + 12], eax
        mov rax, [rbx + 16]
        mov [rbx + 24], rax
        cli
        hlt
    """)
    run = guest.vcpu.run
    base = 0xD0000000
    assert run() == MmioRead(base, 1)
    assert run(0x11) == MmioWrite(base + 1, 1, 0x11)
    assert run() == MmioRead(base + 2, 2)
    assert run(0x2222) == MmioWrite(base + 4, 2, 0x2222)
    assert run() == MmioRead(base + 8, 4)
    assert run(0x33333333) == MmioWrite(base + 12, 4, 0x33333333)
    assert run() == MmioRead(base + 16, 8)
    assert run(0x4444444444444444) == MmioWrite(base + 24, 8, 0x4444444444444444)
    assert run() == Halted()


def test_string_move_between_devices_asks_and_tells_in_order(boot_anywhere):
    guest = boot_anywhere("""
        mov esi, 0xd0000000
        mov edi, 0xd0001000
        mov ecx, 2
        rep movsd
        cli
        hlt
    """)
    run = guest.vcpu.run
    assert run() == MmioRead(0xD0000000, 4)
    assert run(1) == MmioWrite(0xD0001000, 4, 1)
    assert run() == MmioRead(0xD0000004, 4)
    assert run(2) == MmioWrite(0xD0001004, 4, 2)
    assert run() == Halted()
    assert guest.vcpu.registers()["rcx"] == 0


def test_repeated_output_reports_each_byte_once(boot_anywhere):
    guest = boot_anywhere("""
        lea rsi, text[rip]
        mov ecx, 3
        mov dx, 0x200
        rep outsb
        cli
        hlt
    text: .ascii "abc"
    """)
    assert [guest.vcpu.run() for _ in range(4)] == [*(PioWrite(0x200, 1, byte) for byte in b"abc"), Halted()]


def test_push_to_a_device_moves_the_stack_pointer_once(boot):
    guest = boot("""
        mov esp, 0xd0000010
        mov eax, 7
        push rax
        cli
        hlt
    """)
    assert guest.vcpu.run() == MmioWrite(0xD0000008, 8, 7)
    assert guest.vcpu.registers()["rsp"] == 0xD0000010
    assert guest.vcpu.run() == Halted()
    assert guest.vcpu.registers()["rsp"] == 0xD0000008


def test_read_modify_write_of_a_device_is_a_read_and_a_write(boot_anywhere):
    guest = boot_anywhere("""
        mov ebx, 0xd0000000
        add dword ptr [rbx], 5
        cli
        hlt
    """)
    assert guest.vcpu.run() == MmioRead(0xD0000000, 4)
    assert guest.vcpu.run(10) == MmioWrite(0xD0000000, 4, 15)
    assert guest.vcpu.run() == Halted()


def test_access_across_a_page_end_is_split(boot_anywhere):
    guest = boot_anywhere("""
        mov ebx, 0xd0000ffe
        mov eax, [rbx]
        cli
        hlt
    """)
    assert guest.vcpu.run() == MmioRead(0xD0000FFE, 2)
    assert guest.vcpu.run(0x1234) == MmioRead(0xD0001000, 2)
    assert guest.vcpu.run(0x5678) == Halted()
    assert guest.vcpu.registers()["rax"] == 0x56781234


def test_engine_devices_are_not_accessed_twice_by_an_instruction_that_waits(boot_anywhere):
    guest = boot_anywhere("""
        mov dx, 0x3fd
    1:  in al, dx
        test al, 1
        jz 1b
        mov edi, 0xd0000000
        mov dx, 0x3f8
        insb
        in al, dx
        cli
        hlt
    """)
    assert guest.vm.serial_input(0, b"xy") == 2
    assert guest.vcpu.run() == MmioWrite(0xD0000000, 1, ord("x"))
    assert guest.vm.serial_pending(0) == 1
    assert guest.vcpu.run() == Halted()
    assert guest.vcpu.registers()["rax"] & 0xFF == ord("y")


SPEAKS = """
    lea rsi, text[rip]
    mov ecx, 6
    mov dx, 0x3f8
    rep outsb
    mov dx, 0x200
    out dx, al
    mov dx, 0x2f8
    mov al, 'z'
    out dx, al
    cli
    hlt
text: .ascii "gasang"
"""


def test_serial_output_comes_before_what_follows_it(boot_anywhere):
    run = boot_anywhere(SPEAKS).vcpu.run
    exit, said = run(), b""
    while isinstance(exit, SerialOutput):
        assert exit.index == 0
        said += exit.data
        exit = run()
    assert said == b"gasang"
    assert exit == PioWrite(0x200, 1, 0)
    assert run() == SerialOutput(1, b"z")
    assert run() == Halted()


def test_serial_output_comes_in_batches(boot):
    guest = boot(SPEAKS, clock="instructions")
    assert guest.vcpu.run() == SerialOutput(0, b"gasang")
    assert guest.vcpu.run() == PioWrite(0x200, 1, 0)


def test_output_of_a_busy_guest_does_not_wait_for_its_end(boot_anywhere):
    guest = boot_anywhere("""
        mov dx, 0x3f8
        mov al, '!'
        out dx, al
    1:  jmp 1b
    """)
    assert guest.vcpu.run() == SerialOutput(0, b"!")


def test_triple_fault_shuts_the_processor_down(boot_anywhere):
    guest = boot_anywhere("ud2")
    assert guest.vcpu.run() == Shutdown("triple fault")
    assert guest.vcpu.run() == Shutdown("triple fault")


def test_instruction_budget_ends_in_interrupted(boot):
    guest = boot("1: inc rax\n jmp 1b")
    assert guest.vcpu.run(instructions=1000) == Interrupted()
    executed = guest.vcpu.statistics()["instructions"]
    assert 1000 <= executed < 1100
    assert guest.vcpu.registers()["rax"] == (executed + 1) // 2


def test_interpreter_stops_at_the_very_instruction(boot):
    guest = boot("1: inc rax\n jmp 1b", accel="interp")
    for total in (1, 2, 1002):
        assert guest.vcpu.run(instructions=total - guest.vcpu.statistics()["instructions"]) == Interrupted()
        assert guest.vcpu.statistics()["instructions"] == total


def test_budget_of_nothing_executes_nothing(boot):
    guest = boot("inc rax")
    assert guest.vcpu.run(instructions=0) == Interrupted()
    assert guest.vcpu.registers()["rax"] == 0


def test_replies_are_checked_and_can_be_given_again(boot_anywhere):
    guest = boot_anywhere("in al, 0x80\n cli\n hlt")
    with pytest.raises(EngineError, match="no read"):
        guest.vcpu.run(1)
    assert guest.vcpu.run() == PioRead(0x80, 1)
    with pytest.raises(EngineError, match="waits for a reply"):
        guest.vcpu.run()
    with pytest.raises(EngineError, match="does not fit in the 1 bytes"):
        guest.vcpu.run(0x100)
    with pytest.raises(EngineError, match="the reply must be from 0 to"):
        guest.vcpu.run(-1)
    with pytest.raises(EngineError, match="the reply must be from 0 to"):
        guest.vcpu.run(1 << 64)
    with pytest.raises(TypeError, match="the reply must be an int, not str"):
        guest.vcpu.run("a")
    assert guest.vcpu.run(0xFF) == Halted()


def test_exits_match_by_position_and_show_themselves(boot):
    guest = boot("mov eax, 3\n out 0x80, al")
    match guest.vcpu.run():
        case PioWrite(port, size, value):
            assert (port, size, value) == (0x80, 1, 3)
        case other:
            pytest.fail(repr(other))
    assert repr(PioWrite(0x80, 1, 3)) == "PioWrite(port=0x80, size=1, value=0x3)"
    assert repr(SerialOutput(0, b"a\n")) == r'SerialOutput(index=0, data=b"a\n")'
