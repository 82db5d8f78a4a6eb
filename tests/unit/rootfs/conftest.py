"""Reading archives that tests make."""

import pytest

from gasang.rootfs.archive import read_archive
from gasang.rootfs.tree import Content, Tree


@pytest.fixture
def read(tmp_path):
    """Reads an archive's bytes; the tree, and how its program runs."""

    def read(data):
        path = tmp_path / "archive"
        path.write_bytes(data)
        tree = Tree()
        config = read_archive(path, tree, lambda source, size: Content(size, held=source.read(size)))
        return tree, config

    return read
