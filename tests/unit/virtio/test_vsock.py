"""The socket device, by its queues, and with a worker of its own."""

import os
import random
import socket
import struct
import threading
from contextlib import suppress

import pytest
from driver import RING_BUFFER, RING_SIZE, WRITE, Memory, Ring

from gasang.virtio.device import Worker
from gasang.virtio.queue import QueueError
from gasang.virtio.vsock import MOST_CONNECTIONS, VsockDevice
from gasang.virtio.vsock_connection import BUFFER
from gasang.virtio.vsock_packet import HEADER_SIZE, HOST_CID, Operation, Packet

GUEST = 3
PORT = 5000
RX, TX, EVENT = range(3)


class Guest:
    """A driver that says what a test has it say."""

    def __init__(self):
        memory = Memory(4 << 20)
        self.rings = [Ring(memory, 0x10000 + 0x100000 * number) for number in range(3)]
        self.device = VsockDevice(GUEST)
        self.heard = []
        for _ in range(32):
            self.rings[RX].offer(RING_BUFFER, WRITE)

    def run(self):
        """Let the device do all that it can, giving it back each buffer that it filled."""
        while self.device.poll([ring.queue for ring in self.rings]):
            for content in self.rings[RX].used():
                self.heard.append((Packet.parse(content[:HEADER_SIZE]), content[HEADER_SIZE:]))
                self.rings[RX].offer(RING_BUFFER, WRITE)

    def say(self, operation, data=b"", *, port=PORT, to=1024, flags=0, room=BUFFER, taken=0, **fields):
        length = fields.get("length", len(data))
        packet = Packet(
            fields.get("cid", GUEST), fields.get("host", HOST_CID), port, to,
            length, fields.get("kind", 1), operation, flags, room, taken,
        )  # fmt: skip
        self.rings[TX].offer(HEADER_SIZE + len(data), 0, packet.pack() + data)
        self.run()

    def take(self):
        self.run()
        heard, self.heard = self.heard, []
        return heard

    def operations(self):
        return [packet.operation for packet, _ in self.take()]


@pytest.fixture
def guest():
    made = Guest()
    yield made
    made.device.close()


@pytest.fixture
def connected(guest):
    """A guest, and the host's end of a connection that it has made."""
    listener = guest.device.listen(1024)
    guest.say(Operation.REQUEST)
    assert guest.operations() == [Operation.RESPONSE]
    end = listener.accept(0)
    end.settimeout(5)
    yield guest, end
    end.close()


def dial(guest, port=7):
    """A connection that the host asks for, in a thread: its result, once the guest has answered."""
    found = []

    def work():
        try:
            found.append(guest.device.dial(port, 5))
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not (heard := guest.take()):
        pass
    return thread, found, heard[0][0]


def test_the_guest_reads_its_address(guest):
    assert guest.device.config() == struct.pack("<Q", GUEST)


def test_a_guest_connects_to_a_port_of_the_host(connected):
    guest, end = connected
    guest.say(Operation.RW, b"hello")
    assert end.recv(100) == b"hello"
    end.sendall(b"and to you")
    [(packet, data)] = guest.take()
    assert (packet.operation, data) == (Operation.RW, b"and to you")
    assert (packet.source_cid, packet.source_port, packet.destination_port) == (HOST_CID, 1024, PORT)
    assert (packet.buffer, packet.forwarded) == (BUFFER, 5)


def test_the_host_connects_to_a_port_of_the_guest(guest):
    thread, found, request = dial(guest)
    assert (request.operation, request.destination_port) == (Operation.REQUEST, 7)
    guest.say(Operation.RESPONSE, port=7, to=request.source_port)
    thread.join()
    with found[0] as end:
        guest.say(Operation.RW, b"hi", port=7, to=request.source_port)
        assert end.recv(10) == b"hi"


def test_a_port_without_listener_refuses(guest):
    thread, found, request = dial(guest)
    guest.say(Operation.RST, port=7, to=request.source_port)
    thread.join()
    assert isinstance(found[0], ConnectionRefusedError)
    guest.say(Operation.REQUEST, to=99)
    assert guest.operations() == [Operation.RST]


def test_a_guest_that_does_not_answer_is_not_waited_for(guest):
    with pytest.raises(TimeoutError, match="port 7"):
        guest.device.dial(7, 0.01)
    assert guest.operations() == [Operation.RST]


def test_no_more_is_sent_than_the_guest_has_room_for(connected):
    guest, end = connected
    guest.say(Operation.CREDIT_UPDATE, room=10)
    end.sendall(b"x" * 25)
    assert [data for _, data in guest.take()] == [b"x" * 10]
    guest.say(Operation.CREDIT_UPDATE, room=10, taken=10)
    assert [data for _, data in guest.take()] == [b"x" * 10]
    guest.say(Operation.CREDIT_UPDATE, room=10, taken=20)
    assert [data for _, data in guest.take()] == [b"x" * 5]


def test_a_guest_that_claims_to_have_taken_more_than_came_has_no_room(connected):
    guest, end = connected
    guest.say(Operation.CREDIT_UPDATE, room=10, taken=1)
    end.sendall(b"x")
    assert guest.take() == []


def test_the_guest_is_told_of_room_as_the_host_reads(connected):
    guest, end = connected
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sent = 0
    while sent < BUFFER:
        guest.say(Operation.RW, b"y" * 4000)
        sent += 4000
        for packet, _ in guest.take():
            assert packet.operation == Operation.CREDIT_UPDATE
    received = 0
    while received < sent - BUFFER // 4:
        received += len(end.recv(1 << 16))
        guest.run()
    assert guest.heard
    assert guest.heard[-1][0].forwarded > BUFFER // 4


def test_a_guest_that_sends_without_credit_loses_the_connection(connected):
    guest, end = connected
    for _ in range(200):
        guest.say(Operation.RW, b"z" * 4000)
    assert Operation.RST in guest.operations()
    total = 0
    while data := end.recv(1 << 16):
        total += len(data)
        guest.run()
    assert total <= BUFFER + (1 << 20)


def test_the_guest_asks_for_credit(connected):
    guest, _ = connected
    guest.say(Operation.CREDIT_REQUEST)
    assert guest.operations() == [Operation.CREDIT_UPDATE]


def test_half_a_connection_ends(connected):
    guest, end = connected
    guest.say(Operation.RW, b"last")
    guest.say(Operation.SHUTDOWN, flags=2)
    assert end.recv(10) == b"last"
    assert end.recv(10) == b""
    end.sendall(b"still")
    end.shutdown(socket.SHUT_WR)
    heard = guest.take()
    assert [data for packet, data in heard if packet.operation == Operation.RW] == [b"still"]
    assert heard[-1][0].operation == Operation.SHUTDOWN
    assert heard[-1][0].flags in (2, 3)


def test_a_guest_that_closes_is_answered_when_all_is_passed_on(connected):
    guest, end = connected
    guest.say(Operation.RW, b"bye")
    guest.say(Operation.SHUTDOWN, flags=3)
    assert guest.operations() == [Operation.RST]
    assert end.recv(10) == b"bye"
    assert end.recv(10) == b""


def test_a_host_that_closes_tells_the_guest_behind_its_data(connected):
    guest, end = connected
    end.sendall(b"bye")
    end.close()
    (first, data), (second, _) = guest.take()
    assert (first.operation, data) == (Operation.RW, b"bye")
    assert (second.operation, second.flags) == (Operation.SHUTDOWN, 3)
    guest.say(Operation.RW, b"late")
    guest.say(Operation.RST)
    assert guest.operations() == []


def test_a_reset_connection_still_gives_what_came_before(connected):
    guest, end = connected
    guest.say(Operation.RW, b"before")
    guest.say(Operation.RST)
    assert end.recv(10) == b"before"
    assert end.recv(10) == b""
    assert guest.operations() == []


@pytest.mark.parametrize(
    "wrong", [{"host": 5}, {"kind": 2}, {"to": 77}], ids=["another host", "another kind", "no connection"]
)
def test_what_nobody_waits_for_is_refused(connected, wrong):
    guest, _ = connected
    guest.say(Operation.RW, b"?", **wrong)
    assert guest.operations() == [Operation.RST]


def test_what_comes_from_another_guest_is_dropped(connected):
    guest, _ = connected
    guest.say(Operation.RW, b"?", cid=9)
    assert guest.operations() == []


def test_half_a_packet_breaks_the_device(guest):
    guest.rings[TX].offer(20, 0, b"\0" * 20)
    with pytest.raises(QueueError, match="half a header"):
        guest.run()


def test_a_packet_shorter_than_it_says_breaks_the_device(connected):
    guest, _ = connected
    with pytest.raises(QueueError, match="10 bytes in a buffer of 1"):
        guest.say(Operation.RW, b"x", length=10)


def test_a_guest_cannot_make_connections_without_end(guest):
    listener = guest.device.listen(1024)
    for port in range(1000):
        guest.say(Operation.REQUEST, port=10000 + port)
    assert guest.operations().count(Operation.RST) > 800
    listener.close()


def test_packets_owed_to_a_guest_without_buffers_are_bounded():
    guest = Guest()
    guest.rings[RX] = Ring(Memory(4 << 20), 0x10000)
    guest.rings[RX].queue.enable(event_index=False)
    for _ in range(200):
        for _ in range(RING_SIZE // 2):
            packet = Packet(GUEST, HOST_CID, 1, 2, 0, 1, Operation.RW, 0, 0, 0)
            guest.rings[TX].offer(HEADER_SIZE, 0, packet.pack())
        guest.device.poll([ring.queue for ring in guest.rings])
        guest.rings[TX].used()
        if guest.rings[TX].queue.waits:
            break
    assert guest.rings[TX].queue.waits, "the guest's packets wait in its own queue"
    assert len(guest.device._owed) <= 1024
    guest.device.close()


def test_connections_of_the_host_are_bounded(guest):
    ends = [socket.socketpair() for _ in range(MOST_CONNECTIONS)]
    for ours, _ in ends:
        guest.device._request(7, ours)
    with pytest.raises(OSError, match="too many connections"):
        guest.device.dial(7, 1)
    for _, theirs in ends:
        theirs.close()


def test_a_driver_that_begins_anew_knows_of_no_connection(connected):
    guest, end = connected
    guest.device.negotiated(0)
    assert end.recv(10) == b""
    guest.say(Operation.RW, b"old")
    assert guest.operations() == [Operation.RST]


def test_a_restored_guest_is_told_that_its_connections_are_gone(connected):
    guest, end = connected
    guest.rings[EVENT].offer(16, WRITE)
    guest.device.reset_transport()
    guest.run()
    assert guest.rings[EVENT].used() == [struct.pack("<I", 0)]
    assert end.recv(10) == b""


def test_the_end_wakes_whoever_waits(guest):
    listener = guest.device.listen(9)
    thread = threading.Thread(target=guest.device.close)
    thread.start()
    with pytest.raises(ConnectionAbortedError):
        listener.accept(5)
    thread.join()
    with pytest.raises(OSError, match="ended"):
        guest.device.dial(7, 1)


def test_a_worker_serves_both_sides(connected):
    guest, end = connected
    bells = [os.eventfd(0) for _ in range(3)]
    interrupts = []
    worker = Worker(
        guest.device,
        [ring.queue for ring in guest.rings],
        [os.dup(bell) for bell in bells],
        interrupt=interrupts.append,
        broken=pytest.fail,
        failed=pytest.fail,
    )
    packet = Packet(GUEST, HOST_CID, PORT, 1024, 4, 1, Operation.RW, 0, BUFFER, 0)
    guest.rings[TX].offer(HEADER_SIZE + 4, 0, packet.pack() + b"ding")
    os.eventfd_write(bells[TX], 1)
    assert end.recv(10) == b"ding"
    end.sendall(b"dong")
    while RX not in interrupts:
        pass
    worker.stop()
    assert TX in interrupts
    assert guest.rings[RX].used()[-1].endswith(b"dong")
    for bell in bells:
        os.close(bell)


@pytest.mark.parametrize("seed", range(12))
def test_no_guest_breaks_it(seed):
    """Packets without sense, sent while the host uses it: nothing but `QueueError`, and nothing grows."""
    chance = random.Random(seed)
    guest = Guest()
    listener = guest.device.listen(1024)
    ends = []
    for _ in range(1500):
        fields = {
            "port": chance.choice([1, 2, 3, PORT]),
            "to": chance.choice([1024, 1024, 1 << 20, 1 << 20 | 1, 1 << 20 | 2, chance.getrandbits(32)]),
            "flags": chance.choice([0, 1, 2, 3, chance.getrandbits(32)]),
            "room": chance.choice([0, 1, BUFFER, chance.getrandbits(32)]),
            "taken": chance.choice([0, 0, chance.getrandbits(32)]),
            "host": chance.choice([HOST_CID, HOST_CID, HOST_CID, chance.getrandbits(64)]),
        }
        data = chance.randbytes(chance.choice([0, 1, 3000]))
        if chance.random() < 0.1:
            fields["length"] = chance.choice([0, 1 << 31, 70000])
        try:
            guest.say(chance.choice([1, 1, 2, 3, 4, 5, 5, 5, 6, 7, chance.getrandbits(16)]), data, **fields)
        except QueueError:
            guest.rings[TX].used()
        act(chance, guest, listener, ends)
        guest.heard.clear()
        assert len(guest.device._owed) <= 1024
        assert sum(len(each._unsent) for each in guest.device._sockets.values()) <= BUFFER * (len(ends) + 1)
    guest.device.close()
    assert guest.device._sockets == {}
    for end in ends:
        end.close()


def act(chance, guest, listener, ends):
    """Something that a host may do."""
    match chance.randrange(8):
        case 0 if listener._waiting.qsize():
            ends.append(listener.accept(0))
            ends[-1].setblocking(False)
        case 1 if ends:
            ends.pop(chance.randrange(len(ends))).close()
        case 2 | 3 if ends:
            with suppress(OSError):
                chance.choice(ends).send(b"data" * chance.randrange(1, 500))
        case 4 if ends:
            with suppress(OSError):
                chance.choice(ends).recv(1 << 14)
        case 5 if ends:
            with suppress(OSError):
                chance.choice(ends).shutdown(socket.SHUT_WR)
        case 6 if len(ends) < 20:
            ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            ends.append(theirs)
            guest.device._request(chance.choice([1, 2, 3]), ours)
