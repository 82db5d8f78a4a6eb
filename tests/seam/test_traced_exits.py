"""What leaves a guest: the same by name and number, whatever executes it."""

from conftest import ENTRY
from test_interrupts import PREPARE

from gasang._engine import Halted, MmioRead, PioRead, PioWrite

DEVICE = 0xD0000000

LEAVES = f"""
    jmp start
    .org 0x40
handler:
    inc r8d
    mov al, 0x20
    out 0x20, al
    iretq
start:
    {PREPARE}
    in al, 0x71
    out 0x80, al
    mov ebx, {DEVICE}
    mov ecx, [rbx + 4]
    mov ecx, 0x1b
    rdmsr
    xor r8d, r8d
    sti
1:  test r8d, r8d
    jz 1b
    cli
    hlt
"""
"""Each kind of access, and an interrupt that waits for STI."""


def fields(events, name):
    return [event.fields for event in events if event.name == name]


def test_every_accelerator_counts_and_traces_the_same(boot_with_own_controllers):
    guest = boot_with_own_controllers(LEAVES)
    guest.set_gate(0x21, ENTRY + 0x40)
    guest.vcpu.watch_exits(True)
    assert guest.vcpu.run() == PioRead(0x71, 1)
    guest.vm.set_interrupt_line(1, True)
    assert guest.vcpu.run(0x26) == PioWrite(0x80, 1, 0x26)
    assert guest.vcpu.run() == MmioRead(DEVICE + 4, 4)
    assert guest.vcpu.run(0x12345678) == Halted()
    events, lost = guest.vcpu.traced_exits()
    assert lost == 0
    assert [event.time for event in events] == sorted(event.time for event in events)
    ports = fields(events, "kvm_pio")
    assert len(ports) == 7, "four to set the controller up, its end of interrupt, and two of ours"
    assert {"rw": 0, "port": 0x71, "size": 1, "count": 1, "val": 0x26} in ports
    assert {"rw": 1, "port": 0x80, "size": 1, "count": 1, "val": 0x26} in ports
    assert fields(events, "kvm_mmio") == [{"type": 1, "len": 4, "gpa": DEVICE + 4, "val": 0x12345678}]
    assert fields(events, "kvm_msr") == [{"write": 0, "ecx": 0x1B, "data": 0xFEE00900, "exception": 0}]
    assert fields(events, "kvm_inj_virq") == [{"vector": 0x21}]
    assert [each["exit_reason"] for each in fields(events, "kvm_exit")] == [12]
    # An input or output, another, a read of device memory, a processor that halts for ever.
    assert [each["reason"] for each in fields(events, "kvm_userspace_exit")] == [2, 2, 6, 5]
    counts = guest.vcpu.statistics()
    names = ("io_exits", "mmio_exits", "msr_read", "halt_exits", "irq_injections", "irq_window_exits")
    assert [counts[name] for name in names] == [7, 1, 1, 1, 1, 1]
    assert counts["exits"] == 7 + 1 + 1 + 1 + 1
    assert counts["userspace_exits"] == 4


def test_nothing_is_kept_of_what_nobody_watches(boot_anywhere):
    guest = boot_anywhere("out 0x80, al\nhlt")
    guest.vcpu.run()
    assert guest.vcpu.traced_exits() == ([], 0)
    guest.vcpu.watch_exits(True)
    guest.vcpu.watch_exits(False)
    guest.vcpu.run()
    assert guest.vcpu.traced_exits() == ([], 0)
    assert guest.vcpu.statistics()["io_exits"] == 1
