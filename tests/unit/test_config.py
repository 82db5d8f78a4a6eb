"""A configuration that no machine can have is refused when it is made, in one clear line."""

from pathlib import Path

import pytest

from gasang.config import MachineConfig
from gasang.errors import ConfigError
from gasang.units import MIB


def test_defaults_are_a_machine():
    config = MachineConfig()
    assert (config.memory, config.cpus, config.engine_accel) == (512 * MIB, 1, "bt")


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
        ({"accel": "kvm"}, "accel 'kvm' is not one of auto, bt, interp"),
        ({"modules": ("a",)}, "modules are for a multiboot kernel"),
        ({"kernel": Path("k"), "modules": ("a",), "initrd": Path("i")}, "either modules .* or an initrd"),
        ({"append": "a\0b"}, "NUL"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        MachineConfig(**options)
    assert "\n" not in str(caught.value)


def test_processor_features_are_passed_on():
    assert MachineConfig(cpu="max,+avx2,-sse4.2").cpu == "max,+avx2,-sse4.2"
