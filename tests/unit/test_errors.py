"""The error tree holds together, and messages carry what people need."""

import re

import pytest

from gasang import errors
from gasang.errors import GasangError, GuestCommandFailed, GuestTimeout, MachineDied


def test_every_error_is_drawn_in_the_tree():
    classes = {
        name
        for name, each in vars(errors).items()
        if isinstance(each, type) and issubclass(each, GasangError)
    }
    drawn = set(re.findall(r"^[ │]*(?:[├└]── )?([A-Z]\w+)", errors.__doc__.partition("\n")[2], re.MULTILINE))
    assert classes <= drawn


def test_machine_died_says_why_and_shows_the_console():
    died = MachineDied("triple fault", "last words")
    assert str(died) == "the machine ended: triple fault; the end of its console:\nlast words"
    assert str(MachineDied("stopped")) == "the machine ended: stopped"


def test_guest_timeout_is_a_timeout_and_keeps_partial_output():
    with pytest.raises(TimeoutError) as caught:
        raise GuestTimeout("too slow", stdout=b"half")
    assert caught.value.stdout == b"half"


def test_command_failed_names_command_and_code():
    assert str(GuestCommandFailed("false", 1)) == "command 'false' returned 1 in the guest"
