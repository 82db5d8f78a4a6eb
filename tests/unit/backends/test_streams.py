"""Reading and writing descriptors whole."""

import os
import threading

import pytest

from gasang.backends.streams import Descriptor, may_read, writer


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    for descriptor in (read, write):
        try:
            os.close(descriptor)
        except OSError:
            continue


def test_all_is_written_to_a_full_nonblocking_pipe(pipe):
    read, write = pipe
    os.set_blocking(write, False)
    data = bytes(range(256)) * 4096
    received = bytearray()

    def drain():
        while chunk := os.read(read, 65536):
            received.extend(chunk)

    reader = threading.Thread(target=drain)
    reader.start()
    writer(write)(data)
    os.close(write)
    reader.join()
    assert received == data


def test_nonblocking_input_is_waited_for(pipe):
    read, write = pipe
    os.set_blocking(read, False)
    threading.Timer(0.05, os.write, [write, b"late"]).start()
    assert Descriptor(read).read(10) == b"late"


def test_end_is_empty(pipe):
    read, write = pipe
    os.close(write)
    assert Descriptor(read).read(10) == b""


def test_broken_pipe_is_told(pipe):
    read, write = pipe
    os.close(read)
    with pytest.raises(BrokenPipeError):
        writer(write)(b"x")


def test_closed_descriptor_may_not_be_read(pipe):
    read, _ = pipe
    assert may_read(read)
    os.close(read)
    assert not may_read(read)


def test_terminal_of_another_session_may_not_be_read():
    master, slave = os.openpty()  # not our controlling terminal
    try:
        assert not may_read(slave)
    finally:
        os.close(master)
        os.close(slave)
