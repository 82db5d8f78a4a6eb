"""A cache and a package client of the tests' own."""

import pytest
from fake_debian import PackageClient


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gasang"


@pytest.fixture
def client(tmp_path, monkeypatch, cache):
    client = PackageClient(tmp_path)
    monkeypatch.setenv("PATH", str(client.bin))
    return client
