"""`gasang image`: images that are made, and what is said of them."""

import json
import os
import shutil
import subprocess

import pytest

from gasang import cli
from gasang.config import Drive
from gasang.storage import open_image

GIB = 1 << 30


def run(capfd, *words):
    code = cli.main(["image", *map(str, words)])
    output = capfd.readouterr()
    return code, output.out, output.err


def test_a_new_image_is_zeroes_and_takes_no_room(tmp_path, capfd):
    for name, options in (("disk.qcow2", ()), ("disk.img", ("--format", "raw"))):
        path = tmp_path / name
        assert run(capfd, "create", *options, path, "10G") == (0, "", "")
        assert path.stat().st_blocks * 512 <= 1 << 20
        image = open_image(Drive(path))
        assert image.size == 10 * GIB
        content = bytearray(4096)
        image.read_into(5 * GIB, [memoryview(content)])
        assert content == bytes(4096)
        image.write_from(10 * GIB - 4096, [memoryview(b"x" * 4096)])
        image.close()


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
@pytest.mark.parametrize("size", ["64K", "1M", "10G", "20000G"])
def test_qemu_finds_no_errors_in_it(tmp_path, capfd, size):
    path = tmp_path / "disk.qcow2"
    assert run(capfd, "create", path, size)[0] == 0
    checked = subprocess.run(["qemu-img", "check", path], capture_output=True, text=True, check=True)
    assert "No errors were found" in checked.stdout


def test_an_image_on_top_of_another_has_its_content_and_leaves_it_alone(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = tmp_path / "base.img"
    base.write_bytes(b"base" * 256)
    assert run(capfd, "create", "--backing", "base.img", "top.qcow2") == (0, "", "")
    assert run(capfd, "create", "--backing", "top.qcow2", "higher.qcow2", "2M") == (0, "", "")
    image = open_image(Drive(tmp_path / "higher.qcow2"))
    content = bytearray(2048)
    image.read_into(0, [memoryview(content)])
    assert content == b"base" * 256 + bytes(1024)
    image.write_from(0, [memoryview(b"mine" * 128)])
    image.close()
    assert base.read_bytes() == b"base" * 256
    told = json.loads(run(capfd, "info", "--json", "higher.qcow2")[1])
    assert told == {
        "file": "higher.qcow2",
        "format": "qcow2",
        "size": 2 << 20,
        "allocated": os.stat("higher.qcow2").st_blocks * 512,
        "backing": "top.qcow2",
    }
    if shutil.which("qemu-img"):
        checked = subprocess.run(
            ["qemu-img", "check", "higher.qcow2"], stdout=subprocess.PIPE, text=True, check=True
        )
        assert "No errors were found" in checked.stdout


def test_what_an_image_is_is_said(tmp_path, capfd):
    path = tmp_path / "disk.img"
    run(capfd, "create", "--format", "raw", path, "3M")
    assert run(capfd, "info", path) == (0, f"{path}: raw, a disk of 3M\ntakes 0 bytes of the host\n", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["create"], "FILE"),
        (["create", "new.qcow2"], "say how large"),
        (["create", "new.qcow2", "banana"], "'banana' is not a size"),
        (["create", "new.qcow2", "1000"], "write a unit"),
        (["create", "new.qcow2", "2000000G"], "are no disk"),
        (["create", "new.qcow2", "0.25K"], "256 bytes are no disk"),
        (["create", "there.img", "1M"], "File exists"),
        (["create", "/no/such/folder/new", "1M"], "No such file"),
        (["create", "--backing", "none.img", "new.qcow2"], "none.img: No such file"),
        (["create", "--format", "raw", "--backing", "there.img", "new.img", "1M"], "--backing needs"),
        (["create", "--format", "raw", "new.img"], "say how large"),
        (["info", "none.img"], "none.img: No such file"),
        (["burn", "x"], "'burn'"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_left(tmp_path, capfd, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.img").write_bytes(bytes(512))
    code, out, err = run(capfd, *words)
    assert (code, out) == (125, "")
    assert err.startswith("gasang: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert os.listdir(tmp_path) == ["there.img"]
    assert (tmp_path / "there.img").read_bytes() == bytes(512)
