"""The guest's registers that no VMCS holds: the hypervisor sees what the guest left in them."""

from __future__ import annotations

from typing import Any

from gasang._engine import EngineError, Vcpu
from gasang.errors import VmxError
from gasang.vmx.names import FIELDS

_OF_THE_HOST = frozenset({"tsc_offset", "tsc_adjust", "cr8"})
_IN_THE_VMCS = frozenset(field.name for field in FIELDS.values() if field.area == "guest")


class Registers:
    """General-purpose registers but RSP, and what else VM entries and VM exits leave alone, as attributes:
    rax … r15, cr2, dr0 … dr3, dr6, xcr0, and MSRs such as star, lstar and kernel_gs_base.

    RIP, RSP, RFLAGS, segments and control registers are `vmcs.guest`'s. An unknown name raises
    `AttributeError`.
    """

    __slots__ = ("_names", "_vcpu")

    def __init__(self, vcpu: Vcpu) -> None:
        plain = {name for name, value in vcpu.registers().items() if isinstance(value, int)}
        object.__setattr__(self, "_vcpu", vcpu)
        object.__setattr__(self, "_names", plain - _IN_THE_VMCS - _OF_THE_HOST)

    def __getattr__(self, name: str) -> Any:
        if name not in self._names:
            raise AttributeError(f"no register {name!r} outside the VMCS")
        return self._vcpu.registers()[name]

    def __setattr__(self, name: str, value: int) -> None:
        if name not in self._names:
            raise AttributeError(f"no register {name!r} outside the VMCS")
        try:
            self._vcpu.set_registers(**{name: value})
        except EngineError as error:
            raise VmxError(str(error)) from error

    def __dir__(self) -> list[str]:
        return sorted(self._names)

    def __repr__(self) -> str:
        values = self._vcpu.registers()
        shown = [f"{name}={values[name]:#x}" for name in sorted(self._names) if values[name]]
        return f"<Registers {' '.join(shown)}>"
