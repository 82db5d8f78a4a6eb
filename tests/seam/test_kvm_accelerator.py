"""/dev/kvm as an accelerator: the same guests, the same exits and the same registers as by translation."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import ENTRY, IDT, STACK, Guest, why_no_kvm

from gasang._engine import (
    EngineError,
    Halted,
    Interrupted,
    KvmLost,
    MmioRead,
    PioRead,
    PioWrite,
    Segment,
    Shutdown,
    probe_kvm,
)

pytestmark = pytest.mark.skipif(why_no_kvm() is not None, reason=why_no_kvm() or "")

DEVICE = 0xD0000000
REAL_MODE = Segment(ENTRY >> 4, ENTRY, 0xFFFF, 0x9B)
REAL_DATA = Segment(0, 0, 0xFFFF, 0x93)

PROGRAMS = {
    "real mode": (16, "mov ax, 0x1234; out 0x80, ax; mov bx, ax; shl bx, 3; push bx; pop cx; hlt"),
    # The flags that IMUL leaves undefined are not the same on every host: ADD defines them.
    "protected mode": (
        32,
        "mov eax, 0x12345678; imul eax, 7; push eax; pop ebx; add ebx, 1; out 0x80, eax; hlt",
    ),
    "long mode": (64, "mov rax, 0x123456789abcdef0; bswap rax; push rax; pop r15; out 0x80, eax; hlt"),
    "ports": (32, "in al, 0x70; mov bl, al; in ax, 0x72; mov cx, ax; in eax, 0x74; out 0x80, eax; hlt"),
    "strings of ports": (
        64,
        "mov edi, 0x30000; mov dx, 0x70; mov ecx, 3; rep insb; mov esi, 0x30000; mov ecx, 3; rep outsb; hlt",
    ),
    "device memory": (
        64,
        f"mov ebx, {DEVICE}; mov eax, [rbx]; mov [rbx + 8], al; mov rcx, [rbx + 16]; "
        "add dword ptr [rbx], 5; hlt",
    ),
    "x87 and SSE": (
        64,
        "fld1; fldpi; fmulp; fstp qword ptr [0x30000]; movsd xmm3, [0x30000]; mulsd xmm3, xmm3; "
        "movq rax, xmm3; hlt",
    ),
    "shutdown": (64, f"lidt [{ENTRY + 0x100}]; ud2"),
}
"""Assembly for real, protected and long mode, that ends in HLT or a triple fault."""

RING_3 = f"""
    jmp start
    .org 0x40
page_fault:
    pop rax
    mov rbx, cr2
    mov rcx, [rsp + 8]
    hlt
start:
    mov ax, 0x28
    ltr ax
    push 0x1b
    push {STACK - 0x1000}
    push 2
    push 0x23
    push offset user
    iretq
user:
    mov eax, [0x40000000]
"""
"""To ring 3, and back by a page fault."""

INTERRUPT = """
    jmp start
    .org 0x40
handler:
    inc ebx
    iretq
start:
    mov edx, 0xfee00000
    mov dword ptr [rdx + 0xf0], 0x1ff
    mov dword ptr [rdx + 0x3e0], 0xb
    mov dword ptr [rdx + 0x320], 0x41
    mov dword ptr [rdx + 0x380], 1000
    sti
1:  hlt
    test ebx, ebx
    jz 1b
    mov dword ptr [rdx + 0xb0], 0
    cli
    hlt
"""
"""The local APIC's timer, and a HLT that it ends."""


def in_real_mode(guest):
    data = dict.fromkeys(("ds", "es", "ss", "fs", "gs"), REAL_DATA)
    guest.vcpu.set_registers(cs=REAL_MODE, rip=0, rsp=0x8000, cr0=0x10, **data)


def boot(assemble, accel, bits, source, **options):
    guest = Guest(assemble(source, bits), 32 if bits == 16 else bits, accel=accel, **options)
    if bits == 16:
        in_real_mode(guest)
    return guest


def run_to_the_end(guest):
    """All exits; reads are answered by numbers that count up. And the registers at the end."""
    exits, answer = [], None
    while not exits or not isinstance(exits[-1], Halted | Shutdown | Interrupted):
        exits.append(guest.vcpu.run(answer))
        answer = 0x11 * len(exits) if isinstance(exits[-1], PioRead | MmioRead) else None
    return exits, guest.vcpu.registers()


def differences(one, other):
    """Names of registers that differ: but for ET, which no processor that has KVM can clear, and how many
    instructions there were."""
    one, other = dict(one), dict(other)
    for registers in (one, other):
        registers["cr0"] |= 0x10
        registers.pop("instructions", None)
    return {name for name in one if one[name] != other[name]}


@pytest.mark.parametrize("name", PROGRAMS)
def test_guests_do_the_same_on_kvm_and_by_translation(name, assemble):
    bits, source = PROGRAMS[name]
    source = source.replace("; ", "\n")
    translated = run_to_the_end(boot(assemble, "bt", bits, source))
    # Some back ends do not know x87: then it is what translation makes of KVM's state that is compared.
    on_kvm = run_to_the_end(boot(assemble, "kvm", bits, source, kvm_may_fail=True))
    assert [each for each in on_kvm[0] if not isinstance(each, KvmLost)] == translated[0]
    if name != "shutdown":
        assert differences(on_kvm[1], translated[1]) == set()
        assert translated[0][-1] == Halted()


def with_user_segments(guest):
    """A GDT with user segments, a TSS, and an IDT with a gate for the page fault."""
    guest.set_gate(14, ENTRY + 0x40)
    user_data, user_code, tss = 0x00CFF3000000FFFF, 0x00AFFB000000FFFF, 0x1800
    guest.vm.write_memory(
        0x800 + 0x18, b"".join(each.to_bytes(8, "little") for each in (user_data, user_code))
    )
    descriptor = 0x0000890000000067 | (tss & 0xFFFF) << 16
    guest.vm.write_memory(0x800 + 0x28, descriptor.to_bytes(8, "little") + bytes(8))
    guest.vm.write_memory(tss + 4, STACK.to_bytes(8, "little"))
    guest.vcpu.set_registers(gdtr=type(guest.vcpu.registers()["gdtr"])(0x800, 0x37))
    # The page tables of `Guest` are the kernel's alone, and map what is to be absent.
    for table in (0x2000, 0x3000, 0x4000):
        entry = int.from_bytes(guest.vm.read_memory(table, 8), "little")
        guest.vm.write_memory(table, (entry | 4).to_bytes(8, "little"))
    guest.vm.write_memory(0x3008, bytes(8))


def test_ring_3_and_a_page_fault_from_it(assemble):
    ends = []
    for accel in ("bt", "kvm"):
        guest = boot(assemble, accel, 64, RING_3)
        with_user_segments(guest)
        exits, registers = run_to_the_end(guest)
        assert exits == [Halted()]
        assert (registers["rax"], registers["rbx"], registers["rcx"]) == (4, 0x40000000, 0x23)
        ends.append(registers)
    # Software back ends leave segments that ring 3 cannot use (SDM vol. 2, IRET).
    excused = set() if all(failure is None for _, failure in probe_kvm()) else {"ds", "es", "fs", "gs"}
    assert differences(*ends) <= excused


def test_a_timer_interrupt_ends_a_halt(assemble):
    for accel in ("bt", "kvm"):
        guest = boot(assemble, accel, 64, INTERRUPT)
        guest.set_gate(0x41, ENTRY + 0x40)
        exits, registers = run_to_the_end(guest)
        assert exits == [Halted()]
        assert registers["rbx"] & 0xFF == 1
        assert guest.vcpu.statistics()["irq_injections"] == 1
        assert registers["idtr"].base == IDT


@pytest.mark.parametrize("accel", ["bt", "kvm"])
def test_what_is_written_from_outside_is_what_the_guest_executes(accel, assemble):
    guest = boot(assemble, accel, 64, "mov eax, 1\nout 0x80, eax\njmp .-7")
    assert guest.vcpu.run() == PioWrite(0x80, 4, 1)
    guest.vm.write_memory(ENTRY + 1, b"\2")
    assert guest.vcpu.run() == PioWrite(0x80, 4, 2)


def test_registers_can_be_set_between_exits(assemble):
    guest = boot(assemble, "kvm", 64, "1: out 0x80, eax\njmp 1b")
    assert guest.vcpu.run() == PioWrite(0x80, 4, 0)
    with pytest.raises(EngineError, match="waits for its answer"):
        guest.vcpu.set_registers(rax=7)
    guest.vcpu.kick()
    assert guest.vcpu.run() == Interrupted()
    guest.vcpu.set_registers(rax=7)
    assert guest.vcpu.run() == PioWrite(0x80, 4, 7)


CODE_IN_A_DEVICE = f"mov ecx, 7\nmov eax, {DEVICE}\njmp rax"


def test_where_kvm_cannot_go_on_the_error_names_the_instruction(assemble):
    guest = boot(assemble, "kvm", 64, CODE_IN_A_DEVICE)
    with pytest.raises(EngineError, match=f"KVM cannot emulate the instruction at {DEVICE:#x}: "):
        guest.vcpu.run()


@pytest.mark.parametrize("irqchip", ["own", "kernel"])
def test_where_kvm_cannot_go_on_translation_does(irqchip, assemble):
    guest = boot(assemble, "kvm", 64, CODE_IN_A_DEVICE, kvm_may_fail=True, irqchip=irqchip)
    exits, _ = run_to_the_end(guest)
    assert isinstance(exits[0], KvmLost)
    assert f"cannot emulate the instruction at {DEVICE:#x}" in exits[0].reason
    assert exits[1:] == [Shutdown("triple fault")]
    assert guest.vcpu.statistics()["exits_kvm_lost"] == 1


START_ANOTHER = f"""
    mov ebx, 0xfee00000
    mov dword ptr [rbx + 0xf0], 0x1ff
    mov dword ptr [rbx + 0x310], 0x01000000
    mov dword ptr [rbx + 0x300], 0x4500
    mov dword ptr [rbx + 0x300], 0x4640
1:  cmp dword ptr [0x30000], 0
    je 1b
    {CODE_IN_A_DEVICE}
"""
"""The second processor begins at 0x40000."""

COUNT = "mov ax, 0x3000\nmov ds, ax\n1: lock inc dword ptr [0]\njmp 1b"


@pytest.mark.parametrize("irqchip", ["own", "kernel"])
def test_the_other_processors_leave_kvm_too(irqchip, assemble):
    guest = boot(assemble, "kvm", 64, START_ANOTHER, cpus=2, kvm_may_fail=True, irqchip=irqchip)
    second = guest.vm.vcpu(1)
    guest.vm.write_memory(0x40000, assemble(COUNT, 16))

    def count():
        return int.from_bytes(guest.vm.read_memory(0x30000, 4), "little")

    exits = []
    thread = threading.Thread(target=lambda: exits.extend(run_until_kicked(second)))
    thread.start()
    assert isinstance(guest.vcpu.run(), KvmLost)
    before = count()
    assert before
    while count() == before:
        pass
    second.kick()
    thread.join(20)
    assert exits == [Interrupted()]
    assert second.statistics()["instructions"] > 0


def run_until_kicked(vcpu):
    exits = [vcpu.run()]
    while not isinstance(exits[-1], Interrupted):
        exits.append(vcpu.run())
    return exits


def test_the_probe_says_of_each_step_whether_it_works():
    steps = probe_kvm()
    assert [name for name, _ in steps][:3] == ["/dev/kvm", "real mode", "long mode"]
    assert all(failure is None for _, failure in steps[:-1])
    assert steps[-1][1] is not None or steps[-1][0] == "timer interrupt"


def test_nothing_is_left_of_machines_that_came_and_went(assemble):
    def held():
        maps = Path("/proc/self/maps").read_text().count("\n")
        return (
            len(os.listdir("/proc/self/fd")),
            threading.active_count(),
            len(os.listdir("/proc/self/task")),
            maps,
        )

    def live():
        assert boot(assemble, "kvm", 64, "out 0x80, al\nhlt").vcpu.run() == PioWrite(0x80, 1, 0)

    for _ in range(10):
        live()
    before = held()
    for _ in range(200):
        live()
    descriptors, threads, tasks, maps = held()
    assert (descriptors, threads, tasks) == before[:3]
    assert maps <= before[3] + 8, "what malloc keeps, not a mapping for each machine"


KILLED = """
import sys
sys.path.insert(0, {folder!r})
from conftest import Guest
guest = Guest(bytes.fromhex("ebfe"), 64, accel="kvm")
print("runs", flush=True)
guest.vcpu.run()
"""


def test_a_process_that_is_killed_leaves_nothing():
    source = KILLED.format(folder=str(Path(__file__).parent))
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"runs\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(20) == -signal.SIGKILL
    assert not Path(f"/proc/{process.pid}").exists()
