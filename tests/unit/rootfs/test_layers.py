"""Layers: what a later one changes and removes, and what none may do."""

import contextlib
import stat
import tarfile
from io import BytesIO

import pytest
from container_images import node, tar
from hypothesis import given
from hypothesis import strategies as st

from gasang.errors import RootFilesystemError
from gasang.rootfs.layers import apply_layer
from gasang.rootfs.tree import Content, Tree

D, S, L = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def keep(source, size):
    return Content(size, held=source.read(size))


def merged(*layers, **options):
    tree = Tree()
    for layer in layers:
        apply_layer(tree, BytesIO(layer), keep, **options)
    return tree


def content(tree, path):
    return tree.find(path).content.held


def test_a_later_layer_replaces_a_file_and_leaves_the_others():
    tree = merged(tar(("a", b"1"), ("d/b", b"2")), tar(("a", b"3")))
    assert content(tree, b"a") == b"3"
    assert content(tree, b"d/b") == b"2"


def test_a_whiteout_removes_what_was_there_before_its_layer():
    tree = merged(tar(("a", b"1"), ("d/b", b"2")), tar((".wh.a", b""), (".wh.d", b"")))
    assert sorted(tree.root.entries) == []


def test_a_whiteout_leaves_what_its_own_layer_brings():
    tree = merged(tar(("a", b"1")), tar(("a", b"2"), (".wh.a", b"")))
    assert content(tree, b"a") == b"2"


@pytest.mark.parametrize("order", [1, -1])
def test_an_opaque_directory_loses_all_that_was_in_it_before(order):
    upper = [("d/.wh..wh..opq", b""), ("d/new", b"2")][::order]
    tree = merged(tar(("d/old", b"1"), ("e", b"")), tar(*upper))
    assert sorted(tree.find(b"d").entries) == [b"new"]
    assert tree.find(b"e") is not None


def test_a_directory_that_comes_again_keeps_what_is_in_it():
    tree = merged(tar(("d/a", b"1")), tar(node("d", D, mode=0o700, uid=5)))
    assert content(tree, b"d/a") == b"1"
    assert (stat.S_IMODE(tree.find(b"d").mode), tree.find(b"d").uid) == (0o700, 5)


def test_a_file_in_the_place_of_a_directory_takes_it_away():
    tree = merged(tar(("d/a", b"1")), tar(("d", b"2")))
    assert tree.find(b"d/a") is None
    assert content(tree, b"d") == b"2"


def test_hard_links_are_one_file():
    tree = merged(tar(("a", b"1"), node("b", L, linkname="./a")))
    assert tree.find(b"a") is tree.find(b"b")


def test_a_hard_link_to_nothing_is_an_error():
    with pytest.raises(RootFilesystemError, match="b is a link to a, which is no file"):
        merged(tar(node("b", L, linkname="a")))


def test_links_on_the_way_are_followed_within_the_root():
    tree = merged(
        tar(node("bin", S, linkname="/usr/../../usr/bin"), ("usr/bin/a", b"1")), tar(("bin/b", b"2"))
    )
    assert content(tree, b"usr/bin/b") == b"2"
    assert tree.find(b"bin").is_link


def test_a_directory_over_a_link_replaces_it_in_images_and_not_in_packages():
    layers = (
        tar(node("bin", S, linkname="usr/bin"), ("usr/bin/a", b"1")),
        tar(node("bin", D), ("bin/b", b"2")),
    )
    assert sorted(merged(*layers).find(b"bin").entries) == [b"b"]
    assert sorted(merged(*layers, keep_links=True).find(b"usr/bin").entries) == [b"a", b"b"]


def test_links_that_lead_in_a_circle_are_an_error():
    with pytest.raises(RootFilesystemError, match="a/x is in what is no directory"):
        merged(tar(node("a", S, linkname="b"), node("b", S, linkname="a"), ("a/x", b"")))


@pytest.mark.parametrize("name", ["../a", "a/../../b", "a/.."])
def test_a_path_that_leads_out_is_an_error(name):
    with pytest.raises(RootFilesystemError, match="leads out of the root"):
        merged(tar((name, b"")))


def test_a_name_that_is_too_long_is_an_error():
    with pytest.raises(RootFilesystemError, match="a name of more than 255 bytes"):
        merged(tar(("a" * 256, b"")))


@pytest.mark.parametrize("name", ["d/.wh.", "d/.wh..", "d/.wh..."])
def test_a_whiteout_of_nothing_is_an_error(name):
    with pytest.raises(RootFilesystemError, match=r"removes what has no name|leads out"):
        merged(tar(("d/a", b"1")), tar((name, b"")))


@pytest.mark.parametrize(
    "fields", [{"mtime": 1e300}, {"mtime": -(1 << 60)}, {"devmajor": 1 << 12}, {"devminor": 1 << 20}]
)
def test_numbers_that_no_kernel_has_are_an_error(fields):
    with pytest.raises(RootFilesystemError, match=r"a date or a device number that is none|damaged"):
        merged(tar(node("n", tarfile.CHRTYPE, **fields)))


def test_a_layer_that_ends_within_a_file_is_an_error():
    with pytest.raises(RootFilesystemError, match=r"damaged|ends before its end"):
        merged(tar(("a", bytes(100_000)))[:50_000])


@given(st.binary(max_size=2000), st.integers(0, 3000))
def test_what_is_damaged_is_told_and_nothing_else_happens(junk, at):
    layer = bytearray(tar(("a", b"1"), node("d", D), node("l", S, linkname="a"), ("d/b", bytes(600))))
    layer[at : at + len(junk)] = junk
    with contextlib.suppress(RootFilesystemError):
        merged(bytes(layer))
