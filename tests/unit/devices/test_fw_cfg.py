"""QEMU's firmware configuration interface, by port and by DMA."""

import struct

import pytest

from gasang.device import GuestMemoryError
from gasang.devices.fw_cfg import FirmwareConfiguration, Item

SELECTOR, DATA, DMA_HIGH, DMA_LOW = 0, 1, 4, 8
ERROR, READ, SKIP, SELECT, WRITE = 1, 2, 4, 8, 16
REQUEST = 0x100


class Memory:
    """A byte buffer as guest RAM."""

    def __init__(self, size):
        self.content = bytearray(size)

    def read(self, address, length):
        self._check(address, length)
        return bytes(self.content[address : address + length])

    def write(self, address, data):
        self._check(address, len(data))
        self.content[address : address + len(data)] = data

    def _check(self, address, length):
        if address + length > len(self.content):
            raise GuestMemoryError(f"{address:#x} is not RAM")


@pytest.fixture
def memory():
    return Memory(4096)


@pytest.fixture
def device(memory):
    files = {"opt/greeting": b"hello", "etc/table": b"0123456789"}
    return FirmwareConfiguration(memory, ram=0x2000_0000, cpus=3, files=files)


def read_item(device, key, length):
    device.write(SELECTOR, 2, key)
    return bytes(device.read(DATA, 1) for _ in range(length))


def transfer(device, memory, control, length=0, address=0):
    """Start a DMA request; return what became of its control word."""
    memory.write(REQUEST, struct.pack(">IIQ", control, length, address))
    device.write(DMA_HIGH, 4, 0)
    device.write(DMA_LOW, 4, int.from_bytes(struct.pack(">I", REQUEST), "little"))
    return struct.unpack(">I", memory.read(REQUEST, 4))[0]


@pytest.mark.parametrize(
    ("key", "content"),
    [
        (Item.SIGNATURE, b"QEMU"),
        (Item.ID, b"\x03\0\0\0"),
        (Item.RAM_SIZE, struct.pack("<Q", 0x2000_0000)),
        (Item.CPU_COUNT, b"\x03\0"),
        (Item.MAXIMUM_CPUS, b"\x03\0"),
    ],
)
def test_numbered_items(device, key, content):
    assert read_item(device, key, len(content)) == content


def test_reading_beyond_the_end_gives_zeros(device):
    assert read_item(device, Item.SIGNATURE, 6) == b"QEMU\0\0"
    assert read_item(device, 0x7777, 2) == b"\0\0"


def test_files_are_found_by_the_directory(device):
    directory = read_item(device, Item.FILE_DIRECTORY, 4 + 2 * 64)
    assert directory[:4] == b"\0\0\0\x02"
    files = {}
    for size, key, _, name in struct.iter_unpack(">IHH56s", directory[4:]):
        files[name.rstrip(b"\0")] = read_item(device, key, size)
    assert files == {b"opt/greeting": b"hello", b"etc/table": b"0123456789"}


def test_the_dma_address_reads_as_its_signature(device):
    assert device.read(DMA_HIGH, 4).to_bytes(4, "little") == b"QEMU"
    assert device.read(DMA_LOW, 4).to_bytes(4, "little") == b" CFG"


def test_dma_selects_skips_and_reads(device, memory):
    assert transfer(device, memory, 0x21 << 16 | SELECT | SKIP, length=4) == 0
    assert transfer(device, memory, READ, length=8, address=0x200) == 0
    assert memory.read(0x200, 8) == b"456789\0\0"


def test_dma_refuses_to_write(device, memory):
    assert transfer(device, memory, 0x21 << 16 | SELECT | WRITE, length=4, address=0x200) == ERROR


def test_dma_to_what_is_not_ram_is_an_error(device, memory):
    control = Item.SIGNATURE << 16 | SELECT | READ
    assert transfer(device, memory, control, length=0xFFFF_FFFF, address=0x200) == ERROR


def test_a_dma_request_outside_ram_is_ignored(device, memory):
    before = bytes(memory.content)
    device.write(DMA_LOW, 4, 0xFFFF_FFFF)
    assert memory.content == before
