"""What VM exits tell."""

import pytest

from gasang import vmx
from gasang.vmx import ExitReason


def test_reasons_have_names_and_titles():
    assert ExitReason(48) is ExitReason.EPT_VIOLATION
    assert ExitReason.EPT_VIOLATION.title == "EPT violation"
    assert len(ExitReason) > 60
    with pytest.raises(AttributeError):
        ExitReason.NONESUCH  # noqa: B018 - it is looked for


@pytest.mark.parametrize(
    ("code", "access"),
    [
        ("e480", vmx.IoAccess(0x80, 1, input=True, string=False, rep=False, immediate=True)),
        ("e680", vmx.IoAccess(0x80, 1, input=False, string=False, rep=False, immediate=True)),
        ("ba3412 ef", vmx.IoAccess(0x1234, 2, input=False, string=False, rep=False, immediate=False)),
        ("ba3412 66ed", vmx.IoAccess(0x1234, 4, input=True, string=False, rep=False, immediate=False)),
        ("ba3412 b90200 f36e", vmx.IoAccess(0x1234, 1, input=False, string=True, rep=True, immediate=False)),
    ],
)
def test_io(cpu, guest, code, access):
    exit = cpu.launch(guest(code))
    assert exit.io == access


@pytest.mark.parametrize(
    ("code", "access"),
    [
        ("0f22db", vmx.ControlRegisterAccess(3, "mov to", "rbx", None)),
        ("0f20d9", vmx.ControlRegisterAccess(3, "mov from", "rcx", None)),
        ("440f22c6", vmx.ControlRegisterAccess(8, "mov to", "rsi", None)),
        ("0f06", vmx.ControlRegisterAccess(0, "clts", None, None)),
        ("b80700 0f01f0", vmx.ControlRegisterAccess(0, "lmsw", None, 7)),
    ],
)
def test_control_registers(cpu, guest, code, access):
    vmcs = guest(code, "long" if code.startswith("44") else "real")
    vmcs.execution.cr3_load_exiting = vmcs.execution.cr3_store_exiting = True
    vmcs.execution.cr8_load_exiting = True
    vmcs.execution.cr0_guest_host_mask, vmcs.execution.cr0_read_shadow = 0xF, 0x8
    exit = cpu.launch(vmcs)
    assert exit.control_register == access


def test_other_exits_have_no_such_parts(cpu, guest):
    exit = cpu.launch(guest("f4"))
    for part in ("io", "ept_violation", "control_register"):
        with pytest.raises(vmx.VmxError, match="this exit is HLT, not"):
            getattr(exit, part)


def test_skipping_ends_what_sti_blocks(cpu, guest):
    vmcs = guest("fb 0fa2 f4")
    exit = cpu.launch(vmcs)
    assert vmcs.guest.blocking_by_sti
    exit.skip()
    assert (vmcs.guest.rip, vmcs.guest.blocking_by_sti) == (0x1003, False)


def test_there_is_nothing_to_skip_without_an_instruction(cpu, guest):
    vmcs = guest("ebfe")
    vmcs.execution.activate_preemption_timer = True
    exit = cpu.launch(vmcs)
    with pytest.raises(vmx.VmxError, match="VMX-preemption timer"):
        exit.skip()


def test_exits_are_shown(cpu, guest):
    exit = cpu.launch(guest("e480"))
    assert str(exit) == "I/O instruction at 0x1000, qualification 0x800048"
    assert repr(exit).startswith("VmExit(reason=<ExitReason.IO_INSTRUCTION: 30>, qualification=8388680, ")


def test_what_was_being_delivered_is_told(cpu, guest):
    vmcs = guest("cd21", "protected")
    vmcs.execution.exception_bitmap = 1 << 13
    exit = cpu.launch(vmcs)
    assert exit.interruption == vmx.Event(13, vmx.EventType.HARDWARE_EXCEPTION, 0x21 * 8 + 2)
    assert exit.idt_vectoring == vmx.Event(0x21, vmx.EventType.SOFTWARE_INTERRUPT)
