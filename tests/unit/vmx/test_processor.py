"""VMX operation from VMXON to VMXOFF."""

import signal
import subprocess
import sys
import time

import pytest

from gasang import vmx
from gasang.errors import ConfigError
from gasang.vmx import ExitReason

CPUID_HLT = "0fa2 f4"
FOREVER = "ebfe"


@pytest.mark.parametrize("mode", ["real", "protected", "long"])
def test_a_guest_in_every_mode_is_launched_and_resumed(cpu, guest, mode):
    vmcs = guest(CPUID_HLT, mode)
    exit = cpu.launch(vmcs)
    assert (exit.reason, exit.rip, exit.instruction_length) == (ExitReason.CPUID, 0x1000, 2)
    exit.skip()
    assert cpu.resume(vmcs).reason is ExitReason.HLT


@pytest.mark.parametrize(("mode", "size"), [("real", 2), ("protected", 4), ("long", 8)])
def test_modes_have_their_stacks(cpu, guest, mode, size):
    vmcs = guest("50 f4", mode)
    top = vmcs.guest.rsp
    cpu.registers.rax = 0x1122334455667788
    assert cpu.launch(vmcs).reason is ExitReason.HLT
    assert vmcs.guest.rsp == top - size
    pushed = int.from_bytes(cpu.memory[top - size : top], "little")
    assert pushed == 0x1122334455667788 & (1 << 8 * size) - 1


def test_an_unknown_mode_is_refused(cpu):
    with pytest.raises(vmx.VmxError, match="no mode 'virtual'"):
        cpu.vmcs("virtual")


def test_the_guest_sees_no_bits_that_vmx_operation_demands(cpu, guest):
    vmcs = guest("0f20c3 0f20e1 0f22c3 0f22e1 f4")  # mov ebx, cr0; mov ecx, cr4; and back
    assert cpu.launch(vmcs).reason is ExitReason.HLT
    assert (cpu.registers.rbx & 0x20, cpu.registers.rcx & 0x2000) == (0, 0)


def test_two_guests_on_one_processor(cpu, guest):
    first, second = guest("40 f4 40 f4"), guest("40 f4 40 f4")
    for vmcs in (first, second):
        assert cpu.launch(vmcs).rip == 0x1001
    for vmcs in (first, second):
        vmcs.guest.rip = 0x1002
    assert [cpu.resume(vmcs).rip for vmcs in (second, first)] == [0x1003, 0x1003]
    assert cpu.registers.rax & 0xFFFF == 4


def test_launch_states(cpu, guest):
    vmcs = guest("f4 f4")
    with pytest.raises(vmx.VmInstructionError, match="not launched") as caught:
        cpu.resume(vmcs)
    assert (caught.value.number, caught.value.instruction) == (5, "vmresume")
    cpu.launch(vmcs)
    with pytest.raises(vmx.VmInstructionError, match="not clear"):
        cpu.launch(vmcs)
    cpu.clear(vmcs)
    vmcs.guest.rip = 0x1001
    assert cpu.launch(vmcs).rip == 0x1001


BROKEN = [
    ("execution.pin_based_controls", 0, ("PinReserved", "controls", "27.2.1.1")),
    ("execution.instruction_timeout", True, ("SecondaryReserved", "controls", "27.2.1.1")),
    ("host.cs_selector", 0, ("HostCsNull", "host", "27.2.3")),
    ("guest.rflags", 0, ("RflagsReserved", "guest", "27.3.1.4")),
    ("guest.vmcs_link_pointer", 0x1234, ("LinkPointerAddress", "guest", "27.3.1.5")),
]


@pytest.mark.parametrize(("place", "value", "check"), BROKEN)
def test_a_failed_entry_names_its_check(cpu, guest, place, value, check):
    vmcs = guest("f4")
    area, name = place.split(".")
    good = getattr(getattr(vmcs, area), name)
    setattr(getattr(vmcs, area), name, value)
    with pytest.raises(vmx.VmEntryFailed, match=check[0]) as caught:
        cpu.launch(vmcs)
    assert (caught.value.check, caught.value.group, caught.value.section) == check
    setattr(getattr(vmcs, area), name, good)
    assert cpu.launch(vmcs).reason is ExitReason.HLT


def test_an_msr_that_cannot_be_loaded_is_told(cpu, guest):
    vmcs = guest("f4")
    area = cpu.pages.take()
    cpu.pages.write_word(area, 0xC0000100)  # IA32_FS_BASE
    vmcs.entry.msr_load_address, vmcs.entry.msr_load_count = area, 1
    with pytest.raises(vmx.VmEntryFailed, match="entry 1 of the VM-entry MSR-load area"):
        cpu.launch(vmcs)


def test_a_guest_that_does_not_exit_is_left_by_instructions(cpu, guest):
    vmcs = guest(FOREVER)
    with pytest.raises(vmx.VmxTimeout):
        cpu.launch(vmcs, instructions=5000)
    assert cpu.statistics()["instructions"] == 5000
    assert "non-root" in repr(cpu)
    with pytest.raises(vmx.VmxError, match="non-root"):
        vmcs.guest.rip  # noqa: B018 - it is read
    with pytest.raises(vmx.VmxTimeout):
        cpu.run(instructions=5000)
    cpu.memory[0x1000:] = bytes.fromhex("f4f4")
    assert cpu.run(instructions=5000).reason is ExitReason.HLT


def test_a_guest_that_does_not_exit_is_left_by_time(cpu, guest):
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        cpu.launch(guest(FOREVER), timeout=0.2)
    assert 0.2 <= time.monotonic() - start < 5


def test_a_late_kick_disturbs_nobody(cpu, guest):
    vmcs = guest(FOREVER)
    with pytest.raises(vmx.VmxTimeout):
        cpu.launch(vmcs, timeout=0.05)
    cpu._vcpu.kick()
    cpu.memory[0x1000:] = bytes.fromhex("f4f4")
    assert cpu.run().reason is ExitReason.HLT


@pytest.mark.parametrize("code", ["fa f4", "fb f4"])
def test_a_guest_that_halts_for_ever_is_told(cpu, guest, code):
    vmcs = guest(code)
    vmcs.execution.hlt_exiting = False
    with pytest.raises(vmx.VmxError, match=r"execution\.hlt_exiting"):
        cpu.launch(vmcs)


def test_nothing_runs_that_was_not_entered(cpu):
    with pytest.raises(vmx.VmxError, match="launch or resume one"):
        cpu.run()


def test_a_triple_fault_is_an_exit(cpu, guest):
    vmcs = guest("0f0b", "protected")
    assert cpu.launch(vmcs).reason is ExitReason.TRIPLE_FAULT


def test_what_nobody_answers_reads_as_ones(cpu, guest):
    vmcs = guest("e471 a30020 f4")  # in al, 0x71; mov [0x2000], ax
    vmcs.execution.unconditional_io_exiting = False
    assert cpu.launch(vmcs).reason is ExitReason.HLT
    assert cpu.memory[0x2000] == 0xFF


def test_what_goes_to_a_serial_port_is_kept(cpu, guest):
    vmcs = guest("baf803 b041 ee f4")
    vmcs.execution.unconditional_io_exiting = False
    assert cpu.launch(vmcs).reason is ExitReason.HLT
    assert cpu.serial_output == b"A"


def test_closed_is_closed():
    cpu = vmx.Processor(memory="64K")
    vmcs = cpu.vmcs()
    cpu.close()
    cpu.close()
    assert "closed" in repr(cpu)
    with pytest.raises(vmx.VmxError, match="closed"):
        cpu.launch(vmcs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "1K"}, "memory of 1K"),
        ({"memory": "4G"}, "memory of 4G"),
        ({"memory": 65537}, "65537 bytes"),
        ({"cpu": "max,-vmx"}, "no VMX"),
        ({"cpu": "nonesuch"}, "nonesuch"),
        ({"accel": "kvm"}, "KVM does not count instructions"),
    ],
)
def test_processors_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        vmx.Processor(**options)


def test_every_run_is_the_same_run(guest, cpu):
    vmcs = guest(FOREVER)
    vmcs.execution.activate_preemption_timer = True
    vmcs.guest.preemption_timer_value = 10
    assert cpu.launch(vmcs).reason is ExitReason.PREEMPTION_TIMER_EXPIRED
    assert cpu.time == 320


def test_structures_run_out():
    with vmx.Processor(memory="64K") as cpu:
        left = (4 << 20) // 4096
        with pytest.raises(vmx.VmxError, match="no page is left"):
            cpu.pages.take(left)


def test_registers_are_those_that_no_vmcs_holds(cpu):
    cpu.registers.r15 = 1 << 63
    assert cpu.registers.r15 == 1 << 63
    assert {"rax", "r8", "cr2", "dr0", "star"} <= set(dir(cpu.registers))
    assert not {"rip", "rsp", "rflags", "cs", "cr0", "efer"} & set(dir(cpu.registers))
    for name in ("rip", "eax"):
        with pytest.raises(AttributeError, match=name):
            setattr(cpu.registers, name, 0)
        with pytest.raises(AttributeError, match=name):
            getattr(cpu.registers, name)
    with pytest.raises(vmx.VmxError, match="must be from 0"):
        cpu.registers.rax = -1
    assert "r15=0x8000000000000000" in repr(cpu.registers)


@pytest.mark.parametrize("accel", ["interp", "bt"])
def test_ctrl_c_reaches_a_hypervisor_whose_guest_does_not_exit(accel):
    program = f"""
from gasang import vmx
with vmx.Processor(accel={accel!r}) as cpu:
    cpu.memory[0x1000:] = bytes.fromhex("{FOREVER}")
    vmcs = cpu.vmcs()
    vmcs.guest.rip = 0x1000
    print("ready", flush=True)
    try:
        cpu.launch(vmcs)
    except KeyboardInterrupt:
        cpu.memory[0x1000:] = bytes.fromhex("0fa2")
        print(cpu.run().reason.name)
"""
    # As in a terminal, whatever started these tests made of it.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + program
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.3)
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=10)[0] == "CPUID\n"
