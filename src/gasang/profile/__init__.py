"""Where a guest's time goes: profiles by guest symbol, and translated code by name for the host's perf."""

from typing import TYPE_CHECKING

from gasang.lazy import attributes

if TYPE_CHECKING:
    from gasang.profile.measured import Executed, Exit, Instruction, Phase, Place, Profile, profile
    from gasang.profile.perf_map import PerfMap
    from gasang.profile.report import as_json, as_text
    from gasang.profile.symbols import Symbols, elf_symbols, kernel_symbols

__all__ = [
    "Executed",
    "Exit",
    "Instruction",
    "PerfMap",
    "Phase",
    "Place",
    "Profile",
    "Symbols",
    "as_json",
    "as_text",
    "elf_symbols",
    "kernel_symbols",
    "profile",
]

__getattr__ = attributes(
    __name__,
    {
        "Executed": "measured",
        "Exit": "measured",
        "Instruction": "measured",
        "Phase": "measured",
        "Place": "measured",
        "Profile": "measured",
        "profile": "measured",
        "PerfMap": "perf_map",
        "as_json": "report",
        "as_text": "report",
        "Symbols": "symbols",
        "elf_symbols": "symbols",
        "kernel_symbols": "symbols",
    },
)
