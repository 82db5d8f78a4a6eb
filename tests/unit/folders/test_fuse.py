"""A folder's server, asked as a guest would, and as a hostile one would."""

import errno
import os
import random
import stat
import struct
from contextlib import suppress

import pytest

from gasang.errors import ConfigError
from gasang.folders import FuseServer, SharedFolder
from gasang.folders import fuse_messages as messages
from gasang.folders.fuse_messages import Operation
from gasang.folders.nodes import MOST_NODES, ROOT, Nodes
from gasang.folders.shared import MOST_OPEN, Change


@pytest.fixture
def folder(tmp_path):
    """A folder with a file and a directory in it, and something outside that nobody may reach."""
    (tmp_path / "outside").write_text("secret")
    inside = tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    (inside / "file").write_text("content")
    (inside / "sub" / "deep").write_text("deep")
    (inside / "out").symlink_to(tmp_path / "outside")
    (inside / "up").symlink_to("..")
    return inside


@pytest.fixture
def server(folder):
    made = FuseServer(SharedFolder(folder))
    yield made
    made.close()


def lookup(server, name, parent=ROOT):
    entry = server.answer(Operation.LOOKUP, parent, name + b"\0")
    return struct.unpack_from("<Q", entry)[0]


def opened(server, node, flags=os.O_RDWR):
    return struct.unpack_from("<Q", server.answer(Operation.OPEN, node, messages.OPEN.pack(flags, 0)))[0]


def refused(server, number, operation, node, body):
    with pytest.raises(OSError) as told:  # noqa: PT011 - which error is looked at
        server.answer(operation, node, body)
    assert told.value.errno == number, os.strerror(told.value.errno)


def created(server, name, parent=ROOT, mode=0o644):
    body = messages.CREATE.pack(os.O_RDWR, mode, 0, 0) + name + b"\0"
    reply = server.answer(Operation.CREATE, parent, body)
    return struct.unpack_from("<Q", reply)[0], struct.unpack_from("<Q", reply, 128)[0]


def listing(server, node, *, plus=True, size=4096):
    handle = struct.unpack_from("<Q", server.answer(Operation.OPENDIR, node, messages.OPEN.pack(0, 0)))[0]
    names, offset = [], 0
    while True:
        body = messages.READ.pack(handle, offset, size, 0, 0, 0, 0)
        operation = Operation.READDIRPLUS if plus else Operation.READDIR
        reply = server.answer(operation, node, body)
        if not reply:
            server.answer(Operation.RELEASEDIR, node, messages.HANDLE.pack(handle) + bytes(16))
            return names
        at = 0
        while at < len(reply):
            at += 128 if plus else 0
            _, offset, length, _ = messages.DIRECTORY_ENTRY.unpack_from(reply, at)
            names.append(reply[at + 24 : at + 24 + length])
            at += 24 + length + 7 & ~7


def test_files_are_read_and_written(server, folder):
    handle = opened(server, lookup(server, b"file"))
    assert os.pread(server.file(handle), 100, 0) == b"content"
    os.pwrite(server.file(handle, writing=True), b"CON", 0)
    server.answer(Operation.RELEASE, ROOT, messages.HANDLE.pack(handle) + bytes(16))
    assert (folder / "file").read_text() == "CONtent"
    with pytest.raises(OSError, match="Bad file"):
        server.file(handle)


def test_what_is_made_has_the_mode_that_was_asked_for(server, folder):
    before = os.umask(0o077)
    try:
        created(server, b"new", mode=0o666)
        server.answer(Operation.MKDIR, ROOT, messages.MAKE.pack(0o1777, 0) + b"dir\0")
        server.answer(
            Operation.MKNOD, ROOT, messages.MAKE_NODE.pack(stat.S_IFIFO | 0o640, 0, 0, 0) + b"fifo\0"
        )
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "new").stat().st_mode) == 0o666
    assert stat.S_IMODE((folder / "dir").stat().st_mode) == 0o1777
    assert stat.S_ISFIFO((folder / "fifo").stat().st_mode)


def test_a_renamed_directory_takes_its_files_along(server, folder):
    sub = lookup(server, b"sub")
    deep = lookup(server, b"deep", sub)
    server.answer(Operation.RENAME, ROOT, messages.RENAME.pack(ROOT) + b"sub\0other\0")
    assert os.pread(server.file(opened(server, deep)), 10, 0) == b"deep"
    refused(server, errno.ENOENT, Operation.LOOKUP, ROOT, b"sub\0")
    assert (folder / "other" / "deep").exists()


def test_a_directory_may_be_as_deep_as_a_guest_makes_it(server, folder):
    place = ROOT
    for _ in range(400):
        server.answer(Operation.MKDIR, place, messages.MAKE.pack(0o755, 0) + b"d\0")
        place = lookup(server, b"d", place)
    for number in range(100):  # what is deep is no longer open
        server.answer(Operation.MKDIR, ROOT, messages.MAKE.pack(0o755, 0) + b"other-%d\0" % number)
        listing(server, lookup(server, b"other-%d" % number))
    node, handle = created(server, b"file", place)
    before = len(os.listdir("/proc/self/fd"))
    assert struct.unpack_from("<Q", server.answer(Operation.LOOKUP, place, b"file\0"))[0] == node
    assert len(os.listdir("/proc/self/fd")) <= before
    os.pwrite(server.file(handle, writing=True), b"deep", 0)
    server.answer(Operation.RENAME, ROOT, messages.RENAME.pack(ROOT) + b"d\0e\0")
    assert os.pread(server.file(opened(server, node)), 10, 0) == b"deep"


def test_names_that_lead_round_and_round_are_stale(server, folder):
    (folder / "a" / "b").mkdir(parents=True)
    outer = lookup(server, b"a")
    inner = lookup(server, b"b", outer)
    (folder / "a" / "b").rename(folder / "b")
    (folder / "a").rename(folder / "b" / "a")
    assert lookup(server, b"a", lookup(server, b"b")) == outer
    (folder / "b" / "a").rename(folder / "c")
    (folder / "b").rename(folder / "c" / "b")
    assert lookup(server, b"c") == outer
    assert lookup(server, b"b", outer) == inner
    assert os.pread(server.file(created(server, b"file", inner)[1]), 1, 0) == b""
    assert (folder / "c" / "b" / "file").exists()


def test_two_names_of_a_file_are_one_node(server):
    file = lookup(server, b"file")
    server.answer(Operation.LINK, ROOT, messages.HANDLE.pack(file) + b"link\0")
    assert lookup(server, b"link") == file
    server.answer(Operation.UNLINK, ROOT, b"link\0")
    server.answer(Operation.GETATTR, file, messages.GET_ATTRIBUTES.pack(0, 0, 0))


def test_an_open_file_without_a_name_is_still_one(server):
    """Linux asks without a handle what fstat(2) tells."""
    node, handle = created(server, b"short")
    os.pwrite(server.file(handle, writing=True), b"12345", 0)
    server.answer(Operation.UNLINK, ROOT, b"short\0")
    asked = messages.GET_ATTRIBUTES.pack(0, 0, 0)
    body = messages.SET_ATTRIBUTES.pack(Change.SIZE, 0, 0, 3, *[0] * 12)
    assert struct.unpack_from("<16xQQ", server.answer(Operation.GETATTR, node, asked))[1] == 5
    server.answer(Operation.SETATTR, node, body)
    assert struct.unpack_from("<16xQQ", server.answer(Operation.GETATTR, node, asked))[1] == 3
    server.answer(Operation.GETATTR, node, messages.GET_ATTRIBUTES.pack(1, 0, handle))
    server.answer(Operation.RELEASE, node, messages.HANDLE.pack(handle) + bytes(16))
    refused(server, errno.ESTALE, Operation.GETATTR, node, asked)
    assert created(server, b"short")[0] != node, "another file, though it may have the same inode"


def test_attributes_are_set(server, folder):
    node = lookup(server, b"file")
    change = Change.MODE | Change.SIZE | Change.ATIME | Change.MTIME
    body = messages.SET_ATTRIBUTES.pack(change, 0, 0, 3, 0, 1000, 2000, 0, 5, 6, 0, 0o4755, 0, 0, 0, 0)
    server.answer(Operation.SETATTR, node, body)
    found = (folder / "file").stat()
    assert (found.st_size, found.st_atime_ns, found.st_mtime_ns) == (3, 1000 * 10**9 + 5, 2000 * 10**9 + 6)
    assert stat.S_IMODE(found.st_mode) == 0o755, "without the bit that gives away whose it is"


@pytest.mark.parametrize("plus", [True, False])
def test_directories_are_listed_whole_in_pieces(server, folder, plus):
    wanted = {f"name-{number}".encode() for number in range(300)}
    for name in wanted:
        (folder / "sub" / name.decode()).touch()
    names = listing(server, lookup(server, b"sub"), plus=plus, size=1000)
    assert len(names) == len(set(names))
    assert set(names) == wanted | {b".", b"..", b"deep"}


@pytest.mark.parametrize("name", [b"", b".", b"..", b"../outside", b"sub/deep", b"/etc/passwd"])
def test_no_name_leads_out(server, name):
    refused(server, errno.EINVAL, Operation.LOOKUP, ROOT, name + b"\0")
    refused(server, errno.EINVAL, Operation.UNLINK, ROOT, name + b"\0")
    refused(server, errno.EINVAL, Operation.MKDIR, ROOT, messages.MAKE.pack(0o755, 0) + name + b"\0")
    refused(server, errno.EINVAL, Operation.CREATE, ROOT, messages.CREATE.pack(2, 0, 0, 0) + name + b"\0")
    refused(
        server, errno.EINVAL, Operation.RENAME, ROOT, messages.RENAME.pack(ROOT) + b"file\0" + name + b"\0"
    )
    refused(server, errno.EINVAL, Operation.SYMLINK, ROOT, name + b"\0target\0")


def test_no_link_of_the_host_leads_out(server, folder):
    out, up = lookup(server, b"out"), lookup(server, b"up")
    refused(server, errno.ELOOP, Operation.OPEN, out, messages.OPEN.pack(0, 0))
    refused(server, errno.ENOTDIR, Operation.LOOKUP, up, b"outside\0")
    body = messages.SET_ATTRIBUTES.pack(Change.SIZE, *[0] * 15)
    refused(server, errno.ELOOP, Operation.SETATTR, out, body)
    refused(server, errno.EOPNOTSUPP, Operation.SETATTR, out, messages.SET_ATTRIBUTES.pack(1, *[0] * 15))
    assert server.answer(Operation.READLINK, out, b"").endswith(b"/outside")
    # A directory becomes a link behind the guest's back.
    sub = lookup(server, b"sub")
    (folder / "sub").rename(folder / "moved")
    (folder / "sub").symlink_to("..")
    refused(server, errno.ESTALE, Operation.LOOKUP, sub, b"outside\0")
    assert (folder.parent / "outside").read_text() == "secret"


def test_nothing_is_opened_that_waits_or_acts(server, folder):
    os.mkfifo(folder / "fifo")
    with pytest.raises(OSError, match=r"not permitted|No such device"):
        opened(server, lookup(server, b"fifo"), os.O_RDONLY)
    for kind in (stat.S_IFCHR, stat.S_IFBLK):
        refused(
            server, errno.EPERM, Operation.MKNOD, ROOT, messages.MAKE_NODE.pack(kind, 0x103, 0, 0) + b"dev\0"
        )


def test_a_folder_to_be_read_is_not_written(folder):
    server = FuseServer(SharedFolder(folder, readonly=True))
    file = lookup(server, b"file")
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_TRUNC):
        refused(server, errno.EROFS, Operation.OPEN, file, messages.OPEN.pack(flags, 0))
    for operation, node, body in (
        (Operation.UNLINK, ROOT, b"file\0"),
        (Operation.RMDIR, ROOT, b"sub\0"),
        (Operation.MKDIR, ROOT, messages.MAKE.pack(0o755, 0) + b"new\0"),
        (Operation.MKNOD, ROOT, messages.MAKE_NODE.pack(stat.S_IFREG, 0, 0, 0) + b"new\0"),
        (Operation.SYMLINK, ROOT, b"new\0target\0"),
        (Operation.LINK, ROOT, messages.HANDLE.pack(file) + b"new\0"),
        (Operation.CREATE, ROOT, messages.CREATE.pack(os.O_RDWR, 0o644, 0, 0) + b"new\0"),
        (Operation.SETATTR, file, bytes(messages.SET_ATTRIBUTES.size)),
        (Operation.RENAME, ROOT, messages.RENAME.pack(ROOT) + b"file\0new\0"),
        (Operation.FALLOCATE, file, messages.ALLOCATE.pack(opened(server, file, 0), 0, 100, 0, 0)),
    ):
        refused(server, errno.EROFS, operation, node, body)
    assert sorted(os.listdir(folder)) == ["file", "out", "sub", "up"]
    handle = opened(server, file, os.O_RDONLY)
    with pytest.raises(OSError, match="Read-only"):
        server.file(handle, writing=True)
    server.close()


def test_no_request_breaks_it_or_leaves_the_folder(server, folder):
    chance = random.Random(3)
    outside = sorted(path for path in folder.parent.iterdir())
    names = [b"file", b"sub", b"out", b"up", b"..", b"/", b"new", b"deep"]
    for name in names[:4]:
        lookup(server, name)
    for _ in range(20_000):
        body = chance.choice([b"", bytes(8), bytes(16), chance.randbytes(40), struct.pack("<Q", 1)])
        body += chance.choice(names) + b"\0" + chance.choice(names) + b"\0" * chance.randrange(3)
        body = body[: chance.randrange(len(body) + 1)]
        with suppress(OSError, OverflowError, ValueError):
            server.answer(chance.randrange(50), chance.randrange(8), body)
        if chance.randrange(9) == 0:
            server.forget(chance.choice([2, 42]), chance.randrange(8), body)
    assert sorted(path for path in folder.parent.iterdir()) == outside
    assert (folder.parent / "outside").read_text() == "secret"


def test_open_files_are_bounded_and_closed_with_it(folder):
    before = len(os.listdir("/proc/self/fd"))
    server = FuseServer(SharedFolder(folder))
    file = lookup(server, b"file")
    for _ in range(MOST_OPEN):
        opened(server, file)
    refused(server, errno.ENFILE, Operation.OPEN, file, messages.OPEN.pack(0, 0))
    server.close()
    server.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_nodes_are_forgotten(folder):
    server = FuseServer(SharedFolder(folder))
    node = lookup(server, b"file")
    lookup(server, b"file")
    server.forget(Operation.FORGET, node, messages.FORGET.pack(1))
    server.answer(Operation.GETATTR, node, messages.GET_ATTRIBUTES.pack(0, 0, 0))
    some = messages.FORGET_SOME.pack(1 << 31, 0) + messages.FORGET_ONE.pack(node, 1)
    server.forget(Operation.BATCH_FORGET, 0, some)
    refused(server, errno.ESTALE, Operation.GETATTR, node, messages.GET_ATTRIBUTES.pack(0, 0, 0))
    server.close()


def test_a_guest_cannot_know_without_end(folder, monkeypatch):
    assert MOST_NODES > 10_000
    monkeypatch.setattr("gasang.folders.nodes.MOST_NODES", 2)
    root = os.open(folder, os.O_RDONLY)
    nodes = Nodes(root)
    nodes.found(ROOT, b"file", os.stat(folder / "file"))
    with pytest.raises(OSError, match="Too many open files in system"):
        nodes.found(ROOT, b"sub", os.stat(folder / "sub"))
    nodes.forget_all()
    os.close(root)


@pytest.mark.parametrize("place", ["missing", "file"])
def test_what_is_no_folder_is_said(folder, place):
    with pytest.raises(ConfigError, match=f"folder .*{place}: "):
        FuseServer(SharedFolder(folder / place))
