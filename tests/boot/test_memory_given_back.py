"""A balloon in a Debian guest: memory that it does not use is the host's."""

import os
import time

import pytest

from gasang import Machine
from gasang.errors import ConfigError

MIB = 1 << 20


def held():
    """Bytes that this process's guests take of the host."""
    total = 0
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            if "gasang-ram" in os.readlink(f"/proc/self/fd/{descriptor}"):
                total += os.stat(f"/proc/self/fd/{descriptor}").st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_what_the_guest_has_free_again_is_given_back():
    with Machine.boot(balloon=True) as machine:
        fill = "dd if=/dev/zero bs=1M count=200 | tr '\\0' x >/tmp/much"
        machine.run(fill, timeout=120, check=True)
        full = held()
        assert full > 200 * MIB
        machine.run("rm /tmp/much", timeout=60, check=True)
        wait_until(lambda: held() < full - 150 * MIB)
        assert machine.run("echo alive", timeout=60).stdout == b"alive\n"


def test_the_guest_gives_memory_up_when_it_is_asked_and_gets_it_back():
    with Machine.boot(balloon=True) as machine:
        free = int(machine.run("awk '/MemAvail/{print $2}' /proc/meminfo", timeout=60, check=True).stdout)
        machine.set_balloon("200M")
        wait_until(lambda: machine.balloon == 200 * MIB)
        less = int(machine.run("awk '/MemAvail/{print $2}' /proc/meminfo", timeout=60, check=True).stdout)
        assert free - less > 150 * 1024
        machine.set_balloon(0)
        wait_until(lambda: machine.balloon == 0)
        with pytest.raises(ConfigError, match="a balloon of"):
            machine.set_balloon("1G")


def test_a_machine_without_a_balloon_says_so():
    with Machine.boot() as machine:
        assert machine.balloon == 0
        with pytest.raises(ConfigError, match="no balloon"):
            machine.set_balloon("1M")
