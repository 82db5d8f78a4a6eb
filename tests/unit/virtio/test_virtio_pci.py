"""The PCI transport as a driver finds it: capabilities, BARs, registers, MSI-X."""

import os
import struct
import threading

import pytest
from driver import AVAILABLE, SIZE, TABLE, USED, Driver, Memory

from gasang.bus import AddressSpace
from gasang.virtio.msix import ENABLE, FUNCTION_MASK, MsiX
from gasang.virtio.pci import VirtioPci
from gasang.virtio.queue import QueueError

COMMAND, MEMORY_SPACE = 0x04, 2
BAR0, BAR2 = 0xC0010000, 0xC0018000
VERSION_1, INDIRECT, EVENT_INDEX = 1 << 32, 1 << 28, 1 << 29
RESET, ALIVE, FEATURES_OK, DRIVER_OK, NEEDS_RESET = 0, 3, 8, 4, 64


class Echo:
    """A device that writes what it reads."""

    device_id = 2
    pci_class = 0x010000
    features = 1 << 5
    queues = 2

    def __init__(self):
        self.chosen = None
        self.closed = False

    def config(self):
        return bytes(range(16))

    def write_config(self, offset, size, value):
        self.written = (offset, size, value)

    def connect(self, changed):
        self.changed = changed

    def negotiated(self, features):
        self.chosen = features

    def serve(self, queue, index):
        while (chain := queue.pop()) is not None:
            data = b"".join(chain.readable)
            if data == b"break":
                raise QueueError("as asked")
            if data == b"fail":
                raise ZeroDivisionError
            chain.writable[0][: len(data)] = data
            queue.push(chain, len(data))

    def close(self):
        self.closed = True


class Slot:
    """A bus of its own; doorbells are rung by `ring`."""

    def __init__(self):
        self.space = AddressSpace("physical address")
        self.starts, self.bells, self.messages, self.errors = {}, {}, [], []
        self.happened = threading.Semaphore(0)

    def map(self, bar, address, length, device):
        self.space.attach(device, address, length, width=4)
        self.starts[bar] = address

    def unmap(self, bar):
        self.space.detach(self.starts.pop(bar))

    def add_doorbell(self, address):
        self.bells[address] = os.eventfd(0, os.EFD_NONBLOCK)
        return os.dup(self.bells[address])

    def remove_doorbell(self, address):
        os.close(self.bells.pop(address))

    def ring(self, address):
        os.eventfd_write(self.bells[address], 1)

    def send_message(self, address, data):
        self.messages.append((address, data))
        self.happened.release()

    def fail(self, error):
        self.errors.append(error)
        self.happened.release()


class Card:
    """The function, and what a driver does with it."""

    def __init__(self, **options):
        self.memory, self.slot, self.device = Memory(), Slot(), Echo()
        self.function = VirtioPci(self.device, self.memory, self.slot, {0: BAR0, 2: BAR2}, **options)
        self.driver = Driver(self.memory)

    def capabilities(self):
        """(id, offset) of each."""
        at, found = self.function.read_config(0x34, 1), []
        while at:
            found.append((self.function.read_config(at, 1), at))
            at = self.function.read_config(at + 1, 1)
        return found

    def structures(self):
        """{type: (BAR, offset, length)} of virtio's capabilities."""
        read = self.function.read_config
        places = [at for number, at in self.capabilities() if number == 9]
        return {read(at + 3, 1): (read(at + 4, 1), read(at + 8, 4), read(at + 12, 4)) for at in places}

    def enable(self):
        self.function.write_config(COMMAND, 2, MEMORY_SPACE)

    def read(self, offset, size):
        return self.slot.space.read(BAR0 + offset, size)

    def write(self, offset, size, value):
        self.slot.space.write(BAR0 + offset, size, value)

    def status(self):
        return self.read(0x14, 1)

    def accept(self, features):
        for select in (0, 1):
            self.write(0x08, 4, select)
            self.write(0x0C, 4, features >> 32 * select & 0xFFFFFFFF)
        self.write(0x14, 1, ALIVE | FEATURES_OK)

    def set_queue(self, index, vector=0xFFFF):
        self.write(0x16, 2, index)
        self.write(0x18, 2, SIZE)
        self.write(0x1A, 2, vector)
        for register, address in ((0x20, TABLE), (0x28, AVAILABLE), (0x30, USED)):
            self.write(register, 8, address)
        self.write(0x1C, 2, 1)

    def set_message(self, vector, address, data):
        for index, value in enumerate((address & 0xFFFFFFFF, address >> 32, data, 0)):
            self.slot.space.write(BAR2 + 16 * vector + 4 * index, 4, value)

    def msix_control(self, value):
        at = next(at for number, at in self.capabilities() if number == 0x11)
        self.function.write_config(at + 2, 2, value)

    def start(self):
        self.enable()
        self.accept(VERSION_1)
        self.set_message(1, 0xFEE00000, 0x41)
        self.msix_control(ENABLE)
        self.set_queue(0, vector=1)
        self.write(0x14, 1, ALIVE | FEATURES_OK | DRIVER_OK)


@pytest.fixture(params=[False, True], ids=["thread", "synchronous"])
def card(request):
    card = Card(synchronous=request.param)
    card.synchronous = request.param
    yield card
    card.function.close()


def ring(card, queue=0):
    """Notify a queue, and wait until something has come of it."""
    if card.synchronous:
        card.write(0x3000 + 4 * queue, 2, queue)
    else:
        card.slot.ring(BAR0 + 0x3000 + 4 * queue)
    assert card.slot.happened.acquire(timeout=10)


def test_a_driver_finds_the_device_and_its_structures():
    card = Card()
    assert card.function.read_config(0, 4) == 0x1042_1AF4
    assert card.function.read_config(8, 4) >> 8 == 0x010000
    assert card.function.read_config(6, 2) & 0x10, "there are capabilities"
    assert [number for number, _ in card.capabilities()] == [0x11, 9, 9, 9, 9, 9]
    structures = card.structures()
    assert structures[1] == (0, 0x0000, 0x40)
    assert structures[2] == (0, 0x3000, 8)
    assert structures[3] == (0, 0x1000, 1)
    assert structures[4][:2] == (0, 0x2000)
    assert structures[5] == (0, 0, 0)


def test_bars_tell_their_sizes_and_can_be_moved():
    card = Card()
    for register, address, length in ((0x10, BAR0, 0x4000), (0x18, BAR2, 0x1000)):
        assert card.function.read_config(register, 4) == address
        card.function.write_config(register, 4, 0xFFFFFFFF)
        assert card.function.read_config(register, 4) == -length & 0xFFFFFFFF
        card.function.write_config(register, 4, address)
    card.enable()
    assert card.read(0x12, 2) == 2
    card.function.write_config(0x10, 4, 0xD0000000)
    assert card.read(0x12, 2) == 0xFFFF, "nobody is there any more"
    assert card.slot.space.read(0xD0000012, 2) == 2
    card.function.write_config(COMMAND, 2, 0)
    assert card.slot.space.read(0xD0000012, 2) == 0xFFFF
    assert card.function.read_config(0x24, 4) == 0, "there is no other BAR"


def test_a_bar_on_top_of_another_is_nowhere():
    card = Card()
    card.enable()
    card.function.write_config(0x18, 4, BAR0)
    assert card.read(0x12, 2) == 2
    card.function.write_config(0x18, 4, BAR2)
    assert card.slot.space.read(BAR2 + 12, 4) == 1, "a vector, masked"


def test_features_are_agreed_upon(card):
    card.enable()
    offered = 0
    for select in (0, 1, 2):
        card.write(0x00, 4, select)
        offered |= card.read(0x04, 4) << 32 * select
    assert offered == VERSION_1 | EVENT_INDEX | INDIRECT | 1 << 5
    card.write(0x14, 1, ALIVE)
    card.accept(1 << 5)
    assert card.status() == ALIVE, "a driver of an older version"
    card.accept(VERSION_1 | 1 << 7)
    assert card.status() == ALIVE, "a feature that was not offered"
    card.accept(VERSION_1 | 1 << 5)
    assert card.status() == ALIVE | FEATURES_OK
    assert card.device.chosen == VERSION_1 | 1 << 5


def test_requests_are_done_and_tell_by_a_message(card):
    card.start()
    _, writable = card.driver.add([b"hello"], [8])
    ring(card)
    assert card.slot.messages == [(0xFEE00000, 0x41)]
    assert card.driver.used() == (1, [(0, 5)])
    assert card.driver.read(writable[0]) == b"hello\0\0\0"
    card.driver.add([b"again"], [8])
    ring(card)
    assert card.driver.used()[0] == 2


def test_a_reset_forgets_everything(card):
    card.start()
    card.write(0x14, 1, RESET)
    assert card.status() == 0
    assert card.slot.bells == {}
    card.write(0x16, 2, 0)
    assert (card.read(0x1C, 2), card.read(0x1A, 2), card.read(0x20, 4)) == (0, 0xFFFF, 0)
    card.driver = Driver(card.memory)
    card.memory.bytes[AVAILABLE : USED + 0x100] = bytes(USED + 0x100 - AVAILABLE)
    card.start()
    card.driver.add([b"anew"], [4])
    ring(card)
    assert card.driver.used() == (1, [(0, 4)])


def test_a_broken_queue_needs_a_reset(card, caplog):
    card.start()
    card.write(0x10, 2, 1)
    card.driver.add([b"break"], [8])
    ring(card)
    assert card.status() & NEEDS_RESET
    assert card.slot.messages == [(0xFEE00000, 0x41)], "the configuration's vector"
    assert "as asked; it waits for a reset" in caplog.text
    card.write(0x14, 1, RESET)
    assert card.status() == 0


def test_an_error_of_ours_ends_the_machine():
    card = Card()
    card.start()
    card.driver.add([b"fail"], [8])
    card.slot.ring(BAR0 + 0x3000)
    assert card.slot.happened.acquire(timeout=10)
    assert isinstance(card.slot.errors[0], ZeroDivisionError)
    card.function.close()


def test_a_queue_that_cannot_be_is_refused(card):
    card.start()
    card.write(0x16, 2, 1)
    card.write(0x18, 2, 3)
    card.write(0x1C, 2, 1)
    assert card.status() & NEEDS_RESET
    assert card.read(0x1C, 2) == 0


def test_queues_that_do_not_exist_have_no_registers(card):
    card.enable()
    card.write(0x16, 2, 2)
    card.write(0x18, 2, 8)
    assert [card.read(register, 2) for register in (0x18, 0x1A, 0x1C, 0x1E)] == [0, 0, 0, 0]
    card.write(0x16, 2, 0)
    card.write(0x1A, 2, 9)
    assert card.read(0x1A, 2) == 0xFFFF, "a vector that there is not"


def test_registers_can_be_reached_by_configuration_space():
    card = Card()
    window = next(at for number, at in card.capabilities() if card.function.read_config(at + 3, 1) == 5)
    for offset, value in ((4, 0), (8, 0x12), (12, 2)):
        card.function.write_config(window + offset, 4 if offset > 4 else 1, value)
    assert card.function.read_config(window + 16, 2) == 2
    card.function.write_config(window + 8, 4, 0x16)
    card.function.write_config(window + 16, 4, 1)
    assert card.function.read_config(window + 16, 2) == 1
    card.function.write_config(window + 8, 4, 0xFFFFFFF0)
    card.function.read_config(window + 16, 4)


def test_the_device_s_configuration_is_read(card):
    card.enable()
    assert card.read(0x2000, 4) == 0x03020100
    assert card.read(0x200F, 1) == 15
    assert card.read(0x2100, 4) == 0


def test_a_driver_is_told_of_a_change_and_can_make_one(card):
    card.start()
    before = card.read(0x15, 1)
    card.device.changed()
    assert card.slot.messages == [], "it has no vector for that"
    card.write(0x10, 2, 1)
    card.device.changed()
    assert card.slot.messages == [(0xFEE00000, 0x41)]
    assert card.read(0x15, 1) == before + 2
    card.write(0x2004, 4, 77)
    assert card.device.written == (4, 4, 77)


def test_closing_ends_the_thread_and_the_device():
    card = Card()
    card.start()
    before = threading.active_count()
    card.function.close()
    assert card.device.closed
    assert threading.active_count() == before - 1
    card.driver.add([b"late"], [4])
    card.write(0x3000, 2, 0)
    card.write(0x14, 1, ALIVE | FEATURES_OK | DRIVER_OK)
    assert card.driver.used()[0] == 0, "a guest that runs on for a moment finds nobody"


@pytest.mark.parametrize("control", [0, ENABLE | FUNCTION_MASK])
def test_messages_wait_while_they_are_masked(control):
    sent = []
    msix = MsiX(2, lambda address, data: sent.append((address, data)))
    msix.control = control
    for index, value in enumerate((0xFEE01000, 0, 0x30, 0)):
        msix.write(4 * index, 4, value)
    msix.interrupt(0)
    msix.interrupt(7)
    assert sent == []
    assert msix.read(0x800, 4) == 1
    msix.control = ENABLE
    assert sent == [(0xFEE01000, 0x30)]
    assert msix.read(0x800, 8) == 0
    msix.interrupt(1)
    assert msix.read(0x800, 4) == 2, "its entry is masked"
    msix.write(16 + 8, 4, 0x31)
    msix.write(16 + 12, 4, 0)
    assert sent[1:] == [(0, 0x31)]
    assert struct.pack("<I", msix.control) == struct.pack("<I", ENABLE | 1)
