"""What the default guest's initial RAM disk holds."""

import pytest
from fake_debian import BUSYBOX
from newc import read_back

from gasang.errors import DownloadError
from gasang.guest import rootfs
from gasang.guest.initramfs import Directory, File


def paths(archive):
    return {path: content for path, _, _, _, content in read_back(archive)}


def test_applets_are_read_from_the_binary():
    assert rootfs.applets(BUSYBOX) == ["[", "[[", "cat", "sh", "stty"]


def test_binary_without_applets_is_refused():
    with pytest.raises(DownloadError, match="no list of applets"):
        rootfs.applets(b"\x7fELF")


def test_init_agent_and_applets_are_inside():
    content = paths(rootfs.build(BUSYBOX))
    assert content["usr/bin/busybox"] == BUSYBOX
    assert content["usr/bin/stty"] == b"busybox"
    assert content["bin"] == b"usr/bin"
    assert content["init"].startswith(b"#!/bin/sh\n")
    assert b"echo ready" in content["etc/gasang/agent.sh"]
    assert "dev/console" in content


def test_every_entry_comes_after_its_directory():
    seen = {""}
    for path, *_ in read_back(rootfs.build(BUSYBOX)):
        assert path.rpartition("/")[0] in seen
        seen.add(path)


def test_files_of_packages_go_to_the_merged_usr():
    more = [Directory("lib"), Directory("lib/x"), File("lib/x/libc.so", b"c"), File("opt", b"o")]
    content = paths(rootfs.build(BUSYBOX, more))
    assert content["lib"] == b"usr/lib"
    assert content["usr/lib/x/libc.so"] == b"c"
    assert content["opt"] == b"o"
