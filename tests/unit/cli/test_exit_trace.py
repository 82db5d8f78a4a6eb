"""What leaves a guest, in perf's words."""

import os
from dataclasses import dataclass

import pytest

from gasang.cli.exit_trace import ExitTrace, event_line


@dataclass
class Event:
    name: str
    fields: dict
    time: int = 1_500_000


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        (
            "kvm_pio",
            {"rw": 1, "port": 0x3F8, "size": 1, "count": 1, "val": 0x41},
            "pio_write at 0x3f8 size 1 count 1 val 0x41",
        ),
        (
            "kvm_mmio",
            {"type": 1, "len": 4, "gpa": 0xFEE00020, "val": 0},
            "mmio read len 4 gpa 0xfee00020 val 0x0",
        ),
        ("kvm_msr", {"write": 0, "ecx": 0x1B, "data": 0, "exception": 1}, "msr_read 1b = 0x0 (#GP)"),
        (
            "kvm_hypercall",
            {"nr": 5, "a0": 1, "a1": 2, "a2": 3, "a3": 4},
            "nr 0x5 a0 0x1 a1 0x2 a2 0x3 a3 0x4",
        ),
        ("kvm_inj_virq", {"vector": 0x30}, "IRQ 0x30"),
        ("kvm_exit", {"exit_reason": 12, "guest_rip": 0xFFF1}, "reason HLT rip 0xfff1"),
        ("kvm_userspace_exit", {"reason": 2}, "reason KVM_EXIT_IO (2)"),
    ],
)
def test_an_event_is_a_line_as_perf_has_it(name, fields, words):
    assert event_line(Event(name, fields)) == f"0.001500 {name}: {words}"


class Machine:
    def __init__(self):
        self.events = [[Event("kvm_inj_virq", {"vector": 0x20})], []]

    def traced_exits(self, cpu):
        events, self.events[cpu] = self.events[cpu], []
        return events, 3 * len(events)


def test_events_and_how_many_were_lost_are_written():
    read, write = os.pipe()
    with ExitTrace(write).following(Machine(), cpus=2):
        pass
    os.close(write)
    with os.fdopen(read) as trace:
        assert trace.read().splitlines() == [
            "cpu 0 0.001500 kvm_inj_virq: IRQ 0x20",
            "cpu 0 3 events more: they came faster than they could be shown",
        ]
