"""A short comparison of T0 with T1; `make lockstep` makes the long one."""

from lockstep import compare, default_config


def test_tiers_agree_over_the_start_of_a_boot():
    assert compare(default_config(), 3_000_000) is None


def test_a_difference_is_found():
    config = default_config()
    found = compare(config, 400_000, tamper=lambda follower: follower.vcpu.set_registers(r12=0xDEAD))
    assert found is not None
    assert any(line.startswith("r12:") for line in found.lines)
