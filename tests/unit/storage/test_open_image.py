"""Images of drives: files of the host, and what is wrong with some."""

import os
import subprocess
import sys

import pytest

from gasang.config import Drive
from gasang.errors import ConfigError
from gasang.storage import open_image

SIZE = 1 << 20


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    return path


def read(image, offset, *lengths):
    buffers = [bytearray(length) for length in lengths]
    image.read_into(offset, [memoryview(buffer) for buffer in buffers])
    return b"".join(buffers)


def test_bytes_are_those_of_the_file(path):
    image = open_image(Drive(path))
    assert (image.size, image.readonly) == (SIZE, False)
    assert read(image, 512, 100, 412) == path.read_bytes()[512:1024]
    image.write_from(1024, [memoryview(b"ab"), memoryview(b"cde")])
    image.flush()
    assert path.read_bytes()[1022:1031] == b"\xfe\xffabcde\x05\x06"
    image.close()


def test_zeroed_ranges_read_as_zeroes_and_take_no_room(path):
    image = open_image(Drive(path))
    before = path.stat().st_blocks
    image.write_zeroes(0, SIZE // 2)
    assert read(image, 0, SIZE // 2) == bytes(SIZE // 2)
    assert read(image, SIZE // 2, 4) == b"\0\1\2\3"
    assert path.stat().st_blocks < before
    assert path.stat().st_size == SIZE
    image.close()


def test_where_there_are_no_holes_zeroes_are_written(path, monkeypatch):
    monkeypatch.setattr("gasang.storage.raw.punch_hole", lambda *_: False)
    image = open_image(Drive(path))
    image.write_zeroes(512, SIZE - 1024)
    assert read(image, 0, SIZE) == path.read_bytes()[:512] + bytes(SIZE - 1024) + path.read_bytes()[-512:]
    image.close()


def test_a_closed_image_touches_no_file(path):
    image = open_image(Drive(path))
    image.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        image.write_from(0, [memoryview(bytes(512))])


def test_many_buffers_go_in_several_calls(path):
    image = open_image(Drive(path))
    assert read(image, 0, *[1] * 3000) == path.read_bytes()[:3000]
    image.close()


def test_a_file_that_shrinks_is_an_error_of_the_disk(path):
    image = open_image(Drive(path))
    os.truncate(path, 4096)
    with pytest.raises(OSError, match="shorter than the disk"):
        read(image, 4096, 512)
    image.close()


OPEN = """
import sys
from pathlib import Path
from gasang.config import Drive
from gasang.errors import ConfigError
from gasang.storage import open_image
try:
    open_image(Drive(Path(sys.argv[1]), readonly=sys.argv[2] == "ro"))
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [("rw", "rw", False), ("rw", "ro", False), ("ro", "rw", False), ("ro", "ro", True)],
)
def test_one_machine_writes_an_image_or_several_read_it(path, first, second, shared):
    image = open_image(Drive(path, readonly=first == "ro"))
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(path), second], capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        "" if shared else f"drive {path}: in use by another machine; readonly=on on both shares it\n"
    )
    image.close()
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(path), second], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""


def test_a_drive_that_cannot_be_one_is_named(path, tmp_path):
    empty, odd, qcow2 = tmp_path / "empty", tmp_path / "odd", tmp_path / "qcow2"
    empty.touch()
    odd.write_bytes(bytes(1000))
    qcow2.write_bytes(b"QFI\xfb".ljust(1024, b"\0"))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for drive, message in (
        (Drive(tmp_path / "none"), "No such file or directory"),
        (Drive(tmp_path), "Is a directory"),
        (Drive(empty), "0 bytes are no disk"),
        (Drive(odd), "1000 bytes are no disk"),
        (Drive(qcow2), "a truncated qcow2 image|qcow2 version 0"),
        (Drive(fifo), "neither a file nor a block device"),
    ):
        descriptors = len(os.listdir("/proc/self/fd"))
        with pytest.raises(ConfigError, match=message):
            open_image(drive)
        assert len(os.listdir("/proc/self/fd")) == descriptors
    open_image(Drive(qcow2, format="raw")).close()


@pytest.mark.parametrize(
    ("text", "drive"),
    [
        ("a.img", Drive("a.img")),
        ("file=a.img,readonly=on", Drive("a.img", readonly=True)),
        ("file=a,,b.img,format=raw,readonly=off", Drive("a,b.img", "raw")),
        ("a.img,format=raw", Drive("a.img", "raw")),
    ],
)
def test_drives_are_written_as_qemus_are(text, drive):
    parsed = Drive.parse(text)
    assert (str(parsed.path), parsed.format, parsed.readonly) == (drive.path, drive.format, drive.readonly)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no file"),
        ("format=raw", "no file"),
        ("file=a,cache=none", "no option 'cache'"),
        ("file=a,readonly=yes", "readonly is on or off, not 'yes'"),
        ("file=a,format=vmdk", "drive format 'vmdk' is not one of auto, raw, qcow2"),
    ],
)
def test_what_is_wrong_with_an_option_is_said(text, message):
    with pytest.raises(ConfigError, match=message):
        Drive.parse(text)
