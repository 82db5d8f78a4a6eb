"""The file of a snapshot: whole or not there, and refused with the reason if it is anything else."""

import errno
import os
import struct
import zlib

import pytest

from gasang.errors import SnapshotError
from gasang.snapshot.file import FORMAT, Snapshot, write

RAM = 1 << 20
STATE = {"config": {"memory": RAM}, "more": [1, 2, {"x": "y"}]}


def ram_writer(descriptor, offset):
    os.pwrite(descriptor, b"ram", offset + 4096)
    return 1, 0x1234


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "a.snap"
    write(path, STATE, RAM, ram_writer)
    return path


def test_what_was_written_is_read(written):
    with Snapshot.open(written) as snapshot:
        assert snapshot.state == STATE
        assert (snapshot.ram_length, snapshot.ram_digest) == (RAM, (1, 0x1234))
        assert os.pread(snapshot.descriptor, 3, snapshot.ram + 4096) == b"ram"
        assert snapshot.ram % 65536 == 0


def test_ram_of_zeroes_takes_no_room(written):
    assert written.stat().st_size > RAM
    assert written.stat().st_blocks * 512 < RAM // 4


def test_nobody_else_may_read_it(written):
    assert written.stat().st_mode & 0o777 == 0o600


def refused(path, reason):
    with pytest.raises(SnapshotError, match=reason) as error:
        Snapshot.open(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("length", [0, 7, 100, 4095, 4096, 5000, 70000, 65536 + RAM - 1])
def test_a_truncated_file_is_refused(written, length):
    os.truncate(written, length)
    refused(written, "truncated|no snapshot")


def test_a_newer_format_is_refused(written):
    with written.open("r+b") as file:
        file.seek(8)
        file.write(struct.pack("<I", FORMAT + 1))
    refused(written, f"format {FORMAT + 1}; this gasang reads format {FORMAT}")


@pytest.mark.parametrize("at", [20, 40, 60, 4096, 4100])
def test_a_changed_byte_is_noticed(written, at):
    with written.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))
    refused(written, "damaged")


def test_a_state_that_is_none_is_refused(tmp_path):
    path = tmp_path / "a.snap"
    write(path, [1, 2], RAM, ram_writer)
    refused(path, "its state is none")


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.snap"
    path.write_bytes(b"x" * 10000)
    refused(path, "no snapshot of gasang")
    refused(tmp_path / "nowhere", "No such file")
    refused(tmp_path, "Is a directory")


def test_an_absurd_header_with_a_true_checksum_is_refused(written):
    head = bytearray(written.read_bytes()[:100])
    struct.pack_into("<Q", head, 24, 1 << 62)
    end = struct.calcsize("<8sII QQ32s QQQI")
    struct.pack_into("<I", head, end, zlib.crc32(head[:end]))
    with written.open("r+b") as file:
        file.write(head)
    refused(written, "truncated")


def test_a_failure_leaves_what_was_there(written):
    before = written.read_bytes()

    def full(descriptor, offset):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(SnapshotError, match="No space left"):
        write(written, STATE, RAM, full)
    assert written.read_bytes() == before
    assert os.listdir(written.parent) == [written.name]


def test_an_interrupt_leaves_nothing(tmp_path):
    def interrupted(descriptor, offset):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.snap", STATE, RAM, interrupted)
    assert os.listdir(tmp_path) == []


def test_a_directory_that_is_not_there_is_said(tmp_path):
    with pytest.raises(SnapshotError, match="No such file"):
        write(tmp_path / "nowhere" / "a.snap", STATE, RAM, ram_writer)
