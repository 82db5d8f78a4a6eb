"""What a VM exit tells (SDM vol. 3, 25.9, 28.2), with exit qualifications taken apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gasang.errors import VmxError
from gasang.vmx.enumerations import EventType, ExitReason
from gasang.vmx.names import encoding, masks

if TYPE_CHECKING:
    from gasang.vmx.vmcs import Vmcs

_REGISTERS = (
    "rax",
    "rcx",
    "rdx",
    "rbx",
    "rsp",
    "rbp",
    "rsi",
    "rdi",
    *(f"r{number}" for number in range(8, 16)),
)
_ACCESSES = ("mov to", "mov from", "clts", "lmsw")
_EPT_VIOLATION = masks("ept_violation")
_VALID = 1 << 31
_ERROR_CODE = 1 << 11
_BASIC = 0xFFFF


@dataclass(frozen=True, slots=True)
class Event:
    """An interrupt or an exception: one that caused a VM exit, was being delivered, or is injected."""

    vector: int
    type: EventType
    error_code: int | None = None


@dataclass(frozen=True, slots=True)
class IoAccess:
    """An I/O instruction (SDM vol. 3, table 28-5): `size` bytes at `port`, from it if `input`."""

    port: int
    size: int
    input: bool
    string: bool
    rep: bool
    immediate: bool


@dataclass(frozen=True, slots=True)
class EptViolation:
    """An access that EPT does not allow (SDM vol. 3, table 28-7): what it was, and what the page allows.

    `guest_linear` is None where no linear address led to it; `translation` says that the access was to a
    paging structure on the way to that address.
    """

    guest_physical: int
    guest_linear: int | None
    read: bool
    write: bool
    fetch: bool
    readable: bool
    writable: bool
    executable: bool
    translation: bool


@dataclass(frozen=True, slots=True)
class ControlRegisterAccess:
    """An access to CR0, CR3, CR4 or CR8 (SDM vol. 3, table 28-3): `access` is "mov to", "mov from", "clts" or
    "lmsw"; a MOV's other operand is the general-purpose `register`, LMSW's is `source`."""

    number: int
    access: str
    register: str | None
    source: int | None


@dataclass(frozen=True)
class VmExit:
    """A VM exit: the value of `Processor.launch` and `Processor.resume`.

    `rip` is the guest's: of the instruction that caused the exit, or of the next for what is like a trap.
    Addresses are meaningful for the reasons that have them.
    """

    reason: ExitReason
    qualification: int
    rip: int
    instruction_length: int
    instruction_information: int
    interruption: Event | None
    idt_vectoring: Event | None
    guest_linear_address: int
    guest_physical_address: int
    vmcs: Vmcs = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.reason.title} at {self.rip:#x}, qualification {self.qualification:#x}"

    def skip(self) -> None:
        """Let the guest go on after the instruction that caused the exit, as if it had been executed: RIP is
        advanced, and what STI or MOV SS blocked for it is open again.

        Raises `VmxError` if no instruction caused the exit.
        """
        if not self.instruction_length:
            raise VmxError(f"no instruction caused this exit ({self.reason.title}): there is none to skip")
        self.vmcs.guest.rip = self.rip + self.instruction_length
        self.vmcs.guest.blocking_by_sti = False
        self.vmcs.guest.blocking_by_mov_ss = False

    @property
    def io(self) -> IoAccess:
        """The access of an I/O instruction. Raises `VmxError` for other exits."""
        self._demand(ExitReason.IO_INSTRUCTION)
        bits = self.qualification
        return IoAccess(
            port=bits >> 16 & 0xFFFF,
            size=(bits & 7) + 1,
            input=bool(bits & 1 << 3),
            string=bool(bits & 1 << 4),
            rep=bool(bits & 1 << 5),
            immediate=bool(bits & 1 << 6),
        )

    @property
    def ept_violation(self) -> EptViolation:
        """The access that EPT did not allow. Raises `VmxError` for other exits."""
        self._demand(ExitReason.EPT_VIOLATION)
        told = {name: bool(self.qualification & mask) for name, mask in _EPT_VIOLATION.items()}
        linear = told["linear_address_valid"]
        return EptViolation(
            guest_physical=self.guest_physical_address,
            guest_linear=self.guest_linear_address if linear else None,
            **{name: told[name] for name in ("read", "write", "fetch", "readable", "writable", "executable")},
            translation=linear and not told["translation_of_linear"],
        )

    @property
    def control_register(self) -> ControlRegisterAccess:
        """The access to a control register. Raises `VmxError` for other exits."""
        self._demand(ExitReason.CONTROL_REGISTER_ACCESS)
        access = _ACCESSES[self.qualification >> 4 & 3]
        return ControlRegisterAccess(
            number=self.qualification & 0xF,
            access=access,
            register=_REGISTERS[self.qualification >> 8 & 0xF] if access.startswith("mov") else None,
            source=self.qualification >> 16 & 0xFFFF if access == "lmsw" else None,
        )

    def _demand(self, reason: ExitReason) -> None:
        if self.reason is not reason:
            raise VmxError(f"this exit is {self.reason.title}, not {reason.title}")


def _place(name: str) -> int:
    return encoding("exit_information", name)


_REASON = _place("reason")
_QUALIFICATION = _place("qualification")
_RIP = encoding("guest", "rip")
_NUMBERS = (
    "instruction_length",
    "instruction_information",
    "guest_linear_address",
    "guest_physical_address",
)
_NUMBER_PLACES = {name: _place(name) for name in _NUMBERS}
_INTERRUPTION = (_place("interruption_information"), _place("interruption_error_code"))
_IDT_VECTORING = (_place("idt_vectoring_information"), _place("idt_vectoring_error_code"))


def read_exit(vmcs: Vmcs) -> VmExit:
    """The VM exit that the exit-information fields of a VMCS tell of."""
    return VmExit(
        reason=ExitReason(vmcs.read(_REASON) & _BASIC),
        qualification=vmcs.read(_QUALIFICATION),
        rip=vmcs.read(_RIP),
        interruption=_event(vmcs, *_INTERRUPTION),
        idt_vectoring=_event(vmcs, *_IDT_VECTORING),
        vmcs=vmcs,
        **{name: vmcs.read(place) for name, place in _NUMBER_PLACES.items()},
    )


def _event(vmcs: Vmcs, information: int, error_code: int) -> Event | None:
    bits = vmcs.read(information)
    if not bits & _VALID:
        return None
    code = vmcs.read(error_code) if bits & _ERROR_CODE else None
    return Event(bits & 0xFF, EventType(bits >> 8 & 7), code)


def event_bits(event: Event) -> int:
    """An event as an interruption-information field (SDM vol. 3, 25.8.3)."""
    return _VALID | (_ERROR_CODE if event.error_code is not None else 0) | event.type << 8 | event.vector
