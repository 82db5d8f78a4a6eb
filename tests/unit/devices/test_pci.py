"""PCI configuration mechanism 1, and the reset register in its midst."""

import pytest

from gasang.devices.pci import HostBridge, PciConfiguration

ADDRESS, RESET, DATA = 0, 1, 4


class Function:
    """A function that remembers what is done to it."""

    def __init__(self):
        self.calls = []

    def read_config(self, register, size):
        self.calls.append((register, size))
        return 0x42

    def write_config(self, register, size, value):
        self.calls.append((register, size, value))


@pytest.fixture
def function():
    return Function()


@pytest.fixture
def resets():
    return []


@pytest.fixture
def pci(function, resets):
    return PciConfiguration({(0, 0, 0): HostBridge(), (1, 2, 3): function}, lambda: resets.append(1))


def select(pci, bus, device, function, register):
    pci.write(ADDRESS, 4, 1 << 31 | bus << 16 | device << 11 | function << 8 | register)


def test_the_host_bridge_is_an_intel_440fx(pci):
    select(pci, 0, 0, 0, 0)
    assert pci.read(DATA, 4) == 0x12378086
    select(pci, 0, 0, 0, 8)
    assert pci.read(DATA, 4) == 0x06000002
    assert pci.read(DATA + 2, 2) == 0x0600


def test_an_empty_slot_reads_all_ones(pci):
    select(pci, 0, 1, 0, 0)
    assert pci.read(DATA, 4) == 0xFFFFFFFF
    assert pci.read(DATA, 2) == 0xFFFF


def test_nothing_is_selected_without_the_enable_bit(pci):
    pci.write(ADDRESS, 4, 0)
    assert pci.read(DATA, 4) == 0xFFFFFFFF


def test_the_address_register_reads_back_as_probes_expect(pci):
    pci.write(ADDRESS, 4, 0x80000000)
    assert pci.read(ADDRESS, 4) == 0x80000000
    pci.write(ADDRESS, 4, 0xFFFFFFFF)
    assert pci.read(ADDRESS, 4) == 0x80FFFFFC


def test_narrow_accesses_reach_the_bytes_of_a_register(pci, function):
    select(pci, 1, 2, 3, 0x3C)
    assert pci.read(DATA + 1, 1) == 0x42
    pci.write(DATA + 2, 2, 0xBEEF)
    assert function.calls == [(0x3D, 1), (0x3E, 2, 0xBEEF)]


def test_the_host_bridge_cannot_be_written(pci):
    select(pci, 0, 0, 0, 0)
    pci.write(DATA, 4, 0)
    assert pci.read(DATA, 4) == 0x12378086


def test_reset_control_resets_on_the_rising_edge(pci, resets):
    pci.write(RESET, 1, 0x02)
    assert resets == []
    pci.write(RESET, 1, 0x06)
    assert resets == [1]
    assert pci.read(RESET, 1) == 0x06
    pci.write(RESET, 1, 0x06)
    assert resets == [1]


def test_reset_control_leaves_the_address_alone(pci):
    pci.write(ADDRESS, 4, 0x80001000)
    pci.write(RESET, 1, 0x02)
    assert pci.read(ADDRESS, 4) == 0x80001000
    assert pci.read(ADDRESS, 1) == 0xFF
