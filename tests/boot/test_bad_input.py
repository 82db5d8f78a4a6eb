"""What cannot be run: one clear line on stderr, exit code 125, nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from gasang.guest import CLOUD_KERNEL, fetch_kernel

DOWNLOAD_HALF = 'case " $* " in *" download "*) echo half >half.deb ;; esac'

AARCH64_IMAGE = bytes(56) + b"ARM\x64" + bytes(4096)
"""Linux's Documentation/arch/arm64/booting.rst: the magic number at 56."""


@pytest.fixture(scope="session")
def kernel():
    return fetch_kernel(CLOUD_KERNEL)


@pytest.fixture
def refused(gasang, tmp_path):
    """Runs gasang in an empty directory; its complaint, if that is all it did."""

    def run(*arguments, **options):
        directory = tmp_path / "empty"
        directory.mkdir()
        done = gasang("run", *arguments, cwd=directory, **options)
        assert done.returncode == 125
        assert done.stdout == b""
        (line,) = [each for each in done.stderr.decode().splitlines() if " error: " in each]
        assert line.startswith("gasang: error: ")
        assert "Traceback" not in done.stderr.decode()
        assert list(directory.iterdir()) == []
        return line

    return run


def file_of(tmp_path, content):
    path = tmp_path / "kernel"
    path.write_bytes(content)
    return path


def test_missing_kernel(refused, tmp_path):
    assert "does not exist" in refused("--kernel", tmp_path / "nothing")


def test_empty_kernel(refused, tmp_path):
    assert "is empty" in refused("--kernel", file_of(tmp_path, b""))


def test_directory_as_kernel(refused, tmp_path):
    assert "is a directory" in refused("--kernel", tmp_path)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_truncated_kernel(refused, tmp_path, kernel, share):
    content = kernel.read_bytes()
    assert "truncated" in refused("--kernel", file_of(tmp_path, content[: int(len(content) * share)]))


def test_kernel_for_aarch64(refused, tmp_path):
    assert "AArch64" in refused("--kernel", file_of(tmp_path, AARCH64_IMAGE))


def test_elf_for_aarch64(refused, tmp_path):
    header = bytearray(64)
    header[:20] = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00"
    assert "AArch64" in refused("--kernel", file_of(tmp_path, bytes(header) + bytes(4096)))


def test_no_kernel_at_all(refused, tmp_path):
    assert "kernel" in refused("--kernel", file_of(tmp_path, b"#!/bin/sh\necho hello\n" * 100))


def test_initrd_larger_than_memory(refused, tmp_path, kernel):
    initrd = tmp_path / "initrd"
    with initrd.open("wb") as file:
        file.truncate(1 << 30)
    line = refused("-m", "512M", "--kernel", kernel, "--initrd", initrd)
    assert "memory" in line
    assert "initrd" in line or "initial RAM disk" in line


def test_missing_initrd(refused, tmp_path, kernel):
    assert "does not exist" in refused("--kernel", kernel, "--initrd", tmp_path / "nothing")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-m", "8M"), "too little"),
        (("-m", "banana"), "banana"),
        (("-m", "-1"), "-1"),
        (("-m", "0"), "too little"),
        (("-c", "0"), "cpus is 0"),
        (("-c", "many"), "many"),
        (("--cpu", "z80"), "z80"),
        (("--cpu", "max,+wings"), "wings"),
        (("--accel", "magic"), "magic"),
        (("--no-such-option",), "--no-such-option"),
        (("--timeout", "-5"), "-5"),
    ],
    ids=" ".join,
)
def test_bad_option(refused, kernel, options, said):
    assert said in refused("--kernel", kernel, *options)


def test_more_memory_than_there_is(refused, kernel):
    assert "memory" in refused("--kernel", kernel, "-m", "100000000G")


def test_unusable_cache(refused, tmp_path):
    file = tmp_path / "file"
    file.write_text("not a directory")
    assert "cache" in refused("--", "true", env={"XDG_CACHE_HOME": str(file)})


def test_unwritable_cache(refused):
    # Where not even root may write.
    assert "cache" in refused("--", "true", env={"XDG_CACHE_HOME": "/proc"})


@pytest.fixture
def client(tmp_path):
    """An `apt-get` and `apt-cache` of our own, in place of the system's; the environment that uses it."""

    def make(script):
        directory, cache = tmp_path / "bin", tmp_path / "cache"
        for path in (directory, cache):
            path.mkdir()
        for name in ("apt-get", "apt-cache"):
            (directory / name).write_text(f"#!/bin/sh\n{script}\n")
            (directory / name).chmod(0o755)
        environment = {"XDG_CACHE_HOME": str(cache), "PATH": f"{directory}:{os.environ['PATH']}"}
        return environment, cache

    return make


def left_in(cache):
    """What a failed download left, apart from the lock and the package client's own index."""
    return [*cache.rglob("*.deb"), *cache.rglob("partial-*")]


def test_failing_download(refused, client):
    environment, cache = client(f"{DOWNLOAD_HALF}; echo 'E: the archive is away' >&2; exit 100")
    assert "the archive is away" in refused("--", "true", env=environment)
    assert left_in(cache) == []


def test_no_package_client(refused, tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": str(tmp_path)}
    assert "apt" in refused("--", "true", env=environment)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_download(client, number):
    environment, cache = client(f'{DOWNLOAD_HALF}; touch "$XDG_CACHE_HOME/begun"; exec sleep 60')
    process = subprocess.Popen(
        [sys.executable, "-m", "gasang", "run", "--", "true"],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        wait_for(cache / "begun")
        process.send_signal(number)
        _, stderr = process.communicate(timeout=30)
    finally:
        with suppress(ProcessLookupError):  # nobody is left, as it should be
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert b"Traceback" not in stderr
    if number != signal.SIGKILL:
        assert left_in(cache) == []
    assert not list(cache.glob("gasang/guest/*"))


def wait_for(path):
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
