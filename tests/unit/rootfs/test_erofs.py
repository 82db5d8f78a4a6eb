"""EROFS images, read back by the format's description. The guest's kernel is asked in tests/boot."""

import os
import stat
import struct
from io import BytesIO
from tempfile import TemporaryFile

import pytest

from gasang.errors import RootFilesystemError
from gasang.rootfs.erofs import BLOCK, ErofsWriter
from gasang.rootfs.tree import Inode, Tree


class Reader:
    """Inodes and directories of an image."""

    def __init__(self, image):
        self.image = image
        head = struct.unpack_from("<IIIBBHQQIIII", image, 1024)
        assert head[0] == 0xE0F5E1E2
        self.root, self.count, self.blocks, self.start = head[5], head[6], head[9], head[10]

    def inode(self, slot):
        at = self.start * BLOCK + slot * 32
        names = (
            "format",
            "attributes",
            "mode",
            "_",
            "size",
            "block",
            "number",
            "uid",
            "gid",
            "mtime",
            "_",
            "links",
        )
        found = dict(zip(names, struct.unpack_from("<HHHHQIIIIQII", self.image, at), strict=True))
        assert found["format"] & 1, "an extended inode"
        head = at + 64 + (12 + 4 * (found["attributes"] - 1) if found["attributes"] else 0)
        whole, tail = divmod(found["size"], BLOCK)
        if (
            not stat.S_ISREG(found["mode"])
            and not stat.S_ISDIR(found["mode"])
            and not stat.S_ISLNK(found["mode"])
        ):
            return {**found, "content": b""}
        is_inline = found["format"] >> 1 == 2
        length = whole * BLOCK if is_inline else found["size"]
        content = self.image[found["block"] * BLOCK :][:length] if length else b""
        if is_inline:
            assert head % BLOCK + tail <= BLOCK, "the last bytes are in the inode's block"
            content += self.image[head : head + tail]
        assert len(content) == found["size"]
        return {**found, "content": content}

    def directory(self, slot):
        content, found = self.inode(slot)["content"], {}
        for at in range(0, len(content), BLOCK):
            block = content[at : at + BLOCK]
            entries = [
                struct.unpack_from("<QHBx", block, 12 * n)
                for n in range(struct.unpack_from("<H", block, 8)[0] // 12)
            ]
            ends = [entry[1] for entry in entries[1:]] + [len(block)]
            for (target, start, kind), end in zip(entries, ends, strict=True):
                found[block[start:end].rstrip(b"\0")] = (target, kind)
        assert list(found) == sorted(found)
        return found


def image_of(fill):
    with TemporaryFile() as file:
        tree, writer = Tree(), ErofsWriter(file)
        fill(tree, writer)
        writer.finish(tree)
        file.seek(0)
        image = file.read()
    assert len(image) % BLOCK == 0
    return Reader(image)


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 2048, 2049, 4095, 4096, 4097, 12_000, 3_000_000])
def test_a_file_of_any_size_comes_back(size):
    data = os.urandom(size)

    def fill(tree, writer):
        content = writer.store(BytesIO(data), size)
        tree.add(b"f", Inode(stat.S_IFREG | 0o640, 70_000, 80_000, 123, content=content))

    reader = image_of(fill)
    found = reader.inode(reader.directory(reader.root)[b"f"][0])
    assert found["content"] == data
    assert (found["mode"], found["uid"], found["gid"]) == (0o100640, 70_000, 80_000)
    assert (found["mtime"], found["links"]) == (123, 1)


def test_zeroes_take_no_room(tmp_path):
    path = tmp_path / "image"
    with path.open("w+b") as file:
        writer, tree = ErofsWriter(file), Tree()
        size = 64 << 20
        with open("/dev/zero", "rb") as zeroes:
            tree.add(b"f", Inode(stat.S_IFREG, content=writer.store(zeroes, size)))
        writer.finish(tree)
    assert path.stat().st_size > size
    assert path.stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("count", [0, 1, 100, 5000])
def test_directories_of_any_size_come_back(count):
    def fill(tree, _):
        for number in range(count):
            tree.add(b"d/%d" % number + b"x" * (number % 200), Inode(stat.S_IFREG))
        tree.add(b"d", Inode(stat.S_IFDIR | 0o700))

    reader = image_of(fill)
    slot, kind = reader.directory(reader.root)[b"d"]
    found = reader.directory(slot)
    assert kind == 2
    assert len(found) == count + 2
    assert found[b"."] == (slot, 2)
    assert found[b".."] == (reader.root, 2)
    assert reader.inode(slot)["links"] == 2
    assert reader.inode(reader.root)["links"] == 3
    assert reader.count == count + 2
    assert len({target for target, _ in found.values()}) == count + 2


def test_links_devices_and_attributes():
    def fill(tree, writer):
        file = Inode(
            stat.S_IFREG,
            content=writer.store(BytesIO(b"x"), 1),
            attributes={"user.a": b"1", "system.x": b"2"},
        )
        tree.add(b"a", file)
        tree.add(b"b", file)
        tree.add(b"l", Inode(stat.S_IFLNK | 0o777, content=writer.store(BytesIO(b"a" * 900), 900)))
        tree.add(b"n", Inode(stat.S_IFBLK, device=(259, 70_000)))

    reader = image_of(fill)
    found = reader.directory(reader.root)
    assert found[b"a"][0] == found[b"b"][0]
    shared = reader.inode(found[b"a"][0])
    assert (shared["links"], shared["content"], shared["attributes"]) == (2, b"x", 3)
    assert reader.inode(found[b"l"][0])["content"] == b"a" * 900
    assert reader.inode(found[b"n"][0])["block"] == (70_000 & 0xFF) | 259 << 8 | (70_000 & ~0xFF) << 12
    assert found[b"n"][1] == 4


def test_the_image_of_the_same_tree_is_the_same():
    def fill(tree, writer):
        tree.add(b"d/e/f", Inode(stat.S_IFREG, content=writer.store(BytesIO(b"x" * 5000), 5000)))

    assert image_of(fill).image == image_of(fill).image


def test_a_source_that_ends_too_soon_is_an_error():
    with pytest.raises(RootFilesystemError, match="ends before its end"):
        ErofsWriter(BytesIO()).store(BytesIO(b"x"), 5000)


@pytest.mark.parametrize("attributes", [{"user." + "x" * 256: b""}, {"user.a": bytes(1025)}])
def test_attributes_that_have_no_room_are_an_error(attributes):
    with pytest.raises(RootFilesystemError, match="an extended attribute that is too large"):
        image_of(lambda tree, _: tree.add(b"f", Inode(stat.S_IFREG, attributes=attributes)))


def test_more_than_an_image_can_hold_is_an_error():
    with pytest.raises(RootFilesystemError, match="its files are more than"):
        ErofsWriter(BytesIO()).store(BytesIO(), 1 << 50)
