"""isa-debug-exit and the debug console."""

import pytest

from gasang.devices.debug import DebugConsole, DebugExit


@pytest.mark.parametrize(("value", "code"), [(0, 1), (3, 7), (0x10, 0x21), (0xFFFF_FFFF, 0xFF)])
def test_debug_exit_gives_an_odd_code(value, code):
    codes = []
    DebugExit(codes.append).write(0, 4, value)
    assert codes == [code]


def test_debug_console_passes_bytes_on():
    printed = bytearray()
    console = DebugConsole(printed.extend)
    for byte in b"hi\n":
        console.write(0, 1, byte)
    assert printed == b"hi\n"


def test_debug_console_says_that_it_is_there():
    assert DebugConsole(lambda _: None).read(0, 1) == 0xE9
