"""Kernels that nobody here wrote, to their userspace."""

import gzip
import re

import pytest

from gasang import Machine
from gasang.guest import APPEND, CLOUD_KERNEL, GENERIC_KERNEL, default_initrd, fetch_kernel
from gasang.loaders.bzimage import parse_header
from gasang.loaders.decompress import decompress


def boot(kernel, **options):
    return Machine.boot(kernel=kernel, initrd=default_initrd(), append=APPEND, **options)


def test_generic_kernel_reaches_userspace():
    with boot(fetch_kernel(GENERIC_KERNEL)) as machine:
        assert re.fullmatch(rb"6\.[\d.-]+-amd64\n", machine.run("uname -r", timeout=120).stdout)


@pytest.fixture(scope="module")
def vmlinux():
    """The ELF file inside the cloud kernel's bzImage."""
    content = fetch_kernel(CLOUD_KERNEL).read_bytes()
    return decompress(memoryview(content)[parse_header(content, "kernel").payload], "kernel")


PVH_NOTE = re.compile(rb"\x04\0\0\0[\x04\x08]\0\0\0\x12\0\0\0(?=Xen\0)")


def without_pvh(vmlinux):
    return PVH_NOTE.sub(lambda note: note[0][:8] + b"\x7f\0\0\0", vmlinux)


@pytest.mark.parametrize(
    ("form", "protocol"),
    [(bytes, "ELF (PVH)"), (without_pvh, "ELF (Linux 64-bit)"), (gzip.compress, "ELF (PVH)")],
    ids=["pvh", "vmlinux", "gzip"],
)
def test_kernel_as_elf_reaches_userspace(vmlinux, tmp_path, form, protocol):
    kernel = tmp_path / "kernel"
    kernel.write_bytes(form(vmlinux))
    with boot(kernel) as machine:
        assert machine.protocol == protocol
        assert machine.run("uname -s", timeout=120).stdout == b"Linux\n"


def test_kernel_in_little_memory():
    with boot(fetch_kernel(CLOUD_KERNEL), memory="96M") as machine:
        total = int(machine.run("awk '/MemTotal/ { print $2 }' /proc/meminfo", timeout=120).stdout)
    assert 32_000 < total < 96 * 1024


def test_kernel_with_memory_above_four_gib():
    with boot(fetch_kernel(CLOUD_KERNEL), memory="6G") as machine:
        total = int(machine.run("awk '/MemTotal/ { print $2 }' /proc/meminfo", timeout=120).stdout)
    assert total > 5 * 1024 * 1024


@pytest.mark.parametrize(
    "model", ["x86-64-v1", "x86-64-v2", "max,-avx", "max,-pcid,-invpcid", "max,-smep,-smap"]
)
def test_kernel_on_lesser_processors(model):
    with boot(fetch_kernel(CLOUD_KERNEL), cpu=model) as machine:
        assert machine.run("true", timeout=120).returncode == 0


@pytest.mark.parametrize(
    "switch",
    [
        "GASANG_STRICT_FLAGS",
        "GASANG_HOT",
        pytest.param("GASANG_TINY_CACHE", marks=pytest.mark.slow),
        pytest.param("GASANG_FLUSH_ON_WRITE", marks=pytest.mark.slow),
    ],
)
def test_kernel_under_stress(switch, monkeypatch):
    monkeypatch.setenv(switch, "1")
    with boot(fetch_kernel(CLOUD_KERNEL), accel="bt") as machine:
        assert machine.run("sh -c 'exit 7'", timeout=250).returncode == 7


def test_console_shell_answers():
    with Machine.boot() as machine:
        machine.console.expect("gasang:~# ", timeout=120)
        machine.console.write("echo $((6 * 7))\n")
        machine.console.expect("42", timeout=30)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_interpreter_reaches_userspace():
    with boot(fetch_kernel(CLOUD_KERNEL), accel="interp") as machine:
        assert machine.run("uname -s", timeout=800).stdout == b"Linux\n"
