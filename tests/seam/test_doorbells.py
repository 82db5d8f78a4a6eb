"""Writes that signal a descriptor in place of an exit, and what interrupts from outside."""

import os

import pytest
from conftest import ENTRY, Guest, why_no_kvm
from test_interrupts import PREPARE

from gasang._engine import EngineError, Halted, Interrupted, MmioWrite, PioWrite

DEVICE = 0xD0000000

RING = f"""
    mov ebx, {DEVICE}
1:  mov dword ptr [rbx + 0x10], 3
    mov word ptr [rbx + 0x10], 4
    mov dx, 0x510
    out dx, al
    mov dword ptr [rbx + 0x14], 5
    jmp 1b
"""


def rung(descriptor):
    """How often since the last look."""
    try:
        return os.eventfd_read(descriptor)
    except BlockingIOError:
        return 0


def test_a_write_to_a_doorbell_is_no_exit_and_is_counted(boot_anywhere):
    guest = boot_anywhere(RING)
    memory, port = guest.vm.add_doorbell(DEVICE + 0x10), guest.vm.add_doorbell(0x510, port=True)
    try:
        for times in (1, 3):
            for _ in range(times):
                assert guest.vcpu.run() == MmioWrite(DEVICE + 0x14, 4, 5)
            assert (rung(memory), rung(port)) == (2 * times, times)
        guest.vm.remove_doorbell(0x510, port=True)
        assert guest.vcpu.run() == PioWrite(0x510, 1, 0)
        assert rung(memory) == 2
        guest.vm.remove_doorbell(DEVICE + 0x10)
        assert guest.vcpu.run() == MmioWrite(DEVICE + 0x14, 4, 5)
        assert guest.vcpu.run() == MmioWrite(DEVICE + 0x10, 4, 3)
    finally:
        os.close(memory)
        os.close(port)


def test_there_is_one_doorbell_at_a_place(boot_anywhere):
    vm = boot_anywhere("hlt").vm
    os.close(vm.add_doorbell(DEVICE))
    with pytest.raises(EngineError, match="a doorbell at address 0xd0000000 already"):
        vm.add_doorbell(DEVICE)
    with pytest.raises(EngineError, match="no doorbell at port 0x10"):
        vm.remove_doorbell(0x10, port=True)
    with pytest.raises(EngineError, match="a port must be from 0"):
        vm.add_doorbell(0x10000, port=True)


@pytest.mark.skipif(why_no_kvm() is not None, reason=why_no_kvm() or "")
def test_doorbells_go_with_a_guest_that_is_switched(assemble):
    guest = Guest(assemble(RING), 64, accel="bt", switchable=True)
    memory, port = guest.vm.add_doorbell(DEVICE + 0x10), guest.vm.add_doorbell(0x510, port=True)
    try:
        for accel in ("kvm", "bt", "kvm"):
            assert guest.vcpu.run() == MmioWrite(DEVICE + 0x14, 4, 5)
            guest.vcpu.kick()
            assert guest.vcpu.run() == Interrupted()
            assert (rung(memory), rung(port)) == (2, 1)
            guest.vm.set_accelerator(accel)
    finally:
        os.close(memory)
        os.close(port)


WAIT = f"""
    jmp start
    .org 0x40
handler:
    mov edx, 0xfee00000
    mov dword ptr [rdx + 0xb0], 0
    cli
    out 0x80, al
    hlt
start:
    mov edx, 0xfee00000
    mov dword ptr [rdx + 0xf0], 0x1ff
    {PREPARE}
    mov al, 0xff
    out 0x21, al
    out 0x81, al
    sti
1:  hlt
    jmp 1b
"""


def test_a_message_interrupts_whatever_has_the_interrupt_controllers(boot_anywhere):
    guest = boot_anywhere(WAIT)
    guest.set_gate(0x51, ENTRY + 0x40)
    assert guest.vcpu.run() == PioWrite(0x81, 1, 0xFF)
    assert not guest.vm.signal_msi(0xFEE05000, 0x51), "there is no processor 5"
    assert guest.vm.signal_msi(0xFEE00000, 0x51)
    assert guest.vcpu.run() == PioWrite(0x80, 1, 0xFF)
    assert guest.vcpu.run() == Halted()


def test_a_descriptor_interrupts_where_the_kernel_has_the_controllers(assemble):
    if reason := why_no_kvm():
        pytest.skip(reason)
    source = WAIT.replace("mov al, 0xff\n    out 0x21, al", "mov al, 0xdf\n    out 0x21, al")
    guest = Guest(assemble(source), 64, accel="kvm", irqchip="kernel")
    guest.set_gate(0x25, ENTRY + 0x40)
    assert guest.vcpu.run() == PioWrite(0x81, 1, 0xDF)
    descriptor = guest.vm.interrupt_descriptor(5)
    try:
        os.eventfd_write(descriptor, 1)
        assert guest.vcpu.run() == PioWrite(0x80, 1, 0xDF)
    finally:
        os.close(descriptor)
    with pytest.raises(EngineError, match="no interrupt line 24"):
        guest.vm.interrupt_descriptor(24)


def test_elsewhere_no_descriptor_interrupts(boot_with_own_controllers):
    guest = boot_with_own_controllers("hlt")
    with pytest.raises(EngineError, match="only the kernel's interrupt controllers"):
        guest.vm.interrupt_descriptor(5)
