"""A virtual-machine control structure: its six areas, and what it points to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gasang.errors import VmxError
from gasang.vmx.areas import EntryControls, Execution, ExitControls, ExitInformation, Guest, Host
from gasang.vmx.bitmaps import MsrBitmaps, PortSet
from gasang.vmx.enumerations import EventType
from gasang.vmx.ept import Ept
from gasang.vmx.modes import Mode, enter_long_mode, enter_protected_mode, enter_real_mode
from gasang.vmx.names import BITS, CONTROL_CAPABILITIES, encoding
from gasang.vmx.vm_exit import Event, event_bits

if TYPE_CHECKING:
    from gasang.vmx.processor import Processor

_NO_LINK = (1 << 64) - 1
_SECONDARY = encoding("execution", "secondary_controls")
_ENABLED = sum(
    bit.mask for bit in BITS[_SECONDARY] if bit.name in ("enable_rdtscp", "enable_invpcid", "enable_xsaves")
)
_SIZED_BY_INSTRUCTION = range(4, 7)
"""Types of events that instructions cause: their length is pushed on."""
_EXCEPTIONS_WITH_CODE = frozenset({8, 10, 11, 12, 13, 14, 17, 21})
"""Exceptions with an error code (SDM vol. 3, table 6-1)."""


class Vmcs:
    """A VMCS of one `Processor`, made by `Processor.vmcs`.

    The six areas are `guest`, `host`, `execution`, `exit`, `entry` and `exit_information`. `ept` maps what
    the guest takes for physical addresses; at first all of its RAM, to itself. `io_bitmap` and `msr_bitmaps`
    say which accesses cause VM exits once `execution.use_io_bitmaps` and `execution.use_msr_bitmaps` are set;
    until then all do.

    Whatever is read or written, the VMCS becomes the current one of its processor first (VMPTRLD).
    """

    def __init__(self, processor: Processor, address: int) -> None:
        self._processor = processor
        self.address = address
        self.guest = Guest(self)
        self.host = Host(self)
        self.execution = Execution(self)
        self.exit = ExitControls(self)
        self.entry = EntryControls(self)
        self.exit_information = ExitInformation(self)
        pages = processor.pages
        io_bitmaps, msr_bitmaps = pages.take(2), pages.take()
        self.io_bitmap = PortSet(pages, io_bitmaps)
        self.msr_bitmaps = MsrBitmaps(pages, msr_bitmaps)
        self._bitmaps = (io_bitmaps, msr_bitmaps)
        self._ept = Ept(pages, processor.invalidate_ept)

    def __repr__(self) -> str:
        return f"<Vmcs at {self.address:#x}>"

    @property
    def ept(self) -> Ept:
        """The extended page tables. Assigning those of another VMCS shares them."""
        return self._ept

    @ept.setter
    def ept(self, ept: Ept) -> None:
        self._ept = ept
        self.execution.ept_pointer = ept.pointer

    def has(self, encoding: int) -> bool:
        """Whether this processor's VMCSs have the field with this encoding."""
        return encoding in self._processor.fields

    def read(self, encoding: int) -> int:
        """VMREAD of the field with this encoding. Raises `VmInstructionError` (12: there is no such
        field)."""
        self._processor.load(self)
        value = self._processor.execute("vmread", encoding)
        assert value is not None
        return value

    def write(self, encoding: int, value: int) -> None:
        """VMWRITE of the field with this encoding; bits that it has not are lost.

        Raises `VmInstructionError` (12: there is no such field; 13: it is read-only), and `VmxError` for what
        is no number of 64 bits.
        """
        self._processor.load(self)
        self._processor.execute("vmwrite", encoding, value)

    def describe(self) -> str:
        """The six areas for people: every field that is not 0, with the bits that are set."""
        areas = (self.guest, self.host, self.execution, self.exit, self.entry, self.exit_information)
        return "\n".join([repr(self), *map(repr, areas)])

    def set_mode(self, mode: Mode) -> None:
        """Give the guest a consistent state: "real", "protected" (flat 32-bit segments, no paging), or "long"
        (64-bit mode, RAM mapped to itself). RIP and general-purpose registers keep their values.

        The latter two put descriptor tables, and page tables, in the last 20 KiB of the guest's RAM.
        """
        match mode:
            case "real":
                enter_real_mode(self)
            case "protected":
                enter_protected_mode(self, self._processor.memory)
            case "long":
                enter_long_mode(self, self._processor.memory)
            case _:
                raise VmxError(f"no mode {mode!r}: there are real, protected and long")

    def inject(
        self,
        vector: int,
        type: EventType | None = None,
        error_code: int | None = None,
        *,
        instruction_length: int = 0,
    ) -> None:
        """Deliver an event to the guest with the next VM entry (SDM vol. 3, 27.6).

        Without a `type` it is a hardware exception below vector 32 (2 is the NMI), else an external
        interrupt. Exceptions that have an error code get 0 if none is given, in protected mode. What cannot
        be delivered is refused by the VM entry.
        """
        if type is None:
            type = EventType.EXTERNAL_INTERRUPT if vector >= 32 else EventType.HARDWARE_EXCEPTION
            type = EventType.NMI if vector == 2 else type
        if type == EventType.HARDWARE_EXCEPTION and vector in _EXCEPTIONS_WITH_CODE and self.guest.cr0 & 1:
            error_code = error_code or 0
        self.entry.interruption_information = event_bits(Event(vector, type, error_code))
        self.entry.exception_error_code = error_code or 0
        if type in _SIZED_BY_INSTRUCTION:
            self.entry.instruction_length = instruction_length

    def reset(self, host: dict[str, int], capabilities: dict[int, int]) -> None:
        """Make it a VMCS that can be launched: an unrestricted guest in real mode under EPT, whose I/O and
        MSR accesses cause VM exits. For `Processor.vmcs`."""
        for word, msr in CONTROL_CAPABILITIES.items():
            # What must be 1 is in the lower half of a capability MSR (SDM vol. 3, A.3).
            self.write(word, capabilities[msr] & 0xFFFF_FFFF)
        for name, value in host.items():
            setattr(self.host, name, value)
        self._set_controls(capabilities)
        self.guest.vmcs_link_pointer = _NO_LINK
        self.guest.rflags = 2
        self.guest.dr7 = 0x400
        self.guest.pat = host["pat"]
        self.set_mode("real")

    def _set_controls(self, capabilities: dict[int, int]) -> None:
        execution = self.execution
        execution.activate_secondary_controls = True
        execution.unconditional_io_exiting = True
        execution.enable_ept = True
        execution.unrestricted_guest = True
        execution.ept_pointer = self._ept.pointer
        io_bitmaps, execution.msr_bitmaps = self._bitmaps
        execution.io_bitmap_a, execution.io_bitmap_b = io_bitmaps, io_bitmaps + 0x1000
        # The guest sees neither bit that VMX operation demands, and may write 0.
        execution.cr0_guest_host_mask = 1 << 5
        execution.cr4_guest_host_mask = 1 << 13
        self.exit.host_address_space_size = True
        for area, names in (
            (self.exit, ("save_debug_controls", "save_efer", "load_efer", "save_pat", "load_pat")),
            (self.entry, ("load_debug_controls", "load_efer", "load_pat")),
        ):
            for name in names:
                setattr(area, name, True)
        # Instructions that would otherwise be undefined, where the processor has them.
        allowed = capabilities[CONTROL_CAPABILITIES[_SECONDARY]] >> 32
        execution.secondary_controls |= allowed & _ENABLED
