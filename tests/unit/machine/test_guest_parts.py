"""What callers name in several ways."""

from pathlib import Path

import pytest

from gasang.config import Drive
from gasang.errors import ConfigError
from gasang.machine.guest_parts import drive_of


@pytest.mark.parametrize(
    ("named", "drive"),
    [
        ("disk.img", Drive(Path("disk.img"))),
        ("file=a.iso,format=raw,readonly=on", Drive(Path("a.iso"), "raw", readonly=True)),
        (Path("a,b.img"), Drive(Path("a,b.img"))),
        (Drive(Path("x"), readonly=True), Drive(Path("x"), readonly=True)),
    ],
)
def test_a_drive_is_a_path_or_as_on_the_command_line(named, drive):
    assert drive_of(named) == drive


def test_a_drive_that_cannot_be_understood_is_an_error():
    with pytest.raises(ConfigError, match="no option 'size'"):
        drive_of("file=a.img,size=3")
