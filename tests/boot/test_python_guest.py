"""Debian's Python in an initial RAM disk of our own making: a program that nobody here compiled."""

import subprocess
import sys
from pathlib import Path

import pytest

from gasang import Machine
from gasang.guest import default_initrd, fetch_with_dependencies
from gasang.guest.deb import read_package

LEFT_OUT = {
    "dpkg", "tar", "libselinux1", "libpcre2-8-0", "libacl1", "libmd0", "libbz2-1.0", "libzstd1", "liblzma5",
    "gcc-12-base",
}  # fmt: skip
"""What Python's packages depend on to be installed, not to run."""

SELF_CHECK = Path(__file__).with_name("self_check.py")


@pytest.fixture(scope="module")
def python_guest():
    """A guest with python3."""
    packages = fetch_with_dependencies("python3-minimal", LEFT_OUT)
    more = [entry for package in packages for entry in read_package(package)]
    with Machine.boot(initrd=default_initrd(more)) as machine:
        machine.run("ldconfig 2>/dev/null; true", timeout=120)
        yield machine


def test_python_computes_what_the_hosts_does(python_guest):
    script = SELF_CHECK.read_bytes()
    expected = subprocess.run(
        [sys.executable, "-I", "-"], input=script, capture_output=True, check=True, timeout=60
    ).stdout
    result = python_guest.run(["python3", "-I", "-"], input=script, timeout=120)
    assert result.stderr == b""
    assert result.stdout == expected
    assert expected.count(b"\n") > 15


def test_python_tells_its_errors(python_guest):
    result = python_guest.run(["python3", "-c", "raise SystemExit(9)"], timeout=60)
    assert result.returncode == 9
    result = python_guest.run(["python3", "-c", "1 / 0"], timeout=60)
    assert b"ZeroDivisionError" in result.stderr
    assert result.returncode == 1
