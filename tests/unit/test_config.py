"""A configuration that no machine can have is refused when it is made, in one clear line."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from gasang.config import MachineConfig
from gasang.errors import ConfigError
from gasang.units import MIB


def test_defaults_are_a_machine():
    config = MachineConfig()
    assert (config.memory, config.cpus, config.accel) == (512 * MIB, 1, "auto")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": 8 * MIB}, "memory 8M is too little: give the guest at least 32M"),
        ({"memory": 512}, "memory 512 bytes is too little"),
        ({"memory": 64 * MIB + 1}, "not a multiple of 4096"),
        ({"cpus": 0}, "cpus is 0: choose 1 to 64"),
        ({"cpus": 65}, "cpus is 65"),
        ({"cpu": "max,avx"}, "cpu 'max,avx' is not MODEL"),
        ({"cpu": ""}, "cpu '' is not MODEL"),
        ({"accel": "xen"}, "accel 'xen' is not one of auto, kvm, bt, interp"),
        ({"modules": ("a",)}, "modules are for a multiboot kernel"),
        ({"kernel": Path("k"), "modules": ("a",), "initrd": Path("i")}, "either modules .* or an initrd"),
        ({"append": "a\0b"}, "NUL"),
        ({"deterministic": True, "cpus": 2}, "a deterministic machine has one processor, not 2"),
        ({"seed": 1}, "a seed is for a deterministic machine"),
        ({"deterministic": True, "seed": -1}, "seed -1 is not from 0 to 18446744073709551615"),
        ({"deterministic": True, "seed": 1 << 64}, "seed 18446744073709551616"),
        ({"date": datetime(2026, 1, 1)}, "no time zone"),
        ({"date": datetime(1969, 1, 1, tzinfo=UTC)}, "not from 1970 to 2099"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        MachineConfig(**options)
    assert "\n" not in str(caught.value)


def test_the_first_date_is_given_or_fixed_or_the_hosts():
    date = datetime(2000, 2, 29, tzinfo=UTC)
    assert MachineConfig(date=date).first_date == date
    assert MachineConfig(deterministic=True).first_date == datetime(2026, 1, 1, tzinfo=UTC)
    assert MachineConfig().first_date.year >= 2026


def test_processor_features_are_passed_on():
    assert MachineConfig(cpu="max,+avx2,-sse4.2").cpu == "max,+avx2,-sse4.2"
