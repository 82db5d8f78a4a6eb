"""The driver's side of a virtqueue, over a byte buffer for memory."""

import struct

from gasang.device import GuestMemoryError
from gasang.virtio.queue import Queue

NEXT, WRITE, INDIRECT = 1, 2, 4
SIZE = 8
TABLE, AVAILABLE, USED, BUFFERS = 0x1000, 0x2000, 0x3000, 0x4000


class Memory:
    """RAM from address 0, 64 KiB unless told otherwise, and what was told of it."""

    def __init__(self, size=1 << 16):
        self.bytes = bytearray(size)
        self.told = []

    def view(self, address, length):
        if address + length > len(self.bytes):
            raise GuestMemoryError(f"{address:#x}+{length:#x}")
        return memoryview(self.bytes)[address : address + length]

    def views(self, ranges):
        return [self.view(address, length) for address, length in ranges]

    def written(self, ranges):
        self.told.extend(ranges)


class Driver:
    """Puts requests into a ring of SIZE descriptors, each in buffers of its own."""

    def __init__(self, memory):
        self.memory = memory
        self.index = self.free = 0
        self.next_buffer = BUFFERS

    def describe(self, number, address, length, flags=0, following=0):
        struct.pack_into("<QIHH", self.memory.bytes, TABLE + 16 * number, address, length, flags, following)

    def place(self, content, length=None):
        """Where a buffer with this content is."""
        address, length = self.next_buffer, length or len(content)
        self.next_buffer += length
        self.memory.bytes[address : address + len(content)] = content
        return address, length

    def add(self, readable, writable):
        """A request with these contents and these many bytes to write; its head and its writable buffers."""
        parts = [(*self.place(content), 0) for content in readable]
        parts += [(*self.place(b"", length), WRITE) for length in writable]
        head = self.free
        for number, (address, length, flags) in enumerate(parts, start=1):
            last = number == len(parts)
            following = (self.free + 1) % SIZE
            self.describe(self.free, address, length, flags | (0 if last else NEXT), following)
            self.free = following
        self.offer(head)
        return head, [(address, length) for address, length, flags in parts if flags & WRITE]

    def offer(self, head):
        struct.pack_into("<H", self.memory.bytes, AVAILABLE + 4 + 2 * (self.index % SIZE), head)
        self.index += 1
        struct.pack_into("<H", self.memory.bytes, AVAILABLE + 2, self.index % 0x10000)

    def used(self):
        """The used ring's index, and its elements up to there."""
        (index,) = struct.unpack_from("<H", self.memory.bytes, USED + 2)
        first = max(0, index - SIZE)
        places = (USED + 4 + 8 * (number % SIZE) for number in range(first, index))
        return index, [struct.unpack_from("<II", self.memory.bytes, place) for place in places]

    def read(self, place):
        address, length = place
        return bytes(self.memory.bytes[address : address + length])

    def set_used_event(self, value):
        struct.pack_into("<H", self.memory.bytes, AVAILABLE + 4 + 2 * SIZE, value)

    def available_event(self):
        return struct.unpack_from("<H", self.memory.bytes, USED + 4 + 8 * SIZE)[0]


def set_up(queue):
    """Give a queue the driver's areas."""
    queue.size = SIZE
    queue.descriptors, queue.driver_area, queue.device_area = TABLE, AVAILABLE, USED


RING_SIZE = 64
RING_BUFFER = 4096


class Ring:
    """A driver's queue of single buffers, its areas from `base` on."""

    def __init__(self, memory, base):
        self.memory, self.base, self.index, self.seen = memory, base, 0, 0
        self.queue = Queue(memory)
        self.queue.size = RING_SIZE
        self.queue.descriptors = base
        self.queue.driver_area = base + 0x1000
        self.queue.device_area = base + 0x2000
        self.buffers = base + 0x4000
        self.queue.enable(event_index=False)

    def place(self, number):
        return self.buffers + number * RING_BUFFER

    def offer(self, length, flags, content=b""):
        number = self.index % RING_SIZE
        address = self.place(number)
        self.memory.bytes[address : address + len(content)] = content
        struct.pack_into("<QIHH", self.memory.bytes, self.base + 16 * number, address, length, flags, 0)
        struct.pack_into("<H", self.memory.bytes, self.base + 0x1004 + 2 * number, number)
        self._told()

    def ask(self, device, request, room, index=0):
        """Have a device answer one request; where the answer is."""
        memory, place, answer = self.memory.bytes, self.place(0), self.place(32)
        memory[place : place + len(request)] = request
        struct.pack_into("<QIHH", memory, self.base, place, len(request), NEXT if room else 0, 1)
        if room:
            struct.pack_into("<QIHH", memory, self.base + 16, answer, room, WRITE, 0)
        struct.pack_into("<H", memory, self.base + 0x1004 + 2 * (self.index % RING_SIZE), 0)
        self._told()
        device.serve(self.queue, index)
        return answer

    def _told(self):
        self.index += 1
        struct.pack_into("<H", self.memory.bytes, self.base + 0x1002, self.index % 0x10000)

    def used(self):
        """What the device has given back since the last look: the content of each."""
        self.queue.publish()
        (index,) = struct.unpack_from("<H", self.memory.bytes, self.base + 0x2002)
        found = []
        while self.seen % 0x10000 != index:
            place = self.base + 0x2004 + 8 * (self.seen % RING_SIZE)
            number, length = struct.unpack_from("<II", self.memory.bytes, place)
            found.append(bytes(self.memory.bytes[self.place(number) : self.place(number) + length]))
            self.seen += 1
        return found
