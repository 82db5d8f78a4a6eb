"""`AsyncMachine` is `Machine`: the same names, parameters and types."""

import inspect
from pathlib import Path

from async_stub import MIRRORED, stub

import gasang
from gasang.machine import asynchronous
from gasang.machine.machine import Machine

FOR_THREADS = {
    "AsyncMachine": {"agent", "vsock_agent", "standing_still", "run_noting"},
    "AsyncChannel": {"close", "deliver", "listen", "set_state", "state", "has_unread"},
    "AsyncGuestProcess": set(),
}
AT_ONCE = {"AsyncMachine.serial", "AsyncChannel.tail"}


def public(kind):
    return {name for name in dir(kind) if not name.startswith("_")}


def test_every_name_is_there():
    for name, kind in MIRRORED.items():
        assert public(kind) - FOR_THREADS[name] <= public(getattr(asynchronous, name)), name


def test_what_waits_is_awaited_and_takes_the_same():
    for name, kind in MIRRORED.items():
        wrapper = getattr(asynchronous, name)
        for each in public(kind) - FOR_THREADS[name]:
            if isinstance(inspect.getattr_static(kind, each), property):
                assert isinstance(inspect.getattr_static(wrapper, each), property), each
                continue
            ours, theirs = getattr(wrapper, each), getattr(kind, each)
            assert inspect.iscoroutinefunction(ours) == (f"{name}.{each}" not in AT_ONCE), each
            assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters), (
                each
            )
            assert ours.__doc__, each


def test_the_types_are_those_of_the_source():
    stored = Path(asynchronous.__file__).with_suffix(".pyi").read_text()
    assert stored == stub(), "python tests/style/async_stub.py makes it anew"


def test_it_is_found_where_users_look():
    assert gasang.AsyncMachine is asynchronous.AsyncMachine
    assert asynchronous.AsyncMachine.run.__doc__ == Machine.run.__doc__
