"""The engine: virtual processors, guest memory and the chipset that is too hot for Python.

`Vcpu.run(reply)` enters the guest; the exit is the value that it returns, and the answer to an exit that
reads travels with the next entry.
"""

from collections.abc import Mapping, Sequence
from typing import final

__all__ = [
    "DescriptorTable",
    "EngineError",
    "Exit",
    "Halted",
    "Interrupted",
    "KvmLost",
    "Measurements",
    "MmioRead",
    "MmioWrite",
    "Network",
    "PioRead",
    "PioWrite",
    "Segment",
    "SerialOutput",
    "Shutdown",
    "TraceEvent",
    "TranslatedBlock",
    "Vcpu",
    "Vm",
    "VmExit",
    "VmxOutcome",
    "VmxTransition",
    "cpu_features",
    "cpu_models",
    "digest_of_image",
    "host_capabilities",
    "probe_kvm",
    "vm_entry_checks",
    "vmcs_fields",
    "vmx_capabilities",
    "vmx_control_capabilities",
    "vmx_names",
]

@final
class EngineError(Exception):
    """The engine refused: a bad processor model, memory it cannot have, a register that does not exist."""

@final
class PioRead:
    """The guest reads an I/O port; answer with the value in the next `run`."""

    __match_args__ = ("port", "size")
    def __new__(cls, port: int, size: int) -> PioRead: ...
    @property
    def port(self) -> int: ...
    @property
    def size(self) -> int: ...

@final
class PioWrite:
    """The guest writes an I/O port."""

    __match_args__ = ("port", "size", "value")
    def __new__(cls, port: int, size: int, value: int) -> PioWrite: ...
    @property
    def port(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def value(self) -> int: ...

@final
class MmioRead:
    """The guest reads a physical address that is neither RAM nor a device of the engine.

    Answer in the next `run`.
    """

    __match_args__ = ("address", "size")
    def __new__(cls, address: int, size: int) -> MmioRead: ...
    @property
    def address(self) -> int: ...
    @property
    def size(self) -> int: ...

@final
class MmioWrite:
    """The guest writes a physical address that is neither RAM nor a device of the engine."""

    __match_args__ = ("address", "size", "value")
    def __new__(cls, address: int, size: int, value: int) -> MmioWrite: ...
    @property
    def address(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def value(self) -> int: ...

@final
class SerialOutput:
    """Bytes that the guest sent through serial port `index` (0 is COM1), collected since the last exit."""

    __match_args__ = ("index", "data")
    def __new__(cls, index: int, data: bytes) -> SerialOutput: ...
    @property
    def index(self) -> int: ...
    @property
    def data(self) -> bytes: ...

@final
class VmExit:
    """The guest left VMX non-root operation, or its entry failed late, on a Vm made with `vm_exits=True`.

    `reason` is the whole exit-reason field (SDM vol. 3, 25.9.1): the basic reason in bits 15:0, bit 31 for an
    entry that failed.
    """

    __match_args__ = ("reason", "qualification")
    def __new__(cls, reason: int, qualification: int) -> VmExit: ...
    @property
    def reason(self) -> int: ...
    @property
    def qualification(self) -> int: ...

@final
class Halted:
    """HLT with interrupts disabled, and no other processor is left that could wake this one."""

    def __new__(cls) -> Halted: ...

@final
class Shutdown:
    """The processor gave up; `reason` is "triple fault"."""

    __match_args__ = ("reason",)
    def __new__(cls, reason: str) -> Shutdown: ...
    @property
    def reason(self) -> str: ...

@final
class Interrupted:
    """`Vcpu.kick` was called, or the instruction budget of `run` is spent."""

    def __new__(cls) -> Interrupted: ...

@final
class KvmLost:
    """KVM cannot execute the guest any further; on a Vm made with `kvm_may_fail=True` translation goes on."""

    __match_args__ = ("reason",)
    def __new__(cls, reason: str) -> KvmLost: ...
    @property
    def reason(self) -> str: ...

Exit = (
    PioRead
    | PioWrite
    | MmioRead
    | MmioWrite
    | SerialOutput
    | VmExit
    | Halted
    | Shutdown
    | Interrupted
    | KvmLost
)

@final
class Segment:
    """A segment register: the selector and the hidden part.

    `attributes` has the layout of a VMCS access-rights field (SDM vol. 3, 25.4.1): type 3:0, S 4, DPL 6:5,
    P 7, AVL 12, L 13, D/B 14, G 15, unusable 16. `limit` is in bytes, already scaled.
    """

    __match_args__ = ("selector", "base", "limit", "attributes")
    def __new__(cls, selector: int, base: int, limit: int, attributes: int) -> Segment: ...
    @property
    def selector(self) -> int: ...
    @property
    def base(self) -> int: ...
    @property
    def limit(self) -> int: ...
    @property
    def attributes(self) -> int: ...

@final
class DescriptorTable:
    """GDTR or IDTR."""

    __match_args__ = ("base", "limit")
    def __new__(cls, base: int, limit: int) -> DescriptorTable: ...
    @property
    def base(self) -> int: ...
    @property
    def limit(self) -> int: ...

@final
class TranslatedBlock:
    """A translation block: the guest's code beside the host code that it became.

    `guest` and `host` are lists of (address, bytes, text) in program order.
    """

    @property
    def guest_address(self) -> int: ...
    @property
    def physical_address(self) -> int: ...
    @property
    def guest(self) -> list[tuple[int, bytes, str]]: ...
    @property
    def host(self) -> list[tuple[int, bytes, str]]: ...

@final
class Measurements:
    """What was measured of one processor. Times are in nanoseconds of the host's.

    `phases`: what its thread did, as {name: (times begun, time)}: outside (the caller of `run`), idle,
    machine, code, dispatch, translate, interpret, direct; and what followed when translated code left: poll,
    lookup, link, leave, user_miss, supervisor_miss, extended, fault. They add up to all of the time.

    `interpreted`: instructions that T0 executed, as (guest address, form, times, time).

    `samples`: (guest address, phase, samples); in translated code the address is a block's, 0 where none is
    known. `lost` is how many there was no room for.

    `exits`: what the callers of `run` answered, as (exit by its name in `statistics`, port or address, times,
    time).
    """

    @property
    def phases(self) -> dict[str, tuple[int, int]]: ...
    @property
    def interpreted(self) -> list[tuple[int, str, int, int]]: ...
    @property
    def samples(self) -> list[tuple[int, str, int]]: ...
    @property
    def exits(self) -> list[tuple[str, int, int, int]]: ...
    @property
    def lost(self) -> int: ...

@final
class VmxOutcome:
    """How a VMX instruction ended that raised no exception (SDM vol. 3, 31.2).

    `kind` is "succeeded", with the `value` of VMREAD and VMPTRST; "fail_invalid": there is no current VMCS;
    "fail_valid", with the VM-instruction `error` and, of a VM entry, the `check` that failed; "entered": the
    processor is in VMX non-root operation; or "entry_failed": a VM entry failed late, by a `check` of the
    guest's state or by entry `msr` (from 1) of the VM-entry MSR-load area.
    """

    @property
    def kind(self) -> str: ...
    @property
    def value(self) -> int | None: ...
    @property
    def error(self) -> int | None: ...
    @property
    def check(self) -> str | None: ...
    @property
    def msr(self) -> int | None: ...

@final
class TraceEvent:
    """What left a guest, or entered it, by the names of KVM's tracepoints (Linux, arch/x86/kvm/trace.h).

    `name` is kvm_pio, kvm_mmio, kvm_msr, kvm_hypercall, kvm_inj_virq, kvm_exit (of HLT) or
    kvm_userspace_exit, `time` nanoseconds of the virtual clock, `fields` what the tracepoint shows.
    """

    @property
    def time(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def fields(self) -> dict[str, int]: ...

@final
class VmxTransition:
    """A VM entry or a VM exit as it happened.

    `kind` is "entry" or "exit"; a VM entry that failed late is an exit. `vmcs` is the physical address of the
    VMCS, `time` nanoseconds of the virtual clock, `instructions` those retired before, `rip` the guest's;
    `reason` (the whole field) and `qualification` are 0 for entries. `changed` lists the fields of the VMCS
    that have another value than at the transition before, as (encoding, value).
    """

    @property
    def kind(self) -> str: ...
    @property
    def vmcs(self) -> int: ...
    @property
    def time(self) -> int: ...
    @property
    def instructions(self) -> int: ...
    @property
    def rip(self) -> int: ...
    @property
    def reason(self) -> int: ...
    @property
    def qualification(self) -> int: ...
    @property
    def changed(self) -> list[tuple[int, int]]: ...

@final
class Vcpu:
    """A virtual processor. One thread runs it; `kick` may come from any thread."""

    @property
    def index(self) -> int: ...
    def run(self, reply: int | None = None, *, instructions: int | None = None) -> Exit:
        """Enter the guest; return the next exit.

        `reply` answers the read that the last exit asked for. `instructions` bounds the run: after that many
        instructions it returns `Interrupted`. The GIL is released inside.

        Raises `EngineError` if a reply is due and missing, or another thread is inside `run`.
        """

    def kick(self) -> None:
        """Make the current or the next `run` return `Interrupted` soon. Safe from any thread."""

    def registers(self) -> Mapping[str, int | Segment | DescriptorTable]:
        """Every register by its manual's name: rax … r15, rip, rflags, cr0, cr2, cr3, cr4, cr8, efer, xcr0,
        cs ss ds es fs gs ldtr tr (`Segment`), gdtr idtr (`DescriptorTable`), dr0 … dr3, dr6, dr7, and MSRs by
        name (star, lstar, cstar, fmask, kernel_gs_base, sysenter_cs, sysenter_esp, sysenter_eip, pat,
        tsc_aux, tsc_adjust, tsc_offset). Raises `EngineError` if another thread is inside `run`.
        """

    def set_registers(self, **values: int | Segment | DescriptorTable) -> None:
        """Set the registers named, as they are, without the checks of instructions; the others keep their
        values.

        Raises `EngineError` for an unknown name or a value that the register cannot hold, and then sets none.
        """

    def statistics(self) -> dict[str, int]:
        """Counters since creation: instructions, exits by the names of KVM's statistics, blocks translated,
        TLB refills, and so on.

        While another thread is inside `run`, those of a moment ago.
        """

    def translated_blocks(self) -> list[TranslatedBlock]:
        """The blocks translated since the last call, when the Vm was made with `trace_blocks=True`."""

    def set_profile(self, hertz: int | None) -> None:
        """Measure from now on, from nothing, with `hertz` samples a second, 10,000 at most; or, with None, no
        longer.

        Raises `EngineError` if another thread is inside `run`, or the host refuses what sampling needs: a
        timer, and its highest real-time signal.
        """

    def profile(self) -> Measurements | None:
        """What was measured since `set_profile`; None if nothing is.

        Raises `EngineError` if another thread is inside `run`.
        """

    def executions(self) -> list[tuple[int, int, int]]:
        """How often translated code was executed, on a Vm made with `count_blocks=True`: (guest address of a
        block, times, guest instructions all times together). What a block leaves to T0 in its midst counts.

        Raises `EngineError` if another thread is inside `run`.
        """

    def vmx(self, instruction: str, *operands: int) -> VmxOutcome:
        """Execute a VMX instruction (SDM vol. 3, chapter 31) as a hypervisor outside: vmxon, vmclear, vmptrld
        (a physical address), vmxoff, vmptrst, vmread (an encoding), vmwrite (an encoding, a value), invept
        and invvpid (a type, the descriptor's low and high half), vmlaunch, vmresume.

        After a VM entry, `run` executes the guest. Raises `EngineError` for an exception (#UD, #GP), a VMX
        abort, a guest that has not left VMX non-root operation, or another thread inside `run`.
        """

    def watch_exits(self, on: bool) -> None:
        """Note what leaves the guest from now on, or no longer.

        Raises `EngineError` if another thread is inside `run`.
        """

    def traced_exits(self) -> tuple[list[TraceEvent], int]:
        """What left the guest since the last call, if that is watched, and how much more there was: 65536
        events are kept.

        Raises `EngineError` if another thread is inside `run`.
        """

    def watch_vmx(self, on: bool) -> None:
        """Note VM entries and VM exits from now on, or no longer.

        Raises `EngineError` if another thread is inside `run`.
        """

    def vmx_transitions(self) -> tuple[list[VmxTransition], int]:
        """The VM entries and VM exits since the last call, if they are watched, and how many more there were:
        65536 are kept.

        Raises `EngineError` if another thread is inside `run`.
        """

    def extended_state(self) -> bytes:
        """The x87, SSE and AVX registers as XSAVE's standard format has them (SDM vol. 1, 13.4)."""

    def events(self) -> list[tuple[int, int]]:
        """The interrupts delivered since the last call as (instructions before it, vector); an NMI is
        vector 2.

        Only a Vm whose clock counts instructions records them.
        """

    def replay(self, events: Sequence[tuple[int, int]]) -> None:
        """Deliver these interrupts at these instruction counts, and from now on no others.

        Further calls append. At a HLT with nothing left to deliver, `run` returns `Interrupted`. `run` raises
        `EngineError` if an interrupt of the list is not there to be delivered when its time has come.
        """

@final
class Vm:
    """Guest memory, processors, interrupt controllers, timers and four serial ports, on one virtual clock.

    RAM of `memory` bytes (a multiple of 4096) lies from address 0 up to 3 GiB and continues at 4 GiB;
    0xA0000 to 0xBFFFF is a hole. Serial ports are at 0x3f8, 0x2f8, 0x3e8, 0x2e8 with GSIs 4, 3, 6, 7. Also
    in the engine: PIC, PIT (with port 0x61), I/O APIC at 0xfec00000, HPET at 0xfed00000, local APIC at
    0xfee00000, ACPI PM timer at port 0x608.

    `accel` is "bt" (translator), "interp" (T0 only) or "kvm" (/dev/kvm; the processor has no VT-x then, and
    its time-stamp counter counts the host's ticks). With `kvm_may_fail` translation goes on where KVM cannot,
    after a `KvmLost`. A machine made with `switchable`, or on KVM, may go from one of them to the other by
    `set_accelerator`: it has a processor that both can give. `irqchip` says where interrupt controllers and
    PIT are while it is on KVM: "own" is the engine, "kernel" the kernel. `cpu` is MODEL[,+feature,-feature]…

    `clock` is "host", or "instructions": virtual time is then one nanosecond for each instruction, HLT
    skips to the next timer, interrupts come after exact numbers of instructions, RDRAND's numbers are chosen
    by `seed`, and so two runs of the same guest are the same. One vCPU only.

    `wall_clock` is the nanoseconds from 1970 to the machine's creation that KVM's clock tells the guest.

    With `vm_exits` the hypervisor is the caller of `Vcpu.vmx` and `Vcpu.run`: a VM exit ends `run`.

    `memory_image` is a descriptor of a file, and an offset: RAM begins as its bytes from there on, which are
    read when they are needed, and goes its own way.

    Raises `EngineError` for a bad model or feature name, or memory that cannot be mapped.
    """

    def __new__(
        cls,
        *,
        memory: int,
        cpus: int = 1,
        accel: str = "bt",
        cpu: str = "max",
        trace_blocks: bool = False,
        log_code: bool = False,
        count_blocks: bool = False,
        clock: str = "host",
        wall_clock: int = 0,
        seed: int = 0,
        vm_exits: bool = False,
        kvm_may_fail: bool = False,
        switchable: bool = False,
        irqchip: str = "own",
        memory_image: tuple[int, int] | None = None,
    ) -> Vm: ...
    def vcpu(self, index: int) -> Vcpu: ...
    def memory_regions(self) -> list[tuple[int, int]]:
        """RAM as (physical address, length) pairs, ascending."""

    def read_memory(self, address: int, length: int) -> bytes:
        """Bytes of RAM at a physical address. Raises `EngineError` if any of it is not RAM."""

    def write_memory(self, address: int, data: bytes) -> None:
        """Write RAM at a physical address.

        Raises `EngineError` if any of it is not RAM, and then writes nothing.
        """

    def set_accelerator(self, accel: str) -> None:
        """Go on by "bt" or "kvm", with the same registers, memory and devices.

        Raises `EngineError`, and changes nothing, for a machine that was not made for it, while a thread is
        inside `run`, while an access waits for its answer, and for what KVM says.
        """

    def hold(self) -> None:
        """Stand still, on KVM as well: virtual time does not pass until `release`, and nothing is to be run.

        Raises `EngineError` while a thread is inside `run` or an access waits for its answer.
        """

    def release(self) -> None:
        """Go on. Raises `EngineError` for what KVM says."""

    def save(self) -> str:
        """The state of a machine that stands still, but for RAM: JSON by the names of registers.

        Raises `EngineError` if it does not stand still.
        """

    def load(self, state: str) -> None:
        """Have what `save` returned, before the first `run`, with RAM as it was then; stand still.

        Raises `EngineError` for what is no such state, or of another processor or machine.
        """

    def freeze_memory(self) -> int:
        """RAM of a machine that stands still as a file that never changes: its descriptor, the caller's own.

        What is written from now on stays in this machine. Raises `EngineError`.
        """

    def write_memory_image(self, descriptor: int, offset: int) -> tuple[int, int]:
        """Write RAM of a machine that stands still to holes of a file from `offset` on.

        Returns what `digest_of_image` does. Raises `EngineError`, `OSError`.
        """

    def log_dirty_pages(self, on: bool) -> None:
        """Log from now on which pages are written, beginning with none; or no longer.

        Raises `EngineError` while a thread is inside `run`.
        """

    def take_dirty_pages(self) -> list[tuple[int, int]]:
        """The pages that processors and devices wrote since the last call, as (physical address, length) of
        each run of them, ascending.

        Raises `EngineError` if nothing is logged, and while a thread is inside `run`.
        """

    def memory_view(self, address: int, length: int) -> memoryview:
        """RAM in place, to be read and written as the guest does, at any time; it stays as long as the view.

        Whoever writes it tells by `memory_written`. Raises `EngineError` if any of it is not RAM.
        """

    def discard_memory(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Give the host back what RAM takes at these (address, length): whole pages, which read as zeroes
        then.

        Raises `EngineError` if any of it is not RAM or no whole pages, and for what the host says.
        """

    def memory_written(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Tell that RAM was written in place at these (address, length), so that code translated from it is
        void.

        Raises `EngineError` if any of it is not RAM.
        """

    def memory_digest(self) -> int:
        """64 bits that tell the contents of RAM from other contents; equal for equal contents."""

    def state_digest(self) -> int:
        """64 bits that tell this state from others: processors, RAM, chipset, virtual time.

        Raises `EngineError` while a thread is inside a processor.
        """

    def set_interrupt_line(self, gsi: int, level: bool) -> None:
        """Drive a global system interrupt line (0-23) high or low. Safe from any thread."""

    def add_doorbell(self, address: int, *, port: bool = False) -> int:
        """Answer writes of any size that begin at a physical address, or at a port, by adding 1 to an event
        counter (eventfd(2)), without an exit: its descriptor, which the caller closes.

        Raises `EngineError` if there is a doorbell already, and for what the host says.
        """

    def remove_doorbell(self, address: int, *, port: bool = False) -> None:
        """Such writes are exits again. Raises `EngineError` if there is no doorbell."""

    def signal_msi(self, address: int, data: int) -> bool:
        """Send a message signalled interrupt, as a device that writes `data` to `address`; whether a local
        APIC took it. Any thread may."""

    def interrupt_descriptor(self, gsi: int) -> int:
        """The descriptor of an event counter (eventfd(2)) whose every write is an edge of a line, until the
        caller closes it.

        Raises `EngineError` unless the interrupt controllers are the kernel's, and if there is no such line.
        """

    def serial_input(self, index: int, data: bytes) -> int:
        """Offer bytes to serial port `index`; returns how many were queued (all, up to a queue of 64 KiB)."""

    def serial_pending(self, index: int) -> int:
        """Bytes queued for serial port `index` that the guest has not read yet."""

    def take_code_log(self) -> list[tuple[int, int, int, int, int]]:
        """Where the code of each block translated since the last call is, on a Vm made with `log_code=True`:
        (host address, bytes, guest address, guest instructions, CPL). Safe from any thread.
        """

    def virtual_time(self) -> int:
        """Nanoseconds of the virtual clock since creation."""

def digest_of_image(descriptor: int, offset: int, size: int) -> tuple[int, int]:
    """Pages of an image of RAM that are not all zeroes, and the CRC-32 of them and their places.

    Raises `OSError`.
    """

def cpu_models() -> list[str]:
    """The names that `cpu` takes."""

def cpu_features() -> list[str]:
    """The feature names that `cpu` takes after `+` and `-`."""

def host_capabilities() -> dict[str, bool]:
    """What the host processor and kernel offer the engine: fsgsbase, avx2, xsavec, …"""

def probe_kvm() -> list[tuple[str, str | None]]:
    """Run a small guest on /dev/kvm: each step that was tried, and None if it works or why not. Nothing is
    tried after a step that fails; the first is to open the device. Takes milliseconds, 5 seconds at most."""

def vmcs_fields() -> list[tuple[int, str, str, str, int, bool]]:
    """Every field of the VMCS as (encoding, area, name, title, bits, read-only).

    Areas are guest, host, execution, exit, entry and exit_information (SDM vol. 3, 25.3); names are unique in
    an area, titles are the manual's (appendix B).
    """

def vm_entry_checks() -> list[tuple[str, str, str, str]]:
    """Every check of VM entries as (name, group, section, rule), in the manual's order (SDM vol. 3, 27.2,
    27.3). Groups are controls, host and guest; the section is the manual's.
    """

def vmx_names() -> dict[str, list[tuple[int, str, str]]]:
    """Numbers and bits as (number or bit, name, title), by what they belong to: exit_reasons,
    instruction_errors, event_types, activity_states, ept_violation, ept_entry, and the fields of the VMCS
    that consist of bits, as AREA.FIELD ("execution.pin_based_controls").
    """

def vmx_capabilities(cpu: str) -> dict[int, int]:
    """The VMX capability MSRs of a processor model (SDM vol. 3, appendix A) by number; none without VMX.

    Raises `EngineError` for a bad model or feature name.
    """

def vmx_control_capabilities() -> dict[str, int]:
    """The capability MSR that tells all of each word of controls, as {AREA.FIELD: number}."""

@final
class Network:
    """A network in user mode for one guest. Every method may be called from any thread; what is done with a
    closed one raises `ConnectionError`."""

    def __new__(cls, allow: Sequence[str], mac: Sequence[int], resolver: str | None, seed: int) -> Network:
        """`allow`: rules of whom the guest may reach. `mac`: the guest's. `resolver`: the host's name server,
        "ADDRESS:PORT". `seed`: what numbers that nobody should guess begin with. Raises `ValueError`,
        `OSError`."""

    @property
    def descriptor(self) -> int:
        """Readable when `run` has something to do; it is closed with the network."""

    def take(self, frame: bytes) -> bool:
        """Take a frame of the guest's; whether there is room for another."""

    def set_mac(self, mac: Sequence[int]) -> None:
        """The guest has this address from now on."""

    def run(self) -> bool:
        """Do what there is to do on the host's side; whether there is room for frames. Raises `OSError`."""

    def give(self) -> bytes | None:
        """The next frame for the guest."""

    def forward(self, address: str, guest_port: int) -> str:
        """Take connections at "ADDRESS:PORT" of the host's to a port of the guest's; return where, for a port
        of 0. Raises `OSError`, `ValueError`."""

    def stop_forward(self, address: str) -> bool:
        """Take no more connections there; false if none were taken. Raises `ValueError`."""

    def connections(self) -> list[tuple[int, Sequence[int], int, int]]:
        """Every open connection of the guest's: its port, its peer's address and port, the byte that it
        awaits."""

    def break_off(self, connections: Sequence[tuple[int, Sequence[int], int, int]]) -> None:
        """Tell the guest that such connections, of a network before this one, are broken."""

    def close(self) -> None:
        """Close every socket; the descriptor too."""
