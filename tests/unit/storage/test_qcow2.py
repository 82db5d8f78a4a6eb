"""Qcow2 images, beside a model in memory and QEMU's own tool."""

import random
import shutil
import struct
import subprocess
import sys

import pytest

from gasang.config import Drive
from gasang.errors import ConfigError
from gasang.storage import open_image

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")

SIZE = 3 << 20


def qemu_img(*arguments):
    done = subprocess.run(["qemu-img", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def created(path, *options, size=SIZE, backing=None):
    based = ["-b", backing, "-F", "qcow2" if str(backing).endswith("qcow2") else "raw"] if backing else []
    qemu_img("create", "-q", "-f", "qcow2", *options, *based, path, size)
    return path


def pattern(seed, length):
    return random.Random(seed).randbytes(length)


def read(image, offset, length):
    buffer = bytearray(length)
    image.read_into(offset, [memoryview(buffer)[: length // 3], memoryview(buffer)[length // 3 :]])
    return bytes(buffer)


def raw_of(path, tmp_path):
    raw = tmp_path / "converted.raw"
    qemu_img("convert", "-O", "raw", path, raw)
    return raw.read_bytes()


CLUSTERS = ["cluster_size=512", "cluster_size=4k", "cluster_size=64k", "cluster_size=2M"]


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("compat", ["compat=0.10", "compat=1.1"])
@pytest.mark.parametrize("based", [False, True])
def test_whatever_is_written_is_read_and_qemu_agrees(tmp_path, cluster, compat, based):
    model = bytearray(SIZE)
    backing = None
    if based:
        backing = tmp_path / "base.raw"
        backing.write_bytes(pattern("base", 1 << 20))
        model[: 1 << 20] = backing.read_bytes()
    path = created(tmp_path / "disk.qcow2", "-o", f"{cluster},{compat}", backing=backing)
    chance = random.Random(f"{cluster}{compat}{based}")
    image = open_image(Drive(path))
    assert image.size == SIZE
    for number in range(150):
        offset = chance.randrange(SIZE // 512) * 512
        length = min(chance.choice((512, 4096, 65536, 200 * 1024, 512 * 7)), SIZE - offset)
        match chance.randrange(10):
            case 0:
                image.flush()
            case 1:
                image.close()
                image = open_image(Drive(path))
            case 2 | 3:
                image.write_zeroes(offset, length)
                model[offset : offset + length] = bytes(length)
            case 4 | 5:
                assert read(image, offset, length) == model[offset : offset + length]
            case _:
                data = pattern(number, length)
                image.write_from(offset, [memoryview(data)[:100], memoryview(data)[100:]])
                model[offset : offset + length] = data
    assert read(image, 0, SIZE) == model
    image.close()
    assert "No errors were found" in qemu_img("check", path)
    assert raw_of(path, tmp_path) == model
    if backing:
        assert backing.read_bytes() == pattern("base", 1 << 20)


@pytest.mark.parametrize(
    "options",
    [["-c"], ["-c", "-o", "compression_type=zstd"], ["-o", "compat=0.10"], ["-o", "cluster_size=1M"]],
)
def test_what_qemu_converts_is_read_and_can_be_changed(tmp_path, options):
    raw, path = tmp_path / "disk.raw", tmp_path / "disk.qcow2"
    content = bytearray(
        pattern("a", 1 << 20) + bytes(1 << 20) + b"compressible " * ((1 << 20) // 13) + bytes(12)
    )
    content = content[: len(content) // 512 * 512]
    raw.write_bytes(content)
    qemu_img("convert", "-f", "raw", "-O", "qcow2", *options, raw, path)
    image = open_image(Drive(path))
    assert read(image, 0, len(content)) == content
    for offset in (0, 70_000 // 512 * 512, 2 << 20):
        image.write_from(offset, [memoryview(b"x" * 1024)])
        content[offset : offset + 1024] = b"x" * 1024
    assert read(image, 0, len(content)) == content
    image.close()
    assert "No errors were found" in qemu_img("check", path)
    assert raw_of(path, tmp_path) == content


def test_a_snapshot_keeps_what_it_had(tmp_path):
    path = created(tmp_path / "disk.qcow2")
    image = open_image(Drive(path))
    image.write_from(0, [memoryview(pattern(1, 1 << 20))])
    image.close()
    qemu_img("snapshot", "-c", "before", path)
    image = open_image(Drive(path))
    image.write_from(512, [memoryview(pattern(2, 300_032))])
    image.close()
    assert "No errors were found" in qemu_img("check", path)
    assert raw_of(path, tmp_path)[512 : 512 + 300_032] == pattern(2, 300_032)
    qemu_img("snapshot", "-a", "before", path)
    assert raw_of(path, tmp_path)[: 1 << 20] == pattern(1, 1 << 20)


def test_backing_files_are_found_beside_the_image_and_never_written(tmp_path):
    base = created(tmp_path / "base.qcow2", size=1 << 20)
    image = open_image(Drive(base))
    image.write_from(0, [memoryview(pattern(1, 1 << 20))])
    image.close()
    before = base.read_bytes()
    path = created(tmp_path / "top.qcow2", backing="base.qcow2")
    image = open_image(Drive(path))
    assert read(image, 0, SIZE) == pattern(1, 1 << 20) + bytes(SIZE - (1 << 20))
    image.write_from(4096, [memoryview(b"y" * 512)])
    image.close()
    assert base.read_bytes() == before
    assert raw_of(path, tmp_path)[4096 : 4096 + 512] == b"y" * 512
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", "top.qcow2", "-F", "qcow2", path)
    with pytest.raises(ConfigError, match="backing files without an end"):
        open_image(Drive(path))


def test_a_table_of_counts_grows(tmp_path):
    """With clusters of 512 bytes the first one counts 8 MiB."""
    path = created(tmp_path / "disk.qcow2", "-o", "cluster_size=512", size=40 << 20)
    image = open_image(Drive(path))
    for offset in range(0, 24 << 20, 1 << 20):
        image.write_from(offset, [memoryview(pattern(offset, 1 << 20))])
    image.flush()
    image.close()
    assert "No errors were found" in qemu_img("check", path)
    content = raw_of(path, tmp_path)
    for offset in range(0, 24 << 20, 1 << 20):
        assert content[offset : offset + (1 << 20)] == pattern(offset, 1 << 20)


WRITER = """
import random, sys
from pathlib import Path
from gasang.config import Drive
from gasang.storage import open_image
image = open_image(Drive(Path(sys.argv[1])))
chance = random.Random(int(sys.argv[2]))
for number in range(10**6):
    for _ in range(5):
        slot = chance.randrange(64)
        data = b"%08d" % number * 64 * chance.choice((1, 8, 150))
        image.write_from(slot * 131072, [memoryview(data)])
    image.write_from(63 * 131072 + 65536, [memoryview(b"%08d" % number * 64)])
    image.flush()
    print(number, flush=True)
"""


@pytest.mark.parametrize("seed", range(6))
def test_a_process_that_is_killed_leaves_no_corruption_and_what_was_flushed(tmp_path, seed):
    path = created(tmp_path / "disk.qcow2", "-o", "cluster_size=4k", size=64 * 131072)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(seed)], stdout=subprocess.PIPE, text=True
    )
    done = 0
    for _ in range(10 + 17 * seed):
        done = int(writer.stdout.readline())
    writer.kill()
    writer.wait()
    writer.stdout.close()
    checked = subprocess.run(["qemu-img", "check", str(path)], capture_output=True, text=True, check=False)
    assert checked.returncode in (0, 3), checked.stdout + checked.stderr  # 3: leaked clusters, no corruption
    image = open_image(Drive(path))
    marker = read(image, 63 * 131072 + 65536, 512)
    assert marker == marker[:8] * 64
    assert int(marker[:8]) >= done
    image.close()


def test_whatever_a_file_says_nothing_but_errors_of_the_disk_come(tmp_path):
    path = created(tmp_path / "good.qcow2", "-o", "cluster_size=4k", size=1 << 20)
    image = open_image(Drive(path))
    image.write_from(0, [memoryview(pattern(1, 200 * 1024))])
    image.close()
    good = path.read_bytes()
    chance = random.Random(1)
    bad = tmp_path / "bad.qcow2"
    opened = refused = 0
    for _ in range(400):
        content = bytearray(good)
        for _ in range(chance.choice((1, 1, 4, 30))):
            place = chance.randrange(chance.choice((104, 6 * 4096, len(content))))
            content[place] = chance.randrange(256)
        bad.write_bytes(
            content[: chance.choice((len(content), len(content), chance.randrange(len(content)) + 1))]
        )
        try:
            image = open_image(Drive(bad, "qcow2"))
        except ConfigError:
            refused += 1
            continue
        opened += 1
        try:
            read(image, 0, min(image.size, 1 << 20))
            image.write_from(0, [memoryview(b"z" * 70_000)[: min(image.size, 69_632)]])
            image.write_zeroes(0, 8192)
            image.flush()
        except OSError:
            pass
        finally:
            image.close()
    assert min(opened, refused) > 50


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (4, struct.pack(">I", 4), "qcow2 version 4"),
        (32, struct.pack(">I", 1), "an encrypted qcow2 image"),
        (20, struct.pack(">I", 40), "a corrupt qcow2 header"),
        (72, struct.pack(">Q", 4), "an external data file"),
        (72, struct.pack(">Q", 16), "extended L2 entries"),
        (72, struct.pack(">Q", 1 << 40), "does not know"),
        (72, struct.pack(">Q", 1), "was not closed"),
        (72, struct.pack(">Q", 2), "marked as corrupt"),
        (36, struct.pack(">I", 0), "its tables are too small"),
        (40, struct.pack(">Q", 1 << 40), "its L1 table is beyond its end"),
        (96, struct.pack(">I", 3), "reference counts of 8 bits can only be read"),
    ],
)
def test_what_gasang_cannot_use_is_named(tmp_path, at, value, message):
    path = created(tmp_path / "disk.qcow2")
    content = bytearray(path.read_bytes())
    content[at : at + len(value)] = value
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        open_image(Drive(path))
