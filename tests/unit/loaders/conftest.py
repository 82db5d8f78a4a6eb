"""A real kernel, where there is one."""

import pytest

from gasang.guest.cache import cache_directory
from gasang.guest.default import CLOUD_KERNEL


@pytest.fixture(scope="session")
def debian_kernel():
    path = cache_directory() / "guest" / CLOUD_KERNEL / "vmlinuz"
    if not path.exists():
        pytest.skip("the default guest has not been fetched yet: run gasang once")
    return path
