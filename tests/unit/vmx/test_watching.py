"""Transitions as text and as a picture."""

import xml.etree.ElementTree as ET

import pytest

from gasang import vmx
from gasang.vmx.transitions import reason_title

SVG = "{http://www.w3.org/2000/svg}"


def watched(cpu, guest):
    """Two guests, an entry and an exit each; the second one's takes three times as long."""
    cpu.watch()
    for ticks in (10, 30):
        vmcs = guest("ebfe")
        vmcs.execution.activate_preemption_timer = True
        vmcs.guest.preemption_timer_value = ticks
        cpu.launch(vmcs)
    return cpu.transitions()


def texts(picture):
    return [element.text for element in ET.fromstring(picture).iter(f"{SVG}text")]


def test_lines_tell_what_changed(cpu, guest):
    lines = [vmx.transition_line(each) for each in watched(cpu, guest)]
    assert [line.split(" RIP ")[0].split(" VMCS ")[0] for line in lines] == [
        "0.000",
        "0.320",
        "0.320",
        "1.280",
    ]
    assert "entry RIP 0x1000: host.es_selector=0x10 " in lines[0]
    assert " exit  RIP 0x1000 VMX-preemption timer expired, qualification 0x0" in lines[1]


def test_an_entry_that_failed_late_is_told(cpu, guest):
    cpu.watch()
    vmcs = guest("f4")
    vmcs.guest.rflags = 0
    with pytest.raises(vmx.VmEntryFailed):
        cpu.launch(vmcs)
    (transition,) = cpu.transitions()
    line = vmx.transition_line(transition)
    assert " exit  RIP 0x1000 VM entry, VM-entry failure: invalid guest state, " in line


def test_reasons_that_nobody_knows_have_numbers():
    assert reason_title(35) == "exit reason 35"


def test_nothing_is_noted_unless_watched(cpu, guest):
    cpu.launch(guest("f4"))
    assert cpu.transitions() == []


def test_the_timeline_has_a_row_for_each_vmcs(cpu, guest):
    transitions = watched(cpu, guest)
    shown = texts(vmx.timeline(transitions))
    first, second = (f"VMCS {each.vmcs:#x}" for each in transitions[::2])
    assert shown[:1] == ["1.280 µs, 4 transitions"]
    assert shown[shown.index(first) + 1] == "25.0%"
    assert shown[shown.index(second) + 1] == "75.0%"
    assert shown[shown.index("VMX root operation") + 1] == "0.0%"
    assert "2 (100.0%)" in shown


def test_the_timeline_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no transitions"):
        vmx.timeline([])


def test_one_transition_makes_a_timeline(cpu, guest):
    assert "1 transitions" in vmx.timeline(watched(cpu, guest)[:1])
