"""The archive writer, read back by the format's description."""

import pytest
from newc import read_back

from gasang.guest.initramfs import CharacterDevice, Directory, Fifo, File, Symlink, write_archive

ENTRIES = [
    Directory("dev"),
    CharacterDevice("dev/null", 1, 3, 0o666),
    File("init", b"#!/bin/sh\n", 0o755),
    Symlink("linuxrc", "init"),
    Fifo("pipe"),
]


def test_archive_reads_back():
    assert read_back(write_archive(ENTRIES)) == [
        ("dev", 0o040755, 2, (0, 0), b""),
        ("dev/null", 0o020666, 1, (1, 3), b""),
        ("init", 0o100755, 1, (0, 0), b"#!/bin/sh\n"),
        ("linuxrc", 0o120777, 1, (0, 0), b"init"),
        ("pipe", 0o010600, 1, (0, 0), b""),
        ("TRAILER!!!", 0, 1, (0, 0), b""),
    ]


def test_archive_of_the_same_entries_is_the_same_bytes():
    assert write_archive(ENTRIES) == write_archive(list(ENTRIES))


def test_inode_numbers_differ():
    # Records with more than one link and the same inode number would be taken for hard links.
    archive = write_archive([Directory("a"), Directory("b")])
    assert archive[6:14] == b"00000001"
    assert archive[118:126] == b"00000002"


@pytest.mark.parametrize("path", ["", "/etc", "../etc", "a//b", "a/./b", "a/", "a\0b"])
def test_path_outside_the_root_is_refused(path):
    with pytest.raises(ValueError, match="relative to the root"):
        write_archive([Directory(path)])
