"""VMX from outside: instructions, VM exits as exits, transitions, the engine's tables."""

import pytest

from gasang import _engine
from gasang._engine import EngineError, Interrupted, PioWrite, SerialOutput, Vm, VmExit

ENCODINGS = {(area, name): encoding for encoding, area, name, *_ in _engine.vmcs_fields()}
NAMES = _engine.vmx_names()
BITS = {name: mask for names in NAMES.values() for mask, name, _ in names}
CAPABILITIES = _engine.vmx_capabilities("max")
REGION, VMCS, OTHER = 0x8000, 0x9000, 0xA000
CODE = 0x10000
FLAT = _engine.Segment(0x08, 0, 0xFFFFFFFF, 0xC09B)
DATA = _engine.Segment(0x10, 0, 0xFFFFFFFF, 0xC093)
CONTROLS = {
    ("execution", "pin_based_controls"): 0x48D,
    ("execution", "primary_controls"): 0x48E,
    ("exit", "controls"): 0x48F,
    ("entry", "controls"): 0x490,
}
PAGING = {"cr0": 0x80000031, "cr3": 0x2000, "cr4": 0x2020}


class Host:
    """A processor in protected mode with PAE paging that maps its first 2 MiB, and a guest that is the
    same."""

    def __init__(self, accel, **options):
        self.vm = Vm(memory=2 << 20, accel=accel, clock="instructions", vm_exits=True, **options)
        self.vcpu = self.vm.vcpu(0)
        self.vm.write_memory(0x2000, (0x3001).to_bytes(8, "little"))
        self.vm.write_memory(0x3000, (0x83).to_bytes(8, "little"))
        for region in (REGION, VMCS, OTHER):
            self.vm.write_memory(region, (CAPABILITIES[0x480] & 0x7FFFFFFF).to_bytes(4, "little"))
        data = dict.fromkeys(("ds", "es", "ss", "fs", "gs"), DATA)
        self.vcpu.set_registers(cs=FLAT, **data, **PAGING)

    def do(self, instruction, *operands):
        outcome = self.vcpu.vmx(instruction, *operands)
        assert outcome.kind in ("succeeded", "entered"), outcome
        return outcome.value

    def write(self, area, name, value):
        self.do("vmwrite", ENCODINGS[area, name], value)

    def read(self, area, name):
        return self.do("vmread", ENCODINGS[area, name])

    def prepare(self, code=b"\x0f\xa2\xf4"):
        """A guest at `CODE` whose VMCS is current."""
        self.vm.write_memory(CODE, code)
        self.do("vmxon", REGION)
        self.do("vmclear", VMCS)
        self.do("vmptrld", VMCS)
        for place, msr in CONTROLS.items():
            self.write(*place, CAPABILITIES[msr] & 0xFFFFFFFF)
        for area in ("guest", "host"):
            for name, value in {**PAGING, "rip": CODE, "rsp": 0x20000}.items():
                self.write(area, name, value)
            for name in ("cs", "ds", "es", "ss", "fs", "gs", "tr"):
                self.write(area, f"{name}_selector", {"cs": 8, "tr": 0x18}.get(name, 0x10))
        for name in ("cs", "ds", "es", "ss", "fs", "gs"):
            self.write("guest", f"{name}_limit", 0xFFFFFFFF)
            self.write("guest", f"{name}_access_rights", 0xC09B if name == "cs" else 0xC093)
        self.write("guest", "tr_access_rights", 0x8B)
        self.write("guest", "tr_limit", 0x67)
        self.write("guest", "ldtr_access_rights", 1 << 16)
        self.write("guest", "rflags", 2)
        # Outside 64-bit mode a field of 64 bits has two halves.
        for half in (0, 1):
            self.do("vmwrite", ENCODINGS["guest", "vmcs_link_pointer"] | half, 0xFFFFFFFF)

    def set_bit(self, area, field, bit):
        self.write(area, field, self.read(area, field) | BITS[bit])


@pytest.fixture(params=["interp", "bt"])
def host(request):
    return Host(request.param)


def test_a_vm_exit_ends_the_run(host):
    host.prepare()
    assert host.vcpu.vmx("vmlaunch").kind == "entered"
    assert host.vcpu.run() == VmExit(10, 0)
    assert host.read("guest", "rip") == CODE
    assert host.read("exit_information", "instruction_length") == 2
    assert host.vcpu.registers()["rip"] == CODE, "the host has executed nothing"


def test_the_next_entry_goes_on(host):
    host.prepare()
    host.set_bit("execution", "primary_controls", "hlt_exiting")
    host.do("vmlaunch")
    host.vcpu.run()
    host.write("guest", "rip", CODE + 2)
    host.do("vmresume")
    assert host.vcpu.run() == VmExit(12, 0)
    counters = host.vcpu.statistics()
    assert (counters["vm_entries"], counters["vm_exits"]) == (2, 2)
    assert (counters["vm_exits_cpuid"], counters["vm_exits_hlt"]) == (1, 1)
    assert "vm_exits_rdmsr" not in counters


def test_a_budget_ends_in_non_root_operation(host):
    host.prepare(b"\xeb\xfe")
    host.do("vmlaunch")
    assert host.vcpu.run(instructions=1000) == Interrupted()
    with pytest.raises(EngineError, match="non-root"):
        host.vcpu.vmx("vmread", 0)


def test_what_the_guest_said_comes_before_its_exit(host):
    host.prepare(bytes.fromhex("66baf803 b041 ee 0fa2"))
    host.do("vmlaunch")
    assert host.vcpu.run() == SerialOutput(0, b"A")
    assert host.vcpu.run() == VmExit(10, 0)


def test_accesses_that_cause_no_vm_exit_are_exits_of_the_machine(host):
    host.prepare(bytes.fromhex("e6e9 0fa2"))
    host.do("vmlaunch")
    assert host.vcpu.run() == PioWrite(0xE9, 1, 0)
    with pytest.raises(EngineError, match="non-root"):
        host.vcpu.vmx("vmptrst")
    assert host.vcpu.run() == VmExit(10, 0)


def test_an_injected_event_comes_first(host):
    host.prepare()
    host.write("guest", "idtr_limit", 0xFFF)
    host.write("entry", "interruption_information", 1 << 31 | 0x20)
    host.write("guest", "rflags", 0x202)
    host.write("execution", "exception_bitmap", 0xFFFFFFFF)
    host.do("vmlaunch")
    assert host.vcpu.run().reason == 0, "its gate is not present"
    assert host.read("exit_information", "idt_vectoring_information") == 1 << 31 | 0x20


def test_exceptions_are_errors(host):
    with pytest.raises(EngineError, match="#UD"):
        host.vcpu.vmx("vmread", 0)
    host.vcpu.set_registers(cr0=0x11)
    with pytest.raises(EngineError, match="#GP"):
        host.vcpu.vmx("vmxon", REGION)


def test_failures_tell_the_error(host):
    host.do("vmxon", REGION)
    assert host.vcpu.vmx("vmlaunch").kind == "fail_invalid"
    assert host.vcpu.vmx("vmptrst").value == (1 << 64) - 1
    host.do("vmclear", VMCS)
    host.do("vmptrld", VMCS)
    outcome = host.vcpu.vmx("vmptrld", REGION)
    assert (outcome.kind, outcome.error, outcome.check) == ("fail_valid", 10, None)
    assert host.vcpu.vmx("vmresume").error == 5
    assert host.do("vmptrst") == VMCS


def test_entries_tell_the_check_that_failed(host):
    host.prepare()
    host.write("host", "cs_selector", 0)
    outcome = host.vcpu.vmx("vmlaunch")
    assert (outcome.kind, outcome.error, outcome.check) == ("fail_valid", 8, "HostCsNull")
    host.write("host", "cs_selector", 8)
    host.write("guest", "rflags", 0)
    outcome = host.vcpu.vmx("vmlaunch")
    assert (outcome.kind, outcome.error, outcome.check) == ("entry_failed", None, "RflagsReserved")
    assert host.read("exit_information", "reason") == 1 << 31 | 33
    host.write("guest", "rflags", 2)
    host.do("vmlaunch")
    assert host.vcpu.run() == VmExit(10, 0), "the outcome was told once"


@pytest.mark.parametrize(
    ("words", "message"),
    [(("vmcall",), "vmcall"), (("vmread",), "0 operands"), (("vmxoff", 1), "1 operands")],
)
def test_other_instructions_are_refused(host, words, message):
    with pytest.raises(EngineError, match=message):
        host.vcpu.vmx(*words)
    with pytest.raises(EngineError, match="an operand must be from 0"):
        host.vcpu.vmx("vmclear", -1)


def test_transitions_are_noted_while_somebody_watches(host):
    host.prepare()
    assert host.vcpu.vmx_transitions() == ([], 0)
    host.vcpu.watch_vmx(True)
    host.do("vmlaunch")
    host.vcpu.run()
    host.write("guest", "rip", CODE + 1)
    host.do("vmresume")
    (launch, exit, resume), lost = host.vcpu.vmx_transitions()
    assert [each.kind for each in (launch, exit, resume)] == ["entry", "exit", "entry"]
    assert {each.vmcs for each in (launch, exit, resume)} == {VMCS}
    assert (exit.reason, exit.qualification, exit.rip, lost) == (10, 0, CODE, 0)
    assert (ENCODINGS["guest", "rip"], CODE) in launch.changed
    assert dict(exit.changed)[ENCODINGS["exit_information", "instruction_length"]] == 2
    assert resume.changed == [(ENCODINGS["guest", "rip"], CODE + 1)]
    host.vcpu.watch_vmx(False)
    assert host.vcpu.vmx_transitions() == ([], 0)


def test_an_entry_that_fails_late_is_noted_as_an_exit(host):
    host.prepare()
    host.vcpu.watch_vmx(True)
    host.write("guest", "rflags", 0)
    host.vcpu.vmx("vmlaunch")
    (transition,), _ = host.vcpu.vmx_transitions()
    assert (transition.kind, transition.reason) == ("exit", 1 << 31 | 33)


def test_tables_are_consistent():
    places = [(area, name) for _, area, name, *_ in _engine.vmcs_fields()]
    assert len(places) == len(set(places)) > 150
    assert {area for area, _ in places} == {"guest", "host", "execution", "exit", "entry", "exit_information"}
    assert all(area == "exit_information" for _, area, *_, read_only in _engine.vmcs_fields() if read_only)
    assert set(_engine.vmx_control_capabilities().values()) <= CAPABILITIES.keys()
    assert all(tuple(place.split(".")) in places for place in NAMES if "." in place)
    assert {group for _, group, *_ in _engine.vm_entry_checks()} == {"controls", "host", "guest"}
    assert _engine.vmx_capabilities("max,-vmx") == {}
    with pytest.raises(EngineError, match="nonesuch"):
        _engine.vmx_capabilities("nonesuch")
