"""Guests that are booted once for several tests, and the command line as people use it."""

import os
import subprocess
import sys

import pytest

from gasang import Machine


@pytest.fixture(scope="module")
def guest():
    """The default guest, booted by the translator; tests leave it as they found it."""
    with Machine.boot(accel="bt") as machine:
        yield machine


@pytest.fixture
def sh(guest):
    """Runs a script in the guest; its output as text, once its exit code was 0."""

    def run(script, *, input=None, timeout=60):
        return guest.run(script, input=input, timeout=timeout, check=True).stdout.decode()

    return run


@pytest.fixture(scope="session")
def gasang():
    """Runs `gasang` in a process of its own, to its end."""

    def run(*arguments, timeout=120, **options):
        command = (sys.executable, "-m", "gasang", *map(str, arguments))
        environment = {**os.environ, **options.pop("env", {})}
        options.setdefault("stdin", None if "input" in options else subprocess.DEVNULL)
        return subprocess.run(
            command, capture_output=True, check=False, timeout=timeout, env=environment, **options
        )

    return run
