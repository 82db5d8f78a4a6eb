"""The file that names translated code for perf."""

import pytest

from gasang.errors import ConfigError
from gasang.profile import PerfMap
from gasang.profile.symbols import Symbol, Symbols

SYMBOLS = Symbols([Symbol(0x1000, 0x1100, "main")])


def test_a_line_has_address_size_and_name(tmp_path):
    written = PerfMap(SYMBOLS, tmp_path / "map")
    written.add([(0x7F0000001000, 0x90, 0x1010, 5, 3), (0x7F0000001090, 32, 0x5000, 1, 0)])
    written.close()
    assert (tmp_path / "map").read_text() == (
        "7f0000001000 90 main+0x10 [T1 CPL3]\n7f0000001090 20 0x5000 [T1 CPL0]\n"
    )


def test_machines_of_a_process_share_a_map_and_an_older_one_goes(tmp_path):
    (tmp_path / "map").write_text("of a process that had our number\n")
    for host in (16, 32):
        written = PerfMap(SYMBOLS, tmp_path / "map")
        written.add([(host, 1, 0x1000, 1, 3)])
        written.close()
    assert (tmp_path / "map").read_text() == "10 1 main [T1 CPL3]\n20 1 main [T1 CPL3]\n"


def test_a_map_that_cannot_be_written_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"the perf map .* cannot be written: No such file"):
        PerfMap(SYMBOLS, tmp_path / "missing" / "map")


def test_a_link_in_its_place_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("content")
    (tmp_path / "map").symlink_to(tmp_path / "precious")
    PerfMap(SYMBOLS, tmp_path / "map").close()
    assert (tmp_path / "precious").read_text() == "content"
