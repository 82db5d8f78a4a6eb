"""The log of pages that were written: the same on every accelerator."""

import pytest
from conftest import ENTRY, PAGE_TABLES, STACK, Guest, why_no_kvm

from gasang._engine import EngineError, PioWrite

PAGE = 0x1000

WRITES = """
1:  mov rax, [0x50000]
    mov [0x40000], rax
    mov byte ptr [0x41fff], 1
    mov rax, [0x60000]
    push rax
    lock inc qword ptr [0x70008]
    mov edi, 0x80ff8
    mov ecx, 2
    rep stosq
    out 0x80, al
    jmp 1b
"""
"""Writes pages 0x40 and 0x41, the stack's, 0x70, 0x80 and 0x81, and reads 0x50 and 0x60."""

WRITTEN = [(STACK - PAGE, PAGE), (0x40000, 2 * PAGE), (0x70000, PAGE), (0x80000, 2 * PAGE)]


def without_page_tables(runs):
    """The processor writes accessed and dirty flags; KVM's does where nobody sees it."""
    return [run for run in runs if not PAGE_TABLES <= run[0] < PAGE_TABLES + 8 * PAGE]


def run_once(guest):
    assert guest.vcpu.run() == PioWrite(0x80, 1, 0)


@pytest.fixture
def guest(boot_anywhere):
    """One that has gone round once, so that everything is translated and every page has its flags."""
    guest = boot_anywhere(WRITES)
    run_once(guest)
    return guest


def test_pages_that_are_written_are_in_the_log_and_those_that_are_read_are_not(guest):
    guest.vm.log_dirty_pages(True)
    assert guest.vm.take_dirty_pages() == []
    for _ in range(3):
        run_once(guest)
        assert without_page_tables(guest.vm.take_dirty_pages()) == WRITTEN
    assert guest.vm.take_dirty_pages() == []


def test_what_a_device_writes_is_in_the_log(guest):
    guest.vm.log_dirty_pages(True)
    guest.vm.write_memory(0x90FFF, b"ab")
    assert guest.vm.take_dirty_pages() == [(0x90000, 2 * PAGE)]


def test_without_a_log_there_is_nothing_to_take(guest):
    with pytest.raises(EngineError, match="nothing is logged"):
        guest.vm.take_dirty_pages()
    guest.vm.log_dirty_pages(True)
    guest.vm.log_dirty_pages(False)
    run_once(guest)
    with pytest.raises(EngineError, match="nothing is logged"):
        guest.vm.take_dirty_pages()


@pytest.mark.skipif(why_no_kvm() is not None, reason=why_no_kvm() or "")
def test_the_log_goes_with_a_guest_that_is_switched(assemble):
    guest = Guest(assemble(WRITES), 64, accel="bt", switchable=True)
    assert guest.vm.read_memory(ENTRY, 1) != b"\0"
    run_once(guest)
    guest.vm.log_dirty_pages(True)
    for accel in ("kvm", "bt", "kvm"):
        run_once(guest)
        guest.vcpu.kick()
        guest.vcpu.run()
        guest.vm.set_accelerator(accel)
        assert without_page_tables(guest.vm.take_dirty_pages()) == WRITTEN
