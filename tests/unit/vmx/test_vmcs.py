"""The six areas of a VMCS, and events that are injected."""

import pytest

from gasang import vmx
from gasang._engine import vmx_capabilities
from gasang.vmx import EventType, ExitReason
from gasang.vmx.names import BITS, FIELDS

IA32_VMX_MISC = 0x485


@pytest.fixture
def vmcs(cpu):
    return cpu.vmcs()


def area(vmcs, field):
    return getattr(vmcs, field.area)


def test_every_field_is_an_attribute(vmcs):
    for field in FIELDS.values():
        if not vmcs.has(field.encoding):
            with pytest.raises(vmx.VmInstructionError, match="not supported"):
                getattr(area(vmcs, field), field.name)
        elif not field.read_only:
            setattr(area(vmcs, field), field.name, (1 << 64) - 1)
            assert getattr(area(vmcs, field), field.name) == (1 << field.width) - 1
            assert vmcs.read(field.encoding) == (1 << field.width) - 1


def test_every_bit_is_an_attribute(vmcs):
    for encoding, bits in BITS.items():
        if not vmcs.has(encoding):
            continue
        vmcs.write(encoding, 0)
        for bit in bits:
            setattr(area(vmcs, FIELDS[encoding]), bit.name, True)
            assert vmcs.read(encoding) == bit.mask
            assert getattr(area(vmcs, FIELDS[encoding]), bit.name) is True
            setattr(area(vmcs, FIELDS[encoding]), bit.name, False)
            assert vmcs.read(encoding) == 0


def test_exit_information_is_read_only_unless_all_fields_can_be_written(vmcs):
    if vmx_capabilities("max")[IA32_VMX_MISC] >> 29 & 1:
        vmcs.exit_information.reason = 1
        assert vmcs.exit_information.reason == 1
        return
    with pytest.raises(vmx.VmInstructionError, match="read-only") as caught:
        vmcs.exit_information.reason = 1
    assert caught.value.number == 13


@pytest.mark.parametrize("name", ["ripp", "hlt_exiting", "_rip"])
def test_other_names_are_errors(vmcs, name):
    with pytest.raises(AttributeError):
        setattr(vmcs.guest, name, 1)
    with pytest.raises(AttributeError):
        getattr(vmcs.guest, name)


def test_numbers_that_do_not_fit_are_errors(vmcs):
    with pytest.raises(vmx.VmxError, match="must be from 0"):
        vmcs.guest.rip = -1


def test_segments_and_tables_are_values(vmcs):
    vmcs.guest.fs = vmx.Segment(0x33, 0x1234000, 0xFFFF, 0x93)
    assert vmcs.guest.fs == vmx.Segment(0x33, 0x1234000, 0xFFFF, 0x93)
    assert (vmcs.guest.fs_selector, vmcs.guest.fs_base) == (0x33, 0x1234000)
    assert (vmcs.guest.fs_limit, vmcs.guest.fs_access_rights) == (0xFFFF, 0x93)
    vmcs.guest.idtr = vmx.DescriptorTable(0x5000, 0xFFF)
    assert (vmcs.guest.idtr_base, vmcs.guest.idtr_limit) == (0x5000, 0xFFF)
    assert vmcs.guest.idtr == vmx.DescriptorTable(0x5000, 0xFFF)


def test_each_vmcs_has_its_own_values(cpu, vmcs):
    other = cpu.vmcs()
    vmcs.guest.rip, other.guest.rip = 1, 2
    assert (vmcs.guest.rip, other.guest.rip) == (1, 2)


def test_a_vmcs_describes_itself(vmcs):
    text = vmcs.describe()
    assert [line for line in text.splitlines() if line.startswith("<")] == [
        repr(vmcs),
        "<guest area>",
        "<host area>",
        "<execution area>",
        "<exit area>",
        "<entry area>",
        "<exit information area>",
    ]
    assert "guest RSP                                        0xfff0" in text
    assert "enable EPT" in text
    assert "VM-instruction error" not in text, "to look is no error"


def test_attributes_say_what_they_are():
    assert type(vmx.Vmcs).__name__
    execution = type(vmx.Processor(memory="64K").vmcs().execution)
    assert execution.hlt_exiting.__doc__ == (
        "HLT exiting: bit 7 of the primary processor-based VM-execution controls."
    )
    assert {"hlt_exiting", "ept_pointer"} <= set(dir(execution))


def test_an_interrupt_is_injected(cpu, guest):
    vmcs = guest("90 f4")
    cpu.memory[0x20 * 4 : 0x20 * 4 + 4] = bytes.fromhex("00200000")
    cpu.memory[0x2000:] = bytes.fromhex("bb3412 cf")  # mov bx, 0x1234; iret
    vmcs.guest.rflags = 0x202
    vmcs.inject(0x20)
    assert vmcs.entry.interruption_information == 1 << 31 | 0x20
    assert cpu.launch(vmcs).rip == 0x1001
    assert cpu.registers.rbx & 0xFFFF == 0x1234
    assert vmcs.entry.interruption_information == 0x20, "it is injected once"


@pytest.mark.parametrize(
    ("words", "information", "error_code"),
    [
        ((2,), 1 << 31 | 2 << 8 | 2, 0),
        ((6,), 1 << 31 | 3 << 8 | 6, 0),
        ((14, None, 5), 1 << 31 | 1 << 11 | 3 << 8 | 14, 5),
        ((13,), 1 << 31 | 1 << 11 | 3 << 8 | 13, 0),
        ((0x80, EventType.SOFTWARE_INTERRUPT), 1 << 31 | 4 << 8 | 0x80, 0),
    ],
)
def test_events_have_their_types(cpu, words, information, error_code):
    vmcs = cpu.vmcs("protected")
    vmcs.inject(*words, instruction_length=2)
    assert vmcs.entry.interruption_information == information
    assert vmcs.entry.exception_error_code == error_code
    assert vmcs.entry.instruction_length == (2 if EventType.SOFTWARE_INTERRUPT in words else 0)


def test_an_exception_without_error_code_in_real_mode(cpu):
    vmcs = cpu.vmcs()
    vmcs.inject(13)
    assert vmcs.entry.interruption_information == 1 << 31 | 3 << 8 | 13


def test_an_event_that_cannot_be_is_refused_by_the_entry(cpu, guest):
    vmcs = guest("f4")
    vmcs.inject(0x20)
    with pytest.raises(vmx.VmEntryFailed, match="RflagsInterrupt"):
        cpu.launch(vmcs)


def test_an_intercepted_exception_is_told_and_delivered(cpu, guest):
    vmcs = guest("0f0b f4")
    vmcs.execution.exception_bitmap = 1 << 6
    exit = cpu.launch(vmcs)
    assert exit.reason is ExitReason.EXCEPTION_OR_NMI
    assert exit.interruption == vmx.Event(6, EventType.HARDWARE_EXCEPTION)
    cpu.memory[24:28] = bytes.fromhex("02100000")
    vmcs.inject(exit.interruption.vector)
    assert cpu.resume(vmcs).rip == 0x1002


@pytest.fixture
def busy(cpu, guest):
    """A guest whose loop has been translated, and whose next entry injects an interrupt; EAX is 0, and each
    turn of the loop adds 3. The interrupt's handler executes CPUID."""
    vmcs = guest("ffc0 ffc0 ffc0 ebf8", "protected")
    vmcs.execution.activate_preemption_timer = True
    vmcs.guest.preemption_timer_value = 5
    cpu.launch(vmcs)
    for _ in range(20):
        cpu.resume(vmcs)
    cpu.memory[0x2000:] = bytes.fromhex("0fa2")
    cpu.memory[0x3100:] = bytes.fromhex("0020 0800 008e 0000")
    vmcs.guest.idtr = vmx.DescriptorTable(0x3000, 0x107)
    vmcs.guest.rip, vmcs.guest.rflags = 0x1000, 0x202
    vmcs.execution.activate_preemption_timer = False
    vmcs.inject(0x20)
    cpu.registers.rax = 0
    return vmcs


def test_an_injected_event_comes_before_the_first_instruction(cpu, busy):
    assert (cpu.resume(busy).rip, cpu.registers.rax) == (0x2000, 0)


def test_an_injected_event_comes_before_a_timer_that_has_expired(cpu, busy):
    busy.execution.activate_preemption_timer = True
    busy.guest.preemption_timer_value = 0
    exit = cpu.resume(busy)
    assert (exit.reason, exit.rip) == (ExitReason.PREEMPTION_TIMER_EXPIRED, 0x2000)


def test_an_injected_event_wakes_a_guest_that_is_halted(cpu, busy):
    busy.guest.activity_state = vmx.ActivityState.HLT
    assert (cpu.resume(busy).rip, cpu.registers.rax) == (0x2000, 0)


def test_an_injected_event_is_an_instruction_to_the_monitor_trap_flag(cpu, busy):
    busy.execution.monitor_trap_flag = True
    exit = cpu.resume(busy)
    assert (exit.reason, exit.rip, cpu.registers.rax) == (ExitReason.MONITOR_TRAP_FLAG, 0x2000, 0)
