"""A hypervisor among the guest programs is watched from outside."""

import pytest
from guest_programs import manifest

from gasang import Machine
from gasang.vmx import ExitReason, transition_line

PROGRAM = next(program for program in manifest() if program.name == "vmx_exits_simple")


@pytest.mark.parametrize("accel", ["interp", "bt"])
def test_its_transitions_are_noted_and_counted(built, accel):
    with Machine.boot(kernel=built(PROGRAM), memory=PROGRAM.memory, accel=accel, trace_vmx=True) as machine:
        machine.wait(PROGRAM.timeout)
        transitions, lost = machine.vmx_transitions()
        counters = machine.statistics()
    assert lost == 0
    exits = [each for each in transitions if each.kind == "exit"]
    assert (len(transitions) - len(exits), len(exits)) == (counters["vm_entries"], counters["vm_exits"])
    assert sum(each.reason == ExitReason.CPUID for each in exits) == counters["vm_exits_cpuid"] > 0
    assert all(transition_line(each) for each in transitions)


def test_they_are_not_noted_unless_asked(built):
    with Machine.boot(kernel=built(PROGRAM), memory=PROGRAM.memory) as machine:
        machine.wait(PROGRAM.timeout)
        assert machine.vmx_transitions() == ([], 0)
