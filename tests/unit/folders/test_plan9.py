"""A folder's server for 9P, asked as a guest would, and as a hostile one would."""

import errno
import os
import random
import stat
import struct
from contextlib import suppress

import pytest

from gasang.folders import Plan9Server, SharedFolder
from gasang.folders import plan9_messages as messages
from gasang.folders.nodes import ROOT
from gasang.folders.plan9 import MOST_MESSAGE
from gasang.folders.plan9_messages import Fields, Kind, Valid, text
from gasang.folders.shared import MOST_OPEN, Change

ROOT_FID, NO_FID = 0, 0xFFFF_FFFF


@pytest.fixture
def folder(tmp_path):
    """A folder with a file and a directory in it, and something outside that nobody may reach."""
    (tmp_path / "outside").write_text("secret")
    inside = tmp_path / "inside"
    (inside / "sub" / "deeper").mkdir(parents=True)
    (inside / "file").write_text("content")
    (inside / "sub" / "deep").write_text("deep")
    (inside / "out").symlink_to(tmp_path / "outside")
    return inside


class Client:
    """A guest that has the folder attached as fid 0."""

    def __init__(self, folder, *, readonly=False):
        self.shared = SharedFolder(folder, readonly=readonly)
        self.server = Plan9Server(self.shared)
        assert self.ask(Kind.VERSION, struct.pack("<I", 1 << 30), text(b"9P2000.L")) == (
            struct.pack("<I", MOST_MESSAGE) + text(b"9P2000.L")
        )
        self.ask(Kind.ATTACH, struct.pack("<II", ROOT_FID, NO_FID), text(b"root"), text(b""), bytes(4))
        self.fid = ROOT_FID

    def ask(self, kind, *fields):
        return self.server.answer(kind, b"".join(fields))

    def walk(self, *names, start=ROOT_FID):
        """A new fid, and how many steps there were."""
        self.fid += 1
        fields = (struct.pack("<IIH", start, self.fid, len(names)), *map(text, names))
        return self.fid, struct.unpack_from("<H", self.ask(Kind.WALK, *fields))[0]

    def at(self, *names):
        fid, steps = self.walk(*names)
        assert steps == len(names)
        return fid

    def status(self, fid):
        """Mode, user, group, links, device, size of a file."""
        return messages.ATTRIBUTES.unpack(self.ask(Kind.GETATTR, struct.pack("<IQ", fid, 0x7FF)))[4:10]

    def opened(self, *names, flags=os.O_RDWR):
        fid = self.at(*names)
        self.ask(Kind.LOPEN, struct.pack("<II", fid, flags))
        return fid

    def created(self, name, mode=0o644, parent=()):
        fid = self.at(*parent)
        self.ask(Kind.LCREATE, struct.pack("<I", fid), text(name), struct.pack("<III", os.O_RDWR, mode, 0))
        return fid

    def names(self, fid, size=4096):
        found, offset = [], 0
        while True:
            reply = Fields(self.ask(Kind.READDIR, struct.pack("<IQI", fid, offset, size)))
            (length,) = reply.numbers(messages.TRANSFERRED)
            if not length:
                return found
            while length:
                *_, offset, _kind = reply.numbers(messages.ENTRY)
                found.append(reply.text())
                length -= messages.ENTRY.size + 2 + len(found[-1])

    def set(self, fid, valid, *, mode=0, size=0, times=(0, 0, 0, 0)):
        self.ask(Kind.SETATTR, struct.pack("<IIIIIQQQQQ", fid, valid, mode, 0, 0, size, *times))

    def refused(self, number, kind, *fields):
        with pytest.raises(OSError) as told:  # noqa: PT011 - which error is looked at
            self.ask(kind, *fields)
        assert told.value.errno == number, os.strerror(told.value.errno)


@pytest.fixture
def client(folder):
    made = Client(folder)
    yield made
    made.server.close()


def test_files_are_read_and_written(client, folder):
    fid = client.opened(b"file")
    assert os.pread(client.server.file(fid), 100, 0) == b"content"
    os.pwrite(client.server.file(fid, writing=True), b"C", 0)
    assert (folder / "file").read_text() == "Content"
    client.ask(Kind.FSYNC, struct.pack("<II", fid, 0))
    client.ask(Kind.CLUNK, struct.pack("<I", fid))
    with pytest.raises(OSError, match="Bad file descriptor"):
        client.server.file(fid)


def test_what_is_made_has_its_mode_whatever_our_own_umask(client, folder):
    before = os.umask(0o077)
    try:
        client.created(b"new", 0o666)
        client.ask(Kind.MKDIR, bytes(4), text(b"dir"), struct.pack("<II", 0o1777, 0))
        client.ask(Kind.MKNOD, bytes(4), text(b"fifo"), struct.pack("<IIII", stat.S_IFIFO | 0o640, 0, 0, 0))
        client.ask(Kind.SYMLINK, bytes(4), text(b"link"), text(b"any/where"), bytes(4))
    finally:
        os.umask(before)
    assert stat.filemode((folder / "new").stat().st_mode) == "-rw-rw-rw-"
    assert stat.filemode((folder / "dir").stat().st_mode) == "drwxrwxrwt"
    assert stat.filemode((folder / "fifo").stat().st_mode) == "prw-r-----"
    assert client.ask(Kind.READLINK, struct.pack("<I", client.at(b"link"))) == text(b"any/where")


def test_a_walk_goes_as_far_as_there_are_names(client):
    assert client.walk(b"sub", b"deep")[1] == 2
    fid, steps = client.walk(b"sub", b"missing", b"deep")
    assert steps == 1
    client.refused(errno.EBADF, Kind.GETATTR, struct.pack("<IQ", fid, 0))
    client.refused(errno.ENOENT, Kind.WALK, struct.pack("<IIH", 0, 99, 1), text(b"missing"))
    client.refused(errno.EINVAL, Kind.WALK, struct.pack("<IIH", 0, 99, 17), *[text(b"..")] * 17)
    client.refused(errno.EBADF, Kind.WALK, struct.pack("<IIH", 98, 99, 0))


def test_a_walk_up_ends_at_the_folder(client, folder):
    top = (folder.stat().st_mode, (folder / "sub").stat().st_mode)
    fid = client.at(b"sub", b"deeper", b"..", b"..", b"..", b"..")
    assert client.status(fid)[0] == top[0]
    assert client.at(b"..", b"..", b"file")
    client.refused(errno.ENOENT, Kind.WALK, struct.pack("<IIH", fid, 99, 1), text(b"outside"))


def test_a_fid_outlives_those_on_its_way(client):
    deep = client.at(b"sub", b"deep")
    for _ in range(3):
        client.ask(Kind.CLUNK, struct.pack("<I", client.at(b"sub")))
    assert stat.S_ISREG(client.status(deep)[0])
    client.ask(Kind.CLUNK, struct.pack("<I", deep))
    assert len(client.shared.nodes) == 1


def test_nothing_is_kept_of_what_is_clunked(client):
    """Nodes go with the last fid, whatever was made, walked and listed meanwhile."""
    for number in range(50):
        client.ask(Kind.CLUNK, struct.pack("<I", client.created(b"f%d" % number, parent=(b"sub", b"deeper"))))
        client.walk(b"sub", b"nothing")
    listing = client.opened(b"sub", b"deeper", flags=0)
    client.names(listing)
    client.ask(Kind.REMOVE, struct.pack("<I", client.at(b"sub", b"deeper", b"f7")))
    client.ask(Kind.CLUNK, struct.pack("<I", listing))
    assert len(client.shared.nodes) == 1


def test_renamed_linked_and_removed(client, folder):
    file = client.at(b"file")
    client.ask(Kind.LINK, bytes(4), struct.pack("<I", file), text(b"second"))
    assert client.status(file)[3] == 2
    sub = client.at(b"sub")
    client.ask(Kind.RENAME, struct.pack("<II", file, sub), text(b"moved"))
    client.ask(Kind.RENAMEAT, struct.pack("<I", sub), text(b"deep"), struct.pack("<I", ROOT_FID), text(b"up"))
    assert sorted(os.listdir(folder / "sub")) == ["deeper", "moved"]
    assert stat.S_ISREG(client.status(file)[0])
    client.ask(Kind.UNLINKAT, struct.pack("<I", sub), text(b"moved"), struct.pack("<I", 0))
    client.refused(errno.ENOTDIR, Kind.UNLINKAT, bytes(4), text(b"up"), struct.pack("<I", 0x200))
    client.ask(Kind.UNLINKAT, struct.pack("<I", sub), text(b"deeper"), struct.pack("<I", 0x200))
    client.ask(Kind.REMOVE, struct.pack("<I", client.at(b"second")))
    assert sorted(os.listdir(folder)) == ["out", "sub", "up"]
    client.refused(errno.EBUSY, Kind.REMOVE, struct.pack("<I", client.at()))


def test_an_open_file_without_a_name_is_still_one(client, folder):
    fid = client.created(b"temporary")
    os.pwrite(client.server.file(fid, writing=True), b"12345", 0)
    client.ask(Kind.UNLINKAT, bytes(4), text(b"temporary"), struct.pack("<I", 0))
    assert client.status(fid)[3] == 0
    client.set(fid, Change.SIZE | Change.MODE, mode=0o600, size=3)
    assert client.status(fid)[5] == 3
    assert stat.S_IMODE(client.status(fid)[0]) == 0o600


def test_attributes_are_set(client, folder):
    fid = client.at(b"file")
    some = Change.MODE | Change.SIZE | Change.ATIME | Change.MTIME | Valid.ATIME_SET | Valid.MTIME_SET
    client.set(fid, some, mode=0o4755, size=3, times=(1000, 5, 2000, 6))
    found = (folder / "file").stat()
    assert (found.st_atime_ns, found.st_mtime_ns) == (1000 * 10**9 + 5, 2000 * 10**9 + 6)
    assert (stat.S_IMODE(found.st_mode), found.st_size) == (0o755, 3)
    client.set(fid, Change.ATIME | Change.MTIME | Valid.MTIME_SET, times=(0, 0, 3000, 7))
    found = (folder / "file").stat()
    assert found.st_mtime_ns == 3000 * 10**9 + 7
    assert found.st_atime > 10**9
    client.set(fid, Change.ATIME | Change.MTIME)
    assert (folder / "file").stat().st_mtime > 10**9


@pytest.mark.parametrize("size", [60, 4096])
def test_a_directory_is_listed_in_parts(client, folder, size):
    for number in range(100):
        (folder / "sub" / f"{number:020}").touch()
    listing = client.opened(b"sub", flags=0)
    assert sorted(client.names(listing, size)) == sorted(
        [b".", b"..", b"deep", b"deeper", *(b"%020d" % number for number in range(100))]
    )


def test_a_file_is_the_same_by_each_of_its_names(client, folder):
    os.link(folder / "file", folder / "sub" / "same")
    files = [
        client.ask(Kind.LOPEN, struct.pack("<II", client.at(*names), 0))
        for names in ([b"file"], [b"sub", b"same"])
    ]
    assert files[0] == files[1]
    assert struct.unpack_from("<BIQ", files[0])[2] == (folder / "file").stat().st_ino


def test_no_name_leads_out(client):
    for name in (b"..", b".", b"", b"a/b", b"../outside", b"a\0b"):
        for kind, rest in ((Kind.MKDIR, (0, 0)), (Kind.MKNOD, (stat.S_IFREG, 0, 0, 0))):
            client.refused(errno.EINVAL, kind, bytes(4), text(name), struct.pack(f"<{len(rest)}I", *rest))
        client.refused(errno.EINVAL, Kind.UNLINKAT, bytes(4), text(name), bytes(4))
        client.refused(errno.EINVAL, Kind.LCREATE, struct.pack("<I", client.at()), text(name), bytes(12))
        if name != b"..":
            client.refused(errno.EINVAL, Kind.WALK, struct.pack("<IIH", 0, 99, 1), text(name))


def test_no_link_of_the_host_leads_out(client, folder):
    out = client.at(b"out")
    client.refused(errno.ELOOP, Kind.LOPEN, struct.pack("<II", out, 0))
    client.refused(errno.ENOTDIR, Kind.WALK, struct.pack("<IIH", out, 99, 1), text(b"x"))
    with pytest.raises(OSError, match="not supported"):
        client.set(out, Change.MODE, mode=0o777)
    assert (folder.parent / "outside").read_text() == "secret"


def test_a_folder_to_be_read_is_not_written(folder):
    client = Client(folder, readonly=True)
    one = struct.pack("<I", client.at(b"file"))
    name = text(b"new")
    for kind, fields in (
        (Kind.LOPEN, (one, struct.pack("<I", os.O_RDWR))),
        (Kind.LCREATE, (bytes(4), name, bytes(12))),
        (Kind.MKDIR, (bytes(4), name, bytes(8))),
        (Kind.MKNOD, (bytes(4), name, struct.pack("<IIII", stat.S_IFREG, 0, 0, 0))),
        (Kind.SYMLINK, (bytes(4), name, name, bytes(4))),
        (Kind.LINK, (bytes(4), one, name)),
        (Kind.RENAMEAT, (bytes(4), text(b"file"), bytes(4), name)),
        (Kind.UNLINKAT, (bytes(4), text(b"file"), bytes(4))),
        (Kind.SETATTR, (one, struct.pack("<I", Change.SIZE), bytes(52))),
        (Kind.REMOVE, (one,)),
    ):
        client.refused(errno.EROFS, kind, *fields)
    with pytest.raises(OSError, match="Read-only"):
        client.server.file(client.opened(b"file", flags=os.O_RDONLY), writing=True)
    client.server.close()


def test_locks_are_had_and_none_is_found(client):
    fid = client.opened(b"file")
    asked = struct.pack("<IBIQQI", fid, 1, 0, 0, 10, 7)
    assert client.ask(Kind.LOCK, asked, text(b"guest")) == b"\0"
    found = client.ask(Kind.GETLOCK, struct.pack("<IBQQI", fid, 1, 0, 10, 7), text(b"guest"))
    assert found == struct.pack("<BQQI", 2, 0, 10, 7) + text(b"guest")


def test_other_protocols_are_unknown_and_begin_anew(client):
    assert client.server.used
    assert client.ask(Kind.VERSION, struct.pack("<I", 8192), text(b"9P2000.u")) == (
        struct.pack("<I", 8192) + text(b"unknown")
    )
    assert not client.server.used
    client.refused(errno.EMSGSIZE, Kind.VERSION, struct.pack("<I", 100), text(b"9P2000.L"))
    client.refused(errno.EOPNOTSUPP, 30, bytes(30))


def test_open_files_are_bounded_and_closed_with_it(folder):
    before = len(os.listdir("/proc/self/fd"))
    client = Client(folder)
    for _ in range(MOST_OPEN):
        client.opened(b"file")
    client.refused(errno.ENFILE, Kind.LOPEN, struct.pack("<II", client.at(b"file"), 0))
    client.server.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_guest_cannot_hold_without_end(client, monkeypatch):
    monkeypatch.setattr("gasang.folders.plan9.MOST_FIDS", 3)
    client.at(b"file")
    client.at(b"sub")
    known = len(client.shared.nodes)
    client.refused(errno.ENFILE, Kind.WALK, struct.pack("<IIH", 0, 99, 1), text(b"out"))
    assert len(client.shared.nodes) == known


def test_listings_are_bounded_together(client, folder, monkeypatch):
    for number in range(100):
        (folder / "sub" / f"{number:0200}").touch()
    monkeypatch.setattr("gasang.folders.shared.MOST_LISTED", 60_000)
    one, two, three = (client.opened(b"sub", flags=0) for _ in range(3))
    for _ in range(3):  # read again and again, each counts once
        assert len(client.names(one)) == len(client.names(two)) == 104
    client.refused(errno.ENFILE, Kind.READDIR, struct.pack("<IQI", three, 0, 4096))
    client.ask(Kind.CLUNK, struct.pack("<I", one))
    assert len(client.names(three)) == 104


def test_no_message_breaks_it_or_leaves_the_folder(client, folder):
    chance = random.Random(9)
    outside = sorted(path for path in folder.parent.iterdir())
    names = [b"file", b"sub", b"deep", b"out", b"..", b"/", b"new", b"."]
    for number in range(30_000):
        fields = [
            chance.choice(
                [struct.pack("<I", chance.randrange(6)), text(chance.choice(names)), chance.randbytes(8)]
            )
            for _ in range(chance.randrange(7))
        ]
        if chance.randrange(3) == 0:
            fields = [
                struct.pack("<IIH", chance.randrange(6), chance.randrange(6), 2),
                text(chance.choice(names)),
            ] * 2
        message = b"".join(fields)
        with suppress(OSError, OverflowError, ValueError):
            client.server.answer(chance.randrange(128), message[: chance.randrange(len(message) + 9)])
        if number % 50 == 0:
            with suppress(OSError):
                client.ask(Kind.ATTACH, struct.pack("<II", 0, NO_FID), text(b""), text(b""), bytes(4))
    assert sorted(path for path in folder.parent.iterdir()) == outside
    assert (folder.parent / "outside").read_text() == "secret"
    client.ask(Kind.VERSION, struct.pack("<I", 8192), text(b"9P2000.L"))
    assert len(client.shared.nodes) == 1
    assert client.shared.nodes.name_of(ROOT)[0] == ROOT
