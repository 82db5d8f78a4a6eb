"""Machines whose clock counts instructions: the same guest is the same run, whoever executes it."""

import pytest
from conftest import ENTRY, STACK, Guest
from test_interrupts import PREPARE

from gasang._engine import EngineError, Interrupted, PioWrite, SerialOutput, Vm

STORM = f"""
    jmp start
    .org 0x40
handler:
    push rax
    push rdx
    mov al, 0x20
    out 0x20, al
    rdtsc
    add r15, rax
    mov [0x30000 + r14 * 8], rax
    inc r14
    pop rdx
    pop rax
    iretq
start:
    {PREPARE}
    mov al, 0xfe
    out 0x21, al
    mov al, 0x34
    out 0x43, al
    mov al, 40
    out 0x40, al
    xor eax, eax
    out 0x40, al
1:  sti
    imul r12, r13, 77
    lea rsi, [0x40000]
    lea rdi, [0x50000]
    mov ecx, 300
    rep movsb
    rdrand r13
    mov [0x40000], r13
    vpaddq ymm1, ymm1, [0x40000]
    test r14d, 1
    jz 2f
    rdtsc
    xor r12, rax
2:  cli
    add r11, r12
    mov edx, 0x3f8
    mov eax, r14d
    out dx, al
    popfq
    pushfq
    cmp r14, 50
    jb 1b
    mov ax, r15w
    out 0x80, ax
    cli
    hlt
"""
"""Fifty interrupts, 33 microseconds apart; what the guest sends depends on where they come."""


def storm(code, **options):
    guest = Guest(code, 64, clock="instructions", **options)
    guest.set_gate(0x20, ENTRY + 0x40)
    guest.vcpu.set_registers(rsp=STACK - 8, cr4=0x40620, xcr0=7)
    guest.vm.write_memory(STACK - 8, (0x202).to_bytes(8, "little"))
    return guest


def run(code, accel, *, seed=0, stretch=None):
    """Run to the end, in stretches of so many instructions; console, events and digest."""
    guest = storm(code, accel=accel, seed=seed)
    console = bytearray()
    while not isinstance(exit := guest.vcpu.run(instructions=stretch), PioWrite):
        if isinstance(exit, SerialOutput):
            console += exit.data
        else:
            assert exit == Interrupted()
    return bytes(console), guest.vcpu.events(), guest.vm.state_digest()


@pytest.fixture(scope="module")
def reference(assemble):
    return run(assemble(STORM), "interp")


def test_the_guest_does_what_it_is_for(reference):
    console, events, _ = reference
    assert len(events) == 50
    assert len(set(console)) > 25


@pytest.mark.parametrize("accel", ["interp", "bt"])
@pytest.mark.parametrize("stretch", [None, 1, 77, 1009])
def test_two_runs_are_the_same_run_however_they_are_executed(assemble, reference, accel, stretch):
    assert run(assemble(STORM), accel, stretch=stretch) == reference


@pytest.mark.parametrize("accel", ["interp", "bt"])
def test_another_seed_is_another_run(assemble, reference, accel):
    assert run(assemble(STORM), accel, seed=1)[2] != reference[2]


def test_a_machine_of_two_processors_has_no_such_clock():
    with pytest.raises(EngineError, match="one vCPU"):
        Vm(memory=1 << 20, cpus=2, clock="instructions")


def test_a_kick_changes_nothing(assemble, reference):
    guest = storm(assemble(STORM))
    exits = []
    while not exits or not isinstance(exits[-1], PioWrite):
        if exits and exits[-1] == Interrupted() and len(exits) % 2:
            guest.vcpu.kick()
        exits.append(guest.vcpu.run(instructions=500))
    assert guest.vm.state_digest() == reference[2]
    assert b"".join(exit.data for exit in exits if isinstance(exit, SerialOutput)) == reference[0]
