"""Archives: each kind that is known, and a clear word for the others."""

import bz2
import gzip
import io
import json
import lzma
import tarfile

import pytest
import zstandard
from container_images import ImageMaker, digest, node, tar

from gasang.errors import RootFilesystemError
from gasang.rootfs.archive import ImageConfig, is_layout, read_archive
from gasang.rootfs.tree import Content, Tree
from gasang.rootfs.write import write_image

LAYER = tar(("bin/sh", b"#!"), ("etc/passwd", b"root"))


def names(tree):
    return sorted(tree.root.entries)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
def test_an_oci_archive_is_read(read, compress):
    maker = ImageMaker(
        LAYER,
        tar((".wh.bin", b"")),
        compress=compress,
        Env=["A=1"],
        Entrypoint=["/e"],
        Cmd=["c"],
        WorkingDir="/w",
        User="me:us",
    )
    tree, config = read(maker.pack())
    assert names(tree) == [b"etc"]
    assert config == ImageConfig(("A=1",), ("/e",), ("c",), "/w", "me:us")


def test_an_oci_layout_in_a_directory_is_read(tmp_path):
    ImageMaker(LAYER).unpack(tmp_path)
    tree = Tree()
    assert is_layout(tmp_path)
    read_archive(tmp_path, tree, lambda source, size: Content(size, held=source.read(size)))
    assert names(tree) == [b"bin", b"etc"]


def test_what_docker_save_writes_is_read(read):
    config = json.dumps({"os": "linux", "architecture": "amd64", "config": {"Cmd": ["sh"]}}).encode()
    manifest = json.dumps(
        [{"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["1/layer.tar", "2/layer.tar"]}]
    )
    link = node("2/layer.tar", tarfile.SYMTYPE, linkname="../1/layer.tar")
    archive = tar(("c.json", config), ("1/layer.tar", LAYER), link, ("manifest.json", manifest.encode()))
    tree, found = read(archive)
    assert names(tree) == [b"bin", b"etc"]
    assert found.command == ("sh",)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_a_tar_of_the_files_themselves_is_read(read, compress):
    tree, config = read(compress(LAYER))
    assert names(tree) == [b"bin", b"etc"]
    assert config == ImageConfig()


def test_of_several_machines_the_guests_is_taken(read):
    ours, other = ImageMaker(LAYER), ImageMaker(tar(("arm", b"")), architecture="arm64")
    ours.files.update(other.files)
    entries = [{**other.index["manifests"][0], "platform": {"os": "linux", "architecture": "arm64"}}]
    entries += [{**ours.index["manifests"][0], "platform": {"os": "linux", "architecture": "amd64"}}]
    inner = json.dumps({"manifests": entries}).encode()
    ours.files[f"blobs/sha256/{digest(inner)[7:]}"] = inner
    ours.index = {"manifests": [{"digest": digest(inner)}]}
    assert names(read(ours.pack())[0]) == [b"bin", b"etc"]


def test_what_we_write_is_what_we_read(read, tmp_path):
    config = ImageConfig(env=("A=1",), command=("bash",), cwd="/w")
    file = io.BytesIO()
    write_image(file, [LAYER[:700], LAYER[700:]], config, name="x", directory=tmp_path)
    tree, found = read(file.getvalue())
    assert names(tree) == [b"bin", b"etc"]
    assert found == config


def corrupted(maker):
    name = max(maker.files, key=lambda name: len(maker.files[name]) if name.startswith("blobs") else 0)
    layer = bytearray(maker.files[name])
    layer[-9] ^= 1
    maker.files[name] = bytes(layer)
    return maker


def stored(*layers):
    return ImageMaker(*layers, compress=bytes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: b"", "it is no archive of one, or damaged"),
        (lambda: b"hello" * 1000, "it is no archive of one, or damaged"),
        (tar, "there is nothing in it"),
        (lambda: zstandard.compress(LAYER), "decompress it first"),
        (lambda: gzip.compress(LAYER)[:-20], "damaged"),
        (lambda: corrupted(stored(LAYER)).pack(), "its layer sha256:.* is damaged"),
        (lambda: ImageMaker(LAYER, architecture="arm64").pack(), "it is for linux/arm64, and the guest is"),
        (lambda: ImageMaker(tar(("../x", b""))).pack(), "leads out of the root"),
        (lambda: tar(("oci-layout", b"{}")), "there is no index.json in it"),
        (lambda: tar(("oci-layout", b"{}"), ("index.json", b"[")), "damaged"),
        (lambda: tar(("oci-layout", b"{}"), ("index.json", b"[]")), "its description is none"),
        (lambda: tar(("manifest.json", b'[{"Config": "../x"}]')), "is not a file of the image"),
        (lambda: tar(("oci-layout", b"{}"), ("index.json", b"[" * 100_000)), "description is none|damaged"),
        (lambda: tar(("manifest.json", b'[{"Config": "x"}]')), "there is no x in it"),
        (lambda: tar(("manifest.json", b'[{}, {"RepoTags": ["b"]}]')), "2 images in it.*: without a name; b"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_told(read, make, message):
    with pytest.raises(RootFilesystemError, match=message) as caught:
        read(make())
    assert str(caught.value).startswith("root filesystem /")
    assert "\n" not in str(caught.value)


def test_a_missing_layer_is_told(read):
    maker = ImageMaker(LAYER)
    largest = max(maker.files, key=lambda name: len(maker.files[name]))
    del maker.files[largest]
    with pytest.raises(RootFilesystemError, match="there is no blobs/sha256/"):
        read(maker.pack())
