"""VM entries and VM exits of a running machine, as lines."""

import os
from dataclasses import dataclass

from gasang.cli.vmx_trace import VmxTrace


@dataclass
class Transition:
    kind: str = "exit"
    vmcs: int = 0x1000
    time: int = 1500
    rip: int = 0xFFF0
    reason: int = 12
    qualification: int = 0
    changed: tuple = ()


class Machine:
    """One transition on each processor, and some that were lost on the second."""

    def __init__(self):
        self.transitions = [[Transition()], [Transition(kind="entry")]]

    def vmx_transitions(self, cpu):
        transitions, self.transitions[cpu] = self.transitions[cpu], []
        return transitions, 7 * cpu * len(transitions)


def test_transitions_of_every_processor_are_written():
    read, write = os.pipe()
    with VmxTrace(write).following(Machine(), cpus=2):
        pass
    os.close(write)
    with os.fdopen(read) as trace:
        assert trace.read().splitlines() == [
            "cpu 0 1.500 VMCS 0x1000 exit  RIP 0xfff0 HLT, qualification 0x0",
            "cpu 1 1.500 VMCS 0x1000 entry RIP 0xfff0",
            "cpu 1 7 transitions more: they came faster than they could be shown",
        ]
