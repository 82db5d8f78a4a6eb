"""Where a guest's time goes: symbols, and translated code by name for the host's profilers."""

from gasang.profile.perf_map import PerfMap
from gasang.profile.symbols import Symbols, elf_symbols, kernel_symbols

__all__ = ["PerfMap", "Symbols", "elf_symbols", "kernel_symbols"]
