"""Addresses by name."""

import subprocess
from contextlib import suppress

import pytest
from images import BASE, kallsyms

from gasang.errors import ConfigError
from gasang.profile.symbols import Symbol, Symbols, elf_symbols, kernel_symbols

PROGRAM = """
.globl _start, later
_start: nop
 nop
inner: ret
.type later, @function
later: ret
.size later, 1
.data
variable: .quad 1
"""


@pytest.fixture
def program(tmp_path):
    """An ELF program whose code is at 0x400000."""
    (tmp_path / "a.s").write_text(PROGRAM)
    subprocess.run(["as", "-o", tmp_path / "a.o", tmp_path / "a.s"], check=True)
    subprocess.run(["ld", "-Ttext=0x400000", "-o", tmp_path / "a", tmp_path / "a.o"], check=True)
    return (tmp_path / "a").read_bytes()


def test_addresses_have_the_name_of_the_symbol_they_are_in():
    symbols = Symbols([Symbol(0x1000, 0x1010, "first"), Symbol(0x1010, 0x1020, "second")])
    assert symbols.name(0x1000) == "first"
    assert symbols.name(0x100F) == "first+0xf"
    assert symbols.name(0x1010) == "second"
    assert symbols.name(0x1020) == "0x1020"
    assert symbols.name(0xFFF) == "0xfff"


def test_tables_add_up():
    both = Symbols([Symbol(0x2000, 0x2010, "b")]) + Symbols([Symbol(0x1000, 0x1010, "a")])
    assert (both.name(0x1000), both.name(0x2000), len(both)) == ("a", "b", 2)


def test_a_kernel_symbol_reaches_to_the_next_one():
    table = [(BASE + 0x100 * number, "T", f"function_{number}") for number in range(300)]
    symbols = kernel_symbols(kallsyms(table))
    assert symbols.name(BASE + 0x1FF) == "function_1+0xff"
    assert symbols.name(BASE + 0x100 * 300 + 0x10000) == f"{BASE + 0x100 * 300 + 0x10000:#x}"
    assert len(kernel_symbols(b"no kernel")) == 0


def test_functions_of_a_program(program):
    symbols = elf_symbols(program, "a")
    assert symbols.name(0x400001) == "_start+0x1"
    assert symbols.name(0x400002) == "inner"
    assert symbols.name(0x400003) == "later"
    assert symbols.name(0x400004) == "0x400004"


def test_a_program_may_lie_elsewhere(program):
    assert elf_symbols(program, "a", 0x1000).name(0x401001) == "_start+0x1"


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"#!/bin/sh\n"])
def test_what_is_no_program_is_a_config_error(content):
    with pytest.raises(ConfigError, match="program has no symbols"):
        elf_symbols(content, "program")


@pytest.mark.parametrize("kept", [30, 64, 200, 0.5, 0.9])
def test_a_truncated_program_is_a_config_error_or_has_fewer_symbols(program, kept):
    size = kept if isinstance(kept, int) else int(len(program) * kept)
    with suppress(ConfigError):
        assert len(elf_symbols(program[:size], "a")) <= 3
