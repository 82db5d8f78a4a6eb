"""Reading Debian packages."""

import bz2
import gzip
import lzma
import tarfile

import pytest
import zstandard
from fake_debian import make_ar, make_package

from gasang.errors import DownloadError
from gasang.guest.deb import read_member, read_package
from gasang.guest.initramfs import Directory, File, Symlink


def link(name, target, kind):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def directory(name):
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o750
    return info


MEMBERS = [
    directory("./"),
    directory("./usr/"),
    ("./usr/tool", b"content"),
    link("./usr/alias", "tool", tarfile.SYMTYPE),
    link("./usr/twin", "./usr/tool", tarfile.LNKTYPE),
]


@pytest.mark.parametrize(
    ("compress", "suffix"),
    [
        (bytes, ""),
        (gzip.compress, ".gz"),
        (bz2.compress, ".bz2"),
        (lzma.compress, ".xz"),
        (zstandard.ZstdCompressor().compress, ".zst"),
    ],
)
def test_package_reads_in_every_compression(tmp_path, compress, suffix):
    path = tmp_path / "tool.deb"
    path.write_bytes(make_package(MEMBERS, compress, suffix))
    assert list(read_package(path)) == [
        Directory("usr", 0o750),
        File("usr/tool", b"content", 0o755),
        Symlink("usr/alias", "tool"),
        Symlink("usr/twin", "/usr/tool"),
    ]


def test_member_is_found_by_its_path(tmp_path):
    path = tmp_path / "tool.deb"
    path.write_bytes(make_package(MEMBERS))
    assert read_member(path, lambda name: name.endswith("tool")) == ("usr/tool", b"content")


def test_missing_member_is_an_error(tmp_path):
    path = tmp_path / "tool.deb"
    path.write_bytes(make_package(MEMBERS))
    with pytest.raises(DownloadError, match="does not hold"):
        read_member(path, lambda name: name == "boot/vmlinuz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a Debian package"),
        (b"<html>not here</html>", "is not a Debian package"),
        (b"!<arch>\n", "has no data"),
        (make_ar([("debian-binary", b"2.0\n")]), "has no data"),
        (make_package(MEMBERS)[:-150], "is not a whole Debian package"),
        (make_ar([("data.tar.xz", b"garbage")]), "is not a whole Debian package"),
        (make_ar([("data.tar.zst", b"garbage")]), "is not a whole Debian package"),
    ],
)
def test_broken_package_is_an_error(tmp_path, content, message):
    path = tmp_path / "tool.deb"
    path.write_bytes(content)
    with pytest.raises(DownloadError, match=message):
        list(read_package(path))
